"""Averages over weighted draws: the prediction, how the draws vote, and how sure that is.

Letters: N draws z_i with weights w_i that the data without y give them, V values of y,
t_i(y) = exp(terms that read y). With m_i = Σ_y t_i(y),

    p(y | z_i) = t_i(y) / m_i,     W_i ∝ w_i m_i,     p(y) = Σ_i W_i p(y | z_i),

so W_i weighs a draw by its posterior once it is known that y is one of the values.

    entropy H(p)  =  Σ_i W_i H(p(· | z_i))  +  I(y; z),

the first part what every draw is unsure of by itself (aleatoric), the second, a mutual
information, what the draws do not agree on (epistemic; Depeweg et al. 2018, eq. 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from attrs import frozen

from posterior_lm.infer.base import Draws
from posterior_lm.infer.weights import normalize

Z90 = 1.6448536269514722
"""The 95 % quantile of the normal: a two-sided 90 % interval."""
TIE = 1e-9
"""Probabilities of one draw that are this near its largest share its vote."""


@frozen(eq=False)
class Mixture:
    """Weights W (N,) and p(y | z_i) (N, V); rows of weight zero are zero."""

    weights: np.ndarray
    conditional: np.ndarray
    missing: float
    """The share that draws that were not listed may have, 0 of sampled ones."""

    @classmethod
    def of(cls, draws: Draws, gained: np.ndarray) -> Mixture:
        """From log t (N, V), nats. Raises ValueError where every value of every draw is impossible."""
        mass = _mass(gained)
        with np.errstate(invalid="ignore"):  # −inf − −inf of a draw that no value fits
            weights = normalize(draws.log_weights + mass)
            conditional = np.where(np.isneginf(mass)[:, None], 0.0, np.exp(gained - mass[:, None]))
        return cls(weights, conditional, _missing(draws, mass))

    def soft(self) -> np.ndarray:
        """(V,) p(y)."""
        return self.weights @ self.conditional

    def votes(self) -> np.ndarray:
        """(N, V): one vote a draw for its likeliest value, split evenly among values that tie."""
        best = self.conditional.max(axis=1, keepdims=True)
        votes = ((self.conditional >= best - TIE) & (best > 0)).astype(float)
        return votes / np.maximum(votes.sum(axis=1, keepdims=True), 1.0)

    def entropies(self) -> tuple[float, float, float]:
        """Total, aleatoric and epistemic entropy, nats; the last two add up to the first."""
        total = entropy(self.soft())
        aleatoric = float(self.weights @ np.array([entropy(row) for row in self.conditional]))
        aleatoric = min(aleatoric, total)  # Jensen's inequality holds but for rounding
        return total, aleatoric, total - aleatoric


def entropy(p: np.ndarray) -> float:
    """−Σ p log p, nats."""
    positive = p[p > 0]
    return max(0.0, float(-(positive * np.log(positive)).sum()))


def _mass(gained: np.ndarray) -> np.ndarray:
    top = gained.max(axis=1)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.where(np.isneginf(top), -np.inf, safe + np.log(np.exp(gained - safe[:, None]).sum(axis=1)))


def _missing(draws: Draws, mass: np.ndarray) -> float:
    """The unlisted share of a list, where no unlisted draw gives the values more than the best listed one does."""
    if draws.certificate is None:
        return 0.0
    share = draws.certificate.likely_missing_share
    if share in (0.0, 1.0):
        return share
    listed = float(normalize(draws.log_weights) @ np.exp(mass - mass.max()))
    return share / (share + (1 - share) * listed)


def independent(draws: Draws, weights: np.ndarray) -> float:
    """How many independent draws an average with these weights (N,) rests on, 1 / Σ W² (Kish 1965).

    Of resampled particles the shares are those of their ancestors; of Markov chains at
    most their bulk ESS.
    """
    shares = _by_ancestor(draws, weights)
    count = float(1.0 / np.sum(shares**2))
    return count if draws.chains is None else min(count, draws.chains.bulk_ess or 1.0)


def standard_errors(draws: Draws, weights: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(V,) of Σ_i W_i f_i for columns f (N, V): √Σ W² (f − mean)², times √(n / (n − 1)).

    Self-normalised averages (Owen 2013, eq. 9.9); 0 for a list, which has no sampling
    error; n as in `independent`, and infinite errors where it is 1.
    """
    if draws.exact:
        return np.zeros(columns.shape[1])
    n = independent(draws, weights)
    means = weights @ columns
    squares = np.array([
        np.sum(_by_ancestor(draws, weights * (columns[:, v] - means[v])) ** 2)
        for v in range(columns.shape[1])
    ])  # fmt: skip
    if draws.chains is not None:
        squares *= len(weights) / max(1.0, draws.chains.bulk_ess or 1.0)
    few = n / (n - 1) if n > 1 + 1e-9 else math.inf
    with np.errstate(invalid="ignore"):
        return np.where(squares > 0, np.sqrt(squares * few), 0.0)


def origins(draws: Draws) -> np.ndarray | None:
    """(N,) the ancestor of each draw, where particles were resampled; else None."""
    particles = draws.particles
    return None if particles is None or not particles.resampled else particles.origin


def _by_ancestor(draws: Draws, parts: np.ndarray) -> np.ndarray:
    origin = origins(draws)
    return parts if origin is None else np.bincount(origin, weights=parts)


def intervals(
    p: Sequence[float], se: Sequence[float], *, n: float = math.inf, missing: float = 0.0
) -> list[tuple[float, float]]:
    """A 90 % interval of each probability.

    Wilson's (1927) for the number of trials whose standard error is `se`; and at least
    from "none" to "all" of a share that may be unseen: that of a list which is `missing`,
    and 1 − 0.1^(1/n) of n independent draws, which all miss a larger one in less than 10 %.
    """
    unseen = max(missing, 0.0 if math.isinf(n) else 1 - 0.1 ** (1 / max(n, 1.0)))
    found = []
    for mean, spread in zip(p, se, strict=True):
        low, high = _wilson(min(1.0, max(0.0, mean)), spread)
        rest = mean * (1 - unseen)
        found.append((min(low, rest), max(high, rest + unseen)))
    return found


def _wilson(p: float, se: float) -> tuple[float, float]:
    if se == 0 or p in (0.0, 1.0):
        return p, p
    if not math.isfinite(se):
        return 0.0, 1.0
    n, z = p * (1 - p) / se**2, Z90
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
