"""The fewest tokens that spell exactly a given string of bytes."""

from __future__ import annotations

from posterior_lm.lm.base import Tokenizer
from posterior_lm.support.lift import token_matrix


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
