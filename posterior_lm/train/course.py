"""How far a fit is and what time it has: one object that its phases move and that whoever watches reads.

The clock starts with the command, so a budget holds all of it: loading, looking, listing, training,
certifying, saving. Nothing here writes or draws; a display asks `stand` as often as it likes, from
another thread too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from attrs import evolve, frozen

LOADING, LOOKING, LISTING, PACING = "loading", "looking at simulations", "listing", "timing a few draws"
SLEEP, BALANCE, CERTIFYING, SAVING = "compiling", "balancing", "certifying", "saving"
PHASES = (LOADING, LOOKING, LISTING, PACING, SLEEP, BALANCE, CERTIFYING, SAVING)
"""What a fit goes through, in this order; some are skipped."""
MOST = 0.99
"""Of the whole, as long as it goes on."""
STAGES = {"sleep": SLEEP, "balance": BALANCE}
"""The phase of a training step, by the step's `stage`."""


@frozen
class Stand:
    """Where a fit is: the phase, its share that is done, and the seconds behind and ahead of the whole.

    `share` is None where a phase cannot tell, `left` where nothing bounds or foretells the end, or it has passed;
    `done` is the share of the whole that is behind, by time, which never falls and is below 1.
    """

    phase: str
    share: float | None = None
    note: str = ""
    seconds: float = 0.0
    left: float | None = None
    done: float | None = None


class Course:
    """The phases of one fit on one clock, which starts now; `budget` is in seconds from then on.

    `tick` is told of every move. With `watched`, what comes after the training is foretold.
    """

    def __init__(
        self, tick: Callable[[Stand], None] | None = None, *, watched: bool = False,
        clock: Callable[[], float] = lambda: time.monotonic(),
    ) -> None:  # fmt: skip
        self.budget: float | None = None
        self.tick, self.clock, self.watched = tick, clock, watched or tick is not None
        self.began = clock()
        self.spent: dict[str, float] = {}
        """Seconds of each phase that is over."""
        self._expected: float | None = None
        self._done: float | None = None
        self._stand = Stand(LOADING)

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self.clock() - self.began

    @property
    def left(self) -> float:
        """Seconds of the budget that are left, below 0 where it is spent; +∞ without one."""
        return math.inf if self.budget is None else self.budget - self.elapsed

    @property
    def phase(self) -> str:
        return self._stand.phase

    def enter(self, phase: str, note: str = "") -> None:
        """Begin a phase; to begin the one that runs changes nothing."""
        if phase != self._stand.phase:
            before = self._stand.phase
            since = self.elapsed - sum(self.spent.values())
            self.spent[before] = self.spent.get(before, 0.0) + since
            self._move(Stand(phase, note=note))

    def move(self, share: float | None, note: str = "") -> None:
        """Say what share of the phase is done, in 0..1."""
        self._move(evolve(self._stand, share=share, note=note))

    def expect(self, seconds: float) -> None:
        """Say how many seconds from now on the fit should end, which no budget exceeds."""
        self._expected = self.elapsed + seconds

    def part(self, name: str, share: float) -> Course:
        """A course of its own for a part of the work, which says how far it is through this one; it may take this share of
        what is left of the budget."""

        def told(stand: Stand) -> None:
            self.enter(stand.phase)
            self.move(stand.share, f"{name}: {stand.note}".removesuffix(": "))

        found = Course(told, clock=self.clock)
        found.watched, found._stand = self.watched, Stand(self.phase)
        found.budget = None if self.budget is None else share * self.left
        return found

    def _move(self, stand: Stand) -> None:
        self._stand = stand
        if self.tick is not None:
            self.tick(self.stand())

    def stand(self) -> Stand:
        """Where the fit is now."""
        elapsed = self.elapsed
        ends = [end for end in (self.budget, self._expected) if end is not None]
        left = min(ends) - elapsed if ends else None
        if left is not None and left <= 0:  # what is not done by then was foretold wrongly
            left = None
        if left is not None:
            self._done = min(MOST, max(self._done or 0.0, elapsed / (elapsed + left)))
        return evolve(self._stand, seconds=elapsed, left=left, done=self._done)

    def until(self, share: float) -> Callable[[], bool] | None:
        """What says whether this share of the time that is left now has passed; None without a budget."""
        if self.budget is None:
            return None
        end = self.clock() + share * max(0.0, self.left)
        return lambda: self.clock() >= end

    def late_by(self, seconds: float) -> Callable[[], bool] | None:
        """What says whether only so many seconds of the budget are left; None without a budget."""
        return None if self.budget is None else lambda: self.left <= seconds
