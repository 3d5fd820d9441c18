"""Sequential Monte Carlo with one particle that goes where a given value goes.

With z* an exact posterior draw kept among N particles, E[1/Ẑ] = 1/Z, so E log Ẑ ≥ log Z:
the other side of the bound that a run without it gives (Andrieu, Doucet & Holenstein
2010, §4.3, conditional SMC; Grosse, Ghahramani & Adams 2015).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from attrs import define, evolve

from posterior_lm.infer.base import run
from posterior_lm.infer.choose import Sample
from posterior_lm.infer.guide import Guide
from posterior_lm.infer.weights import log_evidence
from posterior_lm.target.target import Target
from posterior_lm.target.values import Value

if TYPE_CHECKING:
    from posterior_lm.infer.smc import Smc


@define(eq=False)
class Retained:
    """Chance for all particles but the first, which follows given tokens and is its own ancestor.

    The ancestors of the others are drawn independently, for which keeping one is right as
    it stands; other schemes need a form of their own (Chopin & Singh 2015).
    """

    others: Sample
    ids: Sequence[tuple[int, ...]]
    """Of each latent in turn."""
    latent: int = -1

    def ancestors(self, weights: np.ndarray) -> np.ndarray:
        found = self.others.rng.choice(len(weights), size=len(weights), p=weights)
        found[0] = 0
        return found

    def tokens(self, draws: np.ndarray, point: np.ndarray, step: int, probs: np.ndarray) -> np.ndarray:
        picked = np.array(self.others.tokens(draws, point, step, probs))
        place = np.flatnonzero(draws == 0)
        if len(place):
            self.latent += step == 0
            own = self.ids[self.latent]
            picked[place] = own[step] if step < len(own) else probs.shape[1] - 1
        return picked

    def values(self, draws: np.ndarray, probs: np.ndarray, ids: Sequence[tuple[int, ...]]) -> np.ndarray:
        picked = np.array(self.others.values(draws, probs, ids))
        place = np.flatnonzero(draws == 0)
        if len(place):
            self.latent += 1
            picked[place] = list(ids).index(self.ids[self.latent])
        return picked


def log_evidence_given(
    smc: Smc,
    target: Target,
    guide: Guide | None,
    values: Mapping[str, Value],
    n: int,
    rng: np.random.Generator,
) -> float:
    """log Ẑ in nats of n particles, of which one has these values; +∞ where the guide cannot draw them."""
    retained = Retained(Sample(rng), [values[name].ids for name in target.names])
    kept = evolve(smc, draws=n, batch=None, chance=lambda rng, scheme: retained)
    draws = run(kept, target, n=n, rng=rng, guide=guide)
    assert draws.log_prob is not None
    return math.inf if draws.log_prob[0] == -math.inf else log_evidence(draws.log_weights)
