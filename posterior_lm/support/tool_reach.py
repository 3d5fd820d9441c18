"""Which tokens a text with tools may be drawn from, and which of its states can still be completed.

What a tool will write is known only once it is asked; what it can write is known before, by
the bytes of its answers. A state is given up where no output of these bytes could save it.
S states, R = max_tokens drawn tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen

from posterior_lm.support.token_automata import Edges, edges_of, within
from posterior_lm.tools import ToolSpec

Pieces = Sequence[bytes | None]


@frozen(eq=False)
class Jump:
    """What one tool can do: `fires` (V,) after which tokens it may be called, `columns` (V,) of those it may write."""

    fires: np.ndarray
    columns: np.ndarray


def drawn_columns(columns: np.ndarray, dead: int, pieces: Pieces, tools: Sequence[ToolSpec]) -> np.ndarray:
    """(V,) `columns` of a `TokenDfa` where tokens that hold a trigger before their end lead nowhere (`dead`)."""
    triggers = [tool.trigger.encode() for tool in tools]
    found = columns.copy()
    found[[t for t, b in enumerate(pieces) if b and any(inside(b"", b, one) for one in triggers)]] = dead
    return found


def jumps_of(columns: np.ndarray, dead: int, pieces: Pieces, tools: Sequence[ToolSpec]) -> list[Jump]:
    """What each tool can do, by its trigger and its alphabet."""
    return [
        Jump(may_fire(pieces, tool.trigger.encode()), _written(columns, dead, pieces, tool.alphabet))
        for tool in tools
    ]


def _written(columns: np.ndarray, dead: int, pieces: Pieces, alphabet: bytes | None) -> np.ndarray:
    """(V,) `columns` where tokens with a byte outside the alphabet lead nowhere; None stands for every byte."""
    if alphabet is None:
        return columns
    found, letters = columns.copy(), set(alphabet)
    found[[t for t, b in enumerate(pieces) if not letters.issuperset(b or b"")]] = dead
    return found


def inside(before: bytes, token: bytes, trigger: bytes) -> bool:
    """Whether the trigger ends in the token before its last byte, where the text so far ends with `before`."""
    return (before + token[:-1]).find(trigger, max(0, len(before) - len(trigger) + 1)) >= 0


def completes(before: bytes, token: bytes, trigger: bytes) -> bool:
    """Whether the text ends with the trigger once the token is drawn after `before`."""
    return (before + token).endswith(trigger)


def tail(text: bytes, trigger: bytes) -> bytes:
    """The longest beginning of the trigger, short of all of it, that the text ends with."""
    for length in range(min(len(trigger) - 1, len(text)), 0, -1):
        if text.endswith(trigger[:length]):
            return trigger[:length]
    return b""


def may_fire(pieces: Pieces, trigger: bytes) -> np.ndarray:
    """(V,) bool: tokens after which some text ends with the trigger."""
    found = [b is not None and b != b"" and (trigger.endswith(b) or b.endswith(trigger)) for b in pieces]
    return np.array(found, dtype=bool)


def can_finish_with_tools(
    after: np.ndarray, columns: np.ndarray, accepting: np.ndarray, limits: tuple[int, int], jumps: Sequence[Jump]
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:  # fmt: skip
    """(R + 1, S) bool as `can_finish`, and for each tool the same of states that it has yet to write after.

    Entry (c, s) is false only where no value goes through s after c drawn tokens, whatever the
    tools write: after a token that fires, a tool may lead to every state that its tokens lead to.
    """
    least, most = limits
    edges, dead = edges_of(after, columns), after.shape[1] - 1
    firing = [edges_of(after, np.where(jump.fires, columns, dead)) for jump in jumps]
    written = [edges_of(after, jump.columns) for jump in jumps]
    exact = np.zeros((most + 1, len(accepting)), dtype=bool)
    exact[0] = accepting
    hope = [np.zeros_like(exact) for _ in jumps]
    for length in range(most + 1):
        if length:
            exact[length, edges.here[exact[length - 1, edges.then]]] = True
            for jump, hoped in zip(firing, hope, strict=True):
                exact[length, jump.here[hoped[length - 1, jump.then]]] = True
        for one, hoped in zip(written, hope, strict=True):
            hoped[length] = _leads_to(one, exact[length])
    return within(exact, least, most), tuple(within(hoped, least, most) for hoped in hope)


def _leads_to(edges: Edges, states: np.ndarray) -> np.ndarray:
    """(S,) bool: the states from which any number of edges, or none, leads to one of `states`."""
    found = states.copy()
    while True:
        grown = found.copy()
        grown[edges.here[found[edges.then]]] = True
        if np.array_equal(grown, found):
            return found
        found = grown
