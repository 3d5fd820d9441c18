"""Importance sampling: propose with a guide, weigh with the target.

    log w(z) = log reward(z) − log q(z),    E_q[w] = evidence

so the mean weight is an unbiased estimate of the evidence, whatever the guide, as
long as it can draw everything in the support.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from attrs import evolve, field, frozen

from posterior_lm.infer.base import Backend, Info, Offer
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.guide import Guide, PriorGuide, Proposal, joined, weighed
from posterior_lm.infer.prefix_expansion import LARGE
from posterior_lm.infer.weights import all_dead
from posterior_lm.target.target import Target
from posterior_lm.target.values import Values


@frozen(eq=False)
class State:
    """What to draw with and from, and the proposals so far."""

    target: Target
    guide: Guide
    proposals: tuple[Proposal, ...] = ()
    drawn: int = 0


def log_weights(
    target: Target, values: Values, log_prob: np.ndarray, scores: Mapping[int, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) log weights and (N,) log rewards of values proposed with `log_prob`, nats.

    `scores` are columns that the proposal knows already. Raises InferenceError PLM702 where every draw has weight zero.
    """
    terms = target.terms(values, scores)
    # Without a latent there is one value, drawn N times.
    log_reward = np.broadcast_to(terms.sum(axis=1), log_prob.shape)
    if np.all(np.isneginf(log_reward)):
        raise all_dead(target, terms)
    # A draw that the guide proposed has log q > −inf, so this is never −inf − −inf.
    return log_reward - log_prob, log_reward


@frozen
class Importance:
    """`step` proposes a batch; `sample` proposes what is missing of n draws and weighs them all.

    Without a `batch` there is one, of everything, so draws that share tokens share
    the most work. With one, `run` can stop between batches, and `sample` weighs what
    there is: a budget may leave fewer than n draws.
    """

    draws: int = 0
    batch: int | None = None
    name: str = field(default="importance", init=False)

    def init(self, rng: np.random.Generator, target: Target, guide: Guide | None) -> State:
        return State(target, guide or PriorGuide(target))

    def step(self, rng: np.random.Generator, state: State) -> tuple[State, Info]:
        if self.batch is None or state.drawn >= self.draws:
            return state, Info(done=True)
        state = self._propose(rng, state, min(self.batch, self.draws - state.drawn))
        fraction = state.drawn / self.draws
        return state, Info(state.drawn >= self.draws, f"{state.drawn} draws", fraction)

    def _propose(self, rng: np.random.Generator, state: State, n: int) -> State:
        proposals = (*state.proposals, state.guide.sample(rng, n))
        return evolve(state, proposals=proposals, drawn=state.drawn + n)

    def sample(self, rng: np.random.Generator, state: State, n: int) -> Draws:
        if self.batch is None and state.drawn < n:
            state = self._propose(rng, state, n - state.drawn)
        whole = joined(state.proposals, state.target.names)
        weights, log_reward = log_weights(state.target, whole.values, whole.log_prob, whole.scores)
        weights = weighed(whole, weights)
        left = 0 if whole.alive is None else int(np.count_nonzero(~whole.alive))
        return Draws(whole.values, weights, log_reward, self.name, whole.log_prob, left=left)


class _Importance(Backend):
    def build(self, target: Target, options: Mapping[str, object], n: int, batch: int | None) -> Importance:
        return Importance(draws=n, batch=batch)

    def applies(self, target: Target, policy: Offer | None) -> str | None:
        return f"{LARGE}, so they are drawn from the prior"


BACKEND = _Importance()
