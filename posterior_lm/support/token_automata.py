"""From bytes to tokens: what a byte automaton does on every token of a vocabulary, and which states can be completed.

S states, V vocabulary, R = max_tokens, E pairs of states with a token that leads from one to the
other. Whether a value can still be completed with the tokens that are left is known exactly, and
found on these pairs, never on the vocabulary.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from posterior_lm.lang.regex import PatternError
from posterior_lm.lm.protocol import Tokenizer
from posterior_lm.support.base import Cache
from posterior_lm.support.byte_automata import DEAD, BytesDfa

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


_matrices = Cache[tuple[object, ...], TokenMatrix](8)
"""GPT-2's (50,257 tokens, the longest of 128 bytes) takes 6 MB."""


def token_matrix(tokenizer: Tokenizer) -> TokenMatrix:
    """The usable tokens of a tokenizer: with bytes, not special, neither begin nor end of text."""
    return _matrices.get(tokenizer_key(tokenizer), lambda: _build_matrix(tokenizer))


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


# ----------------------------------------------------------------- which states can be completed


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

    `exact[r, s]` says whether a path of exactly r tokens leads from s to an accepting state.
    """
    exact = np.zeros((max_tokens + 1, len(accepting)), dtype=bool)
    exact[0] = accepting
    for length in range(1, max_tokens + 1):
        exact[length, edges.here[exact[length - 1, edges.then]]] = True
    return within(exact, min_tokens, max_tokens)


def within(exact: np.ndarray, min_tokens: int, max_tokens: int) -> np.ndarray:
    """(R + 1, S) bool: entry (c, s) is the OR of exact[r, s] over min - c <= r <= max - c, r >= 0."""
    before = np.zeros((max_tokens + 2, exact.shape[1]), dtype=np.int64)
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


def single_bytes(tokenizer: Tokenizer) -> set[int]:
    """The bytes that are usable tokens of their own."""
    columns = token_matrix(tokenizer).columns
    longer = len(columns[1]) if len(columns) > 1 else 0
    return {*columns[0][longer:].tolist()} if columns else set()


def shortest_spelling(text: bytes, tokenizer: Tokenizer) -> tuple[int, ...] | None:
    """A shortest sequence of usable tokens with these bytes, the lowest ids first; None without one."""
    pieces: dict[bytes, int] = {}
    for token in sorted(token_matrix(tokenizer).ids.tolist()):
        spelled = tokenizer.token_bytes[token]
        if spelled and spelled in text:
            pieces.setdefault(spelled, token)
    best: list[tuple[int, ...] | None] = [()]
    for end in range(1, len(text) + 1):
        ways = [
            (*head, pieces[text[start:end]])
            for start in range(end)
            if (head := best[start]) is not None and text[start:end] in pieces
        ]
        best.append(min(ways, key=lambda way: (len(way), way)) if ways else None)
    return best[-1]
