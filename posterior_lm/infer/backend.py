"""What a method does, beside what the table `infer/methods.py` says of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from posterior_lm.infer.base import InferenceAlgorithm, Offer
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.guide import Guide
from posterior_lm.infer.weights import logsumexp
from posterior_lm.target.target import Target
from posterior_lm.target.values import Value


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
