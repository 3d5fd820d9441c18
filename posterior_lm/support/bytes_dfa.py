"""The byte automaton of a text: a body, then the stop string where there is one.

text = body + stop, where the stop occurs nowhere earlier and every character of
the body is in a set. Two small automata run side by side: one follows how much of
the stop the last bytes spell, the other reads the body. Bytes that may yet turn
out to be part of the stop are held back from the body until the match fails.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

DEAD = -1


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


def text_dfa(stop: bytes | None, body: np.ndarray) -> BytesDfa:
    """The automaton of `body` texts, closed by the first occurrence of `stop`.

    `body` is a table of `characters`. Without a stop every state in which no
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
