"""How diagnostics look: carets under what they mean, long lines, tabs, data, colour, JSON."""

from __future__ import annotations

from posterior_lm.lang.diagnostics import error, render_concise, render_full, to_json
from posterior_lm.lang.driver import compile_source
from posterior_lm.lang.source import NOWHERE, Source, Span


def at(source: Source, text: str, nth: int = 0) -> Span:
    start = -1
    for _ in range(nth + 1):
        start = source.text.index(text, start + 1)
    return Span(source, start, start + len(text))


def test_one_label() -> None:
    source = Source("many.plm", "one\ntwo\n  observe y base(x, z)\n")
    found = error(
        "PLM101", "unexpected 'base'", at(source, "base"), "expected '~'", help="add one", notes=["so it is"]
    )
    assert render_full(found) == (
        "error[PLM101]: unexpected 'base'\n"
        " --> many.plm:3:13\n"
        "  |\n"
        "3 |   observe y base(x, z)\n"
        "  |             ^^^^ expected '~'\n"
        "  |\n"
        "  = note: so it is\n"
        "  = help: add one"
    )
    assert render_concise(found) == "many.plm:3:13: error[PLM101] unexpected 'base'"
    assert to_json(found) == {
        "code": "PLM101", "severity": "error", "message": "unexpected 'base'", "file": "many.plm",
        "line": 3, "column": 13, "end_line": 3, "end_column": 17, "help": "add one",
    }  # fmt: skip


def test_two_lines_and_wide_numbers() -> None:
    source = Source("p.plm", "\n" * 8 + "first\nsecond\nthird\n\n\nlast")
    found = error(
        "PLM401", "too early", at(source, "second"), "here", secondary=[(at(source, "last"), "there")]
    )
    assert render_full(found).split("\n") == [
        "error[PLM401]: too early",
        "  --> p.plm:10:1",
        "   |",
        "10 | second",
        "   | ^^^^^^ here",
        "...",
        "14 | last",
        "   | ---- there",
    ]


def test_one_line_between_is_shown() -> None:
    source = Source("p.plm", "a\nb\nc\n")
    lines = render_full(error("PLM401", "m", at(source, "c"), secondary=[(at(source, "a"), "")])).split("\n")
    assert "2 | b" in lines


def test_tabs_stay_tabs() -> None:
    source = Source("p.plm", "\tx\ty")
    assert render_full(error("PLM201", "m", at(source, "y"), "here")).split("\n")[-1] == "  | \t \t^ here"


def test_wide_characters_take_two_columns() -> None:
    source = Source("p.plm", "日本 x")
    assert render_full(error("PLM201", "m", at(source, "x"))).split("\n")[-1] == "  |      ^"
    assert to_json(error("PLM201", "m", at(source, "x")))["column"] == 4


def test_long_lines_are_cut_around_the_caret() -> None:
    source = Source("p.plm", "a" * 5000 + "HERE" + "b" * 5000)
    lines = render_full(error("PLM201", "m", at(source, "HERE"), "this")).split("\n")
    assert all(len(line) < 200 for line in lines)
    start = lines[-1].index("^")
    assert lines[-2][start : start + 4] == "HERE" and lines[-1][start:] == "^^^^ this"
    assert lines[-2].startswith("1 | ... ") and lines[-2].endswith(" ...")


def test_a_span_over_lines_shows_its_first_and_last() -> None:
    source = Source("p.plm", "x {\n  a\n  b\n  c\n} y")
    lines = render_full(error("PLM411", "m", Span(source, 2, source.text.index("}") + 1), "all of it")).split(
        "\n"
    )
    assert lines[-5:] == ["1 | x {", "  |   ^", "...", "5 | } y", "  | ^ all of it"]


def test_the_end_of_an_empty_text() -> None:
    (found,) = compile_source(Source("p.plm", "")).diagnostics
    assert "1 |\n  | ^" in render_full(found)


def test_carriage_returns_are_not_printed() -> None:
    source = Source("p.plm", "a b\r\nc\r\n")
    assert "\r" not in render_full(error("PLM201", "m", at(source, "b")))


def test_control_characters_are_replaced() -> None:
    source = Source("p.plm", "a\x1b[31mb\x00")
    assert "\x1b" not in render_full(error("PLM201", "m", at(source, "b")))


def test_places_in_data() -> None:
    found = error("PLM603", "not a number", where="rows[3].label")
    assert render_full(found) == "error[PLM603]: not a number\n --> rows[3].label"
    assert render_concise(found) == "rows[3].label: error[PLM603] not a number"
    assert to_json(found)["file"] == "rows[3].label" and to_json(found)["line"] is None
    assert render_concise(error("PLM702", "no draw survived")) == "error[PLM702] no draw survived"


def test_a_span_without_a_source_is_left_out() -> None:
    assert render_full(error("PLM201", "m", NOWHERE, "here", help="h")) == "error[PLM201]: m\n = help: h"


def test_labels_in_two_sources() -> None:
    one, two = Source("a.plm", "x"), Source("<latent>", "y")
    text = render_full(error("PLM404", "m", Span(one, 0, 1), secondary=[(Span(two, 0, 1), "first")]))
    assert "--> a.plm:1:1" in text and "--> <latent>:1:1" in text


def test_colour_is_opt_in_and_changes_nothing_else() -> None:
    import re

    source = Source("p.plm", "x y")
    found = error("PLM201", "m", at(source, "x"), "l", secondary=[(at(source, "y"), "r")], help="h")
    plain, coloured = render_full(found), render_full(found, color=True)
    assert "\x1b" not in plain and "\x1b[1;31m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain
