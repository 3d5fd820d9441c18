"""How a budget of EM is divided: it holds the whole, from the command to the saved result.

What the end takes is set aside. Of what is left an E-step may take a quarter, since it is the M-steps that change
the model, and an M-step six tenths, so that there is time for the E-step and the bounds behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from attrs import define, evolve

from posterior_lm.train.course import Course
from posterior_lm.train.settings import FitSettings

END = 0.15
"""Of a budget for the certificate and for saving."""
E_STEP, M_STEP = 0.25, 0.6
"""Of what is left, for either."""
BOUND = 0.08
"""Of a budget for the bounds of a round, whose draws are as many as that holds."""
TRIED, FEWEST = 8, 4
"""Draws of a row that are timed; and of each row at least."""
STEPS = 24
"""Steps that an E-step should hold before each has all of its draws."""
SEEDS, SEEDED = 32, 0.1
"""Draws of smc that a row's buffer begins with at most, and the part of an E-step that those of all rows may take."""
ROWS, DRAWS = 16, 16
"""Of a step of an E-step, where nobody says how many (`FitSettings.resolved`)."""


@define(eq=False)
class Purse:
    """The seconds of a run, `before` of them in a run that this one goes on from; a course without a budget has no end."""

    course: Course
    before: float = 0.0
    each: float | None = None
    """Seconds of a draw, weighed, once that was tried."""

    @property
    def spent(self) -> float:
        return self.before + self.course.elapsed

    @property
    def budget(self) -> float | None:
        return self.course.budget

    @property
    def left(self) -> float:
        """Seconds until what the end takes begins, below 0 where it should have begun; +∞ without a budget."""
        return math.inf if self.budget is None else self.whole_left - END * self.budget

    @property
    def whole_left(self) -> float:
        """Seconds until the budget is spent; +∞ without one."""
        return self.course.left - self.before

    def part(self, share: float) -> float | None:
        """This share of what is left, a second at least; None without a budget."""
        return None if self.budget is None else max(1.0, share * self.left)

    def until(self, share: float) -> Callable[[], bool]:
        """What says whether this share of what is left now has passed; never without a budget."""
        part = self.part(share)
        clock = self.course.clock
        end = math.inf if part is None else clock() + part
        return lambda: clock() >= end

    def measure(self, draw: Callable[[int], object]) -> None:
        """Try what `draw` takes for a number of draws; not without a budget, nor again."""
        if self.budget is None or self.each is not None:
            return
        began = self.course.elapsed
        draw(TRIED)
        self.each = max(1e-9, self.course.elapsed - began) / TRIED

    def draws(self, most: int, rows: int) -> int:
        """Draws of each of so many rows, at most `most`, whose bounds take no more than `BOUND`."""
        if self.budget is None or self.each is None:
            return most
        held = math.floor(min(1e9, BOUND * self.budget / (rows * self.each)))
        return max(min(FEWEST, most), min(most, held))

    def of_e_step(self, fit: FitSettings, rows: int) -> FitSettings:
        """Settings of an E-step on so many rows with its part of what is left, and draws of which that holds enough steps.

        A step takes about as long again for what it does with its draws, as that of a fit.
        """
        part = self.part(E_STEP)
        fit = evolve(fit, budget=part)
        if part is None or self.each is None:
            return fit
        together = min(rows, fit.rows or ROWS)
        most = part / (STEPS * 2 * self.each)
        draws = fit.draws or int(min(DRAWS, max(2, most // together)))
        seeds = int(min(SEEDS, SEEDED * part / (self.each * rows))) if fit.seeds is None else fit.seeds
        return evolve(fit, draws=draws, pairs=int(min(fit.pairs, max(FEWEST, most))), seeds=seeds)
