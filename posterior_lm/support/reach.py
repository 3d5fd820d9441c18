"""Which states can still be completed with the tokens that are left, exactly.

S states, R = max_tokens. All of it works on the (S, S) numbers of tokens that lead
from one state to another, never on the vocabulary.
"""

from __future__ import annotations

import numpy as np

from posterior_lm.support.bytes_dfa import DEAD


def edge_counts(after: np.ndarray) -> np.ndarray:
    """(S, S) float64: how many tokens lead from state i to state j, of (S, V) next states."""
    counts = np.zeros((len(after), len(after)))
    for state, row in enumerate(after):
        then, many = np.unique(row[row != DEAD], return_counts=True)
        counts[state, then] = many
    return counts


def can_finish(edges: np.ndarray, accepting: np.ndarray, min_tokens: int, max_tokens: int) -> np.ndarray:
    """(R + 1, S) bool: entry (c, s) says whether some value goes through state s after c tokens.

    With exact[r, s] = a path of exactly r tokens leads from s to an accepting state,
    entry (c, s) is the OR of exact[r, s] over min - c <= r <= max - c, r >= 0.
    """
    step = (edges > 0).astype(np.float32)
    exact = np.zeros((max_tokens + 1, len(edges)), dtype=bool)
    exact[0] = accepting
    for length in range(1, max_tokens + 1):
        exact[length] = step @ exact[length - 1].astype(np.float32) > 0
    before = np.zeros((max_tokens + 2, len(edges)), dtype=np.int64)
    np.cumsum(exact, axis=0, out=before[1:])
    count = np.arange(max_tokens + 1)
    fewest, most = np.maximum(0, min_tokens - count), max_tokens - count
    return before[most + 1] > before[fewest]


def fewest_tokens(edges: np.ndarray, accepting: np.ndarray) -> np.ndarray:
    """(S,) float64: the length of a shortest completion, whatever the limits; inf where none is."""
    need = np.where(accepting, 0.0, np.inf)
    for _ in range(len(edges)):
        nearest = np.where(edges > 0, need[None, :], np.inf).min(axis=1, initial=np.inf)
        better = np.minimum(need, nearest + 1)
        if np.array_equal(better, need):
            break
        need = better
    return need


def count_paths(
    edges: np.ndarray, accepting: np.ndarray, finish: np.ndarray, min_tokens: int, limit: int
) -> int | None:
    """How many token sequences are values, or None where there are more than `limit`.

    Only prefixes that some value has are followed, so their number never passes
    that of the values and the numbers stay small.
    """
    ways = np.zeros(len(edges))
    ways[0] = 1.0
    total = 0.0
    for count in range(len(finish)):
        ways = np.where(finish[count], ways, 0.0)
        if count >= min_tokens:
            total += float(ways[accepting].sum())
        # Each prefix still alive has a completion that begins no other prefix of its length.
        if max(total, float(ways.sum())) > limit:
            return None
        ways = ways @ edges
    return int(total)
