"""Byte automata put together: both of two, the opposite, and the smallest equal one."""

from __future__ import annotations

import numpy as np

from posterior_lm.lang.regex import PatternError
from posterior_lm.support.bytes_dfa import DEAD, BytesDfa

MOST_STATES = 8_000
"""States of the automaton of a text."""

_MOST_PAIRS = 40_000


def opposite(dfa: BytesDfa) -> BytesDfa:
    """Every byte string that the automaton does not accept."""
    dead = len(dfa.table)
    table = np.vstack([dfa.table, np.full((1, 256), dead, dtype=np.int32)])
    table[table == DEAD] = dead
    return BytesDfa(table, ~np.append(dfa.accepting, False))


def both(first: BytesDfa, second: BytesDfa) -> BytesDfa:
    """The byte strings that both accept, smallest form. Raises PatternError for too many states."""
    columns, place = _columns(np.vstack([first.table, second.table]))
    left = np.vstack([first.table[:, columns], np.full((1, len(columns)), DEAD, dtype=np.int32)]).astype(
        np.int64
    )
    right = second.table[:, columns].astype(np.int64)
    width = len(second.table)
    numbers = np.full(len(first.table) * width, DEAD, dtype=np.int32)
    numbers[0] = 0
    order, rows = [0], []
    for pair in order:  # grows while it is read
        a, b = divmod(pair, width)
        then = np.where((left[a] == DEAD) | (right[b] == DEAD), DEAD, left[a] * width + right[b])
        alive = then[then != DEAD]
        for found in np.unique(alive[numbers[alive] == DEAD]).tolist():
            numbers[found] = len(order)
            order.append(found)
        if len(order) > _MOST_PAIRS:
            raise PatternError("too large", "the pattern needs too many states")
        rows.append(np.where(then == DEAD, DEAD, numbers[then]))
    lefts, rights = np.divmod(np.array(order), width)
    table = np.stack(rows)[:, place].astype(np.int32)
    return smallest(BytesDfa(table, first.accepting[lefts] & second.accepting[rights]))


def smallest(dfa: BytesDfa) -> BytesDfa:
    """The smallest automaton of the same strings, without states that lead nowhere.

    Source: Moore (1956), refining until no byte tells two states of one class apart.
    Where nothing is accepted, one state without edges is left.
    """
    table, accepting = _trimmed(dfa)
    columns, place = _columns(table)
    narrow = table[:, columns]
    block = accepting.astype(np.int64)
    number = len(np.unique(block))
    while True:
        keys = np.concatenate([block[:, None], np.where(narrow == DEAD, DEAD, block[narrow])], axis=1)
        block = _rows(keys)
        if (refined := int(block.max()) + 1) == number:
            break
        number = refined
    # The start's class becomes 0.
    first = np.full(number, -1, dtype=np.int64)
    order = np.argsort(block, kind="stable")
    first[block[order][::-1]] = order[::-1]
    named = np.argsort(np.argsort(np.where(np.arange(number) == block[0], -1, np.arange(number))))
    members = np.empty(number, dtype=np.int64)
    members[named] = first
    then = narrow[members]
    then = np.where(then == DEAD, DEAD, named[block[then]])
    return BytesDfa(then[:, place].astype(np.int32), accepting[members])


def _trimmed(dfa: BytesDfa) -> tuple[np.ndarray, np.ndarray]:
    """Only states that the start reaches and that reach an accepting one; the start stays."""
    size = len(dfa.table)
    columns, _ = _columns(dfa.table)
    narrow = dfa.table[:, columns].astype(np.int64)
    reached = np.zeros(size + 1, dtype=bool)
    open_ = np.array([0])
    reached[0] = True
    while len(open_):
        then = np.unique(narrow[open_])
        open_ = then[(then != DEAD) & ~reached[then]]
        reached[open_] = True
    useful = np.append(dfa.accepting, False)
    while True:
        more = useful[:-1] | useful[narrow].any(axis=1)
        if np.array_equal(more, useful[:-1]):
            break
        useful[:-1] = more
    keep = reached[:-1] & useful[:-1]
    keep[0] = True
    number = np.append(np.where(keep, np.cumsum(keep) - 1, DEAD), DEAD)
    return number[dfa.table[keep]].astype(np.int32), dfa.accepting[keep]


def _columns(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One column for each kind of byte, and for every byte the number of its kind."""
    _, columns, place = np.unique(table.T, axis=0, return_index=True, return_inverse=True)
    return columns, place.reshape(-1)


def _rows(keys: np.ndarray) -> np.ndarray:
    """(S,) equal numbers for equal rows."""
    packed = np.ascontiguousarray(keys).view(np.dtype((np.void, keys.dtype.itemsize * keys.shape[1])))
    return np.unique(packed.reshape(-1), return_inverse=True)[1].reshape(-1)
