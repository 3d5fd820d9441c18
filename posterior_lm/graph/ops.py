"""What each operator and function of an expression computes, on plain values.

A numeric operation that has no value (0/0, log of a negative number) gives NaN,
which the evaluator reports with the statement's name.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable

from posterior_lm.lang.automaton import automaton
from posterior_lm.lang.regex import PatternError

Value = str | int | float | bool | tuple


def _divide(a: float, b: float) -> float:
    if b != 0:
        return a / b
    return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a)


def _small(x: float) -> float:
    """x, or ±∞ for an integer that no float reaches."""
    return x if isinstance(x, float) or x.bit_length() <= 1000 else math.copysign(math.inf, x)


def _log(x: float) -> float:
    return math.log(x) if x > 0 else (-math.inf if x == 0 else math.nan)


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def count(text: str, part: str) -> int:
    """How many non-overlapping times `part` stands in `text`; 0 for an empty part."""
    return text.count(part) if part else 0


def matches(text: str, pattern: str) -> bool:
    """Whether the whole text matches the regular expression: `re.fullmatch`, in linear time.

    Raises `re.error` for a pattern with a back reference, a look-around, an atomic group
    or a possessive repeat: there is no linear way to follow those.
    """
    try:
        return automaton(pattern).matches(text)
    except PatternError as wrong:
        raise re.error(wrong.message, pattern, wrong.position) from None


_WORD = re.compile(r"\w+")


def similarity(a: str, b: str) -> float:
    """Cosine of the two texts' word counts, case ignored, in [0, 1]; 0 where one has no word."""
    left, right = (Counter(_WORD.findall(t.lower())) for t in (a, b))
    norm = math.sqrt(sum(c * c for c in left.values()) * sum(c * c for c in right.values()))
    return sum(c * right[w] for w, c in left.items()) / norm if norm else 0.0


OPS: dict[str, Callable[..., Value]] = {
    "+": lambda a, b: _small(a + b),
    "-": lambda a, b: _small(a - b),
    "*": lambda a, b: _small(a * b),
    "/": _divide,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "unary not": lambda a: not a,
    "unary -": lambda a: -a,
    "if": lambda test, then, orelse: then if test else orelse,
    "list": lambda *items: tuple(items),
    "contains": lambda text, part: part in text,
    "starts_with": lambda text, part: text.startswith(part),
    "ends_with": lambda text, part: text.endswith(part),
    "count": count,
    "words": lambda text: len(text.split()),
    "chars": len,
    "matches": matches,
    "similarity": similarity,
    "abs": abs,
    "min": min,
    "max": max,
    "log": _log,
    "exp": _exp,
}
"""`tokens` is not here: it counts a latent's tokens, which only the evaluator knows."""


def spelled(value: Value) -> str:
    """A value as a segment of text: integers and reals in decimal."""
    return str(value)  # the repr of a numpy float would name its type
