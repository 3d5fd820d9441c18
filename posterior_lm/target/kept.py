"""A finite support from which conditions have taken values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Lock

import numpy as np
from attrs import frozen

from posterior_lm.support.bounded import keep
from posterior_lm.support.finite import FiniteSupport

_KEPT = 64
"""Supports kept, so that equal ones of many rows are one."""

# An entry holds the support it is of, so no other one can take its id.
_supports: dict[tuple[int, bytes], tuple[FiniteSupport, KeptSupport]] = {}
_lock = Lock()


@frozen(eq=False)
class KeptSupport(FiniteSupport):
    """Some values of a finite type, each with the tokens and the place that it has there."""

    def values(self) -> Iterator[tuple[int, ...]]:
        for row in np.argsort(self.order):
            yield self._ids(int(row))

    def ids_of(self, datum: int | str) -> tuple[int, ...]:
        """The tokens of an integer or a string; ValueError for what was taken, and for no value of the type."""
        ids = super().ids_of(datum)
        if not self.accepts(ids):
            raise ValueError(f"{datum!r} is no value that the conditions leave")
        return ids


def kept_values(support: FiniteSupport, holds: Callable[[int], bool]) -> FiniteSupport | None:
    """The support with the values whose place in the declaration `holds`; None for none, itself for all."""
    rows = np.array([holds(int(place)) for place in support.order], dtype=bool)
    if rows.all():
        return support
    if not rows.any():
        return None
    key = (id(support), rows.tobytes())
    with _lock:
        known = _supports.get(key)
    if known is not None:
        return known[1]
    table = np.asfortranarray(support.table[rows])
    table.flags.writeable = False
    found = KeptSupport(support.spec, support.vocabulary_size, table, support.order[rows], support.tokenizer)
    with _lock:
        keep(_supports, key, (support, found), _KEPT)
    return found
