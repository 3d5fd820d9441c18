"""`plm predict`: votes, intervals, drawn answers, and rows whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli import FOLDER, WALK, plm

OPEN = """lm base = "{lm}"

program tail(start: text, end: text, n: int = 0) {{
  latent z: text(tokens=1..3, stop=".") ~ base(start)
  observe ["a", end, "."] ~ base(z)
}}
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "tail.plm"
    path.write_text(OPEN.format(lm=FOLDER / "letters.json"), encoding="utf-8")
    return path


def rows(folder: Path, *found: dict) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return path


def test_the_shape_of_a_prediction_stays() -> None:
    result = plm("predict", WALK, "end", "-g", "start=a", "--vote", "hard", "--format", "json")
    found = json.loads(result.stdout)
    assert list(found) == [
        "program", "fingerprint", "lm", "method", "reason", "seed", "name", "vote", "best", "abstain", "abstained",
        "predictions",
        "other", "entropy", "aleatoric", "epistemic", "log_evidence", "ess", "khat", "n", "row", "answer", "uncounted",
    ]  # fmt: skip
    assert found["vote"] == "hard" and found["best"] == "a" and found["row"] is None
    assert found["predictions"][0] == {"value": "a", "prob": 1.0, "se": 0.0, "low": 1.0, "high": 1.0}


def test_a_text_is_drawn(program: Path) -> None:
    result = plm("predict", program, "end", "-g", "start=a", "-n", 200)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    head = next(line for line in lines if line.split()[:1] == ["prob"])
    assert head.split() == ["prob", "90", "%", "interval", "end"]
    first = lines[lines.index(head) + 1]
    low, high = (
        float(part.split()[-1 if part == first.split("..")[0] else 0]) for part in first.split("..")[:2]
    )
    assert low < float(first.split()[0]) < high
    assert "within draws" in result.stdout and "by estimate" in result.stdout


def test_votes_are_named(program: Path) -> None:
    hard = plm("predict", program, "end", "-g", "start=a", "-n", 50, "--vote", "hard").stdout
    assert "votes" in hard and "highest log reward" not in hard
    likeliest = plm("predict", program, "end", "-g", "start=a", "-n", 50, "--vote", "likeliest").stdout
    assert "of the draw with the highest log reward alone" in likeliest and "interval" not in likeliest
    wrong = plm("predict", program, "end", "-g", "start=a", "--vote", "loud")
    assert wrong.exit_code == 2 and "likeliest" in wrong.stderr


def test_rows_with_answers_are_counted(program: Path, tmp_path: Path) -> None:
    best = json.loads(plm("predict", program, "end", "-g", "start=a", "-n", 60, "--format", "json").stdout)[
        "best"
    ]
    other = "b" if best != "b" else "bb"
    data = rows(tmp_path, {"start": "a", "end": best}, {"start": "a", "end": other}, {"start": "a"})
    shown = plm("predict", program, "end", "--data", data, "-n", 60).stdout
    assert f'known: "{best}", as predicted' in shown and f'known: "{other}", not as predicted' in shown
    assert "\n2 of 3 rows hold `end`\naccuracy 0.5000: 1 of 2 rows, 90 %: " in shown
    found = json.loads(plm("predict", program, "end", "--data", data, "-n", 60, "--format", "json").stdout)
    assert [(f["row"], f["answer"]) for f in found] == [(0, best), (1, other), (2, None)]
    one = json.loads(
        plm("predict", program, "end", "--data", data, "--row", 1, "-n", 60, "--format", "json").stdout
    )
    assert (one["row"], one["answer"], one["best"]) == (1, other, best)


def test_answers_of_another_type_are_none_and_csv_is_typed(tmp_path: Path) -> None:
    path = tmp_path / "p.plm"
    path.write_text(
        f'lm base = "{FOLDER / "letters.json"}"\nprogram p(n: int(0..2)) {{\n'
        '  latent z: text(tokens=1..2) ~ base("a")\n  observe n ~ uniform()\n  factor n\n}\n'
    )
    data = tmp_path / "rows.csv"
    data.write_text("n\n2\n0\n")
    shown = plm("predict", path, "n", "--data", data).stdout
    assert "known: 2, as predicted" in shown and "\naccuracy 0.5000: 1 of 2 rows" in shown
    mixed = rows(tmp_path, {"n": "two"}, {"n": 7}, {"n": 2}, {"n": True})
    found = json.loads(plm("predict", path, "n", "--data", mixed, "--format", "json").stdout)
    assert [f["answer"] for f in found] == [None, None, 2, None]
    assert [f["uncounted"] for f in found] == ['"two"', "7", None, "true"]
    shown = plm("predict", path, "n", "--data", mixed).stdout
    assert 'known: "two", which is no value of `n` and is not counted' in shown
    assert '3 rows in which `n` is no value of its type are not counted: row 0 has "two"' in shown
    out = ("--out", tmp_path / "out", "--workers", 1)
    assert 'row 0 has "two"' in plm("predict", path, "n", "--data", mixed, *out).stdout


