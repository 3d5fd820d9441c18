"""Lists that `auto` makes: of a small support whole, where that ends in time, and beside draws, for what these cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
from attrs import define, evolve

from posterior_lm.infer.base import Info
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.exact import BATCH, Exact, State
from posterior_lm.infer.prefix_expansion import is_model_free, is_wide, support_size
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.target.target import Target

# ---------------------------------------------------------------- where it ends in time

STEP = 0.25
"""The part of the time that one step should take at most."""
NEARLY = 2.0
"""A list that has come to two thirds of its time is brought to its end."""


@define
class _Speed:
    """How fast a list of `values` goes: seconds of a beginning that is opened, and of a value, measured at steps of many."""

    values: int
    begun: int = 0
    children: int = 0
    listed: int = 0
    opening: float = math.inf
    listing: float | None = None
    widest: tuple[int, int] = (1, 1)

    def took(self, seconds: float, begun: int, children: int, listed: int) -> None:
        """A step that opened beginnings, which have these children, and listed values."""
        self.begun, self.children, self.listed = (
            self.begun + begun, self.children + children, self.listed + listed
        )  # fmt: skip
        count, (opened, found) = begun + listed, self.widest
        if listed > begun and 2 * listed >= found:  # fewer at a time take longer each
            self.listing, self.widest = seconds / count, (opened, max(found, listed))
        elif begun >= listed and 2 * begun >= opened:
            self.opening, self.widest = seconds / count, (max(opened, begun), found)

    @property
    def left(self) -> float:
        """Seconds of what is not opened and not listed; a value that none was timed of costs what one child did."""
        each = max(1.0, self.children / max(1, self.begun))
        opening = 0.0 if math.isinf(self.opening) else self.opening
        listing = opening / each if self.listing is None else self.listing
        return opening * max(0.0, self.values / each - self.begun) + listing * (self.values - self.listed)


def listed_within(
    target: Target, algorithm: Exact, seconds: float, budget: float | None, rng: np.random.Generator,
    progress: Callable[[Info], None] | None = None,
) -> tuple[Draws | None, float | None]:  # fmt: skip
    """A list, and None; or what there is of it, and about how many seconds the whole would take, which are too many.

    That is foretold by the steps so far: once values are listed, as many at a time as a step can, and after a
    quarter of the time in any case. A `budget` ends it too.
    """
    began, speed = time.monotonic(), _Speed(algorithm.values)
    state = algorithm.init(rng, target, None)
    while True:
        waiting, before, begun = _open(state), time.monotonic(), state.begun
        most = STEP * seconds / max(1e-9, before - began) * state.scored
        state, info = evolve(algorithm, most=max(1.0, most)).step(rng, state)
        now = time.monotonic()
        spent = now - began
        if progress is not None:
            progress(info)
        if info.done or (budget is not None and spent > budget):
            return evolve(algorithm.sample(rng, state, 1), seconds=spent), None
        count, listed = state.begun - begun, len(state.values) + state.n_dead - speed.listed
        speed.took(now - before, count - listed, _open(state) - waiting + count, listed)
        left = speed.left
        if (
            (listed == algorithm.batch or spent > STEP * seconds)
            and spent + left > seconds
            and NEARLY * left > spent
        ):
            some = algorithm.listed(state, algorithm.certificate(state)) if state.values else None
            return some, spent + left


def _open(state: State) -> int:
    """Children that stand open."""
    return sum(len(family) - rank for _, _, family, rank in state.frontier.heap)


# ---------------------------------------------------------------- where it costs no more than draws

FIRST = 16
"""Beginnings that an attempt opens first; each step opens twice as many as the one before, up to `BATCH`."""
WORK, WIDTH = 10, 20
"""For each draw, a thousand at most: beginnings and values that an attempt may open, and children that may stand open."""
FREE = 50
"""For each draw: values of finite latents that are listed, each latent counted, where no term asks a model."""
LEFT_OUT, ENOUGH = 1e-3, 1e-6
"""A list that may lack more of the posterior than the first is not whole; one that lacks less than the second needs no more."""
ALWAYS = 0.25
"""For each draw: beginnings that are opened even where a list cannot be whole, for the likeliest values."""


def listed_early(target: Target, n: int, seconds: float | None = None) -> Draws | None:
    """What is listed, likeliest beginnings first, for about what n draws cost; None where that is not one value.

    Given up as soon as more children stand open than could be listed, but after a few dozen beginnings. What has
    been found till then are values of great weight, if there are any, and `is_whole` says whether they are all.
    After `seconds` it ends too, and opens nothing that would take longer by what it has opened so far.
    """
    began = time.monotonic()
    n = min(n, 1000)
    free = is_model_free(target) and support_size(target, FREE * n // max(1, len(target.latents)))
    if not free and is_wide(target, WIDTH * n):
        return None
    algorithm = Exact(free or WORK * n, 1.0 if free else 1.0 - ENOUGH, math.inf, BATCH if free else FIRST)
    opened, rng = 0, np.random.default_rng(0)
    try:
        state, done = algorithm.init(rng, target, None), False
        # Drawing scores every value of a finite latent too.
        costs = math.inf if free else WORK * n + n * sum(c for c in state.branching.costs if c > 1)
        timed, pace = state.scored > 1, (time.monotonic() - began) / state.scored
        while not done:
            share = ALWAYS / WORK if not free and _open(state) > WIDTH * n else 1.0
            spent = time.monotonic() - began
            most = share * costs - state.scored
            if seconds is not None:
                most = min(most, STEP * (seconds - spent) / max(1e-9, pace, spent / state.scored))
            if most < 1 or (not free and opened + algorithm.batch > share * WORK * n):
                break
            scored, begun = state.scored, state.begun
            wary = not timed and seconds is not None
            state, info = evolve(algorithm, most=most, wary=wary).step(rng, state)
            if (units := state.scored - scored) > 0:
                pace = (time.monotonic() - began - spent) / units
                timed = timed or units > state.begun - begun
            opened, done = opened + algorithm.batch, info.done
            algorithm = evolve(algorithm, batch=min(BATCH, 2 * algorithm.batch))
        return algorithm.listed(state, algorithm.certificate(state)) if state.values else None
    except InferenceError:  # the draws that follow find out what is wrong, and say it better
        return None


def is_whole(listed: Draws) -> bool:
    """Whether a list is sure to hold all but `LEFT_OUT` of the posterior."""
    return listed.certificate is not None and listed.certificate.missing_share <= LEFT_OUT
