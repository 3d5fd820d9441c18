"""Sets of characters as automata over the bytes of UTF-8.

A table is (U, 256) int32, -1 is dead. State 0 is the start and the only state in
which no character is half-spelled.
"""

from __future__ import annotations

import numpy as np

_CONTINUATION = bytes(range(0x80, 0xC0))
"""The bytes that go on with a character in UTF-8."""


def any_bytes() -> np.ndarray:
    """(1, 256): every byte string, broken UTF-8 included."""
    return np.zeros((1, 256), dtype=np.int32)


def any_characters() -> np.ndarray:
    """(8, 256): every well-formed UTF-8 text.

    Source: the table of well-formed byte sequences in the Unicode Standard (3-7).
    Overlong spellings, surrogates and what lies beyond U+10FFFF are dead.
    """
    table = np.full((8, 256), -1, dtype=np.int32)
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
    table = np.full((len(states), 256), -1, dtype=np.int32)
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
