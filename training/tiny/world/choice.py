"""Finite distributions over strings, written as small templates.

A template such as ``"The {big:3|small} dog{:2| barked}."`` is a literal text with
choices in braces; `:w` is an option's weight (1 where absent) and options nest.
`phrase` expands a template to a `Table`, the explicit list of its texts with their
probabilities, so that one random number draws a whole sentence and every
conditional of it can be read off.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import accumulate

import attrs


@attrs.frozen
class Table:
    """A distribution over distinct texts; `probs` are positive and sum to one."""

    texts: tuple[str, ...]
    probs: tuple[float, ...]
    cumulative: tuple[float, ...] = attrs.field(init=False, repr=False, eq=False)
    _index: Mapping[str, int] = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        if len(self._index) != len(self.texts):
            repeated = {t for t in self.texts if self.texts.count(t) > 1}
            raise ValueError(f"a text with two derivations: {sorted(repeated)[:3]}")
        if any(p <= 0.0 for p in self.probs) or abs(math.fsum(self.probs) - 1.0) > 1e-9:
            raise ValueError("probabilities must be positive and sum to one")

    @cumulative.default
    def _cumulate(self) -> tuple[float, ...]:
        return tuple(accumulate(self.probs))

    @_index.default
    def _number(self) -> Mapping[str, int]:
        return {text: i for i, text in enumerate(self.texts)}

    def at(self, uniform: float) -> int:
        """Index of the text that a uniform number in [0, 1) selects."""
        return min(bisect_right(self.cumulative, uniform), len(self.texts) - 1)

    def prob(self, text: str) -> float:
        """Probability of `text`, zero where it is not in the table."""
        i = self._index.get(text)
        return 0.0 if i is None else self.probs[i]

    def __contains__(self, text: str) -> bool:
        return text in self._index

    def entropy(self) -> float:
        """Entropy in nats."""
        return -math.fsum(p * math.log(p) for p in self.probs)


def weighted(weights: Mapping[str, float]) -> Table:
    """Table of the texts in `weights`, normalised."""
    total = math.fsum(weights.values())
    return Table(tuple(weights), tuple(w / total for w in weights.values()))


def uniform(texts: Iterable[object]) -> Table:
    """The uniform distribution over distinct values, as texts."""
    return weighted({str(t): 1.0 for t in texts})


def mixture(parts: Iterable[tuple[float, Table]]) -> Table:
    """Weighted mixture; a text that several parts can give gets its total probability."""
    total: dict[str, float] = {}
    for weight, table in parts:
        for text, p in zip(table.texts, table.probs, strict=True):
            total[text] = total.get(text, 0.0) + weight * p
    return weighted(total)


def phrase(template: str, **slots: str) -> Table:
    """Expand a template; `<name>` is replaced by `slots["name"]` first."""
    for name, text in slots.items():
        template = template.replace(f"<{name}>", text)
    pairs, end = _sequence(template, 0)
    if end != len(template):
        raise ValueError(f"unbalanced braces in {template!r}")
    texts = tuple(t for t, _ in pairs)
    total = math.fsum(p for _, p in pairs)
    return Table(texts, tuple(p / total for _, p in pairs))


Pairs = list[tuple[str, float]]


def _sequence(source: str, start: int) -> tuple[Pairs, int]:
    """Expand from `start` up to an unmatched `|`, `}` or the end of the template."""
    pairs: Pairs = [("", 1.0)]
    i = start
    while i < len(source) and source[i] not in "|}":
        if source[i] == "{":
            options, i = _options(source, i + 1)
        else:
            options, i = [(source[i], 1.0)], i + 1
        pairs = [(t + o, p * q) for t, p in pairs for o, q in options]
    return pairs, i


def _options(source: str, start: int) -> tuple[Pairs, int]:
    """Expand the options of one brace; returns them and the index after `}`."""
    found: list[tuple[float, Pairs]] = []
    i = start
    while True:
        end = _option_end(source, i)
        text, mark, number = source[i:end].rpartition(":")
        has_weight = bool(mark) and number.replace(".", "", 1).isdigit()
        body = text if has_weight else source[i:end]
        found.append((float(number) if has_weight else 1.0, _sequence(body, 0)[0]))
        i = end + 1
        if source[end] == "}":
            break
    total = math.fsum(w for w, _ in found)
    return [(t, w / total * p) for w, pairs in found for t, p in pairs], i


def _option_end(source: str, start: int) -> int:
    """Index of the `|` or `}` that closes the option starting at `start`."""
    depth = 0
    for i in range(start, len(source)):
        c = source[i]
        if depth == 0 and c in "|}":
            return i
        depth += (c == "{") - (c == "}")
    raise ValueError(f"unbalanced braces in {source!r}")
