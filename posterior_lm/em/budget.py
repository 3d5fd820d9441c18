"""How a budget of EM is divided: it holds the whole, from the command to the saved result.

What the end takes is set aside. Of what is left an E-step may take a quarter, since it is the M-steps that change
the model, and an M-step six tenths, so that there is time for the E-step and the bounds behind it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from attrs import define, field

END = 0.15
"""Of a budget for the certificate and for saving."""
E_STEP, M_STEP = 0.25, 0.6
"""Of what is left, for either."""
BOUND = 0.08
"""Of a budget for the bounds of a round, whose draws are as many as that holds."""
TRIED, FEWEST = 8, 4
"""Draws of a row that are timed; and of each row at least."""


@define(eq=False)
class Purse:
    """The seconds of a run, `before` of them in a run that this one goes on from; a `budget` of None has no end."""

    budget: float | None
    began: float = field(factory=time.monotonic)
    before: float = 0.0

    @property
    def spent(self) -> float:
        return self.before + time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds until what the end takes begins, below 0 where it should have begun; +∞ without a budget."""
        return math.inf if self.budget is None else self.budget * (1 - END) - self.spent

    @property
    def whole_left(self) -> float:
        """Seconds until the budget is spent; +∞ without one."""
        return math.inf if self.budget is None else self.budget - self.spent

    def part(self, share: float) -> float | None:
        """This share of what is left, a second at least; None without a budget."""
        return None if self.budget is None else max(1.0, share * self.left)

    def until(self, share: float) -> Callable[[], bool]:
        """What says whether this share of what is left now has passed; never without a budget."""
        part = self.part(share)
        end = math.inf if part is None else time.monotonic() + part
        return lambda: time.monotonic() >= end

    def draws(self, most: int, rows: int, tried: Callable[[int], object]) -> int:
        """Draws of each of so many rows, at most `most`, whose bounds take no more than `BOUND`, after one row was tried."""
        if self.budget is None or most <= FEWEST:
            return most
        few = min(TRIED, most)
        began = time.monotonic()
        tried(few)
        each = max(1e-9, time.monotonic() - began) / few
        return max(FEWEST, min(most, math.floor(min(1e9, BOUND * self.budget / (rows * each)))))
