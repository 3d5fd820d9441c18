"""How a rollout picks among what is allowed: by chance, or along given values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from attrs import frozen


class Chooser(Protocol):
    """Picks for draws that stand at points; a point's choices have relative probabilities.

    Letters: M draws, U points, C choices (for tokens V + 1, the last one stopping).
    """

    def tokens(self, draws: np.ndarray, point: np.ndarray, step: int, probs: np.ndarray) -> np.ndarray:
        """(M,) for draws (M,) at points (M,): a column of `probs` (U, C), which need not sum to 1."""
        ...

    def values(self, draws: np.ndarray, probs: np.ndarray, ids: Sequence[tuple[int, ...]]) -> np.ndarray:
        """(M,) for draws at one point: a place in `probs` (C,), whose values' tokens are `ids`; −1 for none."""
        ...


@frozen
class Sample:
    """Independent draws by inverting the cumulative distribution."""

    rng: np.random.Generator

    def tokens(self, draws: np.ndarray, point: np.ndarray, step: int, probs: np.ndarray) -> np.ndarray:
        at = self.rng.random(len(draws))
        picked = np.empty(len(draws), dtype=np.int64)
        order = np.argsort(point, kind="stable")
        bounds = np.searchsorted(point[order], np.arange(len(probs) + 1))
        for u in range(len(probs)):
            mine = order[bounds[u] : bounds[u + 1]]
            if len(mine):
                picked[mine] = _invert(at[mine], probs[u])
        return picked

    def values(self, draws: np.ndarray, probs: np.ndarray, ids: Sequence[tuple[int, ...]]) -> np.ndarray:
        return _invert(self.rng.random(len(draws)), probs)


def _invert(at: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Places whose cumulative share of `probs` first exceeds `at`; never one of probability zero."""
    cumulative = np.cumsum(probs)
    # side="right" steps over places of probability zero, at the front too; rounding
    # at the far end is caught by the last place that has any.
    picked = np.searchsorted(cumulative, at * cumulative[-1], side="right")
    return np.minimum(picked, np.flatnonzero(probs)[-1])


@frozen
class Follow:
    """Goes where given values go, to learn the probability of drawing them."""

    ids: Sequence[tuple[int, ...]]

    def tokens(self, draws: np.ndarray, point: np.ndarray, step: int, probs: np.ndarray) -> np.ndarray:
        stop = probs.shape[1] - 1
        return np.array([self.ids[d][step] if step < len(self.ids[d]) else stop for d in draws])

    def values(self, draws: np.ndarray, probs: np.ndarray, ids: Sequence[tuple[int, ...]]) -> np.ndarray:
        places = {one: place for place, one in enumerate(ids)}
        return np.array([places.get(tuple(self.ids[d]), -1) for d in draws])
