"""Which simulated texts are like the rows' own, judged by their tokens.

A model writes more kinds of text than the rows hold, and pairs of another kind
teach a guide nothing that it will be asked. A pair may be left out by any rule that
looks at the observation alone: what is left are still exact draws of the latents
given it. The rule here ends a text at its first token that simulated texts hold far
more often than the rows do, so a text of another kind costs a few tokens, not all
of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from attrs import field, frozen

from posterior_lm.support.base import Ending, Support, uncounted
from posterior_lm.support.text import raise_unlisted

TIMES = 10.0
"""How much more often a token has to occur in simulated texts to mark another kind. Counts have one added
on both sides, so a token that no row has must be in more than a few texts of many to be one."""

WORSE = 3.0
"""How much less often a pair has to be kept after a token of a latent for its draws to be given up there."""


def unlike(rows: Sequence[Sequence[int]], simulated: Sequence[Sequence[int]], vocabulary: int) -> np.ndarray:
    """(V,) bool: tokens whose share of simulated texts is over `TIMES` that of the rows' texts."""
    return _share(simulated, vocabulary) > TIMES * _share(rows, vocabulary)


def unlucky(latents: Sequence[Sequence[int]], alive: Sequence[bool], vocabulary: int) -> np.ndarray:
    """(V,) bool: tokens of a latent after which a pair is kept at least `WORSE` times less often than usual."""
    kept = [ids for ids, lives in zip(latents, alive, strict=True) if lives]
    share = (_counts(kept, vocabulary) + 1) / (_counts(latents, vocabulary) + 1)
    return share < len(kept) / max(1, len(latents)) / WORSE


def _counts(texts: Sequence[Sequence[int]], vocabulary: int) -> np.ndarray:
    """(V,) how many texts hold each token."""
    counts = np.zeros(vocabulary)
    for ids in texts:
        counts[list(set(ids))] += 1
    return counts


def _share(texts: Sequence[Sequence[int]], vocabulary: int) -> np.ndarray:
    """(V,) the share of texts that hold each token, with one added to the count and to the texts."""
    return (_counts(texts, vocabulary) + 1) / (len(texts) + 1)


@frozen(eq=False)
class Until:
    """A support whose values end early, at the first of the tokens `ends` (V,) bool.

    Whoever draws from it leaves such values out; they are not values of `support`.
    """

    support: Support
    ends: np.ndarray
    _nothing: np.ndarray = field(init=False)

    @_nothing.default
    def _none_allowed(self) -> np.ndarray:
        return np.zeros(len(self.ends), dtype=bool)

    @property
    def ending(self) -> Ending:
        return self.support.ending

    @property
    def max_tokens(self) -> int:
        return self.support.max_tokens

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return self.support.stop_ids

    @property
    def size(self) -> int | None:
        return self.support.size

    def count_values(self, limit: int) -> int | None:
        return None

    def start(self) -> Any:
        return self.support.start()

    def allowed(self, state: Any) -> np.ndarray:
        return self._nothing if state is None else self.support.allowed(state)

    def may_stop(self, state: Any) -> bool:
        return state is None or self.support.may_stop(state)

    def must_stop(self, state: Any) -> bool:
        return state is None or self.support.must_stop(state)

    def uncounted(self, state: Any) -> bool:
        return state is not None and uncounted(self.support, state)

    def advance(self, state: Any, token: int) -> Any:
        then = self.support.advance(state, token)
        return None if self.ends[token] else then

    def accepts(self, ids: Sequence[int]) -> bool:
        return not self.ends[list(ids)].any() and self.support.accepts(ids)

    def cut(self, ids: Sequence[int], tokens: int) -> tuple[int, ...] | None:
        return self.support.cut(ids, tokens)

    def values(self) -> Iterator[tuple[int, ...]]:
        raise_unlisted()
