"""Fidelity against diversity: one wide picture a setting, the name of every method beside its point."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen

from benchmarks.paper.claims import dominances
from benchmarks.paper.labels import Label, beside
from benchmarks.paper.summary import Entry, figure
from benchmarks.paper.tasks.continuation import FIDELITY, OURS
from posterior_lm.report.markup import Html, el
from posterior_lm.report.plots import Axes, drawing, span

WIDE, HIGH = 820.0, 440.0
FAR = 3.0
"""Quartile ranges beyond the quartiles past which a point stands at the edge, with its numbers beside it."""


@frozen
class Point:
    """A method's place: its semantic diversity and its fidelity."""

    name: str
    x: float
    y: float


def scatters(found: Sequence[Entry]) -> list[Html]:
    """A picture for each setting of the continuation task that has a point."""
    own = [e for e in found if e.task == "continuation"]
    pictures = []
    for setting in dict.fromkeys(e.setting for e in own):
        points = []
        for method in dict.fromkeys(e.method for e in own if e.setting == setting):
            pair = [figure(own, "continuation", setting, method, m) for m in ("diversity", FIDELITY[setting])]
            x, y = (None if e is None else e.mean for e in pair)
            if x is not None and y is not None:
                points.append(Point(method, x, y))
        if points:
            pictures.append(_scatter(setting, points, own))
    return pictures


def _scatter(setting: str, points: Sequence[Point], found: Sequence[Entry]) -> Html:
    fidelity = f"mean {FIDELITY[setting].replace('_', ' ')}"
    axes = Axes(
        near([p.x for p in points]), near([p.y for p in points]), "semantic diversity", f"{fidelity}, nats",
        width=WIDE, height=HIGH,
    )  # fmt: skip
    marks = [_mark(axes, p, f"{p.name}: diversity {p.x:.3f}, {fidelity} {p.y:.2f}") for p in points]
    names = [label.drawn() for label in named(axes, points)]
    worse = sum(r.dominates for r in dominances(found) if r.setting == setting)
    title = (
        f"{setting}: fidelity and diversity; up and to the right is better. Squares are our policies. "
        f"A point at the edge lies outside, where its numbers say. In {worse or 'no'} "
        f"pair{'s' * (worse > 1)} a decoding baseline is above and to the right of a policy."
    )
    return el("figure", drawing(title, axes, *marks, *names), el("figcaption", title), class_="wide")


def near(values: Sequence[float]) -> tuple[float, float]:
    """The range of the values that are not far from most, with some air."""
    low, high = np.quantile(values, [0.25, 0.75])
    reach = FAR * (high - low)
    return span([v for v in values if low - reach <= v <= high + reach], 0.1)


def _mark(axes: Axes, point: Point, said: str) -> Html:
    x, y = _inside(axes, point)
    if point.name.startswith(OURS):
        square = el("rect", el("title", said), x=x - 4, y=y - 4, width=8, height=8)
        return el("g", square, class_="ours")
    return el("g", el("circle", el("title", said), cx=x, cy=y, r=4), class_="dots")


def _inside(axes: Axes, point: Point) -> tuple[float, float]:
    (a, b), (c, d) = axes.x, axes.y
    return axes.at(min(b, max(a, point.x)), min(d, max(c, point.y)))


def _off(axes: Axes, point: Point) -> bool:
    return not (axes.x[0] <= point.x <= axes.x[1] and axes.y[0] <= point.y <= axes.y[1])


def named(axes: Axes, points: Sequence[Point]) -> list[Label]:
    """A label for each point; of one that lies outside with its numbers."""
    names = [f"{p.name} ({round(p.x, 2) + 0.0:.2f}, {p.y:.2f})" if _off(axes, p) else p.name for p in points]
    return beside(axes, names, [_inside(axes, p) for p in points])
