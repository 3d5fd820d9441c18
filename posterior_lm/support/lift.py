"""From bytes to tokens: what a byte automaton does on every token of a vocabulary."""

from __future__ import annotations

from threading import Lock

import numpy as np
from attrs import frozen

from posterior_lm.lm.base import Tokenizer
from posterior_lm.support.bounded import keep
from posterior_lm.support.bytes_dfa import DEAD, BytesDfa

_KEPT = 8
"""Byte matrices kept; GPT-2's (50,257 tokens, the longest of 128 bytes) takes 6 MB."""

_CELLS = 1 << 18
"""States times tokens walked at once: 1 MB of int32, which stays in the processor's cache."""


@frozen(eq=False)
class TokenMatrix:
    """The usable tokens, longest first, so that those still running are a leading slice.

    `ids` (U,) their ids; `columns[j]` the (U_j,) bytes at place j of the U_j tokens
    that have one.
    """

    vocabulary_size: int
    ids: np.ndarray
    columns: tuple[np.ndarray, ...]


_matrices: dict[tuple[object, ...], TokenMatrix] = {}
_lock = Lock()


def token_matrix(tokenizer: Tokenizer) -> TokenMatrix:
    """The usable tokens of a tokenizer: with bytes, not special, neither begin nor end of text."""
    key = tokenizer_key(tokenizer)
    with _lock:
        kept = _matrices.get(key)
    if kept is None:
        built = _build_matrix(tokenizer)
        with _lock:
            kept = keep(_matrices, key, built, _KEPT)
    return kept


def tokenizer_key(tokenizer: Tokenizer) -> tuple[object, ...]:
    """What two tokenizers must share to share automata."""
    return (tokenizer.digest, tokenizer.eos_ids, tokenizer.start_ids, tokenizer.bos_id)


def _build_matrix(tokenizer: Tokenizer) -> TokenMatrix:
    never = {*tokenizer.eos_ids, *tokenizer.start_ids, tokenizer.bos_id}
    usable = [
        (len(spelled), token)
        for token, spelled in enumerate(tokenizer.token_bytes)
        if spelled and token not in never
    ]
    usable.sort(key=lambda pair: (-pair[0], pair[1]))
    ids = np.array([token for _, token in usable], dtype=np.int64)
    lengths = np.array([length for length, _ in usable], dtype=np.int64)
    joined = b"".join(tokenizer.token_bytes[token] for token in ids)  # type: ignore[misc]
    flat = np.frombuffer(joined, dtype=np.uint8)
    starts = np.cumsum(lengths) - lengths
    longest = int(lengths[0]) if len(lengths) else 0
    columns = []
    for place in range(longest):
        running = int(np.searchsorted(-lengths, -place, side="left"))  # lengths > place
        columns.append(flat[starts[:running] + place].astype(np.int32))
    return TokenMatrix(tokenizer.vocabulary_size, ids, tuple(columns))


def lift(dfa: BytesDfa, matrix: TokenMatrix) -> np.ndarray:
    """(S, V) int32: the state after every token from every state; `DEAD` where there is none.

    A token is walked byte by byte, so one that holds the stop string anywhere but
    at its end is dead, also where the stop began in an earlier token.
    """
    states = len(dfa.table)
    # One more row, where the dead stay dead.
    table = np.vstack([dfa.table, np.full((1, 256), DEAD, dtype=np.int32)])
    flat = np.where(table == DEAD, states, table).astype(np.int32).ravel()
    after = np.full((states, matrix.vocabulary_size), DEAD, dtype=np.int32)
    block = max(1, _CELLS // max(1, len(matrix.ids)))
    for first in range(0, states, block):
        rows = np.arange(first, min(states, first + block), dtype=np.int32)
        here = np.repeat(rows[:, None], len(matrix.ids), axis=1)
        for column in matrix.columns:
            running = here[:, : len(column)]
            running[...] = flat[running * 256 + column]
        after[first : first + len(rows), matrix.ids] = np.where(here == states, DEAD, here)
    return after
