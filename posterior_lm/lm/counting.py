"""A language model that counts what it is asked, and otherwise is the one that it holds.

The unit is a model token: a position for which the next token's probabilities are
computed. A known prompt that several requests of one call share counts once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import define, field, frozen

from posterior_lm.lm.protocol import LanguageModel, ModelIdentity, Request, Rollout, Scores, Tokenizer


@define
class Count:
    """Model tokens and calls so far."""

    tokens: int = 0
    calls: int = 0

    def add(self, tokens: int) -> None:
        self.tokens += tokens
        self.calls += 1


@frozen(eq=False)
class CountingModel:
    """A `LanguageModel` with the answers of `model`; several may share one `count`."""

    model: LanguageModel
    count: Count = field(factory=Count)

    @property
    def tokens(self) -> int:
        """Model tokens so far."""
        return self.count.tokens

    @property
    def calls(self) -> int:
        """Calls of the model so far: of `score`, `open` and `extend`."""
        return self.count.calls

    @property
    def identity(self) -> ModelIdentity:
        return self.model.identity

    @property
    def tokenizer(self) -> Tokenizer:
        return self.model.tokenizer

    @property
    def max_length(self) -> int | None:
        return self.model.max_length

    @property
    def packed(self) -> bool:
        return self.model.packed

    def score(self, requests: Sequence[Request]) -> list[Scores]:
        prompts = {r.ids[: r.shared] for r in requests}
        own = sum(len(r.ids) - r.shared + sum(len(b.ids) for b in r.branches) for r in requests)
        self.count.add(own + sum(map(len, prompts)))
        return self.model.score(requests)

    def open(self, sequences: Sequence[tuple[int, ...]], *, shared: int = 0) -> Rollout:
        prompt = shared if sequences else 0
        self.count.add(prompt + sum(len(s) - shared for s in sequences))
        return CountingRollout(self.model.open(sequences, shared=shared), self.count)


@frozen(eq=False)
class CountingRollout:
    """A `Rollout` that counts one model token for each sequence that it extends."""

    rollout: Rollout
    count: Count

    @property
    def log_probs(self) -> np.ndarray:
        return self.rollout.log_probs

    def extend(self, rows: np.ndarray, tokens: np.ndarray) -> Rollout:
        self.count.add(len(rows))
        return CountingRollout(self.rollout.extend(rows, tokens), self.count)
