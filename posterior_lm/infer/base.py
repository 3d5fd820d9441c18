"""What an inference algorithm is: `init`, `step`, `sample`.

`init(rng, target, guide) -> state`, `step(rng, state) -> (state, info)`,
`sample(rng, state, n) -> Draws`. States are frozen, and one may be unfinished: `sample`
gives what is whole. A step is what a budget waits for: one choice of every particle, a
batch of importance sampling, a suffix move of every chain. Progress, budgets and stopping
live in `run`, never in a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np
from attrs import evolve, frozen

from posterior_lm.infer.draws import Draws
from posterior_lm.infer.guide import Guide
from posterior_lm.target.target import Target
from posterior_lm.target.values import count


@frozen
class Info:
    """What a step did, for people to look at."""

    done: bool
    note: str = ""
    fraction: float | None = None
    drawn: int | None = None
    """How many draws `sample` would give now; at 0 a budget does not end the run. None where that does not matter."""


State = TypeVar("State")


class InferenceAlgorithm(Protocol[State]):
    """A frozen triple of functions over an immutable state."""

    @property
    def name(self) -> str: ...

    def init(self, rng: np.random.Generator, target: Target, guide: Guide | None) -> State: ...

    def step(self, rng: np.random.Generator, state: State) -> tuple[State, Info]: ...

    def sample(self, rng: np.random.Generator, state: State, n: int) -> Draws: ...


def run(
    algorithm: InferenceAlgorithm[State],
    target: Target,
    *,
    n: int,
    rng: np.random.Generator,
    guide: Guide | None = None,
    budget: float | None = None,
    progress: Callable[[Info], None] | None = None,
) -> Draws:
    """Init, step until done or out of `budget` (seconds), sample. `progress` is told of every step."""
    began = time.monotonic()
    state = algorithm.init(rng, target, guide)
    while True:
        state, info = algorithm.step(rng, state)
        if progress is not None:
            progress(info)
        late = budget is not None and time.monotonic() - began > budget
        if info.done or (late and info.drawn != 0):
            break
    draws = algorithm.sample(rng, state, n)
    count(draws.values)
    return evolve(draws, seconds=time.monotonic() - began)


@frozen(eq=False)
class Offer:
    """A stored policy: where it lies, what its certificate says, and how to make its guide.

    `level` is good, usable, poor or uncertified; `beats_prior` whether its mean ESS is above
    the prior's.
    """

    where: str
    level: str
    beats_prior: bool
    guide: Callable[[], Guide]

    @property
    def name(self) -> str:
        return f"the policy in {self.where}"

    @property
    def trusted(self) -> bool:
        """Whether `auto` may use it."""
        return self.level == "good" or (self.level == "usable" and self.beats_prior)

    @property
    def state(self) -> str:
        """Its verdict, in words that follow its name."""
        return "which is not certified" if self.level == "uncertified" else f"whose verdict is {self.level}"
