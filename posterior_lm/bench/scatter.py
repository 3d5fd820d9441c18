"""Fidelity against diversity: one wide picture a setting, the name of every method beside its point."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen

from posterior_lm.bench.claims import dominances
from posterior_lm.bench.summary import Entry, figure
from posterior_lm.bench.tasks.continuation import FIDELITY, OURS
from posterior_lm.page.markup import Html, el
from posterior_lm.page.plots import LEFT, TOP, Axes, drawing, span

WIDE, HIGH = 820.0, 440.0
FAR = 3.0
"""Quartile ranges beyond the quartiles past which a point stands at the edge, with its numbers beside it."""
LETTER, LINE, BESIDE = 6.7, 13.0, 8.0
"""Width of a letter, height of a line, and from a point to its label, in the units of the picture."""


@frozen
class Point:
    """A method's place: its semantic diversity and its fidelity."""

    name: str
    x: float
    y: float


@frozen
class Label:
    """A label's box: its left end and the middle of its height, and how wide it is."""

    text: str
    x: float
    y: float

    @property
    def width(self) -> float:
        return LETTER * len(self.text)

    def meets(self, other: Label) -> bool:
        """Whether the two boxes overlap."""
        apart = self.x + self.width < other.x or other.x + other.width < self.x
        return not apart and abs(self.y - other.y) < LINE


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
    names = [el("text", one.text, x=one.x, y=one.y + 4, font_size="12") for one in labels(axes, points)]
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


def labels(axes: Axes, points: Sequence[Point]) -> list[Label]:
    """A label for each point, beside it where there is room, else as near as there is."""
    placed: list[Label] = []
    marks = [_inside(axes, p) for p in points]
    for point, (x, y) in sorted(zip(points, marks, strict=True), key=lambda one: one[1][1]):
        text = f"{point.name} ({point.x:.2f}, {point.y:.2f})" if _off(axes, point) else point.name
        wide = LETTER * len(text)
        best: tuple[float, Label] | None = None
        for step in range(12):
            for down in (step * LINE, -step * LINE):
                for left in (x + BESIDE, x - BESIDE - wide):
                    label = Label(text, round(left, 1), round(y + down, 1))
                    inside = (
                        label.x >= LEFT
                        and label.x + wide <= axes.right
                        and TOP + 4 <= label.y <= axes.bottom - 4
                    )
                    if not inside:
                        continue
                    hidden = sum(label.meets(other) for other in placed)
                    hidden += sum(label.meets(Label(" ", a - LETTER / 2, b)) for a, b in marks)
                    cost = 100.0 * hidden + step + 0.5 * (left < x)
                    if best is None or cost < best[0]:
                        best = (cost, label)
            if best is not None and best[0] < 100:
                break
        placed.append(best[1] if best is not None else Label(text, round(x + BESIDE, 1), y))
    return placed
