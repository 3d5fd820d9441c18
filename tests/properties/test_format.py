"""Formatting loses nothing, changes nothing twice, and reading survives anything."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posterior_lm.lang import ast
from posterior_lm.lang.check.lint import warnings
from posterior_lm.lang.diagnostics import render_concise, render_full, to_json
from posterior_lm.lang.driver import check, compile_source
from posterior_lm.lang.format import WIDTH, format_module
from posterior_lm.lang.parser import parse
from posterior_lm.lang.source import Source
from tests import strategies_lang as lang

PROGRAMS = sorted((Path(__file__).parents[2] / "programs").glob("*.plm"))
TEXTS = [path.read_text(encoding="utf-8") for path in PROGRAMS]


def _parse(text: str) -> ast.Module:
    module, found = parse(Source("test.plm", text))
    assert not found, "\n".join(map(render_full, found)) + "\n" + text
    assert module is not None
    return module


@given(lang.modules)
def test_round_trip(module: ast.Module) -> None:
    text = format_module(module)
    again = _parse(text)
    assert again == module
    assert format_module(again) == text


@given(lang.modules, st.data())
def test_comments_are_kept(module: ast.Module, data: st.DataObject) -> None:
    """Comments put at the end of any lines survive, one each, and come to rest at once."""
    lines = []
    written = []
    for line in format_module(module).split("\n"):
        if data.draw(st.booleans()):
            comment = ("# " + data.draw(lang.comments)).rstrip()
            written.append(comment)
            line = data.draw(
                st.sampled_from([f"{line} {comment}", f"{comment}\n{line}", f"\n\n{comment}\n{line}"])
            )
        lines.append(line)
    text = "\n".join(lines)
    once = format_module(_parse(text))
    again = _parse(once)
    assert again == module
    assert sorted(c.text for c in again.comments) == sorted(written)
    assert format_module(again) == once


@pytest.mark.parametrize("text", TEXTS, ids=[path.stem for path in PROGRAMS])
def test_programs_are_formatted(text: str) -> None:
    assert format_module(_parse(text)) == text
    code = [line for line in text.split("\n") if not line.startswith("#")]
    assert max(map(len, code)) <= WIDTH


@pytest.mark.parametrize("text", TEXTS, ids=[path.stem for path in PROGRAMS])
def test_layout_of_the_text_means_nothing(text: str) -> None:
    plain = _parse(text)
    for changed in (text.replace("\n", "\r\n"), "\ufeff" + text, text.replace("\n", "\n\n\n"), text + "\n\n"):
        assert format_module(_parse(changed)) == format_module(_parse(changed.replace("\r", "")))
        assert _parse(changed) == plain


PIECES = [
    "latent",
    "observe",
    "plate",
    "temper",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    '"',
    "~",
    "^",
    "..",
    ",",
    "=",
    ":",
    "#",
    "\n",
    "program",
    "lm",
    "if",
    "then",
    "not",
    "-",
    "1",
    "2.5",
    "z",
    "base",
    "@",
    "'",
    "\\",
    "é",
    "\t",
    'r"',
    "use",
    "1e9",
]


@settings(max_examples=150)
@given(st.sampled_from(TEXTS), st.data())
def test_mutated_programs_never_crash(text: str, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(text)))
        match data.draw(st.sampled_from(["insert", "delete", "cut", "double", "swap"])):
            case "insert":
                text = text[:at] + " " + data.draw(st.sampled_from(PIECES)) + " " + text[at:]
            case "delete":
                text = text[:at] + text[at + data.draw(st.integers(1, 20)) :]
            case "cut":
                text = text[: max(at, 10)]
            case "double":
                text = text[:at] + text[max(0, at - 30) :]
            case "swap":
                words = re.split(r"(\s+)", text)
                i, j = (data.draw(st.integers(0, len(words) - 1)) for _ in range(2))
                words[i], words[j] = words[j], words[i]
                text = "".join(words)
    _survives(text)


@settings(max_examples=100)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map(" ".join) | st.text(max_size=60))
def test_any_text_never_crashes(text: str) -> None:
    _survives(text)


@given(lang.modules)
def test_any_module_is_checked_without_a_crash(module: ast.Module) -> None:
    """Also without spans, as Python builds it."""
    warnings(check(module))
    warnings(check(_parse(format_module(module))))


def _survives(text: str) -> None:
    started = time.perf_counter()
    source = Source("test.plm", text)
    checked = compile_source(source, lint=True)
    for diagnostic in checked.diagnostics:
        assert render_full(diagnostic) and render_full(diagnostic, color=True)
        assert "\n" not in render_concise(diagnostic)
        assert to_json(diagnostic)["line"] >= 1
    if not checked.diagnostics:
        again = format_module(checked.module)
        assert _parse(again) == checked.module
        assert format_module(_parse(again)) == again
    assert time.perf_counter() - started < 20
