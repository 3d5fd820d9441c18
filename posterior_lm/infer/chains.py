"""How far Markov chains agree: R-hat and the effective sample size, by arviz-stats.

Both are the rank-normalised split versions of Vehtari, Gelman, Simpson, Carpenter and
Bürkner (2021). R-hat near 1 (they advise below 1.01) says that the chains cannot be told
apart; it never says that a mode that none of them visited does not exist.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from posterior_lm.support.finite import FiniteSupport
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.values import Value

LEAST = 8
"""Draws of a chain below which nothing is said: its two halves need four draws each."""


def agreement(features: Mapping[str, np.ndarray]) -> tuple[float | None, float | None]:
    """The worst R-hat and the least bulk ESS over features (C chains, K draws each).

    A feature that never changes in any chain says nothing and is left out; (None, None) where
    all are left out, or K is below `LEAST`. R-hat is +inf where every half of every chain
    stands still, and not all at the same place. One chain is compared half with half.
    """
    worst: list[float] = []
    least: list[float] = []
    for column in features.values():
        if column.shape[1] >= LEAST and np.ptp(column) > 0:
            worst.append(_rhat(column))
            least.append(_bulk_ess(column))
    return (max(worst), min(least)) if worst else (None, None)


def _halves(column: np.ndarray) -> np.ndarray:
    """(2C, K // 2): both halves of each chain, an odd draw in the middle left out as arviz does."""
    half = column.shape[1] // 2
    return np.concatenate([column[:, :half], column[:, -half:]])


def _rhat(column: np.ndarray) -> float:
    from arviz_stats.base import array_stats

    if np.all(np.ptp(_halves(column), axis=1) == 0):
        return math.inf
    # arviz wants two chains at least; the halves of one chain are two.
    chains = column if len(column) > 1 else _halves(column)
    with np.errstate(all="ignore"):  # a feature with two values has a constant distance from its median
        value = float(array_stats.rhat(chains, method="rank"))
    return value if math.isfinite(value) else math.inf


def _bulk_ess(column: np.ndarray) -> float:
    from arviz_stats.base import array_stats

    with np.errstate(all="ignore"):
        value = float(array_stats.ess(column, method="bulk"))
    # As many as there are places where a chain stands still, where nothing better can be said.
    return value if math.isfinite(value) else float(len(np.unique(column)))


def features_of(
    target: Target, values: Mapping[str, Sequence[Sequence[Value]]], log_reward: np.ndarray
) -> dict[str, np.ndarray]:
    """(C, K) numbers that chains are compared by: the log reward, and one for each latent.

    A text stands for its number of tokens, a value of a finite type for its place in the type.
    `values` holds K rows of C values per latent, `log_reward` (K, C).
    """
    found = {"log_reward": log_reward.T.astype(np.float64)}
    for info in target.latents:
        rows = values[info.name]
        found[info.name] = np.array([[_number(info, v) for v in row] for row in rows], dtype=np.float64).T
    return found


def _number(info: LatentInfo, value: Value) -> int:
    if isinstance(info.support, FiniteSupport):
        place = info.support.spec.number(value.datum)
        assert place is not None
        return place
    return len(value.ids)
