"""The support of a finite type: one token sequence per value, as a sorted table.

The table stands for the tree of prefixes: the values that share a prefix are a
run of rows, so a state is (first row, row after the last, tokens so far).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from attrs import field, frozen

from posterior_lm.lang.values import FiniteSpec, PlaceSpec
from posterior_lm.lm.protocol import Tokenizer
from posterior_lm.support.base import Cache, Ending, Stepwise, follow, keep

State = tuple[int, int, int]

_END = -1
"""Fills the table after a value's last token; sorts before every token."""

_BLOCK = 1 << 16
"""Rows that are turned into Python's numbers at once."""

_MASKS = 256
"""Masks kept; with GPT-2's vocabulary each takes 50 kB."""

_PLACES = 1 << 14
"""Values whose place is kept: draws ask for the same ones again and again."""


@frozen(eq=False)
class FiniteSupport(Stepwise):
    """The values of a finite type, each with its one encoding.

    `table` (N, L) int32 holds their tokens in lexicographic order, filled up with
    -1; `order` (N,) the place of each row's value in the declaration. A value ends
    with its last token, nothing else is scored; where one value's tokens begin
    another's, the state after them may stop and may go on.

    Without a tokenizer value number i is the single pseudo-token i.
    """

    spec: FiniteSpec | PlaceSpec
    vocabulary_size: int
    table: np.ndarray = field(repr=False)
    order: np.ndarray = field(repr=False)
    tokenizer: Tokenizer | None = field(repr=False)
    ending: Ending = field(init=False, default="value")
    stop_ids: tuple[int, ...] = field(init=False, default=())
    _masks: dict[State, np.ndarray] = field(init=False, factory=dict, repr=False)
    _places: dict[tuple[int, ...], int] = field(init=False, factory=dict, repr=False)

    @property
    def max_tokens(self) -> int:
        return self.table.shape[1]

    @property
    def size(self) -> int:
        return len(self.table)

    def start(self) -> State:
        return (0, self.size, 0)

    def allowed(self, state: State) -> np.ndarray:
        mask = self._masks.get(state)
        if mask is None:
            mask = np.zeros(self.vocabulary_size, dtype=bool)
            mask[self._next_tokens(state)] = True
            mask.flags.writeable = False
            keep(self._masks, state, mask, _MASKS)
        return mask

    def _next_tokens(self, state: State) -> np.ndarray:
        first, last, depth = state
        if depth == self.max_tokens:
            return np.zeros(0, dtype=np.int32)
        tokens = self.table[first:last, depth]
        return tokens[tokens != _END]

    def may_stop(self, state: State) -> bool:
        first, _, depth = state
        # The shorter value sorts first among those with its prefix.
        return depth == self.max_tokens or bool(self.table[first, depth] == _END)

    def must_stop(self, state: State) -> bool:
        first, last, _ = state
        return last - first == 1 and self.may_stop(state)

    def step(self, state: State, token: int) -> State | None:
        """The state after a token, or None where it is not allowed."""
        first, last, depth = state
        if depth == self.max_tokens or not 0 <= token < self.vocabulary_size:
            return None
        column = self.table[first:last, depth]
        # In the column's own type, or all of it would be converted.
        low, high = np.searchsorted(column, np.array((token, token + 1), dtype=column.dtype))
        return (first + int(low), first + int(high), depth + 1) if low < high else None

    def row(self, ids: Sequence[int]) -> int | None:
        """The row of the value with exactly these tokens, or None."""
        state = follow(self.start(), self.step, ids)
        return state[0] if state is not None and self.may_stop(state) else None

    def accepts(self, ids: Sequence[int]) -> bool:
        return tuple(ids) in self._places or self.row(ids) is not None

    def cut(self, ids: Sequence[int], tokens: int) -> tuple[int, ...] | None:
        head = tuple(ids[:tokens])
        return head if self.accepts(head) else None

    def values(self) -> Iterator[tuple[int, ...]]:
        rows, lengths = np.argsort(self.order), (self.table != _END).sum(axis=1)
        for start in range(0, self.size, _BLOCK):
            some = rows[start : start + _BLOCK]
            for ids, length in zip(self.table[some].tolist(), lengths[some].tolist(), strict=True):
                yield tuple(ids[:length])

    def datum(self, ids: Sequence[int]) -> float | str | None:
        """The number, truth value or string that the tokens stand for, None of a list's end; ValueError for other tokens."""
        return self.spec.datum(self.place(ids))

    def place(self, ids: Sequence[int]) -> int:
        """The place in the declaration of the value with these tokens; ValueError for other tokens."""
        ids = tuple(ids)
        place = self._places.get(ids)
        if place is None:
            row = self.row(ids)
            if row is None:
                raise ValueError(f"the tokens {ids} are no value of this type")
            place = keep(self._places, ids, int(self.order[row]), _PLACES)
        return place

    def ids_of(self, datum: float | str | None) -> tuple[int, ...]:
        """The tokens of a value, of a list's end for None; ValueError for what is no value of this type."""
        number = self.spec.number(datum)
        if number is None:
            raise ValueError(f"{datum!r} is no value of this type")
        if self.tokenizer is None:
            return (number,)
        return self.tokenizer.encode(self.spec.spelling(number))

    def count_values(self, limit: int) -> int | None:
        """How many values there are, or None where there are more than `limit`."""
        return self.size if self.size <= limit else None


@frozen(eq=False)
class KeptSupport(FiniteSupport):
    """Some values of a finite type, each with the tokens and the place that it has there."""

    def ids_of(self, datum: float | str | None) -> tuple[int, ...]:
        """The tokens of a value; ValueError for what was taken, and for no value of the type."""
        ids = super().ids_of(datum)
        if not self.accepts(ids):
            raise ValueError(f"{datum!r} is no value that the conditions leave")
        return ids


_restricted = Cache[tuple[int, bytes], tuple[FiniteSupport, KeptSupport]](64)
"""Supports from which conditions took values, so that equal ones of many rows are one. An entry holds the
support it is of, so no other one can take its id."""


def kept_values(support: FiniteSupport, holds: Callable[[int], bool]) -> FiniteSupport | None:
    """The support with the values whose place in the declaration `holds`; None for none, itself for all."""
    rows = np.array([holds(int(place)) for place in support.order], dtype=bool)
    if rows.all():
        return support
    if not rows.any():
        return None

    def restricted() -> tuple[FiniteSupport, KeptSupport]:
        table = np.asfortranarray(support.table[rows])
        table.flags.writeable = False
        order = support.order[rows]
        return support, KeptSupport(support.spec, support.vocabulary_size, table, order, support.tokenizer)

    return _restricted.get((id(support), rows.tobytes()), restricted)[1]


def sorted_table(encoded: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """The (N, L) table of token sequences in lexicographic order, and each row's place before."""
    longest = max((len(ids) for ids in encoded), default=0)
    table = np.full((len(encoded), longest), _END, dtype=np.int32)
    for row, ids in enumerate(encoded):
        table[row, : len(ids)] = ids
    order = np.lexsort(table.T[::-1]) if longest else np.arange(len(encoded))
    # Columns are searched one at a time, so they lie together.
    return np.asfortranarray(table[order]), order


def same_tokens(table: np.ndarray, order: np.ndarray) -> tuple[int, int] | None:
    """The places of two values with the same tokens, or None."""
    same = (table[1:] == table[:-1]).all(axis=1)
    if not same.any():
        return None
    row = int(np.argmax(same))
    first, second = sorted((int(order[row]), int(order[row + 1])))
    return first, second
