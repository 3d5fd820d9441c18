"""A language model that is a table: small enough that every sum can be written out.

The next token depends on the last `order` tokens, and after `max_tokens` tokens
the text ends with probability one, so a program over it has finitely many values
and the laws of the language can be tested without any tolerance but rounding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import field, frozen

from posterior_lm.lm.base import (
    ModelIdentity,
    Request,
    Scores,
    eos_log_probs,
    unpack_branches,
)
from posterior_lm.lm.tabular_format import BOS, EOS, parse_table, read_table
from posterior_lm.lm.tabular_tokenizer import TabularTokenizer


@frozen(eq=False)
class TabularModel:
    """A `LanguageModel` over a table; see `tabular_format` for the file.

    `rows` maps a context, the ids of the last tokens, to (V,) log-probs in nats.
    `max_tokens` counts the tokens since the start of the sequence, a leading bos or
    end-of-text left out.
    """

    tokenizer: TabularTokenizer
    order: int
    max_tokens: int
    rows: dict[tuple[int, ...], np.ndarray] = field(repr=False)
    identity: ModelIdentity
    max_length: None = None
    packed: bool = False

    @classmethod
    def from_dict(cls, table: dict[str, Any], *, name: str = "table") -> TabularModel:
        """The model of a table as `tabular_format` describes it; PLM514 where it is wrong."""
        tokens, order, max_tokens, bos, rows = parse_table(table, name)
        tokenizer = TabularTokenizer(tokens, bos)
        ids = {t: i for i, t in enumerate((*tokens, EOS, BOS))}
        logs = {}
        for context, row in rows.items():
            probs = np.zeros(tokenizer.vocabulary_size)
            for token, p in row.items():
                probs[ids[token]] = p
            with np.errstate(divide="ignore"):
                logs[tuple(ids[t] for t in context)] = np.log(probs)
        canonical = json.dumps(
            [list(tokens), order, max_tokens, bos, sorted((c, sorted(r.items())) for c, r in rows.items())]
        )
        digest = hashlib.sha256(canonical.encode("utf-8")).hexdigest()
        identity = ModelIdentity(name, "tabular", digest, dtype="float64")
        return cls(tokenizer, order, max_tokens, logs, identity)

    @classmethod
    def from_json(cls, path: str | Path, *, name: str | None = None) -> TabularModel:
        """The model of a JSON file; PLM510 where there is none, PLM514 where it is wrong."""
        return cls.from_dict(read_table(Path(path)), name=name or str(path))

    @classmethod
    def random(
        cls,
        tokens: Sequence[str],
        *,
        order: int = 1,
        max_tokens: int = 5,
        bos: bool = False,
        rng: np.random.Generator | int = 0,
        concentration: float = 0.5,
    ) -> TabularModel:
        """A skewed random model: Dirichlet rows, one per context; a smaller concentration is more skewed."""
        rng = np.random.default_rng(rng)
        names = [*tokens, EOS]
        contexts: list[tuple[str, ...]] = [()]
        for depth in range(order):
            longest = [c for c in contexts if len(c) == depth]
            contexts += [(*c, t) for c in longest for t in tokens]
            if bos and depth == 0:
                contexts.append((BOS,))
        entries = []
        for context in contexts:
            # Mixed with a little of the uniform, so that no token is out of the question.
            probs = 0.98 * rng.dirichlet(np.full(len(names), concentration)) + 0.02 / len(names)
            entries.append({"after": list(context), "next": dict(zip(names, probs.tolist(), strict=True))})
        table = {
            "tokens": list(tokens),
            "order": order,
            "max_tokens": max_tokens,
            "bos": bos,
            "contexts": entries,
        }
        return cls.from_dict(table, name="random table")

    def next_log_probs(self, ids: Sequence[int]) -> np.ndarray:
        """(V,) log p(next token | ids), nats."""
        ids = tuple(ids)
        if len(ids) - self._begins(ids) >= self.max_tokens:
            forced = np.full(self.tokenizer.vocabulary_size, -np.inf)
            forced[self.tokenizer.eos_id] = 0.0
            return forced
        context = ids[len(ids) - min(self.order, len(ids)) :]
        while context not in self.rows:
            context = context[1:]
        return self.rows[context]

    def _begins(self, ids: tuple[int, ...]) -> int:
        """1 where the sequence begins with bos or end-of-text, which is no token of the text."""
        return int(bool(ids) and ids[0] >= len(self.tokenizer.tokens))

    def score(self, requests: Sequence[Request]) -> list[Scores]:
        """Scores of each request, in order."""
        return [self._score(r) for r in requests]

    def _score(self, request: Request) -> Scores:
        if request.branches:
            trunk, *branches = (self._score(r) for r in unpack_branches(request))
            return Scores(trunk.tokens, trunk.eos, tuple(branches))
        ids, start = request.ids, request.start
        table = np.stack([self.next_log_probs(ids[:t]) for t in range(start, len(ids) + 1)])
        tokens = table[np.arange(len(ids) - start), list(ids[start:])]
        return Scores(tokens, eos_log_probs(table, self.tokenizer.eos_ids))

    def open(self, sequences: Sequence[tuple[int, ...]], *, shared: int = 0) -> TabularRollout:
        """A rollout that stands after each sequence (N,)."""
        return TabularRollout(self, tuple(tuple(s) for s in sequences))


@frozen(eq=False)
class TabularRollout:
    """Sequences and (N, V) next-token log-probs."""

    model: TabularModel
    sequences: tuple[tuple[int, ...], ...]
    log_probs: np.ndarray = field(init=False, repr=False)

    @log_probs.default
    def _look_up(self) -> np.ndarray:
        size = self.model.tokenizer.vocabulary_size
        rows = [self.model.next_log_probs(s) for s in self.sequences]
        return np.stack(rows) if rows else np.empty((0, size))

    def extend(self, rows: np.ndarray, tokens: np.ndarray) -> TabularRollout:
        """Row j is sequence `rows[j]` followed by `tokens[j]`."""
        pairs = zip(np.asarray(rows).tolist(), np.asarray(tokens).tolist(), strict=True)
        return TabularRollout(self.model, tuple((*self.sequences[r], t) for r, t in pairs))
