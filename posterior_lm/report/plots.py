"""Small plots as inline SVG: axes with round ticks, lines, bands, bars and dots. Colours come from the style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from attrs import frozen

from posterior_lm.report.markup import Html, el, number

WIDTH, HEIGHT = 380.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 68.0, 20.0, 10.0, 44.0
Numbers = Sequence[float] | np.ndarray
MOST_POINTS = 240
"""Points of a line: more would not be seen at a page's width."""


@frozen
class Axes:
    """The ranges of a plot and what its axes say; maps data to places in the picture."""

    x: tuple[float, float]
    y: tuple[float, float]
    x_label: str
    y_label: str
    whole: bool = False
    """Whether the horizontal axis counts, so that its ticks are whole numbers."""
    width: float = WIDTH
    height: float = HEIGHT

    @property
    def right(self) -> float:
        return self.width - RIGHT

    @property
    def bottom(self) -> float:
        return self.height - BOTTOM

    def at(self, x: float, y: float) -> tuple[float, float]:
        (a, b), (c, d) = self.x, self.y
        across = LEFT + (self.right - LEFT) * (x - a) / ((b - a) or 1.0)
        down = self.bottom - (self.bottom - TOP) * (y - c) / ((d - c) or 1.0)
        return round(across, 1), round(down, 1)


def plot(title: str, axes: Axes, *marks: Html | None) -> Html:
    """A figure: a drawing with its title below."""
    return el("figure", drawing(title, axes, *marks), el("figcaption", title))


def drawing(title: str, axes: Axes, *marks: Html | None) -> Html:
    """The marks over a grid, and a title in words for who cannot see it."""
    grid = [*_ticks(axes, "x"), *_ticks(axes, "y")]
    names = [
        el("text", axes.x_label, x=(LEFT + axes.right) / 2, y=axes.height - 6, class_="axis middle"),
        el("text", axes.y_label, x=12, y=(TOP + axes.bottom) / 2, class_="axis middle",
           transform=f"rotate(-90 12 {(TOP + axes.bottom) / 2:g})"),
    ]  # fmt: skip
    return el("svg", el("title", title), *grid, *marks, *names, class_="plot", role="img",
              viewBox=f"0 0 {axes.width:g} {axes.height:g}")  # fmt: skip


def line(axes: Axes, xs: Numbers, ys: Numbers, kind: str = "line") -> Html:
    """A line through the points whose values are finite."""
    points = [axes.at(x, y) for x, y in thinned(xs, ys) if math.isfinite(y)]
    return el("polyline", points=" ".join(f"{x:g},{y:g}" for x, y in points), class_=kind)


def band(axes: Axes, xs: Numbers, low: Numbers, high: Numbers) -> Html:
    """The area between two lines, cut off at the edges of the plot."""
    least, most = axes.y
    up = [axes.at(x, min(most, max(least, y))) for x, y in thinned(xs, high) if math.isfinite(y)]
    down = [axes.at(x, min(most, max(least, y))) for x, y in thinned(xs, low) if math.isfinite(y)]
    return el("polygon", points=" ".join(f"{x:g},{y:g}" for x, y in [*up, *down[::-1]]), class_="band")


def bars(axes: Axes, edges: Sequence[float], heights: Sequence[float], titles: Sequence[str]) -> Html:
    """A bar between every two edges; what it says on hover."""
    drawn = []
    for left, right, height, title in zip(edges, edges[1:], heights, titles, strict=False):
        (x0, y0), (x1, y1) = axes.at(left, height), axes.at(right, axes.y[0])
        wide = max(0.6, x1 - x0 - (1.0 if x1 - x0 > 3 else 0.0))
        drawn.append(
            el("rect", el("title", title), x=x0, y=y0, width=round(wide, 1), height=round(y1 - y0, 1))
        )
    return el("g", *drawn, class_="bars")


def dots(axes: Axes, xs: Numbers, ys: Numbers, titles: Sequence[str], kind: str = "dots") -> Html:
    """One small circle for each point."""
    drawn = []
    for x, y, title in zip(xs, ys, titles, strict=True):
        cx, cy = axes.at(x, y)
        drawn.append(el("circle", el("title", title), cx=cx, cy=cy, r="2.6"))
    return el("g", *drawn, class_=kind)


def rule(axes: Axes, y: float, label: str) -> Html:
    """A level line with its name."""
    (x0, at), (x1, _) = axes.at(axes.x[0], y), axes.at(axes.x[1], y)
    above = at - 4 if at > TOP + 14 else at + 12
    return el(
        "g",
        el("line", x1=x0, y1=at, x2=x1, y2=at),
        el("text", label, x=x1 - 2, y=above, class_="end"),
        class_="rule",
    )


def thinned(xs: Numbers, ys: Numbers) -> list[tuple[float, float]]:
    """At most `MOST_POINTS` of the points, the first and the last among them."""
    if len(xs) <= MOST_POINTS:
        keep = range(len(xs))
    else:
        keep = sorted({round(k * (len(xs) - 1) / (MOST_POINTS - 1)) for k in range(MOST_POINTS)})  # type: ignore[assignment]
    return [(float(xs[k]), float(ys[k])) for k in keep]


def span(values: Numbers, pad: float = 0.04) -> tuple[float, float]:
    """The finite values' range with some air; a unit around a single value; (0, 1) around none."""
    finite = [float(v) for v in values if math.isfinite(v)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    if high - low < 1e-9 * max(1.0, abs(high)):
        return low - 0.5, high + 0.5
    return low - pad * (high - low), high + pad * (high - low)


def ticks(low: float, high: float, most: int = 6, *, whole: bool = False) -> list[float]:
    """Round numbers within the range, at most `most`, at steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * (1 - 1e-9))
    step = max(1.0, step) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _ticks(axes: Axes, which: str) -> list[Html]:
    low, high = axes.x if which == "x" else axes.y
    at = ticks(low, high, 6 if which == "x" else 5, whole=which == "x" and axes.whole)
    digits = _digits(at)
    drawn = []
    for value in at:
        label = f"{value:,.0f}" if which == "x" and axes.whole else number(value, digits)
        if which == "x":
            x, y = axes.at(value, axes.y[0])
            drawn.append(el("line", x1=x, y1=TOP, x2=x, y2=y, class_="grid"))
            drawn.append(el("text", label, x=x, y=y + 16, class_="tick middle"))
        else:
            x, y = axes.at(axes.x[0], value)
            drawn.append(el("line", x1=x, y1=y, x2=axes.right, y2=y, class_="grid"))
            drawn.append(el("text", label, x=x - 5, y=y + 4, class_="tick end"))
    return drawn


def _digits(at: Sequence[float]) -> int:
    step = at[1] - at[0] if len(at) > 1 else 1.0
    return max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
