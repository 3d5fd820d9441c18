"""How a rollout picks among what is allowed: by chance, or along given values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from attrs import frozen


class Chooser(Protocol):
    """Picks for draws that stand at the same point, whose choices have the same probabilities."""

    def tokens(self, draws: np.ndarray, step: int, log_probs: np.ndarray) -> np.ndarray:
        """(M,) for M draws: an index into `log_probs` (V + 1,), whose last entry is stopping; −1 for none."""
        ...

    def values(
        self, draws: np.ndarray, log_probs: np.ndarray, ids: Sequence[tuple[int, ...]]
    ) -> np.ndarray:
        """(M,) an index into the values whose tokens are `ids`; −1 for none of them."""
        ...


@frozen
class Sample:
    """Independent draws by inverting the cumulative distribution."""

    rng: np.random.Generator

    def tokens(self, draws: np.ndarray, step: int, log_probs: np.ndarray) -> np.ndarray:
        return self._draw(len(draws), log_probs)

    def values(
        self, draws: np.ndarray, log_probs: np.ndarray, ids: Sequence[tuple[int, ...]]
    ) -> np.ndarray:
        return self._draw(len(draws), log_probs)

    def _draw(self, n: int, log_probs: np.ndarray) -> np.ndarray:
        cumulative = np.cumsum(np.exp(log_probs))
        at = self.rng.random(n) * cumulative[-1]
        # side="right" steps over entries of probability zero, at the front too.
        picked = np.searchsorted(cumulative, at, side="right")
        last = int(np.max(np.nonzero(np.isfinite(log_probs))[0]))
        return np.minimum(picked, last)


@frozen
class Follow:
    """Goes where given values go, to learn the probability of drawing them."""

    ids: Sequence[tuple[int, ...]]

    def tokens(self, draws: np.ndarray, step: int, log_probs: np.ndarray) -> np.ndarray:
        stop = len(log_probs) - 1
        return np.array([self.ids[d][step] if step < len(self.ids[d]) else stop for d in draws])

    def values(
        self, draws: np.ndarray, log_probs: np.ndarray, ids: Sequence[tuple[int, ...]]
    ) -> np.ndarray:
        places = {one: place for place, one in enumerate(ids)}
        return np.array([places.get(tuple(self.ids[d]), -1) for d in draws])
