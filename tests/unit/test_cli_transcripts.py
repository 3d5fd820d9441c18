"""What a user sees, word for word: `tests/golden/cli/*.txt`, one per command line.

`pytest tests/unit/test_cli_transcripts.py --update-goldens` writes what is printed now.
"""

from __future__ import annotations

import re
import shlex

import pytest

from tests.cli import FOLDER, plm

TRANSCRIPTS = {
    "check": "check walk.plm wrong.plm",
    "check_concise": "check wrong.plm --format concise",
    "check_json": "check wrong.plm --format json",
    "run": "run walk.plm --given start=a --given end=a",
    "run_rows": "run walk.plm --data rows.jsonl --seed 7",
    "run_json": "run walk.plm --data rows.jsonl --row 1 --format json",
    "score": "score walk.plm --given start=a --given end=a --value z=ba.",
    "predict": "predict walk.plm end --data rows.jsonl",
    "explain": "explain plm402",
    "bad_json_line": "run walk.plm --data broken.jsonl",
    "bad_csv": "run walk.plm --data mistyped.csv",
    "bad_given": "run walk.plm --given strat=a --given end=c",
    "bad_value": "score walk.plm --given start=a --given end=a --value z=bab --format json",
    "bad_predict": "predict walk.plm ned --given start=a",
    "bad_method": "run walk.plm --given start=a --given end=a --method exat",
    "bad_fit_twice": "fit walk.plm walk.plm --data walk=rows.jsonl --out p",
    "bad_fit_data": "fit walk.plm wrong.plm --data wlak=rows.jsonl --out p",
}


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcript(name: str, update_goldens: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    line = TRANSCRIPTS[name]
    result = plm(*shlex.split(line))
    parts = [f"$ plm {line}", result.stdout.rstrip("\n"), "--- standard error", result.stderr.rstrip("\n")]
    parts.append(f"--- exit code {result.exit_code}")
    text = _settled("\n".join(p for p in parts if p) + "\n")
    golden = FOLDER / f"{name}.txt"
    if update_goldens:
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def _settled(text: str) -> str:
    """The text without what is fixed elsewhere (fingerprints, digests) or by the machine (last digits)."""
    text = text.replace(f"{FOLDER}/", "")
    text = re.sub(r'"[0-9a-f]{64}"', '"<sha256>"', text)
    text = re.sub(r"fingerprint [0-9a-f]{12}", "fingerprint <sha256>", text)
    text = re.sub(r"\(float64, [0-9a-f]{8}\)", "(float64, <sha256>)", text)
    return re.sub(r"-?\d+\.\d{9,}", lambda number: f"{float(number.group()):.8f}", text)


def test_no_transcript_is_left_over() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(TRANSCRIPTS)
