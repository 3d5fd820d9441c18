"""What is published: one version, an sdist and a wheel that hold the same, and run by themselves."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import posterior_lm
from tests.cli import plm
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_is_written_in_one_place() -> None:
    assert "version" not in PROJECT["project"] and "version" in PROJECT["project"]["dynamic"]
    place = ROOT / PROJECT["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{posterior_lm.__version__}"\n' in place.read_text(encoding="utf-8")
    assert plm("--version").output == f"plm, version {posterior_lm.__version__}\n"
    extension = json.loads((ROOT / "editors" / "vscode" / "package.json").read_text(encoding="utf-8"))
    assert extension["version"] == posterior_lm.__version__


def run(*command: str | Path, inside: Path, **more: str) -> str:
    done = subprocess.run(
        command, cwd=inside, capture_output=True, text=True, env={**os.environ, **more}, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not all(map(importlib.util.find_spec, ("build", "twine"))), reason="needs the extra dist")
def test_the_wheel_runs_in_an_empty_environment(tmp_path: Path) -> None:
    dist, direct, empty = tmp_path / "dist", tmp_path / "direct", tmp_path / "empty"
    run(sys.executable, "-m", "build", "--outdir", dist, inside=ROOT)  # the wheel is built from the sdist
    run(sys.executable, "-m", "build", "--wheel", "--outdir", direct, inside=ROOT)
    name = f"posterior_lm-{posterior_lm.__version__}"
    sdist, wheel = dist / f"{name}.tar.gz", dist / f"{name}-py3-none-any.whl"
    assert sorted(dist.iterdir()) == sorted([sdist, wheel])
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel, inside=dist)

    held = contents(wheel)
    assert held == contents(direct / wheel.name)
    tops = {entry.split("/")[0] for entry in held}
    assert tops == {"posterior_lm", f"{name}.dist-info"}, "the wheel brings folders beside the package"
    for folder in ("grammar", "programs", "posteriors"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert held[f"posterior_lm/{path.relative_to(ROOT).as_posix()}"] == path.read_bytes()

    venv.create(empty, with_pip=True)
    python, command = empty / "bin" / "python", empty / "bin" / "plm"
    bare = {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"}
    install = (
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "-c",
        ROOT / "constraints.txt",
    )
    run(*install, wheel, inside=tmp_path, **bare)
    assert run(command, "--version", inside=tmp_path, **bare) == f"plm, version {posterior_lm.__version__}\n"
    inside = run(
        python,
        "-c",
        "from posterior_lm.installed import find; print(find('programs'))",
        inside=tmp_path,
        **bare,
    )
    programs = Path(inside.strip())
    assert empty in programs.parents
    assert "no errors" in run(command, "check", programs, inside=tmp_path, **bare)
    arguments = (
        "--data",
        programs / "data" / "story_infilling.jsonl",
        "--row",
        "0",
        "-n",
        "50",
        "--format",
        "json",
    )
    drawn = json.loads(
        run(command, "run", programs / "story_infilling.plm", *arguments, inside=tmp_path, **bare)
    )
    assert abs(sum(draw["weight"] for draw in drawn["draws"]) - 1) < 1e-9
