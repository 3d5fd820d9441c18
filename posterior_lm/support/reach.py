"""Which states can still be completed with the tokens that are left, exactly.

S states, R = max_tokens, E pairs of states with a token that leads from one to the
other. All of it works on these pairs, never on the vocabulary.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from posterior_lm.support.bytes_dfa import DEAD


@frozen(eq=False)
class Edges:
    """`here`, `then` (E,) pairs of states, `tokens` (E,) float64 how many lead from one to the other."""

    here: np.ndarray
    then: np.ndarray
    tokens: np.ndarray


def edges_of(after: np.ndarray, columns: np.ndarray) -> Edges:
    """The pairs of the arrays of a `TokenDfa`."""
    size = len(after)
    tokens = np.bincount(columns, minlength=after.shape[1]).astype(np.float64)
    here, then, many = [], [], []
    for state, row in enumerate(after):
        alive = (row != DEAD) & (tokens > 0)
        counts = np.bincount(row[alive], weights=tokens[alive], minlength=size)
        reached = np.flatnonzero(counts)
        here.append(np.full(len(reached), state))
        then.append(reached)
        many.append(counts[reached])
    return Edges(np.concatenate(here), np.concatenate(then), np.concatenate(many))


def can_finish(edges: Edges, accepting: np.ndarray, min_tokens: int, max_tokens: int) -> np.ndarray:
    """(R + 1, S) bool: entry (c, s) says whether some value goes through state s after c tokens.

    With exact[r, s] = a path of exactly r tokens leads from s to an accepting state,
    entry (c, s) is the OR of exact[r, s] over min - c <= r <= max - c, r >= 0.
    """
    size = len(accepting)
    exact = np.zeros((max_tokens + 1, size), dtype=bool)
    exact[0] = accepting
    for length in range(1, max_tokens + 1):
        exact[length, edges.here[exact[length - 1, edges.then]]] = True
    before = np.zeros((max_tokens + 2, size), dtype=np.int64)
    np.cumsum(exact, axis=0, out=before[1:])
    count = np.arange(max_tokens + 1)
    fewest, most = np.maximum(0, min_tokens - count), max_tokens - count
    return before[most + 1] > before[fewest]


def fewest_tokens(edges: Edges, accepting: np.ndarray) -> np.ndarray:
    """(S,) float64: the length of a shortest completion, whatever the limits; inf where none is."""
    need = np.where(accepting, 0.0, np.inf)
    found = accepting
    for length in range(1, len(accepting) + 1):
        reached = np.zeros(len(accepting), dtype=bool)
        reached[edges.here[found[edges.then]]] = True
        found = reached & np.isinf(need)
        if not found.any():
            break
        need[found] = length
    return need


def most_tokens(edges: Edges, accepting: np.ndarray, cap: int) -> int:
    """The most tokens, up to `cap`, of a sequence that ends in an accepting state; -1 without any."""
    here = np.zeros(len(accepting), dtype=bool)
    here[0] = True
    longest = 0 if accepting[0] else -1
    for count in range(1, cap + 1):
        reached = np.zeros(len(accepting), dtype=bool)
        reached[edges.then[here[edges.here]]] = True
        here = reached
        if here[accepting].any():
            longest = count
    return longest


def count_paths(
    edges: Edges, accepting: np.ndarray, finish: np.ndarray, min_tokens: int, limit: int
) -> int | None:
    """How many token sequences are values, or None where there are more than `limit`.

    Only prefixes that some value has are followed, so their number never passes
    that of the values and the numbers stay small.
    """
    size = len(accepting)
    ways: np.ndarray = np.zeros(size)
    ways[0] = 1.0
    total = 0.0
    for count in range(len(finish)):
        ways = np.where(finish[count], ways, 0.0)
        if count >= min_tokens:
            total += float(ways[accepting].sum())
        # Each prefix still alive has a completion that begins no other prefix of its length.
        if max(total, float(ways.sum())) > limit:
            return None
        ways = np.bincount(edges.then, weights=ways[edges.here] * edges.tokens, minlength=size)
    return int(total)
