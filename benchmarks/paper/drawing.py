"""Draws of one method for one row, as every task reads them: texts, weights, rewards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

if TYPE_CHECKING:
    from posterior_lm.api.query import Query
    from posterior_lm.infer.draws import Draws
    from posterior_lm.infer.guide import Guide
    from posterior_lm.target.target import Target

DECODERS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "greedy": ("greedy", {}),
    "ancestral 1": ("ancestral", {"temperature": 1.0}),
    "ancestral 0.8": ("ancestral", {"temperature": 0.8}),
    "ancestral 0.5": ("ancestral", {"temperature": 0.5}),
    "ancestral 0.3": ("ancestral", {"temperature": 0.3}),
    "nucleus 0.95": ("nucleus", {"p": 0.95}),
    "nucleus 0.8": ("nucleus", {"p": 0.8}),
    "top-k 3": ("top_k", {"k": 3}),
    "beam": ("beam", {}),
    "diverse beam": ("diverse_beam", {}),
    "prompting": ("prompting", {}),
    "few_shot": ("few_shot", {}),
}
"""Decoders by the name that the table has for them: the method and its options."""
SAMPLERS = ("importance", "smc", "mcmc")
FEW = 64
"""Draws that a sampler weighs before `n` are taken from them by their weights."""


@frozen(eq=False)
class Drawn:
    """N draws of the only latent: their tokens and texts, weights (N,) that sum to 1, log rewards (N,), nats.

    `ess_share` is ESS/N where there are importance weights, else None, and so is `log_evidence`,
    the log of their mean, nats: in expectation at most that of the evidence (Jensen).
    """

    ids: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    weights: np.ndarray
    log_reward: np.ndarray
    ess_share: float | None = None
    log_evidence: float | None = None

    def resampled(self, rng: np.random.Generator, n: int) -> Drawn:
        """n draws with equal weights, by systematic resampling (Kitagawa 1996)."""
        at = np.searchsorted(np.cumsum(self.weights), (rng.random() + np.arange(n)) / n)
        rows = [min(int(i), len(self.ids) - 1) for i in at]
        return Drawn(
            tuple(self.ids[i] for i in rows), tuple(self.texts[i] for i in rows), np.full(n, 1 / n),
            self.log_reward[rows], self.ess_share, self.log_evidence,
        )  # fmt: skip


def decoded(bound: Query, method: str, n: int, seed: int, **more: object) -> Drawn:
    """n draws of a decoder. One that always says the same is counted n times, as if it had been asked n times."""
    name, options = DECODERS[method]
    return _of(bound.using(name, **{**options, **more}).draw(n, seed=seed).draws, n)


def sampled(bound: Query, method: str, n: int, seed: int, *, steps: int) -> Drawn:
    """n weighted draws of importance sampling, smc or mcmc (chains of so many steps) without a policy."""
    options = {"steps": steps} if method == "mcmc" else {}
    return _of(bound.using(method, **options).draw(n, seed=seed).draws, n)


def _of(draws: Draws, n: int) -> Drawn:
    (column,) = draws.values.values()
    weights = draws.normalized_weights
    listed = list(range(len(draws)))
    if len(draws) == 1 and n > 1:
        listed, weights = [0] * n, np.full(n, 1 / n)
    share = None if draws.ess is None or draws.chains is not None else draws.ess / len(draws)
    return Drawn(
        tuple(column[i].ids for i in listed), tuple(column[i].text for i in listed), weights,
        draws.log_reward[listed], share, None if share is None else draws.log_evidence,
    )  # fmt: skip


def proposed(target: Target, guide: Guide, n: int, seed: int, *, corrected: bool) -> Drawn:
    """n draws of a guide as it proposes them, or with the weights that correct them."""
    proposal = guide.sample(np.random.default_rng([seed, 21]), n)
    log_reward = target.log_reward(proposal.values)
    (column,) = proposal.values.values()
    log_weights = log_reward - proposal.log_prob
    top = log_weights.max()
    weights = np.exp(log_weights - top) if np.isfinite(top) else np.ones(n)
    log_evidence = float(top + np.log(weights.mean()))
    weights = weights / weights.sum()
    share = float(1 / np.sum(weights**2) / n) if np.isfinite(top) else 0.0
    return Drawn(
        tuple(v.ids for v in column), tuple(v.text for v in column),
        weights if corrected else np.full(n, 1 / n), log_reward, share, log_evidence,
    )  # fmt: skip
