"""How a rollout picks among what is allowed: by chance, or along given values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from attrs import frozen

from posterior_lm.lang.diagnostics import InferenceError


class Chooser(Protocol):
    """Picks for draws that stand at points; a point's choices have relative probabilities.

    Letters: M draws, U points, C choices (for tokens V + 1, the last one stopping).
    """

    def tokens(self, draws: np.ndarray, point: np.ndarray, step: int, probs: np.ndarray) -> np.ndarray:
        """(M,) for draws (M,) at points (M,): a column of `probs` (U, C), which need not sum to 1."""
        ...

    def values(self, draws: np.ndarray, probs: np.ndarray, ids: Sequence[tuple[int, ...]]) -> np.ndarray:
        """(M,) for draws at one point: a place in `probs` (C,), whose values' tokens are `ids`; −1 for none."""
        return self.tokens(draws, np.zeros(len(draws), dtype=np.int64), 0, probs[None, :])

    def lengths(self, draws: np.ndarray, probs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        """(M,) for draws at one point: a place in `probs` (C,), the number of tokens that a text will have; −1 for none."""
        return self.values(draws, probs, [(length,) for length in lengths])

    def along(self, draw: int) -> tuple[int, ...] | None:
        """The tokens that a draw will be given; None where they are chosen."""
        return None

    def generator(self) -> np.random.Generator:
        """What a server that draws by itself gets its seeds from. Raises InferenceError PLM565 for choices without one."""
        raise otherwise_chosen()


def otherwise_chosen() -> InferenceError:
    """For texts of a server that draws by itself, where something else is to choose their tokens."""
    return InferenceError.of(
        "PLM565",
        "the server tells no whole rows of the vocabulary and draws texts itself, and here their tokens are chosen otherwise",
        help="start vLLM with --max-logprobs -1, or serve the model with plm serve",
    )


@frozen
class Sample(Chooser):
    """Independent draws by inverting the cumulative distribution."""

    rng: np.random.Generator

    def tokens(self, draws: np.ndarray, point: np.ndarray, step: int, probs: np.ndarray) -> np.ndarray:
        return _invert(self.rng.random(len(draws)), point, probs)

    def generator(self) -> np.random.Generator:
        return self.rng


@frozen
class SampleEach(Chooser):
    """Independent draws, each from a generator of its own: what one draws does not depend on the others.

    With `powers` (N,), draw d takes its tokens in proportion to their probability to that
    power; whoever rolls out does not know, and its log probabilities are those without.
    """

    rngs: Sequence[np.random.Generator]
    powers: np.ndarray | None = None

    def tokens(self, draws: np.ndarray, point: np.ndarray, step: int, probs: np.ndarray) -> np.ndarray:
        at = np.array([self.rngs[d].random() for d in draws])
        if self.powers is None:
            return _invert(at, point, probs)
        pairs, where = np.unique(np.stack([point, self.powers[draws]], axis=1), axis=0, return_inverse=True)
        return _invert(at, where.reshape(-1), probs[pairs[:, 0].astype(np.int64)] ** pairs[:, 1:])

    def values(self, draws: np.ndarray, probs: np.ndarray, ids: Sequence[tuple[int, ...]]) -> np.ndarray:
        at = np.array([self.rngs[d].random() for d in draws])
        return _invert(at, np.zeros(len(draws), dtype=np.int64), probs[None, :])


BLOCK = 1 << 20
"""Draws × choices compared at a time."""
CROWD = 1 << 12
"""Draws at one point × choices from which a search per point is cheaper than comparing every column."""


def _invert(at: np.ndarray, point: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """(M,) the column whose cumulative share of its row first exceeds `at`; never one of probability zero."""
    cumulative = np.cumsum(probs, axis=1)
    share = at * cumulative[point, -1]
    picked = np.empty(len(at), dtype=np.int64)
    crowd = np.bincount(point, minlength=len(probs)) * probs.shape[1]
    for row in np.flatnonzero(crowd >= CROWD):
        mine = point == row
        # side="right" steps over columns of probability zero, at the front too.
        picked[mine] = np.searchsorted(cumulative[row], share[mine], side="right")
    alone = np.flatnonzero(crowd[point] < CROWD)
    size = max(1, BLOCK // probs.shape[1])
    for begin in range(0, len(alone), size):
        mine = alone[begin : begin + size]
        picked[mine] = (cumulative[point[mine]] <= share[mine, None]).sum(axis=1)
    # Rounding at the far end is caught by the last column that has any probability.
    for k in np.flatnonzero(picked == probs.shape[1]):
        picked[k] = np.flatnonzero(probs[point[k]])[-1]
    return picked


@frozen
class Follow(Chooser):
    """Goes where given values go, to learn the probability of drawing them."""

    ids: Sequence[tuple[int, ...]]

    def tokens(self, draws: np.ndarray, point: np.ndarray, step: int, probs: np.ndarray) -> np.ndarray:
        stop = probs.shape[1] - 1
        return np.array([self.ids[d][step] if step < len(self.ids[d]) else stop for d in draws])

    def values(self, draws: np.ndarray, probs: np.ndarray, ids: Sequence[tuple[int, ...]]) -> np.ndarray:
        places = {one: place for place, one in enumerate(ids)}
        return np.array([places.get(tuple(self.ids[d]), -1) for d in draws])

    def lengths(self, draws: np.ndarray, probs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        places = {length: place for place, length in enumerate(lengths)}
        return np.array([places.get(len(self.ids[d]), -1) for d in draws])

    def along(self, draw: int) -> tuple[int, ...] | None:
        return tuple(self.ids[draw])

    def generator(self) -> np.random.Generator:
        return np.random.default_rng(0)  # nothing is chosen
