"""Which characters one part of a pattern stands for, as ranges of code points.

Plain cases are read off. All others (classes such as `\\w`, and whatever ignores
case) are asked of `re` itself over every character there is, so they cannot differ.
"""

from __future__ import annotations

from functools import cache, lru_cache
from re import ASCII, DOTALL, IGNORECASE, _compiler, _parser  # type: ignore[attr-defined]
from typing import Any

Ranges = tuple[tuple[int, int], ...]
"""Ranges of code points, both ends included, in order and apart."""

LAST = 0x10FFFF
EVERY: Ranges = ((0, LAST),)


def characters(part: tuple[Any, Any], flags: int) -> Ranges:
    """The characters that LITERAL, NOT_LITERAL, ANY or IN stands for under these flags."""
    op, argument = str(part[0]), part[1]
    flags = int(flags) & int(IGNORECASE | DOTALL | ASCII)
    if op == "ANY":
        return EVERY if flags & DOTALL else complement(((10, 10),))
    items = ((op, argument),) if op != "IN" else tuple((str(o), a) for o, a in argument)
    if not flags & IGNORECASE:
        plain = _plain(items)
        if plain is not None:
            return plain
    return _asked(_key(part), flags)


def category(name: str, flags: int) -> Ranges:
    """The characters of a class such as `\\w`, by its letter."""
    return _asked(("IN", (("CATEGORY", {"w": "CATEGORY_WORD"}[name]),)), int(flags) & int(ASCII))


def _plain(items: tuple[tuple[str, Any], ...]) -> Ranges | None:
    ranges: list[tuple[int, int]] = []
    negated = False
    for op, argument in items:
        match op:
            case "LITERAL":
                ranges.append((argument, argument))
            case "NOT_LITERAL":
                return complement(((argument, argument),))
            case "RANGE":
                ranges.append(argument)
            case "NEGATE":
                negated = True
            case _:
                return None
    return complement(union(ranges)) if negated else union(ranges)


def union(ranges: list[tuple[int, int]]) -> Ranges:
    """The same characters with ranges in order and apart."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return tuple(joined)


def complement(ranges: Ranges) -> Ranges:
    """Every other character."""
    left, start = [], 0
    for low, high in ranges:
        if low > start:
            left.append((start, low - 1))
        start = high + 1
    if start <= LAST:
        left.append((start, LAST))
    return tuple(left)


def classes_of(sets: list[Ranges]) -> tuple[list[int], list[int], list[int]]:
    """Code points in classes that no set tells apart: where runs start, their classes, sets as bits."""
    toggles: dict[int, int] = {0: 0}
    for number, ranges in enumerate(sets):
        for low, high in ranges:
            for place in (low, high + 1):
                toggles[place] = toggles.get(place, 0) ^ (1 << number)
    starts, classes = [], []
    known: dict[int, int] = {}
    active = 0
    for place in sorted(toggles):
        active ^= toggles[place]
        starts.append(place)
        classes.append(known.setdefault(active, len(known)))
    return starts, classes, list(known)


def _key(part: tuple[Any, Any]) -> tuple[Any, Any]:
    """The part with names for operators and tuples for lists, which can be a key."""
    op, argument = part
    if str(op) == "IN":
        return ("IN", tuple((str(o), str(a) if str(o) == "CATEGORY" else a) for o, a in argument))
    return (str(op), argument)


@lru_cache(maxsize=512)
def _asked(key: tuple[Any, Any], flags: int) -> Ranges:
    constants = _parser
    op, argument = key
    if op == "IN":
        argument = [
            (getattr(constants, o), getattr(constants, a) if o == "CATEGORY" else a) for o, a in argument
        ]
    state = _parser.State()
    state.flags = flags if flags & ASCII else flags | 32  # re.UNICODE, as every pattern of a str has
    leaf = _parser.SubPattern(state, [(getattr(constants, op), argument)])
    runs = _parser.SubPattern(state, [(constants.MAX_REPEAT, (1, constants.MAXREPEAT, leaf))])
    found = _compiler.compile(runs, state.flags).finditer(_everything())
    return tuple((match.start(), match.end() - 1) for match in found)


@cache
def _everything() -> str:
    """Every code point in order, halves of surrogate pairs included, so that places are code points."""
    return "".join(map(chr, range(LAST + 1)))
