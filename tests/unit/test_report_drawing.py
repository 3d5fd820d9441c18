"""What a page draws: the program in colours, the graph in layers, plots with round ticks."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.lang.colours import pieces
from posterior_lm.lang.source import Source
from posterior_lm.report.graph_svg import clipped, graph_svg, graph_view, layout
from posterior_lm.report.picture import picture, spelled
from posterior_lm.report.plots import MOST_POINTS, Axes, bars, line, span, thinned, ticks
from posterior_lm.report.program import program_view, source_of
from tests.conftest import ROOT

PROGRAMS = sorted((ROOT / "programs").glob("*.plm"))


# ---------------------------------------------------------------- the program


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.stem)
def test_colours_lose_no_character(path: object) -> None:
    text = path.read_text(encoding="utf-8")  # type: ignore[attr-defined]
    assert "".join(part for _, part in pieces(Source("p", text))) == text


@pytest.mark.parametrize(
    "text", ["", "\n\n", 'lm x = "un', "a ; \u201cb\u201d # c", "\ufefflm a", "x\r\n  y # z\r\n"]
)
def test_colours_of_what_is_no_program(text: str) -> None:
    assert "".join(part for _, part in pieces(Source("p", text))) == text


def test_words_have_the_colours_of_their_kinds() -> None:
    text = 'lm m = "t" # why\nprogram p(y: text) {\n  latent z: int(0..3, lead=" ") ~ choice(m(y))\n  factor words("a")\n}\n'
    found = [(kind, part) for kind, part in pieces(Source("p", text)) if kind]
    for pair in (
        ("keyword", "lm"), ("name", "m"), ("string", '"t"'), ("comment", "# why"), ("name", "p"), ("type", "text"),
        ("keyword", "latent"), ("name", "z"), ("type", "int"), ("number", "3"), ("option", "lead"),
        ("function", "choice"), ("call", "m"), ("function", "words"), ("string", '"a"'),
    ):  # fmt: skip
        assert pair in found
    text = "program p(text: text) {\n  factor words(text)\n}\n"
    assert [kind for kind, part in pieces(Source("p", text)) if part == "text"] == [None, "type", None]
    assert ("type", "y") not in found and "y" not in [part for _, part in found]


def test_every_line_has_its_number() -> None:
    shown = program_view(Source("p", "lm a\n\n# b\n"))
    assert re.findall(r'id="(\w+)"', shown) == ["L1", "L2", "L3"]


def test_composed_programs_show_their_canonical_text() -> None:
    query = plm.load(ROOT / "programs" / "story_infilling.plm")
    source, own = source_of(query.prepared)
    assert own and source.text.startswith("# The sentence that joins")
    source, own = source_of(query.factor("1.0").prepared)
    assert not own and source.text.endswith("factor 1.0\n}\n")


# ---------------------------------------------------------------- the graph


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.stem)
def test_pictures_hold_every_latent_and_term(path: object) -> None:
    graph = plm.load(path).graph  # type: ignore[arg-type]
    shown = picture(graph)
    ids = [box.id for box in shown.boxes]
    assert len(set(ids)) == len(ids) and {a for arrow in shown.arrows for a in arrow[:2]} <= set(ids)
    for i, latent in graph.latents():
        box = next(b for b in shown.boxes if b.id == f"n{i}")
        assert box.kind == "latent" and box.heading == f"{latent.name}: {latent.type}"
        assert any(a == f"n{i}" for a, _, _ in shown.arrows)
    terms = {f"n{i}" for i in graph.sink.inputs}
    assert {a for a, b, _ in shown.arrows if b == f"n{graph.total}"} == terms
    assert {b.id for b in shown.boxes if b.kind == "term"} == terms
    read = {a for a, _, _ in shown.arrows} | {f"n{graph.total}"}
    assert set(ids) == read, "a box that nothing reads"
    assert graph_view(graph).count("<g class") >= len(ids)


def test_expressions_are_written_into_boxes() -> None:
    graph = plm.load(ROOT / "programs" / "constrained.plm").graph
    details = {box.heading: box.detail for box in picture(graph).boxes}
    assert details["latent z"] == "1.25 \u00d7 log base(z | prompt)"
    assert details["condition: 0 or \u2212\u221e"] == 'contains(z, "dog") and (words(z) <= 16)'
    assert details["factor"] == '1.25 \u00d7 (-0.2 * count(z, "very"))'
    assert details["z: text"].startswith("tokens=4..24, stop=")


def test_brackets_keep_the_meaning() -> None:
    query = (
        plm.program("p", "x: real", "y: real")
        .latent("k", "int(0..3)", "uniform()")
        .factor("(x - y) * -(k + 1)")
    )
    graph = query.graph
    assert spelled(graph, graph.sink.inputs[-1]) == "(x - y) * -(k + 1)"


def test_a_plates_score_reads_its_table() -> None:
    graph = plm.load(ROOT / "programs" / "instruction_induction.plm").graph
    shown = picture(graph)
    headings = {box.id: box.heading for box in shown.boxes}
    arrows = {(headings[a], headings[b]) for a, b, _ in shown.arrows}
    assert (
        ("examples", "score") in arrows
        and ("score", "observe") in arrows
        and ("rule: text", "score") in arrows
    )


def _random(seed: int) -> tuple[list[str], list[tuple[str, str]]]:
    rng = np.random.default_rng(seed)
    nodes = [f"v{k}" for k in range(14)]
    return nodes, [(a, b) for i, a in enumerate(nodes) for b in nodes[i + 1 :] if rng.random() < 0.2]


@pytest.mark.parametrize("seed", range(6))
def test_layouts_point_down_and_nothing_overlaps(seed: int) -> None:
    nodes, arrows = _random(seed)
    found = layout(nodes, arrows, box=(100.0, 40.0), gap=(10.0, 30.0))
    assert found == layout(nodes, arrows, box=(100.0, 40.0), gap=(10.0, 30.0))
    for a, b in arrows:
        ys = [found.place[a][1], *(y for _, y in found.bends[a, b]), found.place[b][1]]
        assert all(round(low - high, 6) == 70.0 for high, low in pairwise(ys))
    places = list(found.place.values())
    knees = [bend for bends in found.bends.values() for bend in bends]
    for k, (x, y) in enumerate(places):
        assert 50.0 <= x <= found.width - 50.0 + 0.2 and 20.0 <= y <= found.height - 20.0 + 1e-9
        assert all(abs(x - u) >= 109.7 for u, v in places[k + 1 :] if v == y)
        assert all(abs(x - u) >= 50.0 for u, v in knees if v == y), "an arrow runs through a box"


def test_sources_stand_right_above_their_first_reader() -> None:
    found = layout(["a", "b", "c", "d"], [("a", "b"), ("b", "d"), ("c", "d")], box=(9.0, 4.0), gap=(1.0, 6.0))
    assert [found.place[n][1] for n in "abcd"] == [2.0, 12.0, 12.0, 22.0] and found.bends["c", "d"] == ()


def test_neighbours_stand_below_each_other() -> None:
    nodes = ["a", "b", "c", "d"]
    found = layout(nodes, [("a", "d"), ("b", "c")], box=(100.0, 40.0), gap=(10.0, 30.0))
    assert found.place["a"][0] == found.place["d"][0] and found.place["b"][0] == found.place["c"][0]
    with pytest.raises(ValueError, match="backward"):
        layout(nodes, [("d", "a")], box=(1.0, 1.0), gap=(1.0, 1.0))


def test_long_details_keep_both_ends() -> None:
    assert clipped("abc  d\ne", 10) == "abc d e"
    cut = clipped("a" * 30 + "b" * 30, 12)
    assert len(cut) == 12 and cut.startswith("aaa") and cut.endswith("bbb") and "\u2026" in cut


def test_the_drawing_fits_its_frame() -> None:
    shown = picture(plm.load(ROOT / "programs" / "story_infilling.plm").graph)
    drawn = graph_svg(shown, "t")
    left, top, width, height = map(float, re.search(r'viewBox="([-\d. ]+)" *>', drawn)[1].split())  # type: ignore[index]
    for rect in re.findall(r'<rect x="([-\d.]+)" y="([-\d.]+)" width="([\d.]+)" height="([\d.]+)"', drawn):
        x, y, w, h = map(float, rect)
        assert left <= x and x + w <= left + width and top <= y and y + h <= top + height
    assert drawn.count('class="arrow dashed"') == sum(dashed for _, _, dashed in shown.arrows) == 3


# ---------------------------------------------------------------- plots


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-37.4, -35.9), (0.0, 600.0), (-1e-7, 2e-7), (3.0, 1e9)]
)
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    steps = np.diff(found)
    assert np.allclose(steps, steps[0]) and all(
        low - 1e-9 * abs(steps[0]) <= t <= high * (1 + 1e-12) for t in found
    )
    digits = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert min(abs(digits - d) for d in (1, 2, 5, 10)) < 1e-6


def test_ticks_of_counts_are_whole() -> None:
    assert ticks(0.0, 3.0, whole=True) == [0.0, 1.0, 2.0, 3.0]
    assert ticks(2.0, 2.0) == [2.0]


def test_marks_stand_where_the_data_says() -> None:
    axes = Axes((0.0, 10.0), (0.0, 2.0), "x", "y")
    (x0, y0), (x1, y1) = axes.at(0, 0), axes.at(10, 2)
    assert x0 < x1 and y0 > y1
    assert axes.at(5, 1) == pytest.approx(((x0 + x1) / 2, (y0 + y1) / 2), abs=0.1)
    points = re.search(r'points="([^"]*)"', line(axes, [0.0, 5.0, 10.0], [0.0, math.nan, 2.0]))
    assert points is not None and points[1] == f"{x0:g},{y0:g} {x1:g},{y1:g}"
    heights = [
        float(h)
        for h in re.findall(r'height="([\d.]+)"', bars(axes, [0.0, 5.0, 10.0], [0.5, 2.0], ["a", "b"]))
    ]
    assert heights[1] == pytest.approx(4 * heights[0], abs=0.5)


def test_long_lines_are_thinned_but_keep_their_ends() -> None:
    xs = np.arange(10_000.0)
    kept = thinned(xs, xs**2)
    assert len(kept) == MOST_POINTS and kept[0] == (0.0, 0.0) and kept[-1] == (9999.0, 9999.0**2)
    assert thinned([1.0, 2.0], [3.0, 4.0]) == [(1.0, 3.0), (2.0, 4.0)]


def test_spans_ignore_what_is_not_finite() -> None:
    assert span([1.0, -math.inf, 3.0, math.nan], 0.0) == (1.0, 3.0)
    assert span([2.0, 2.0]) == (1.5, 2.5) and span([-math.inf]) == (0.0, 1.0)
