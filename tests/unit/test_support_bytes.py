"""The byte automata: the first stop string, whole characters, sets of characters."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posterior_lm.support.byte_automata import (
    DEAD,
    BytesDfa,
    any_bytes,
    any_characters,
    fragment,
    text_dfa,
    these_characters,
)


def accepts(dfa: BytesDfa, text: bytes) -> bool:
    state = dfa.run(text)
    return state != DEAD and bool(dfa.accepting[state])


def reads(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("stop", [bytes(s) for n in (1, 2, 3, 4) for s in product(b"ab", repeat=n)])
def test_a_text_ends_with_the_first_stop(stop: bytes) -> None:
    dfa = text_dfa(stop, any_bytes())
    for length in range(9):
        for letters in product(b"ab", repeat=length):
            text = bytes(letters)
            assert accepts(dfa, text) == (text.find(stop) == len(text) - len(stop) >= 0)


@pytest.mark.parametrize("stop", [b"ab", b"aa", b"aab", b"abab"])
def test_the_body_is_checked_and_the_stop_is_exempt(stop: bytes) -> None:
    for chars in ("", "a", "b"):
        dfa = text_dfa(stop, these_characters(chars))
        for length in range(9):
            for letters in product(b"ab", repeat=length):
                text = bytes(letters)
                inside = set(text[: len(text) - len(stop)].decode()) <= set(chars)
                first = text.find(stop) == len(text) - len(stop) >= 0
                assert accepts(dfa, text) == (first and inside)


EDGES = [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE]
EDGES += [0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF]


def test_whole_characters_are_what_python_reads() -> None:
    dfa = text_dfa(None, any_characters())
    for length in range(3):
        for text in product(range(256), repeat=length):
            assert accepts(dfa, bytes(text)) == reads(bytes(text))
    for text in product(EDGES, repeat=3):
        assert accepts(dfa, bytes(text)) == reads(bytes(text))
    for text in product(range(0xED, 0xF6), (0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF), EDGES, (0x7F, 0x80, 0xBF)):
        assert accepts(dfa, bytes(text)) == reads(bytes(text))


@given(st.text(max_size=8), st.text(max_size=12))
def test_sets_of_characters(chars: str, text: str) -> None:
    dfa = text_dfa(None, these_characters(chars))
    assert accepts(dfa, text.encode()) == (set(text) <= set(chars))
    if chars:
        several = "".join(np.random.default_rng(len(text)).choice(list(chars), size=5))
        assert accepts(dfa, several.encode())
        assert not accepts(dfa, several.encode()[:-1] + b"\xff")


def test_fragments_of_characters() -> None:
    e_acute = "é".encode()
    assert fragment(b"a") == fragment("né".encode()) == fragment(None) == (False, False)
    assert fragment(b"a" + e_acute[:1]) == (False, True)
    assert fragment(e_acute[1:] + b"a") == (True, False)
    assert fragment(e_acute[1:] + e_acute[:1]) == (True, True)