def test_rows_from_standard_input_are_predicted_too(program: Path) -> None:
    result = plm("predict", program, "end", "--data", "-", "-n", 30, input='{"start": "a", "end": "b"}\n')
    assert result.exit_code == 0 and "known" not in result.stdout and "entropy" in result.stdout


@pytest.mark.parametrize(
    ("body", "code"),
    [("observe end ~ base(z)", "PLM807"), ("factor n", "PLM807"), ("guide z ~ base(end)", "PLM804")],
)
def test_what_is_refused_is_told(program: Path, body: str, code: str) -> None:
    program.write_text(program.read_text().replace('observe ["a", end, "."] ~ base(z)', body))
    result = plm("predict", program, "end", "-g", "start=a")
    assert result.exit_code == 1 and f"error[{code}]" in result.stderr and "= help:" in result.stderr


def test_abstaining_is_shown_and_counted(program: Path, tmp_path: Path) -> None:
    data, files = rows(tmp_path, {"start": "a", "end": "b"}, {"start": "b", "end": "b"}), []
    for end in ("json", "png", "html"):
        files.append(tmp_path / f"s.{end}")
        shown = plm(
            "predict", program, "end", "--data", data, "-n", 60, "--abstain", 0.05, "--scores", files[-1]
        )
        assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.count("\nno answer: ") == 2 and "\nanswered 0.0000: 0 of 2 rows\n" in shown.stdout
    numbers = json.loads(files[0].read_text())
    assert (numbers["rows"], numbers["answered"], numbers["selective_accuracy"]) == (2, 0, None)
    assert files[1].read_bytes().startswith(b"\x89PNG")
    page = files[2].read_text()
    assert "Accuracy by confidence" in page and page.count("<svg") == 2 and "<script" not in page
    found = plm("predict", program, "end", "--data", data, "-n", 60, "--abstain", 0.05, "--format", "json")
    one, other = json.loads(found.stdout)
    assert (
        one["best"] is other["best"] is None and one["abstain"] == 0.05 and "wrong with" in one["abstained"]
    )
    sure = plm("predict", program, "end", "--data", data, "-n", 60, "--abstain", 1, "--format", "json")
    assert all(f["best"] is not None and f["abstained"] is None for f in json.loads(sure.stdout))


def test_many_rows_abstain_and_are_counted_as_few(program: Path, tmp_path: Path) -> None:
    data = rows(tmp_path, {"start": "a", "end": "b"}, {"start": "b"})
    asked = ("predict", program, "end", "--data", data, "-n", 60, "--abstain", 0.05)
    few = plm(*asked, "--format", "json", "--scores", tmp_path / "few.json")
    many = plm(*asked, "--out", tmp_path / "out", "--scores", tmp_path / "many.json")
    assert many.exit_code == 0 and "\naccuracy " in many.stdout and "0.0 .. " not in few.stdout
    assert (tmp_path / "few.json").read_text() == (tmp_path / "many.json").read_text()
    kept = [json.loads(line) for line in (tmp_path / "out" / "shard-000000.jsonl").read_text().splitlines()]
    assert [k["abstained"] for k in kept] == [f["abstained"] for f in json.loads(few.stdout)]
    other = plm(*asked[:-1], 0.5, "--out", tmp_path / "out")
    assert other.exit_code == 1 and "PLM630" in other.stderr


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--abstain", "2"), "0<=x<=1"),
        (("--abstain", "0.2", "--vote", "hard"), "PLM802"),
        (("--scores", "scores.txt"), "ends in none of"),
        (("--scores", "scores.json"), "no row has one of `end`"),
        (("--scores", "nowhere/scores.json"), "its folder is missing"),
    ],
)
def test_options_that_say_nothing_are_refused(program: Path, more: tuple[str, ...], said: str) -> None:
    result = plm("predict", program, "end", "-g", "start=a", *more)
    assert result.exit_code != 0 and said in result.stderr and not result.stdout
