"""What an inference algorithm is (`init`, `step`, `sample`), and what a method says of itself.

`init(rng, target, guide) -> state`, `step(rng, state) -> (state, info)`,
`sample(rng, state, n) -> Draws`. States are frozen, and one may be unfinished: `sample`
gives what is whole. A step is what a budget waits for: one choice of every particle, a
batch of importance sampling, a suffix move of every chain. Progress, budgets and stopping
live in `run`, never in a step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
from attrs import evolve, frozen

from posterior_lm.infer.draws import Draws
from posterior_lm.infer.guide import Guide
from posterior_lm.infer.weights import logsumexp
from posterior_lm.target.target import Target
from posterior_lm.target.values import Value, count


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


UNSEEN = "unseen"
"""The level of a policy for many programs where it has not seen the one that asks."""
WORSE = "worse"
"""The level of a policy by whose certificate the prior is the better proposal, so that its draws are the prior's."""


@frozen(eq=False)
class Offer:
    """A stored policy: where it lies, what its certificate says, and how to make its guide.

    `level` is good, usable, poor, worse, uncertified or unseen.
    """

    where: str
    level: str
    guide: Callable[[], Guide]

    @property
    def name(self) -> str:
        return f"the policy in {self.where}"

    @property
    def state(self) -> str:
        """Its verdict, in words that follow its name."""
        if self.level == UNSEEN:
            return "which has not seen this program; weights correct it"
        if self.level == WORSE:
            return "by whose certificate the prior is the better proposal, so that is what draws"
        return "which is not certified" if self.level == "uncertified" else f"whose verdict is {self.level}"


class Backend:
    """`build` is all that a method needs. `options` are those of the method that somebody stated."""

    def build(
        self, target: Target, options: Mapping[str, object], n: int, batch: int | None
    ) -> InferenceAlgorithm[Any]:
        """The algorithm for n draws; where there is a budget, with a look at the clock after every `batch` of them."""
        raise NotImplementedError

    def applies(self, target: Target, policy: Offer | None) -> str | None:
        """Why `auto` takes the method here, in words that follow its name; None where it does not."""
        return None

    def beside(
        self, target: Target, options: Mapping[str, object], guide: Guide, exact: Mapping[str, Value], n: int,
        rng: np.random.Generator,
    ) -> Draws | None:  # fmt: skip
        """n draws of which the first is an exact posterior draw, where the others depend on it; None where they do not.

        Given all n, each is the exact one with the probability that its weight says.
        """
        return None

    def upper_bound(
        self, target: Target, options: Mapping[str, object], draws: Draws, guide: Guide,
        exact: Mapping[str, Value], rng: np.random.Generator,
    ) -> tuple[float, float | None]:  # fmt: skip
        """The log evidence, nats, of N draws with an exact posterior draw z* added; on average above the true one.

        And the weight of z* relative to the sum of the draws' weights, None for a method that gives
        it none; both are +∞ where the guide cannot draw z*. Here the draws are independent:
        log 1/(N+1) [w(z*) + Σ w(z_i)].
        """
        own = {name: (exact[name],) for name in target.names}
        log_q = float(guide.log_prob(own)[0])
        log_w = math.inf if log_q == -math.inf else float(target.log_reward(own)[0]) - log_q
        if log_w == math.inf:
            return math.inf, math.inf
        together = logsumexp(draws.log_weights)
        upper = float(np.logaddexp(together, log_w)) - math.log(len(draws) + 1)
        return upper, math.exp(min(700.0, log_w - together))
