"""Importance sampling: propose with a guide, weigh with the target.

    log w(z) = log reward(z) − log q(z),    E_q[w] = evidence

so the mean weight is an unbiased estimate of the evidence, whatever the guide, as
long as it can draw everything in the support.
"""

from __future__ import annotations

import numpy as np
from attrs import field, frozen

from posterior_lm.infer.base import Draws, Info
from posterior_lm.infer.dead import all_dead
from posterior_lm.infer.guide import Guide, PriorGuide
from posterior_lm.target.target import Target
from posterior_lm.target.values import Values


@frozen(eq=False)
class State:
    """Nothing but what to draw with and from."""

    target: Target
    guide: Guide


def log_weights(target: Target, values: Values, log_prob: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) log weights and (N,) log rewards of values proposed with `log_prob`, nats.

    Raises InferenceError PLM702 where every draw has weight zero.
    """
    terms = target.terms(values)
    # Without a latent there is one value, drawn N times.
    log_reward = np.broadcast_to(terms.sum(axis=1), log_prob.shape)
    if np.all(np.isneginf(log_reward)):
        raise all_dead(target, terms)
    # A draw that the guide proposed has log q > −inf, so this is never −inf − −inf.
    return log_reward - log_prob, log_reward


@frozen
class Importance:
    """`init` keeps the guide (the prior where there is none); `step` has nothing to do."""

    name: str = field(default="importance", init=False)

    def init(self, rng: np.random.Generator, target: Target, guide: Guide | None) -> State:
        return State(target, guide or PriorGuide(target))

    def step(self, rng: np.random.Generator, state: State) -> tuple[State, Info]:
        return state, Info(done=True)

    def sample(self, rng: np.random.Generator, state: State, n: int) -> Draws:
        proposal = state.guide.sample(rng, n)
        weights, log_reward = log_weights(state.target, proposal.values, proposal.log_prob)
        return Draws(proposal.values, weights, log_reward, self.name, proposal.log_prob)
