"""Automata over the bytes of UTF-8: of sets of characters, of texts with a stop, of patterns, and of two together.

A table is (S, 256) int32, `DEAD` where nothing follows; state 0 starts.

A text is a body and then the stop string where there is one, which occurs nowhere earlier, and
every character of the body is in a set. Two small automata run side by side: one follows how much
of the stop the last bytes spell, the other reads the body. Bytes that may yet turn out to be part
of the stop are held back from the body until the match fails.

Of broken bytes there are two readings. Strict: they are dead, a text is whole characters.
Otherwise each maximal broken part reads as U+FFFD, as it does where a value's tokens are
decoded, so the bytes match exactly where the decoded text does.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from attrs import frozen

from posterior_lm.lang.automaton import CharacterDfa
from posterior_lm.lang.regex import PatternError
from posterior_lm.support.smallest import DEAD, blocks, useful

_CONTINUATION = bytes(range(0x80, 0xC0))
"""The bytes that go on with a character in UTF-8."""


@frozen(eq=False)
class BytesDfa:
    """`table` (S, 256) int32, `DEAD` where nothing follows; `accepting` (S,) bool; state 0 starts."""

    table: np.ndarray
    accepting: np.ndarray

    def run(self, text: bytes, state: int = 0) -> int:
        """The state after the bytes, or `DEAD`."""
        for byte in text:
            if state == DEAD:
                return DEAD
            state = int(self.table[state, byte])
        return state


# -------------------------------------------------------------------------- sets of characters


def any_bytes() -> np.ndarray:
    """(1, 256): every byte string, broken UTF-8 included."""
    return np.zeros((1, 256), dtype=np.int32)


def any_characters() -> np.ndarray:
    """(8, 256): every well-formed UTF-8 text.

    Source: the table of well-formed byte sequences in the Unicode Standard (3-7).
    Overlong spellings, surrogates and what lies beyond U+10FFFF are dead.
    """
    table = np.full((8, 256), DEAD, dtype=np.int32)
    one, two, three, after_e0, after_ed, after_f0, after_f4 = range(1, 8)
    for state, first, last, then in (
        (0, 0x00, 0x7F, 0),
        (0, 0xC2, 0xDF, one),
        (0, 0xE0, 0xE0, after_e0),
        (0, 0xE1, 0xEC, two),
        (0, 0xED, 0xED, after_ed),
        (0, 0xEE, 0xEF, two),
        (0, 0xF0, 0xF0, after_f0),
        (0, 0xF1, 0xF3, three),
        (0, 0xF4, 0xF4, after_f4),
        (one, 0x80, 0xBF, 0),
        (two, 0x80, 0xBF, one),
        (three, 0x80, 0xBF, two),
        (after_e0, 0xA0, 0xBF, one),
        (after_ed, 0x80, 0x9F, one),
        (after_f0, 0x90, 0xBF, two),
        (after_f4, 0x80, 0x8F, two),
    ):
        table[state, first : last + 1] = then
    return table


def these_characters(chars: str) -> np.ndarray:
    """(U, 256): the texts whose every character is one of `chars`; "" leaves the empty text."""
    states: dict[bytes, int] = {b"": 0}
    edges: dict[tuple[int, int], int] = {}
    for char in sorted(set(chars)):
        spelled = char.encode("utf-8")
        for end in range(1, len(spelled) + 1):
            here = states[spelled[: end - 1]]
            then = 0 if end == len(spelled) else states.setdefault(spelled[:end], len(states))
            edges[here, spelled[end - 1]] = then
    table = np.full((len(states), 256), DEAD, dtype=np.int32)
    for (here, byte), then in edges.items():
        table[here, byte] = then
    return table


def fragment(spelled: bytes | None) -> tuple[bool, bool]:
    """Whether the bytes of a token begin inside a character, and whether they end inside one."""
    spelled = spelled or b""
    rest = spelled.lstrip(_CONTINUATION)
    try:
        rest.decode("utf-8")
    except UnicodeDecodeError:
        return (len(rest) < len(spelled), True)
    return (len(rest) < len(spelled), False)


# --------------------------------------------------------------------------- a body and its stop


def text_dfa(stop: bytes | None, body: np.ndarray) -> BytesDfa:
    """The automaton of `body` texts, closed by the first occurrence of `stop`.

    `body` is a table of a set of characters. Without a stop every state in which no
    character is half-spelled accepts. With one, exactly the state after the stop
    accepts, and no byte leads out of it.
    """
    if stop is None:
        accepting = np.zeros(len(body), dtype=bool)
        accepting[0] = True
        return BytesDfa(body, accepting)
    matching = _match_table(stop)
    states: dict[tuple[int, int], int] = {(0, 0): 0}
    rows: list[np.ndarray] = []
    done = (len(stop), 0)
    queue = [(0, 0)]
    for matched, inside in queue:  # grows while it is read
        row = np.full(256, DEAD, dtype=np.int32)
        rows.append(row)
        if (matched, inside) == done:
            continue
        for byte in range(256):
            then = _step(stop, matching, body, matched, inside, byte)
            if then is None:
                continue
            if then not in states:
                states[then] = len(states)
                queue.append(then)
            row[byte] = states[then]
    accepting = np.array([state == done for state in states])
    return BytesDfa(np.stack(rows), accepting)


def _step(
    stop: bytes, matching: np.ndarray, body: np.ndarray, matched: int, inside: int, byte: int
) -> tuple[int, int] | None:
    """The pair of states after a byte, or None where it is dead."""
    after = int(matching[matched, byte])
    if after == len(stop):
        # All that is held back is the stop itself: the body must be whole here.
        return (after, 0) if inside == 0 else None
    for released in (stop[:matched] + bytes([byte]))[: matched + 1 - after]:
        inside = int(body[inside, released])
        if inside == DEAD:
            return None
    return after, inside


def _match_table(stop: bytes) -> np.ndarray:
    """(n, 256) how many leading bytes of the stop are matched after `n` of them and a byte.

    Source: Knuth, Morris & Pratt (1977), as a full automaton.
    """
    table = np.zeros((len(stop), 256), dtype=np.int32)
    table[0, stop[0]] = 1
    fallback = 0
    for matched in range(1, len(stop)):
        table[matched] = table[fallback]
        table[matched, stop[matched]] = matched + 1
        fallback = int(table[fallback, stop[matched]])
    return table


# -------------------------------------------------------------------------------------- patterns


MOST_BYTES_STATES = 40_000
"""States before equal ones are merged: 40 MB."""

_REPLACEMENT = 0xFFFD


def bytes_of(dfa: CharacterDfa, *, strict: bool) -> BytesDfa:
    """The automaton over bytes; state 0 is the start. Raises PatternError where it is too large.

    A state is a state of `dfa` and what of a character has been spelled.
    """
    halves = _Halves(dfa.starts, dfa.classes)
    root, inner = halves.root, np.array(halves.nodes, dtype=np.int64).reshape(-1, 256)
    merged, accepted = _merged(np.array(dfa.table, dtype=np.int64), np.array(dfa.accepting))
    states, nodes = len(merged), 1 + len(inner)
    if states * nodes > MOST_BYTES_STATES or _least_states(merged, halves) > MOST_STATES:
        raise PatternError("too large", "the pattern needs too many states")
    # One more state, where the dead stay dead.
    table = np.vstack([merged, np.full((1, merged.shape[1]), DEAD)])
    table[table == DEAD] = states
    accepting = np.append(accepted, False)
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


def _merged(table: np.ndarray, accepting: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smallest automaton, by characters: state 0 starts, and states that reach nothing are dead."""
    keep = useful(table, accepting)
    keep[0] = True
    number = np.append(np.where(keep, np.cumsum(keep) - 1, DEAD), DEAD)
    table, accepting = number[table[keep]], accepting[keep]
    block = blocks(table, accepting)
    _, members = np.unique(block, return_index=True)
    order = np.argsort(members)  # the start is the first state of its block
    named = np.argsort(order)
    members = members[order]
    then = table[members]
    return np.where(then == DEAD, DEAD, named[block[then]]), accepting[members]


