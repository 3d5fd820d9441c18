"""A masked model that is a table of whole texts: every conditional that it is asked for is a sum over them.

Its JSON file lists texts by their tokens, with weights of any sum:

    {
      "tokens": ["a", "b", "ab", "."],
      "texts": [{"tokens": ["a", "b", "."], "weight": 3}, {"tokens": ["a", "."], "weight": 1}],
      "flat": 0.01
    }

What stands at a place is asked of the texts of as many tokens that agree with every token that is not
masked; a share `flat` of the answer, above 0, is the same for every token, so that a proposal can draw each.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from attrs import field, frozen

from posterior_lm.lang.diagnostics import shown
from posterior_lm.lm.protocol import Blanks, ModelIdentity
from posterior_lm.lm.tabular import TabularTokenizer, parse_tokens, read_table, wrong

FLAT = 0.01
_wrong = partial(wrong, described="masked_table")


@frozen(eq=False)
class MaskedTable:
    """A `MaskedModel` over listed texts: by their length, (M, L) token ids and (M,) weights."""

    tokenizer: TabularTokenizer
    texts: Mapping[int, tuple[np.ndarray, np.ndarray]] = field(repr=False)
    flat: float
    identity: ModelIdentity
    max_length: None = None

    @classmethod
    def of(
        cls, tokenizer: TabularTokenizer, texts: Mapping[tuple[int, ...], float], *, flat: float = FLAT,
        name: str = "masked table",
    ) -> MaskedTable:  # fmt: skip
        """From weights by the ids of a text, such as the probabilities that a `TabularModel` gives it."""
        by_length: dict[int, list[tuple[tuple[int, ...], float]]] = defaultdict(list)
        for ids, weight in sorted(texts.items()):
            by_length[len(ids)].append((ids, weight))
        arrays = {
            n: (np.array([ids for ids, _ in some]).reshape(len(some), n), np.array([w for _, w in some]))
            for n, some in by_length.items()
        }
        said = json.dumps([list(tokenizer.tokens), tokenizer.bos, sorted(texts.items()), flat])
        digest = hashlib.sha256(said.encode("utf-8")).hexdigest()
        return cls(tokenizer, arrays, flat, ModelIdentity(name, "masked table", digest, dtype="float64"))

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], *, name: str = "masked table") -> MaskedTable:
        """The model of a table as the module describes it; ModelError PLM514 where it is wrong."""
        if unknown := sorted(set(table) - {"tokens", "texts", "flat"}):
            raise _wrong(name, unknown[0], f"there is no entry {unknown[0]!r} in the format of masked tables")
        tokens = parse_tokens(table.get("tokens"), name)
        flat = table.get("flat", FLAT)
        if isinstance(flat, bool) or not isinstance(flat, int | float) or not 0 < flat <= 1:
            raise _wrong(name, "flat", "'flat' is not a share above 0 and at most 1")
        listed = table.get("texts")
        if not isinstance(listed, list) or not listed:
            raise _wrong(name, "texts", "'texts' is not a list of texts with weights")
        ids = {token: i for i, token in enumerate(tokens)}
        found: dict[tuple[int, ...], float] = {}
        for k, entry in enumerate(listed):
            text = entry.get("tokens") if isinstance(entry, dict) else None
            weight = entry.get("weight", 1) if isinstance(entry, dict) else None
            where = f"texts[{k}]"
            if not isinstance(text, list) or set(entry) - {"tokens", "weight"}:
                raise _wrong(name, where, 'an entry of \'texts\' is not {"tokens": [...], "weight": ...}')
            if (bad := next((t for t in text if not isinstance(t, str) or t not in ids), None)) is not None:
                raise _wrong(name, where, f"{bad!r} is not one of the tokens")
            number = isinstance(weight, int | float) and not isinstance(weight, bool)
            if not number or not math.isfinite(weight) or weight < 0:  # type: ignore[arg-type, operator]
                raise _wrong(name, where, f"{shown(weight)} is not a weight")
            row = tuple(ids[t] for t in text)
            if row in found:
                raise _wrong(name, where, f"the text {text} is listed twice")
            found[row] = float(weight)  # type: ignore[arg-type]
        return cls.of(TabularTokenizer(tokens), found, flat=float(flat), name=name)

    @classmethod
    def from_json(cls, path: str | Path, *, name: str | None = None) -> MaskedTable:
        """The model of a JSON file; PLM510 where there is none, PLM514 where it is wrong."""
        return cls.from_dict(read_table(Path(path)), name=name or str(path))

    def fill(self, texts: Sequence[Blanks]) -> list[np.ndarray]:
        """See `MaskedModel`."""
        return [self._fill(text) for text in texts]

    def _fill(self, text: Blanks) -> np.ndarray:
        usable = len(self.tokenizer.tokens)
        out = np.full((len(text.asked), self.tokenizer.vocabulary_size), -np.inf)
        out[:, :usable] = 1.0 / usable
        listed, weights = self.texts.get(
            len(text.ids), (np.zeros((0, len(text.ids)), dtype=int), np.zeros(0))
        )
        known = [(place, token) for place, token in enumerate(text.ids) if token is not None]
        agree = np.ones(len(weights), dtype=bool)
        for place, token in known:
            agree &= listed[:, place] == token
        total = weights[agree].sum()
        for row, place in zip(out, text.asked, strict=True):
            if total > 0:
                counts = np.bincount(listed[agree, place], weights=weights[agree], minlength=usable) / total
                row[:usable] = (1 - self.flat) * counts[:usable] + self.flat / usable
            row[:usable] = np.log(row[:usable])
        return out
