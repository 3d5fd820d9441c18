"""Every code explains itself, and its examples do what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import posterior_lm
from posterior_lm.lang import compile_source
from posterior_lm.lang.codes import _FILES, CODES
from posterior_lm.lang.source import Source

_ROOMS = ("syntax", "names", "types", "structure", "models", "data", "numbers", "cli", "lint")
_HUNDREDS = dict(zip(_ROOMS, "123456789", strict=True)) | {"baselines": "7"}


def _codes(text: str) -> set[str]:
    return {d.code for d in compile_source(Source("example.plm", text), lint=True)[1]}


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_a_code_is_complete(code) -> None:
    assert re.fullmatch(r"PLM[1-9]\d\d", code.code)
    assert code.title and not code.title.endswith(".")
    assert code.explanation.endswith((".", "…")), "whole sentences"
    assert code.wrong and code.right


@pytest.mark.parametrize(
    "code", [c for c in CODES.values() if "program " in c.right and "{" in c.right], ids=lambda c: c.code
)
def test_examples_do_what_they_say(code) -> None:
    wrong, right = _codes(code.wrong), _codes(code.right)
    assert code.code in wrong
    assert code.code not in right
    assert all(other.startswith("PLM9") for other in right), "the right example is right"


def test_examples_that_must_be_programs() -> None:
    """Syntax, names and structure can be shown in a program, but for a few that need a size or a model."""
    described = {c.code for c in CODES.values() if c.code[3] in "1249" and "{" not in c.right}
    assert described <= {"PLM109", "PLM490"}


def test_files_hold_their_hundred() -> None:
    for file in _FILES:
        name = file.__name__.rpartition(".")[2]
        assert all(code.code[3] == _HUNDREDS[name] for code in file.CODES)
    assert len(CODES) == sum(len(file.CODES) for file in _FILES), "no code twice"


def test_every_code_in_the_sources_is_listed() -> None:
    root = Path(posterior_lm.__path__[0])
    found = set()
    for path in root.rglob("*.py"):
        found |= set(re.findall(r"\bPLM\d{3}\b", path.read_text(encoding="utf-8")))
    assert found <= set(CODES)
