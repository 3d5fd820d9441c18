"""How decoders pick the next token: the likeliest one, or by chance among the likely ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen

from posterior_lm.infer.choose import Sample


def narrowed(probs: np.ndarray, temperature: float = 1.0, p: float = 1.0, k: int = 0) -> np.ndarray:
    """(U, C) probabilities at a token temperature, then of the k likeliest, then of the nucleus; not normalised.

    The nucleus is the smallest set of likeliest choices with mass at least p (Holtzman et al. 2020,
    eq. 2); k = 0 keeps all. Equal ones at the border: all stay for k, the first for p, as in the
    transformers library.
    """
    with np.errstate(divide="ignore"):
        logs = np.log(probs) / temperature
    probs = np.exp(logs - logs.max(axis=1, keepdims=True))
    if 0 < k < probs.shape[1]:
        least = np.partition(probs, -k, axis=1)[:, -k]
        probs = np.where(probs >= least[:, None], probs, 0.0)
    if p < 1.0:
        order = np.argsort(-probs, axis=1, kind="stable")
        ranked = np.take_along_axis(probs, order, axis=1)
        before = np.cumsum(ranked, axis=1) - ranked
        kept = before < p * probs.sum(axis=1, keepdims=True)
        np.put_along_axis(probs, order, np.where(kept, ranked, 0.0), axis=1)
    return probs


@frozen
class Likely:
    """A `Chooser` by chance, of probabilities that `narrowed` has been over."""

    rng: np.random.Generator
    temperature: float = 1.0
    p: float = 1.0
    k: int = 0

    def tokens(self, draws: np.ndarray, point: np.ndarray, step: int, probs: np.ndarray) -> np.ndarray:
        probs = narrowed(probs, self.temperature, self.p, self.k)
        return Sample(self.rng).tokens(draws, point, step, probs)

    def values(self, draws: np.ndarray, probs: np.ndarray, ids: Sequence[tuple[int, ...]]) -> np.ndarray:
        probs = narrowed(probs[None], self.temperature, self.p, self.k)[0]
        return Sample(self.rng).values(draws, probs, ids)


@frozen
class Likeliest:
    """A `Chooser` of the most probable token; of equal ones the first."""

    def tokens(self, draws: np.ndarray, point: np.ndarray, step: int, probs: np.ndarray) -> np.ndarray:
        return np.argmax(probs, axis=1)[point]

    def values(self, draws: np.ndarray, probs: np.ndarray, ids: Sequence[tuple[int, ...]]) -> np.ndarray:
        return np.full(len(draws), int(np.argmax(probs)))
