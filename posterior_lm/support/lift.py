"""From bytes to tokens: what a byte automaton does on every token of a vocabulary."""

from __future__ import annotations

from threading import Lock

import numpy as np
from attrs import frozen

from posterior_lm.lang.regex import PatternError
from posterior_lm.lm.base import Tokenizer
from posterior_lm.support.bounded import keep
from posterior_lm.support.bytes_dfa import DEAD, BytesDfa

_KEPT = 8
"""Byte matrices kept; GPT-2's (50,257 tokens, the longest of 128 bytes) takes 6 MB."""

_CELLS = 1 << 18
"""States times tokens walked at once: 1 MB of int32, which stays in the processor's cache."""


_MOST_CELLS = 1 << 27
"""States times columns of alike tokens: 268 MB of int16."""


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


@frozen(eq=False)
class TokenDfa:
    """The automaton over whole tokens: `after` (S, C) int32 next states, `DEAD` where there is none.

    Tokens that lead everywhere to the same states share a column: `columns` (V,) int32 says
    which, and the last column, of tokens that lead nowhere, is dead. `accepting` (S,) bool.
    State 0 starts, and tokens lead from it to every other.
    """

    after: np.ndarray
    columns: np.ndarray
    accepting: np.ndarray


def lift(dfa: BytesDfa, matrix: TokenMatrix) -> TokenDfa:
    """The automaton over tokens.

    A token is walked byte by byte, so one that holds the stop string anywhere but
    at its end is dead, also where the stop began in an earlier token. Raises
    PatternError where the table would be too large.
    """
    walked, columns = _alike(dfa, matrix)
    states, count = len(dfa.table), len(walked[0]) if walked else 0
    # One more row, where the dead stay dead.
    table = np.vstack([dfa.table, np.full((1, 256), DEAD, dtype=np.int32)])
    flat = np.where(table == DEAD, states, table).astype(np.int32).ravel()
    number = np.full(states + 1, DEAD, dtype=np.int32)
    number[0] = 0
    order, rows, first = [0], [], 0
    block = max(1, _CELLS // max(1, count))
    while first < len(order):
        part = np.array(order[first : first + block], dtype=np.int32)
        first += len(part)
        here = np.repeat(part[:, None], count, axis=1)
        for column in walked:
            running = here[:, : len(column)]
            running[...] = flat[running * 256 + column]
        rows.append(here)
        if len(order) * count > _MOST_CELLS:
            raise PatternError("too large", "the pattern is too large for this vocabulary")
        found = np.unique(here)
        for state in found[(found != states) & (number[found] == DEAD)].tolist():
            number[state] = len(order)
            order.append(state)
    after = np.full((len(order), count + 1), DEAD, dtype=np.int16 if len(order) < 2**15 else np.int32)
    after[:, :-1] = number[np.concatenate(rows)]
    return TokenDfa(after, columns, dfa.accepting[order])


def _alike(dfa: BytesDfa, matrix: TokenMatrix) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """The bytes of one token of each column, longest first and place by place, and `columns`.

    Two bytes are alike where they lead every state to the same one, and two tokens
    where their bytes are alike.
    """
    kinds = np.unique(dfa.table, axis=1, return_inverse=True)[1].reshape(-1)
    dead = (dfa.table == DEAD).all(axis=0)
    tokens = len(matrix.ids)
    usable = np.ones(tokens, dtype=bool)
    for column in matrix.columns:
        usable[: len(column)] &= ~dead[column]
    spelled = np.zeros((tokens, len(matrix.columns)), dtype=np.int16)  # 0 is "no byte"
    for place, column in enumerate(matrix.columns):
        spelled[: len(column), place] = kinds[column] + 1
    kept = np.flatnonzero(usable)
    spelled = spelled[kept]
    spelled = np.ascontiguousarray(spelled[:, : int((spelled > 0).any(axis=0).sum())])
    columns = np.empty(matrix.vocabulary_size, dtype=np.int32)
    if not len(kept):
        columns[:] = 0
        return (), columns
    packed = spelled.view(np.dtype((np.void, 2 * spelled.shape[1]))).reshape(-1)
    _, one, alike = np.unique(packed, return_index=True, return_inverse=True)
    # Tokens are longest first, so in the order of their first tokens columns are too.
    rank = np.empty(len(one), dtype=np.int32)
    order = np.argsort(one, kind="stable")
    rank[order] = np.arange(len(one))
    columns[:] = len(one)
    columns[matrix.ids[kept]] = rank[alike.reshape(-1)]
    chosen = kept[one[order]]
    walked = []
    for column in matrix.columns:
        running = chosen[chosen < len(column)]
        if not len(running):
            break
        walked.append(column[running])
    return tuple(walked), columns
