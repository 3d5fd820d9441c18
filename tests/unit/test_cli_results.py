"""Where commands write what they found, refused before any work; and how counts are spelled."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.cli.output import show_posterior
from posterior_lm.infer.draws import Chains, SmcReport
from tests.cli import plm as run

NUMBER = """program number(seen: int(0..9)) {
  latent n: int(0..2) ~ categorical([0.7, 0.1, 0.2])
  observe seen ~ binomial(9, 0.2 + 0.3 * n)
}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program, its data, and no command that gets as far as drawing."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it drew")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("posterior_lm.cli.report.draw", never)
    monkeypatch.setattr("posterior_lm.cli.compare.compare", never)
    monkeypatch.setattr("posterior_lm.cli.calibrate.calibrate", never)
    for name in ("number.plm", "number.png"):
        (tmp_path / name).write_text(NUMBER)
    (tmp_path / "rows.jsonl").write_text('{"seen": 4}\n')
    (tmp_path / "seen.png").write_text("4")
    (tmp_path / "shots").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ("report", "number.plm", "-g", "seen=4", "--out", "number.plm"),
        ("report", "number.plm", "-g", "seen=4", "--out", "shots/../number.plm"),
        ("report", "number.plm", "--data", "rows.jsonl", "--out", "rows.jsonl"),
        ("compare", "number.png", "-g", "seen=4", "--plot", "number.png"),
        ("compare", "number.plm", "-g", "seen=@seen.png", "--plot", "seen.png"),
        ("calibrate", "number.png", "--plot", "./number.png"),
    ],
)
def test_a_result_never_replaces_what_the_command_reads(words: tuple[str, ...], folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    done = run(*words)
    assert done.exit_code == 1 and "PLM805" in done.stderr and "this command reads it" in done.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("command", ["compare", "calibrate"])
def test_pictures_are_png_files(command: str, folder: Path) -> None:
    for name in ("plot", "plot.pdf", ""):
        done = run(command, "number.plm", "-g", "seen=4", "--plot", name)
        assert done.exit_code == 2 and "does not end in .png" in done.stderr
    for name, why in (("shots.png", "it is a folder"), ("no/plot.png", "mkdir -p")):
        (folder / "shots.png").mkdir(exist_ok=True)
        done = run(command, "number.plm", "-g", "seen=4", "--plot", name)
        assert done.exit_code == 1 and "PLM612" in done.stderr and why in done.stderr
    named = run(command, "number.plm", "-g", "seen=4", "--plot", "PLOT.PNG", PLM_DEBUG="1")
    assert named.exit_code == 70 and "it drew" in named.stderr


@pytest.mark.parametrize("name", ["", "-"])
def test_a_page_has_a_name(name: str, folder: Path) -> None:
    done = run("report", "number.plm", "-g", "seen=4", "--out", name)
    assert done.exit_code == 2 and "such as report.html" in done.stderr and not (folder / "-").exists()


@pytest.mark.parametrize("count", [1, 2])
def test_one_is_no_plural(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    found = plm.loads(NUMBER).given(seen=4).using("importance").draw(count, seed=1)
    chains = Chains(number=count, of_draw=np.arange(count), rhat=None, bulk_ess=None, acceptance=0.5)
    particles = SmcReport(least_ess=1.0, ancestors=count, resampled=count)
    s = "s" * (count > 1)
    for more, told in (
        ({"particles": particles}, f"resampled {count} time{s}, least ESS 1.0, {count} ancestor{s}, "),
        ({"chains": chains}, f"{count} chain{s}, 50 % of the moves accepted, "),
    ):
        show_posterior(attrs.evolve(found, draws=attrs.evolve(found.draws, **more)), None)
        assert told in capsys.readouterr().out


def test_rows_are_written_as_they_are_done(tmp_path: Path) -> None:
    """As lines of JSON, with how many are done on standard error; a later row that fails takes none of them back."""
    program = tmp_path / "p.plm"
    body = "program p(a: int) {\n  latent n: int(0..3) ~ uniform()\n  factor log(a) * n - log(a)\n}\n"
    program.write_text(body)
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"a": a}) + "\n" for a in (1, 2, 3)))
    result = run("run", program, "--data", data, "--format", "jsonl")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line.pop("row") for line in lines] == [0, 1, 2]
    assert lines == json.loads(run("run", program, "--data", data, "--format", "json").stdout)
    assert [json.loads(line)["done"] for line in result.stderr.splitlines()] == [3]
    data.write_text("".join(json.dumps({"a": a}) + "\n" for a in (1, 2, 0, 3)))
    result = run("run", program, "--data", data, "--format", "jsonl")
    assert result.exit_code == 1 and len(result.stdout.splitlines()) == 2
    assert json.loads(result.stderr.splitlines()[-1])[0]["code"].startswith("PLM70")
