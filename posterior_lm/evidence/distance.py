"""How far weighted draws are from a listed posterior."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from attrs import frozen

from posterior_lm.infer.base import Draws

ROUNDING = 1e-6
"""Least mass that is credited outside a listing: float32 knows its sums no better."""
REPEATS = 200
"""Times that exact draws are drawn again to see how far they are off by chance alone."""
LOOSE = 0.05
"""A list that may leave out more of the posterior than this is no yardstick."""

Key = tuple[tuple[int, ...], ...]


def total_variation(p: np.ndarray, q: np.ndarray, rest: float) -> float:
    """½ Σ |p − q| over N cells (N,) and one more with p = `rest` and q = 1 − Σ q."""
    return 0.5 * (float(np.abs(p - q).sum()) + abs(rest - (1.0 - float(q.sum()))))


def cell_distances(log_p: np.ndarray, log_q: np.ndarray, rest: float) -> tuple[float, float]:
    """Total variation and KL(p ‖ q), nats, over N cells (N,) and one more with p = `rest`, q = 1 − Σ exp(log_q).

    KL = Σ p log(p / q), with 0 log 0 = 0.
    """
    p, q = np.exp(log_p), np.exp(log_q)
    kl = float(np.sum(p * (log_p - log_q)))
    if rest > 0:
        kl += rest * (math.log(rest) - math.log(max(1.0 - float(q.sum()), ROUNDING)))
    return total_variation(p, q, rest), kl


@frozen(eq=False)
class Listing:
    """A posterior by its listed values: (N,) their probabilities, and the share `rest` of all others."""

    places: Mapping[Key, int]
    probs: np.ndarray
    rest: float
    log_evidence: float
    """Nats, what was not listed included."""

    @classmethod
    def of(cls, draws: Draws) -> Listing | None:
        """From listed values; None where more than `LOOSE` of the posterior may be missing."""
        certificate = draws.certificate
        if certificate is None or certificate.likely_missing_share > LOOSE:
            return None
        outside = 0.0 if certificate.complete else certificate.estimate or 0.0
        log_evidence = certificate.covered + math.log1p(outside)
        probs = np.exp(draws.log_reward - log_evidence)
        return cls(
            {key: k for k, key in enumerate(_keys(draws))}, probs, outside / (1.0 + outside), log_evidence
        )

    def distance(self, draws: Draws) -> float:
        """Total variation between the listed posterior and the weights of N draws, one cell for what is not listed.

        Chance alone makes it positive, the more the fewer draws there are: see `noise`.
        """
        q = np.zeros(len(self.probs))
        for key, weight in zip(_keys(draws), draws.normalized_weights, strict=True):
            if key in self.places:
                q[self.places[key]] += weight
        return total_variation(self.probs, q, self.rest)

    def noise(self, n: int, rng: np.random.Generator) -> float:
        """Expected total variation of n independent exact draws, from `REPEATS` sets of them."""
        cells = np.append(self.probs, self.rest)
        counts = rng.multinomial(n, cells / cells.sum(), size=REPEATS)
        return float(np.mean([total_variation(self.probs, c[:-1] / n, self.rest) for c in counts]))


def _keys(draws: Draws) -> list[Key]:
    columns = list(draws.values.values())
    return [tuple(column[d].ids for column in columns) for d in range(len(draws))]
