"""`plm fit` from the command line, and `query.fit`: what they show, and that what they leave is used."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posterior_lm.api.query import loads
from posterior_lm.cli.options import stated
from posterior_lm.train import progress as metrics
from posterior_lm.train.checkpoint import METRICS
from posterior_lm.train.policy import read_manifest
from posterior_lm.train.progress import Progress, line
from tests.cli import plm
from tests.unit.test_fit import DIGIT, DIGITS, SMALL

STATED = DIGIT.rstrip().removesuffix("}") + '  infer gflownet(rank=3, steps=5, objective="tb", rows=2)\n}\n'
FLAGS = [
    x for k, v in SMALL.items() if k not in ("steps", "rows", "draws", "rank") for x in ("--set", f"{k}={v}")
]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digit.plm").write_text(DIGIT)
    (tmp_path / "stated.plm").write_text(STATED)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in DIGITS))
    (tmp_path / "rows.csv").write_text("x,n\n" + "".join(f"{r['x']},{r['x']}\n" for r in DIGITS))
    return tmp_path


def test_a_fit_is_announced_and_the_policy_is_used(files: Path) -> None:
    result = plm("fit", "digit.plm", "--data", "rows.jsonl", "--out", "p", "--steps", 4, "--rows", 3, *FLAGS)
    assert result.exit_code == 0, result.stderr
    manifest = read_manifest(files / "p")
    assert result.stdout.startswith(f"digit: 4 steps in {manifest.seconds:.0f} s, in p\n")
    certificate = manifest.checked
    assert certificate is not None and certificate.held_out and " s of training " in certificate.worth
    assert all(text in result.stdout for text in certificate.lines())
    assert (
        "100%" in result.stderr
        and "balancing 100%: step 4, loss" in result.stderr
        and "certifying" in result.stderr
    )
    assert manifest.settings["rows"] == 3 and manifest.settings["held_out"] == 2
    run = plm("run", "digit.plm", "-g", "x=2", "--policy", "p", "--method", "gflownet", "-n", 40)
    assert run.exit_code == 0 and "gflownet" in run.stdout, run.stderr


def test_json_is_one_object(files: Path) -> None:
    result = plm(
        "fit", "digit.plm", "--data", "rows.jsonl", "--out", "p", "--steps", 2, *FLAGS, "--format", "json"
    )
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    assert shown["folder"] == "p" and shown["interrupted"] is False
    assert shown["steps"] == 2 and shown["seed"] == 0 and shown["settings"]["pairs"] == 16
    stored = json.loads((files / "p" / "manifest.json").read_text())
    assert shown["certificate"]["verdict"] == stored["certificate"]["verdict"]


def test_flags_go_over_sets_and_sets_over_what_the_program_states(files: Path) -> None:
    more = ["--set", "steps=3", "--set", "rank=2", "--rank", 4]
    result = plm("fit", "stated.plm", "--data", "rows.jsonl", "--out", "p", *FLAGS, *more, "--seed", 5)
    assert result.exit_code == 0, result.stderr
    manifest = read_manifest(files / "p")
    found = manifest.settings
    assert (found["rank"], found["steps"], found["objective"], found["rows"]) == (4, 3, "tb", 2)
    assert manifest.seed == found["seed"] == 5


def test_known_latents_of_a_csv_file_and_curves(files: Path) -> None:
    pytest.importorskip("matplotlib")
    result = plm(
        "fit", "digit.plm", "--data", "rows.csv", "--out", "p", "--steps", 3, *FLAGS, "--curves", "c.png"
    )
    assert result.exit_code == 0, result.stderr
    assert (files / "c.png").read_bytes().startswith(b"\x89PNG")


def test_rows_come_from_standard_input(files: Path) -> None:
    text = "".join(json.dumps(r) + "\n" for r in DIGITS[:6])
    result = plm("fit", "digit.plm", "--data", "-", "--out", "p", "--steps", 1, *FLAGS, input=text)
    assert result.exit_code == 0, result.stderr
    assert len(metrics.read_metrics(files / "p" / METRICS)) == 1


def test_a_second_fit_into_the_same_folder_is_refused(files: Path) -> None:
    command = ["fit", "digit.plm", "--data", "rows.jsonl", "--out", "p", "--steps", 1, *FLAGS]
    assert plm(*command).exit_code == 0
    before = (files / "p" / "adapter_model.safetensors").read_bytes()
    again = plm(*command)
    assert again.exit_code == 1 and "PLM621" in again.stderr
    assert (files / "p" / "adapter_model.safetensors").read_bytes() == before


def test_one_row_is_enough_and_it_is_said_what_that_means(files: Path) -> None:
    result = plm("fit", "digit.plm", "-g", "x=3", "--out", "p", "--steps", 3, *FLAGS)
    assert result.exit_code == 0, result.stderr
    assert "with 1 rows none is held out" in result.stderr or "none is held out" in result.stderr
    assert "none is held out" in read_manifest(files / "p").note


# ------------------------------------------------------------------------------- from Python


def test_the_same_from_python(files: Path) -> None:
    """Every setting can be given by name, also those that are called as an argument is."""
    seen: list[int] = []
    settings: dict[str, Any] = {**SMALL, "steps": 3}
    done = loads(DIGIT).fit(DIGITS, files / "p", watch=lambda p: seen.append(p.step), **settings)
    assert seen == [1, 2, 3] and done.manifest.settings["rows"] == SMALL["rows"]
    drawn = loads(DIGIT).given(x=2).policy(files / "p").using("gflownet").draw(60, seed=1)
    assert drawn.n == 60 and drawn.method == "gflownet"
    with pytest.raises(Exception, match="PLM802"):
        loads(DIGIT).fit(DIGITS, files / "q", stepz=3)


# ------------------------------------------------------------------------------- what a line says


def test_a_line_says_what_is_known() -> None:
    progress = Progress(
        step=7, stage="balance", seconds=2.0, loss=1.25, ess=0.5, log_evidence_lower=-3.5,
        log_evidence_upper=-2.25, dead=0.0, gradient_norm=1.0, rate=1e-3, draws_per_second=310.4, done=0.7,
    )  # fmt: skip
    assert line(progress) == "step 7, loss 1.250, ESS/N 0.50, log evidence -3.50 to -2.25, 310 draws/s"
    import attrs

    nothing = attrs.evolve(progress, stage="sleep", ess=math.nan, log_evidence_lower=math.nan)
    assert line(nothing) == "step 7, loss 1.250, 310 draws/s"


@pytest.mark.parametrize(("text", "value"), [("3", 3), ("0.5", 0.5), ("1e-3", 1e-3), ("q,v", "q,v")])
def test_values_of_set_are_numbers_where_they_read_as_one(text: str, value: object) -> None:
    found = stated([f"seed={text}"], {})["seed"]
    assert found == value and type(found) is type(value) and not isinstance(found, np.generic)