def _least_states(table: np.ndarray, halves: _Halves) -> int:
    """How many states the smallest automaton of whole characters has, found before it is built.

    `table` is the smallest one by characters. What half of a character leads to tells two states apart exactly
    where some way to complete it leads to different ones.
    """
    columns = [table[:, which] for which in range(table.shape[1])]
    total = len(table)
    for node in halves.nodes:  # those that a node leads to come before it
        key = np.stack([columns[child] for child in sorted({*node} - {DEAD})], axis=1)
        alive = (key != DEAD).any(axis=1)
        found, numbers = np.unique(key[alive], axis=0, return_inverse=True)
        column = np.full(len(table), DEAD)
        column[alive] = numbers.reshape(-1)
        columns.append(column)
        total += len(found)
    return total


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


# ------------------------------------------------------- both of two, the opposite, the smallest


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
    columns, place = _kinds(np.vstack([first.table, second.table]))
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

    Where nothing is accepted, one state without edges is left.
    """
    table, accepting = _trimmed(dfa)
    columns, place = _kinds(table)
    narrow = table[:, columns]
    block = blocks(narrow, accepting)
    number = int(block.max()) + 1
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
    keep = useful(dfa.table[:, _kinds(dfa.table)[0]], dfa.accepting)
    keep[0] = True
    number = np.append(np.where(keep, np.cumsum(keep) - 1, DEAD), DEAD)
    return number[dfa.table[keep]].astype(np.int32), dfa.accepting[keep]


def _kinds(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One column for each kind of byte, and for every byte the number of its kind."""
    _, columns, place = np.unique(table.T, axis=0, return_index=True, return_inverse=True)
    return columns, place.reshape(-1)
