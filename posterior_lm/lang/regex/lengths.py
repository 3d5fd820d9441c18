"""Whether a text of some length matches a pattern, without numpy: the quick answer of `plm check`."""

from __future__ import annotations

from bisect import bisect_right

from posterior_lm.lang.regex.automaton import CharacterDfa, automaton

MOST_STATES = 300
"""States of a pattern that is worth the quick way."""

_SIZES = ((0, 0x7F, 1), (0x80, 0x7FF, 2), (0x800, 0xD7FF, 3), (0xE000, 0xFFFF, 3), (0x10000, 0x10FFFF, 4))
"""Ranges of characters by their number of bytes in UTF-8; halves of surrogate pairs have none."""

Symbol = tuple[int, int, str | None]
"""A class of characters, their number of bytes, and the character where it counts which one it is."""


def surely_some_text(pattern: str, stop: str | None, chars: str | None, low: int, high: int) -> bool:
    """Whether some text of `low` to `high` bytes matches, ends in its first `stop`, and has only `chars` before.

    False is no answer: a large pattern is not tried. Raises PatternError.
    """
    dfa = automaton(pattern).whole()
    if len(dfa.table) > MOST_STATES or high > 1_000:
        return False
    symbols = _symbols(dfa, {*(stop or ""), *(chars or "")}, only_special=chars is not None)
    allowed = None if chars is None else {*chars}
    # Next pairs of a state of the pattern and of how much of the stop is spelled, by number of bytes.
    following: dict[tuple[int, int], set[tuple[int, tuple[int, int]]]] = {}
    reached: list[set[tuple[int, int]]] = [{(0, 0)}] + [set() for _ in range(high)]
    done = len(stop or "")
    for length, states in enumerate(reached):
        for state in states:
            if length >= low and dfa.accepting[state[0]] and state[1] == done:
                return True
            if state not in following:
                following[state] = _following(dfa, symbols, stop, allowed, state)
            for size, then in following[state]:
                if length + size <= high:
                    reached[length + size].add(then)
    return False


def _following(
    dfa: CharacterDfa,
    symbols: list[Symbol],
    stop: str | None,
    allowed: set[str] | None,
    state: tuple[int, int],
) -> set[tuple[int, tuple[int, int]]]:
    here, matched = state
    found: set[tuple[int, tuple[int, int]]] = set()
    if stop is not None and matched == len(stop):
        return found
    for which, size, char in symbols:
        then = dfa.table[here][which]
        spelled = (stop or "")[:matched] + (char or "\0")
        after = 0 if stop is None or char is None else _matched(stop, spelled)
        # What cannot be a part of the stop any more belongs to the body.
        body = spelled[: len(spelled) - after]
        if then >= 0 and (allowed is None or {*body} <= allowed):
            found.add((size, (then, after)))
    return found


def _matched(stop: str, spelled: str) -> int:
    """How many of the last characters are the first of the stop."""
    return next(n for n in range(min(len(stop), len(spelled)), -1, -1) if spelled.endswith(stop[:n]))


def _symbols(dfa: CharacterDfa, special: set[str], *, only_special: bool) -> list[Symbol]:
    symbols: list[Symbol] = [
        (dfa.classes[bisect_right(dfa.starts, ord(char)) - 1], len(char.encode()), char)
        for char in sorted(special)
    ]
    if only_special:
        return symbols
    taken = {ord(char) for char in special}
    others: dict[tuple[int, int], None] = {}
    for start, end, which in zip(dfa.starts, (*dfa.starts[1:], 0x110000), dfa.classes, strict=True):
        for first, last, size in _SIZES:
            points = range(max(start, first), min(end - 1, last) + 1)
            # More points than are taken leave one.
            if any(point not in taken for point in points[: len(taken) + 1]):
                others[which, size] = None
    return [*symbols, *((which, size, None) for which, size in others)]
