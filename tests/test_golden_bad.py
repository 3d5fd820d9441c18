"""Every wrong program of tests/golden/bad against the exact text of its errors.

`pytest tests/test_golden_bad.py --update-goldens` writes what is printed now; read
the diff before keeping it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from posterior_lm.lang.codes import CODES
from posterior_lm.lang.diagnostics import render_concise, render_full, to_json
from posterior_lm.lang.driver import compile_source
from posterior_lm.lang.source import Source

FOLDER = Path(__file__).parent / "golden" / "bad"
PROGRAMS = sorted(FOLDER.glob("*.plm"))


def _source(path: Path) -> Source:
    return Source(path.name, path.read_bytes().decode("utf-8"))


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_rendering(path: Path, request: pytest.FixtureRequest) -> None:
    found = compile_source(_source(path)).diagnostics
    assert found, "a wrong program gives at least one error"
    text = "\n\n".join(render_full(d) for d in found) + "\n"
    golden = path.with_suffix(".txt")
    if request.config.getoption("--update-goldens", default=False):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_every_error_has_a_code_and_a_place(path: Path) -> None:
    source = _source(path)
    found = compile_source(source).diagnostics
    places = []
    for diagnostic in found:
        assert diagnostic.code in CODES
        assert diagnostic.primary is not None
        span = diagnostic.primary.span
        assert 0 <= span.start <= span.end <= len(source.text)
        data = to_json(diagnostic)
        assert data["line"] >= 1 and (data["end_line"], data["end_column"]) >= (data["line"], data["column"])
        assert render_concise(diagnostic).startswith(
            f"{path.name}:{data['line']}:{data['column']}: error[PLM"
        )
        places.append((diagnostic.code, span.start, span.end, diagnostic.message))
    assert len(set(places)) == len(places), "no error twice"


def test_there_are_enough() -> None:
    assert len(PROGRAMS) >= 60
    texts = {path.stem for path in FOLDER.glob("*.txt")}
    assert texts == {path.stem for path in PROGRAMS}
