"""Smallest automata against Moore's rounds, and patterns that are too large, refused before they are built."""

from __future__ import annotations

import time

import numpy as np
import pytest

from posterior_lm.lang.automaton import automaton
from posterior_lm.lang.regex import PatternError
from posterior_lm.support.byte_automata import MOST_STATES, BytesDfa, bytes_of, smallest
from posterior_lm.support.smallest import DEAD
from posterior_lm.support.spec import pattern_dfa


def rounds(dfa: BytesDfa) -> int:
    """States of the smallest automaton, by Moore's rounds over a complete one, the dead state left out."""
    dead = len(dfa.table)
    table = np.vstack([dfa.table, np.full((1, 256), dead)])
    table[table == DEAD] = dead
    reached, open_ = {0}, [0]
    while open_:
        for then in set(table[open_.pop()].tolist()) - reached:
            reached.add(then)
            open_.append(then)
    block = {state: int(state != dead and dfa.accepting[state]) for state in (*reached, dead)}
    while True:
        keys = {state: (block[state], *(block[int(t)] for t in table[state])) for state in block}
        names = {key: number for number, key in enumerate(sorted(set(keys.values())))}
        if len(names) == len(set(block.values())):
            return len(names) - 1
        block = {state: names[keys[state]] for state in block}


def test_the_smallest_automaton_is_that_of_moore(rng: np.random.Generator) -> None:
    for _ in range(60):
        size, letters = int(rng.integers(1, 9)), int(rng.integers(1, 4))
        table = np.full((size, 256), DEAD, dtype=np.int32)
        table[:, :letters] = rng.integers(-1, size, (size, letters))
        table[:, 100] = table[:, 0]
        dfa = BytesDfa(table, rng.random(size) < 0.4)
        found = smallest(dfa)
        assert len(found.table) == max(1, rounds(dfa))
        for _ in range(40):
            text = bytes(rng.integers(0, letters, int(rng.integers(0, 8))).tolist())
            ends = [d.run(text) for d in (dfa, found)]
            assert (ends[0] != DEAD and dfa.accepting[ends[0]]) == (
                ends[1] != DEAD and found.accepting[ends[1]]
            )


PATTERNS = [
    *(
        "a",
        "a*",
        "(ab|cd)*e",
        "[a-c]{2,5}",
        ".",
        ".{3}",
        r"\w+",
        "é|è|ê",
        "[à-ÿ]x|[á-é]y",
        r"\d{1,3}(\.\d{2})?",
    ),
    *("(a|b)*a(a|b){3}", "😀?[€-₿]{2}", "(?i)straße", r"[^a]b|[^b]c"),
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_size_is_known_before_a_pattern_is_built(pattern: str) -> None:
    built = bytes_of(automaton(pattern).whole(), strict=True)
    assert len(smallest(built).table) == len(pattern_dfa(pattern).table) == rounds(built)


def test_patterns_that_are_too_large_are_refused_at_once() -> None:
    for pattern in ("." * 3000, ".{0,3900}", "[à-ÿ].{1500}", r".{2000}\.", "(?:..){1400}"):
        began = time.process_time()
        with pytest.raises(PatternError, match="too many states"):
            pattern_dfa(pattern)
        assert time.process_time() - began < 3, pattern
    # What just fits is built, whole: every character but a line's end takes up to eight states.
    assert MOST_STATES - 8 <= len(pattern_dfa("." * 999).table) <= MOST_STATES
    assert len(pattern_dfa("a" * 3000).table) == 3001
