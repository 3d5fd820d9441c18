"""Names beside points of a plot, none on another where there is room."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from posterior_lm.report.markup import Html, el
from posterior_lm.report.plots import LEFT, TOP, Axes

LETTER, LINE, BESIDE = 7.3, 13.0, 8.0
"""Width of a letter, height of a line, and from a point to its label, in the units of the picture."""
SHIFTS = 12
"""Lines up and down that a label may move."""
HIDDEN = 100.0
"""What hiding another label costs, where moving by a line costs 1."""


@frozen
class Label:
    """A label's box: its left end and the middle of its height."""

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

    def drawn(self) -> Html:
        return el("text", self.text, x=self.x, y=self.y + 4, font_size="12")


def beside(axes: Axes, names: Sequence[str], places: Sequence[tuple[float, float]]) -> list[Label]:
    """A label for each place in the picture, to its right where there is room, else as near as there is."""
    placed: list[Label] = []
    for text, (x, y) in sorted(zip(names, places, strict=True), key=lambda one: one[1][1]):
        placed.append(_best(axes, text, x, y, placed, places))
    return placed


def _best(
    axes: Axes, text: str, x: float, y: float, placed: Sequence[Label], places: Sequence[tuple[float, float]]
) -> Label:
    wide = LETTER * len(text)
    best = (float("inf"), Label(text, round(x + BESIDE, 1), y))
    for step in range(SHIFTS):
        for down in (step * LINE, -step * LINE):
            for left in (x + BESIDE, x - BESIDE - wide):
                label = Label(text, round(left, 1), round(y + down, 1))
                across = label.x >= LEFT and label.x + wide <= axes.right
                if not across or not TOP + 4 <= label.y <= axes.bottom - 4:
                    continue
                hidden = sum(label.meets(other) for other in placed)
                hidden += sum(label.meets(Label(" ", a - LETTER / 2, b)) for a, b in places)
                best = min(best, (HIDDEN * hidden + step + 0.5 * (left < x), label), key=lambda one: one[0])
        if best[0] < HIDDEN:
            break
    return best[1]
