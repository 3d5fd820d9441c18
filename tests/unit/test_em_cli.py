"""`plm em` as a shell sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli import plm
from tests.unit.test_em import ROWS
from tests.unit.test_em_split_model import RATED

QUICK = (
    "--rounds", 1, "--e-steps", 2, "--m-steps", 2, "--m-rate", 0.003,
    *(w for s in ("m_rank=2", "bound_draws=8", "sleep=0", "seeds=0", "rank=2", "rows=4", "draws=4",
                  "certify_draws=10", "certify_rows=0") for w in ("--set", s)),
)  # fmt: skip


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "rated.plm"
    path.write_text(RATED)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_it_shows_the_program_the_rounds_and_where_they_are(program: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = plm("em", program, "--data", tmp_path / "rows.jsonl", "--out", out, *QUICK)
    assert found.exit_code == 0, found.output
    shown = found.stdout.splitlines()
    assert 'observe said ~ base_em("Word ", x, n)' in found.stdout
    assert [line.split()[0] for line in shown if line[:5].strip().isdigit()] == ["0", "1"]
    assert f"Round 1 is kept in {out}: 1 round is done." in shown
    told = found.stderr.splitlines()
    assert [one.split(":")[0] for one in told if one.startswith("round ")] == ["round 0", "round 1"], (
        "as they come"
    )
    again = plm("em", program, "--data", tmp_path / "rows.jsonl", "--out", out, *QUICK)
    assert again.exit_code == 1 and "PLM621" in again.stderr


def test_its_folder_is_asked_with(program: Path, tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out"
    assert plm("em", program, "--data", rows, "--out", out, *QUICK).exit_code == 0
    ask = ("predict", program, "label", "--given", "x=4", "--format", "json", "-n", 40)
    before, after = (json.loads(plm(*ask, *more).stdout) for more in ((), ("--em", out)))
    probs = [{p["value"]: p["prob"] for p in found["predictions"]} for found in (before, after)]
    assert probs[1]["bad"] != pytest.approx(probs[0]["bad"], abs=1e-4)
    assert set(after["lm"]) == set(before["lm"]) | {"base_em"}, (
        "the trained model predicts, though it draws nothing"
    )
    drawn = plm("run", program, "--given", "x=4", "--given", "label=bad", "--em", out, "-n", 20)
    assert drawn.exit_code == 0, drawn.output
    wrong = plm("run", program, "--given", "x=4", "--given", "label=bad", "--em", tmp_path)
    assert wrong.exit_code == 1 and "PLM795" in wrong.stderr


def test_as_json(program: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("x,label\n" + "".join(f"{r['x']},{r['label']}\n" for r in ROWS))
    found = plm("em", program, "--data", rows, "--out", tmp_path / "out", "--format", "json", *QUICK)
    assert found.exit_code == 0, found.output
    whole = json.loads(found.stdout)
    assert whole["best"] == 1 and [r["number"] for r in whole["rounds"]] == [0, 1]
    assert whole["rounds"][1]["raised"]["kept"] is True and "base_em" in whole["program"]


def test_one_label_is_refused_by_name(program: Path, tmp_path: Path) -> None:
    rows = tmp_path / "same.jsonl"
    rows.write_text('{"x": 1, "label": "bad"}\n{"x": 2, "label": "bad"}\n')
    found = plm("em", program, "--data", rows, "--out", tmp_path / "out", *QUICK)
    assert found.exit_code == 1 and "PLM794" in found.stderr and "Traceback" not in found.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--set", "m_step=3"), "PLM802"),
        (("--given", "y=3"), "PLM602"),
        (("--train", "other"), "PLM790"),
        (("--rounds", "-1"), "--rounds"),
        (("--lm", "base=nowhere/at/all"), "PLM510"),
    ],
)
def test_wrong_options(program: Path, tmp_path: Path, arguments: tuple[str, str], said: str) -> None:
    found = plm("em", program, "--data", tmp_path / "rows.jsonl", "--out", tmp_path / "out", *arguments)
    assert found.exit_code in (1, 2) and said in found.stderr and "Traceback" not in found.output
