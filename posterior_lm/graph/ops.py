"""What each operator and function of an expression computes, on plain values.

A numeric operation that has no value (0/0, log of a negative number) gives NaN,
which the evaluator reports with the statement's name.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable

from posterior_lm.lang.automaton import automaton
from posterior_lm.lang.regex import PatternError
from posterior_lm.lang.values import read_json

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


def _numbers(values: tuple) -> list[float]:
    """The numbers among the arguments and in the lists among them."""
    return [x for value in values for x in (value if isinstance(value, tuple) else (value,))]


def _undefined(numbers: list[float]) -> bool:
    return not numbers or any(math.isnan(x) for x in numbers)


def logsumexp(*values: Value) -> float:
    """log Σ exp(x), for numbers of any size; −inf where all are."""
    numbers = _numbers(values)
    if _undefined(numbers):
        return math.nan
    top = max(numbers)
    return top if math.isinf(top) else top + math.log(math.fsum(math.exp(x - top) for x in numbers))


def mean(*values: Value) -> float:
    """The mean of the numbers."""
    numbers = _numbers(values)
    opposite = {math.inf, -math.inf} <= {*numbers}
    return math.nan if opposite or _undefined(numbers) else math.fsum(x / len(numbers) for x in numbers)


def softplus(x: float) -> float:
    """log(1 + exp(x)), without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x: float) -> float:
    """1 / (1 + exp(−x)), without overflow."""
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


def number(text: str) -> float:
    """The decimal number that a text spells, white space around it aside; NaN where it spells none."""
    word = text.strip()
    return float(word) if _NUMBER.fullmatch(word) else math.nan


def field(text: str, name: str) -> str:
    """The field of the object that a JSON text spells, a text as it is and any other value as JSON.

    Empty where the text spells no object, or one without such a field.
    """
    try:
        found = read_json(text)
    except ValueError:
        return ""
    if not isinstance(found, dict) or name not in found:
        return ""
    value = found[name]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def before(text: str, part: str) -> str:
    """What stands in front of the first `part`; empty where there is none."""
    return text[: max(0, text.find(part))]


def after(text: str, part: str) -> str:
    """What stands behind the first `part`; empty where there is none."""
    place = text.find(part)
    return text[place + len(part) :] if place >= 0 else ""


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
    "logsumexp": logsumexp,
    "sigmoid": sigmoid,
    "log_sigmoid": lambda x: -softplus(-x),
    "softplus": softplus,
    "mean": mean,
    "number": number,
    "field": field,
    "before": before,
    "after": after,
    "replace": lambda text, part, by: text.replace(part, by) if part else text,
}
"""`tokens` is not here: it counts a latent's tokens, which only the evaluator knows."""


def spelled(value: Value) -> str:
    """A value as a text: integers and reals in decimal, `true` and `false`."""
    return (
        str(value).lower() if isinstance(value, bool) else str(value)
    )  # the repr of a numpy float names its type
