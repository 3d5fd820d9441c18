"""From an automaton over characters to one over the bytes of UTF-8.

Two readings of broken bytes. Strict: they are dead, a text is whole characters.
Otherwise each maximal broken part reads as U+FFFD, as it does where a value's tokens
are decoded, so the bytes match exactly where the decoded text does.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from posterior_lm.lang.automaton import CharacterDfa
from posterior_lm.lang.regex import PatternError
from posterior_lm.support.bytes_dfa import DEAD, BytesDfa

MOST_BYTES_STATES = 40_000
"""States before equal ones are merged: 40 MB."""

_REPLACEMENT = 0xFFFD


def bytes_of(dfa: CharacterDfa, *, strict: bool) -> BytesDfa:
    """The automaton over bytes; state 0 is the start. Raises PatternError where it is too large.

    A state is a state of `dfa` and what of a character has been spelled.
    """
    halves = _Halves(dfa.starts, dfa.classes)
    root, inner = halves.root, np.array(halves.nodes, dtype=np.int64).reshape(-1, 256)
    states, nodes = len(dfa.table), 1 + len(inner)
    if states * nodes > MOST_BYTES_STATES:
        raise PatternError("too large", "the pattern needs too many states")
    # One more state, where the dead stay dead.
    table = np.array([*dfa.table, [DEAD] * len(dfa.table[0])], dtype=np.int64)
    table[table == DEAD] = states
    accepting = np.array([*dfa.accepting, False])
    classes = table.shape[1]

    def after(child: np.ndarray) -> np.ndarray:
        """(states + 1, 256) byte states by what a node says of each byte."""
        ends = (child >= 0) & (child < classes)
        out = np.full((states + 1, 256), states * nodes, dtype=np.int64)
        out[:, ends] = table[:, child[ends]] * nodes
        halfway = child >= classes
        out[:, halfway] = np.arange(states + 1)[:, None] * nodes + (child[halfway] - classes + 1)
        return out

    first = after(root)
    replaced = table[:, halves.class_of(_REPLACEMENT)]
    if not strict:
        first[:, root < 0] = (replaced * nodes)[:, None]
    rows = np.empty((states + 1, nodes, 256), dtype=np.int64)
    rows[:, 0] = first
    for node, child in enumerate(inner):
        row = after(child)
        if not strict:
            # The bytes so far are broken: one U+FFFD for them, then this byte from the beginning.
            row[:, child < 0] = first[replaced][:, child < 0]
        rows[:, 1 + node] = row
    rows[rows >= states * nodes] = DEAD
    ends = np.zeros((states, nodes), dtype=bool)
    ends[:, 0] = accepting[:states]
    if not strict:
        ends[:, 1:] = accepting[replaced[:states], None]
    return BytesDfa(rows[:states].reshape(-1, 256).astype(np.int32), ends.reshape(-1))


class _Halves:
    """What the bytes of a character lead to, equal halves being one node.

    A child is a class of characters, or the number of classes plus a node, or -1.
    `root` (256,) children by first byte; `nodes` the same for later bytes.
    """

    def __init__(self, starts: tuple[int, ...], classes: tuple[int, ...]) -> None:
        self.starts, self.classes = starts, classes
        self.count = max(classes) + 1
        self.nodes: list[tuple[int, ...]] = []
        self._numbers: dict[tuple[int, ...], int] = {}
        self._blocks: dict[tuple[int, int], int] = {}
        root = [-1] * 256
        for byte in range(0x80):
            root[byte] = self.class_of(byte)
        for first, last, more, least in (
            (0xC2, 0xDF, 1, 0x80),
            (0xE0, 0xEF, 2, 0x800),
            (0xF0, 0xF4, 3, 0x10000),
        ):
            for byte in range(first, last + 1):
                low = (byte & (0x3F >> more)) << 6 * more
                root[byte] = self._block(low, more, least)
        self.root = np.array(root, dtype=np.int64)

    def class_of(self, point: int) -> int:
        return self.classes[bisect_right(self.starts, point) - 1]

    def _block(self, low: int, more: int, least: int) -> int:
        """The child for the 64 ** more code points from `low` on, those below `least` left out."""
        size = 1 << 6 * more
        if low + size <= least or low > 0x10FFFF or (low >= 0xD800 and low + size <= 0xE000):
            return -1
        if more == 0:
            return self.class_of(low)
        here = bisect_right(self.starts, low) - 1
        uniform = here + 1 == len(self.starts) or self.starts[here + 1] >= low + size
        whole = low >= least and low + size <= 0x110000 and not (low < 0xE000 and low + size > 0xD800)
        key = (self.classes[here], more)
        if uniform and whole and key in self._blocks:
            return self._blocks[key]
        children = [-1] * 256
        for i in range(64):
            children[0x80 + i] = self._block(low + (i << 6 * (more - 1)), more - 1, least)
        kept = tuple(children)
        if kept not in self._numbers:
            self._numbers[kept] = len(self.nodes)
            self.nodes.append(kept)
        found = self.count + self._numbers[kept]
        if uniform and whole:
            self._blocks[key] = found
        return found
