"""What the end of a fit will cost, foretold from a few draws; a certificate cut to the time that there is.

A certificate of R held-out rows and S simulated ones, N draws each, takes about

    R · t(N) + S · (t(N) / 2 + s),    t(N) = a + b N,

with t the time to weigh N draws of the policy and N of the prior, and s that of one simulated pair.
a and b come of the last two of a few measurements.
"""

from __future__ import annotations

import math
import sys
import time

import numpy as np
import torch
from attrs import evolve, frozen

from posterior_lm.infer.guide import Guide
from posterior_lm.infer.weights import load_khat
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.target.target import Target
from posterior_lm.train.certificate import FEWEST
from posterior_lm.train.evaluate import Both

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

TIMED = (8, 16, 128)
"""Draws that are timed, one number after the other; texts that come again cost nothing, so more show more."""

TIMING = 0.1
"""Share of the time that is left which timing may take, but for the first number."""

SLOW = 4.0
"""Seconds that it may take without a budget."""

CERTIFY = 0.25
"""Share of what is left of a budget after looking and listing that a certificate may take."""

AGAIN = 1.5
"""How many times more draws, of all rows together, are worth another certificate, where the first left the time for it."""

SAVED = 0.02
"""Share of a budget that is kept for writing the policy."""

DRAWS, LEAST_DRAWS = 50, 10
"""Draws a row below which rows are given up first; and below which there is no certificate."""


@frozen
class Pace:
    """Seconds to weigh N draws of a policy and N of the prior, on one row; and those of one simulated pair."""

    fixed: float
    each: float
    pair: float = 0.0

    def row(self, draws: int) -> float:
        return self.fixed + self.each * draws

    def scaled(self, by: float) -> Pace:
        """So many times as slow."""
        return Pace(self.fixed * by, self.each * by, self.pair * by)

    def certificate(self, draws: int, rows: int, simulated: int) -> float:
        """Seconds that a certificate takes."""
        return rows * self.row(draws) + simulated * (self.row(draws) / 2 + self.pair)

    def draws(self, seconds: float, rows: int, simulated: int) -> int:
        """How many draws a row such a certificate may have in this time."""
        weight = rows + simulated / 2
        spare = seconds - weight * self.fixed - simulated * self.pair
        return math.floor(min(1e9, spare / max(1e-12, weight * self.each)))


def pace_of(target: Target, guide: Guide, pair: float, most: float, before: Pace | None = None) -> Pace:
    """How fast draws of the guide and of the prior are weighed on this row, by trying for at most so many seconds.

    What one number of draws took says nothing of its fixed part: that is divided as it was `before`, if it was.
    """

    def seconds(n: int) -> float:
        began = time.monotonic()
        Both.of(target, guide, n, np.random.default_rng(n))
        return time.monotonic() - began

    load_khat()  # or the first row would take as long as its imports, and the budget would cut the others
    few, took = TIMED[0], seconds(TIMED[0])
    pace = Pace(0.0, took / few) if before is None else before.scaled(took / max(1e-9, before.row(few)))
    total = took
    for n in TIMED[1:]:
        if total + pace.row(n) > most:
            break
        now = seconds(n)
        each = max((now - took) / (n - few), 0.1 * now / n)
        pace = Pace(max(0.0, now - n * each), each)
        few, took, total = n, now, total + now
    return evolve(pace, pair=pair)


@frozen
class Plan:
    """The size of a certificate and the seconds that it should take."""

    draws: int
    rows: int
    simulated: int
    seconds: float

    @property
    def size(self) -> float:
        """Draws of all rows; a simulated one has half as many."""
        return self.draws * (self.rows + self.simulated / 2)


def planned(pace: Pace, *, draws: int, rows: int, simulated: int, seconds: float) -> Plan | None:
    """The largest certificate, up to these sizes, that takes no longer; None where there is none.

    Draws go first, down to `DRAWS`; then simulated rows to the fewest that say something, held-out
    rows, and simulated ones altogether.
    """
    few = min(simulated, FEWEST)
    ladder = [(rows, simulated, DRAWS), (rows, few, DRAWS), (min(rows, 2), few, DRAWS)]
    ladder += [(rows, 0, DRAWS), (min(rows, 2), 0, DRAWS), (1, 0, LEAST_DRAWS)]
    for some, shown, least in ladder:
        fit = min(draws, pace.draws(seconds, some, shown))
        if fit >= min(draws, least):
            return Plan(fit, some, shown, pace.certificate(fit, some, shown))
    return None


# ------------------------------------------------------------------------------- memory


def peak_memory() -> int | None:
    """Bytes: the most that the GPU held since the process began, or without one the process itself.

    None where the system does not say.
    """
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    if resource is None:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def bytes_text(number: int | None) -> str:
    """A number of bytes for people."""
    if number is None:
        return "-"
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


# ------------------------------------------------------------------------------- a budget


def too_small(budget: float, spent: float, needed: float) -> InferenceError:
    """PLM628 for a budget that does not hold `needed` seconds, of which `spent` are gone before the first step."""
    what = f"loading and looking took {spent:.1f} s"
    if needed > spent:
        what += f", and a step and the smallest certificate take about {needed - spent:.1f} s more"
    return InferenceError.of(
        "PLM628",
        f"a budget of {budget:g} s is too small: {what}",
        help=f"give at least {math.ceil(1.5 * needed)} s, or fewer --draws, --rows and --set pairs=N",
    )
