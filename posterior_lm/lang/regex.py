"""Regular expressions as Python's own parser reads them: their parts, and what is wrong with them.

All of `re` that is read here is regular and runs in linear time (`lang/automaton.py`). The rest is refused, with the
place in the pattern where it stands and what to write instead: back references are not regular, and
look-around, which is, would cost a product of automata where conditions can say the same.

Which characters a part stands for is read off in plain cases. All others (classes such as `\\w`, and
whatever ignores case) are asked of `re` itself over every character there is, so they cannot differ.
"""

from __future__ import annotations

import re
import warnings
from functools import cache, lru_cache
from re import ASCII, DOTALL, IGNORECASE, _compiler, _parser  # type: ignore[attr-defined]
from typing import Any, Literal

from posterior_lm.lang.diagnostics import Diagnostic, error
from posterior_lm.lang.source import Span

Reason = Literal["syntax", "unsupported", "too large"]

UNLIMITED: Any = _parser.MAXREPEAT
"""The upper count of `*` and `+`."""


class PatternError(ValueError):
    """A pattern that has no automaton: why, and the place (a character of the pattern, or None)."""

    def __init__(self, reason: Reason, message: str, position: int | None = None, width: int = 1) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.position = position
        self.width = width


def parse(pattern: str) -> Any:
    """The tree of `re`'s parser. Raises PatternError for wrong syntax.

    The parser is a private module of the standard library. It is used all the same,
    because a second reading of the syntax would differ from `re` sooner or later.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(pattern)  # which finds more than its parser, such as a look-behind without a width
            return _parser.parse(pattern)
    except re.error as wrong:
        raise PatternError("syntax", wrong.msg, wrong.pos) from None
    except OverflowError as wrong:
        raise PatternError("syntax", str(wrong)) from None
    except RecursionError:
        raise PatternError("too large", "the brackets are nested too deeply") from None


LOOKING = "look-ahead and look-behind are not supported"

_SPELLINGS: dict[str, tuple[str, str]] = {
    "ASSERT": (r"\(\?<?=", LOOKING),
    "ASSERT_NOT": (r"\(\?<?!", LOOKING),
    "GROUPREF": (r"\\[1-9]\d?|\(\?P=\w*\)", "a back reference is not supported"),
    "GROUPREF_EXISTS": (r"\(\?\(", "a test of a group is not supported"),
    "ATOMIC_GROUP": (r"\(\?>", "an atomic group depends on the order of search"),
    "POSSESSIVE_REPEAT": (r"[*+?}]\+", "a possessive repeat depends on the order of search"),
}
"""How the refused parts are spelled, and why they are refused."""


def unsupported(pattern: str, op: str) -> PatternError:
    """The error for a part of this kind; its place is the first spelling outside escapes and sets."""
    spelling, why = _SPELLINGS.get(op, ("(?!)", "this is not supported"))
    # An escape or a set is skipped as a whole, so that `\(?=` and `[(?=]` are not mistaken for it.
    scan = re.compile(rf"(?P<found>{spelling})|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
    for match in scan.finditer(pattern):
        if match["found"] is not None:
            return PatternError("unsupported", why, match.start(), match.end() - match.start())
    return PatternError("unsupported", why)


# ---------------------------------------------------------------- characters

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


# ---------------------------------------------------------------- what is wrong, its caret inside the pattern

_ONE_CHARACTER = re.compile(r"\\(?:u\{[0-9A-Fa-f]{1,6}\}|.)|.", re.DOTALL)


def wrong_pattern(pattern: str, wrong: PatternError, span: Span | None) -> Diagnostic:
    """PLM317, PLM333 or PLM334; `span` is the pattern's own string, or what holds it."""
    narrow = None if span is None else inside(span, pattern, wrong.position, wrong.width)
    match wrong.reason:
        case "syntax":
            return error(
                "PLM317",
                "the pattern is not a regular expression",
                narrow,
                wrong.message,
                help=mend(wrong.message),
            )
        case "unsupported":
            listing = "say it without that, for instance by listing the alternatives"
            return error(
                "PLM333",
                "the pattern has a part that no automaton is built for",
                narrow,
                wrong.message,
                help="ask for it in a condition of its own: `matches(z, …)` or `not matches(z, …)`"
                if wrong.message == LOOKING
                else listing,
            )
    return error(
        "PLM334",
        wrong.message,
        span,
        "too large to compile",
        help=r"count less, split an alternative off, or write [a-z0-9] or (?a) instead of \w and \d",
    )


def inside(span: Span, pattern: str, position: int | None, width: int) -> Span:
    """The place of a character of the pattern where the span is a string literal that spells it; else all."""
    text = span.text
    if position is None or not text.startswith(('"', 'r"')):
        return span
    if text.startswith("r"):
        starts = list(range(2, len(text)))
    else:
        starts = [1 + m.start() for m in _ONE_CHARACTER.finditer(text[1:-1])] + [len(text) - 1]
    if len(starts) != len(pattern) + 1:
        return span
    # What is missing at the end is shown at the closing quote.
    first = starts[min(position, len(pattern))]
    last = starts[min(position + width, len(pattern))]
    return Span(span.source, span.start + first, span.start + max(last, first + 1))


_MENDS = (
    ("missing ), unterminated subpattern", r"close it with `)`, or write `\(` for the character"),
    ("missing ), unterminated comment", "close it with `)`"),
    ("missing >", "close the name with `>`, or write `(...)` without a name"),
    ("missing }", "close it with `}`"),
    ("unterminated character set", r"close it with `]`, or write `\[` for the character"),
    ("unbalanced parenthesis", r"take this `)` out, or write `\)` for the character"),
    ("nothing to repeat", r"put what is repeated before it, or write `\` before it for the character"),
    ("multiple repeat", "put what is repeated in brackets, `(?:...)`, or take one of the two out"),
    ("min repeat greater", "write the smaller number first, `{1,3}`"),
    ("bad escape (end of pattern)", r"write `\\` for a backslash"),
    ("bad escape", r"take the `\` out, or write `\\` for a backslash"),
    ("incomplete escape", r"write all its digits, such as `\x41` and `\u00e9`"),
    ("bad character range", r"write the first character of a range first, `a-z`, or `\-` for the character"),
    ("look-behind requires", "say it without looking behind, for instance by listing the alternatives"),
    ("redefinition of group name", "give the group another name, or none: `(...)`"),
    (
        "unknown extension",
        r"write `(?:...)` for a group, `(?P<name>...)` for one with a name, or `\(` for the character",
    ),
    ("global flags", "put it at the start of the pattern, or write `(?i:...)`"),
    ("undefined character name", "write the character itself"),
)
_GENERAL = r"write `\` before a character that stands for itself, such as `\(`"


def mend(message: str) -> str:
    """An edit for the message of a `re.error`."""
    return next((help for start, help in _MENDS if message.startswith(start)), _GENERAL)
