"""Which beginnings of a latent no completion can save, by the program's conditions.

`words(z) <= 16` is lost at the seventeenth word, long before z is whole. Everything
here is sound: a beginning is refused only where every completion makes a condition
false, whatever the latents drawn later turn out to be.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from attrs import field, frozen

from posterior_lm.graph.conditions import Conjunct, conjuncts
from posterior_lm.target.certainty import Beginning, Certainty
from posterior_lm.target.prefix_values import Between, Text
from posterior_lm.target.values import Value, Values

if TYPE_CHECKING:
    from posterior_lm.target.target import LatentInfo, Target

KEPT = 1 << 16
"""Answers kept before all are forgotten; a beginning of 20 tokens takes some 300 bytes."""
LISTED = 4096
"""Values of a finite latent that are tried one by one; above that none of its beginnings is refused."""

Ids = tuple[int, ...]


@frozen(eq=False)
class PrefixTests:
    """The parts of a target's conditions that the first tokens of one latent can make false."""

    target: Target = field(repr=False)
    info: LatentInfo
    parts: tuple[Conjunct, ...]
    reads: tuple[str, ...]
    """The latents drawn before that the parts read."""
    _kept: dict[tuple, bool] = field(init=False, factory=dict, repr=False)

    @classmethod
    def of(cls, target: Target, latent_name: str) -> PrefixTests:
        """The tests for a latent by its ground name; raises KeyError for an unknown one."""
        info = target.latent(latent_name)
        masked = info.support is not target.evaluator.supports[info.name]
        graph = target.graph
        parts = tuple(
            part
            for part in conjuncts(graph)
            if (kind := part.kind(info.name)) == "prefix" or (kind == "mask" and not masked)
        )
        read = graph.ancestors(*(part.node for part in parts)) if parts else set()
        reads = tuple(other.name for other in target.latents if other.node in read and other.node < info.node)
        return cls(target, info, parts, reads)

    @property
    def empty(self) -> bool:
        """Whether no beginning is ever refused."""
        return not self.parts

    def alive(self, prefixes: Sequence[Ids], earlier: Values) -> np.ndarray:
        """(N,) bool: False where no completion of these first tokens can satisfy the conditions.

        `earlier` holds N values of every latent drawn before this one. A whole value is a
        beginning too: it is its own completion.
        """
        out = np.ones(len(prefixes), dtype=bool)
        if self.empty:
            return out
        columns = [earlier[name] for name in self.reads]
        for d, prefix in enumerate(prefixes):
            past = tuple(column[d] for column in columns)
            key = (prefix, *(value.ids for value in past))
            if key not in self._kept:
                if len(self._kept) >= KEPT:
                    self._kept.clear()
                self._kept[key] = self._alive(prefix, dict(zip(self.reads, past, strict=True)))
            out[d] = self._kept[key]
        return out

    def _alive(self, prefix: Ids, past: Mapping[str, Value]) -> bool:
        support = self.info.support
        if hasattr(support, "ids_of"):
            if support.size is None or support.size > LISTED:
                return True
            values = (ids for ids in support.values() if ids[: len(prefix)] == prefix)
            return any(self._holds(past, self.target.value_of(self.info.name, ids)) for ids in values)
        return self._holds(past, self._beginning(prefix))

    def _holds(self, past: Mapping[str, Value], own: Value | Beginning) -> bool:
        graph, fixed = self.target.graph, self.target.evaluator.fixed_value
        certainty = Certainty(graph, {**past, self.info.name: own}, fixed)
        return all(certainty.of(part.node) is not part.negated for part in self.parts)

    def _beginning(self, prefix: Ids) -> Beginning:
        assert self.info.lm is not None
        text = beginning(self.target.models[self.info.lm].tokenizer.token_bytes, prefix)
        tokens = Between(len(prefix), max(len(prefix), self.info.support.max_tokens))
        return Beginning(text, tokens)


def beginning(pieces: Sequence[bytes | None], ids: Ids) -> Text:
    """The characters that are certain: one that is half spelled may still become any of several."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(b"".join(pieces[i] or b"" for i in ids))
    return Text(text, whole=False, more=1 if decoder.getstate()[0] else 0)
