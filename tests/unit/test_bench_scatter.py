"""Pictures of a table: every method named, no name on another, far points at the edge."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from benchmarks.paper.labels import LETTER, Label
from benchmarks.paper.pictures import against_operands
from benchmarks.paper.scatter import HIGH, WIDE, Point, named, near, scatters
from benchmarks.paper.summary import Entry
from posterior_lm.report.plots import LEFT, TOP, Axes


def entry(method: str, metric: str, mean: float, setting: str = "tempered") -> Entry:
    return Entry("continuation", setting, method, metric, mean, 0.0, 3, 8, 1.0)


def axes_of(points: list[Point]) -> Axes:
    return Axes(near([p.x for p in points]), near([p.y for p in points]), "x", "y", width=WIDE, height=HIGH)


def test_a_range_leaves_out_what_is_far_from_most() -> None:
    low, high = near([1.0, 1.1, 1.2, 1.3, 1.4, 9.0])
    assert 0.9 < low < 1.0 and 1.4 < high < 1.5
    low, high = near([2.0])
    assert low < 2.0 < high


@pytest.mark.parametrize("seed", range(5))
def test_no_name_stands_on_another_and_all_are_inside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [Point(f"method {k}", *rng.normal(size=2)) for k in range(16)]
    axes = axes_of(points)
    found = named(axes, points)
    assert sorted(one.text.split(" (")[0] for one in found) == sorted(p.name for p in points)
    assert not any(a.meets(b) for a, b in combinations(found, 2))
    for one in found:
        assert one.x >= LEFT and one.x + one.width <= axes.right and TOP <= one.y <= axes.bottom


def test_crowded_points_still_have_a_name_each() -> None:
    points = [Point("a rather long name of a method", 0.5, 0.5)] * 40
    assert len(named(axes_of(points), points)) == 40


def test_boxes_meet_where_they_overlap() -> None:
    box = Label("four", 10.0, 10.0)
    assert box.meets(Label("x", 10.0 + 3 * LETTER, 12.0))
    assert not box.meets(Label("x", 11.0 + 4 * LETTER, 10.0))
    assert not box.meets(Label("four", 10.0, 30.0))


def test_the_picture_tells_far_points_and_ours_apart() -> None:
    near_by = {"ancestral 1": (0.5, -3.0), "ancestral 0.8": (0.45, -2.8), "nucleus 0.8": (0.44, -2.7),
               "gflownet b=1.5": (0.42, -2.6), "top-k 3": (0.46, -2.9)}  # fmt: skip
    places = {**near_by, "beam": (0.7, -60.0)}
    found = [
        entry(method, metric, value)
        for method, (x, y) in places.items()
        for metric, value in (("diversity", x), ("log_likelihood", y))
    ]
    found.append(entry("greedy", "diversity", 0.0))  # no fidelity, so no point
    (picture,) = scatters(found)
    assert picture.count("<circle") == 5 and picture.count('class="ours"') == 1
    assert "beam (0.70, -60.00)" in picture and ">ancestral 1<" in picture and ">greedy" not in picture
    assert "In no pair a decoding baseline" in picture
    assert scatters([entry("beam", "diversity", 0.4)]) == []


def test_the_papers_own_files_have_no_place_on_the_line_of_operands() -> None:
    found = [
        Entry("arithmetic", setting, method, "accuracy", 0.5, 0.0, 3, 8, 1.0)
        for setting in ("3 operands", "5 operands", "paper 5 operands", "paper 3 operands, leaky")
        for method in ("sft", "gflownet")
    ]
    (picture,) = against_operands(found)
    assert picture.count("<polyline") == 2 and picture.count("<circle") == 4
    assert ">sft</text>" in picture and ">gflownet</text>" in picture
    assert against_operands(found[:2]) == []
