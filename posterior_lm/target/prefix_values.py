"""What is certain of an expression when only the first tokens of a latent are known.

An answer holds for every completion: a text by its beginning, a number by its
bounds, a truth value where it can no longer change, `None` where nothing is certain.
The functions of `graph.ops` keep their meaning: whatever is known whole is handed to
them, and a result that could be "not a number" is never certain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from attrs import frozen

from posterior_lm.graph.ops import OPS

INF = math.inf


@frozen
class Text:
    """A text that begins like this, and that is this where `whole`; at least `more` characters follow."""

    text: str
    whole: bool
    more: int = 0


@frozen
class Between:
    """A number from `low` to `high`, both included; −∞ and ∞ where there is no bound."""

    low: float
    high: float


Certain = Text | Between | bool | None

COUNT = Between(0, INF)


def certain(value: object) -> Certain:
    """A value that is known."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return Text(value, whole=True)
    if isinstance(value, int | float) and math.isfinite(value):
        return Between(value, value)
    return None


def known(value: Certain) -> object:
    """The one value that it can be, or None."""
    match value:
        case bool():
            return value
        case Text(text=text, whole=True):
            return text
        case Between(low=low, high=high) if low == high:
            return low
    return None


def apply(op: str, args: Sequence[Certain]) -> Certain:
    """What is certain of a function of such values."""
    whole = [known(a) for a in args]
    if None not in whole:
        try:
            return certain(OPS[op](*whole))
        except Exception:
            return None  # the evaluator names the statement, once a whole value gets there
    if op == "if":
        return _if(*args)
    found = _LOGIC.get(op) or _TEXTS.get(op)
    if found is not None:
        return found(*args)
    numbers = [a for a in args if isinstance(a, Between)]
    if len(numbers) < len(args) or op not in _NUMBERS:
        return None
    return _NUMBERS[op](*numbers)


def joined(parts: Sequence[Certain]) -> Certain:
    """The texts one after the other, known up to the first that is not whole."""
    text = ""
    for part in parts:
        if not isinstance(part, Text):
            return Text(text, whole=False)
        text += part.text
        if not part.whole:
            return Text(text, whole=False, more=part.more)
    return Text(text, whole=True)


# ------------------------------------------------------------------- truth values


def _and(a: Certain, b: Certain) -> Certain:
    if a is False or b is False:
        return False  # also where the other one is not a number
    return True if a is True and b is True else None


def _or(a: Certain, b: Certain) -> Certain:
    if a is True or b is True:
        return True
    return False if a is False and b is False else None


def _if(test: Certain, then: Certain, orelse: Certain) -> Certain:
    if isinstance(test, bool):
        return then if test else orelse
    # A test that is not a number makes the whole so, and an unknown one may be that.
    return None


_LOGIC: dict[str, Callable[..., Certain]] = {"and": _and, "or": _or}


# ------------------------------------------------------------------- texts


def _chars(text: Certain) -> Certain:
    return Between(len(text.text) + text.more, INF) if isinstance(text, Text) else COUNT


def _words(text: Certain) -> Certain:
    # More characters lengthen the last word or begin another, and join no two.
    return Between(len(text.text.split()), INF) if isinstance(text, Text) else COUNT


def _count(text: Certain, part: Certain) -> Certain:
    # Occurrences are counted from the left, so those in the beginning stay.
    what = known(part)
    if not isinstance(text, Text) or not isinstance(what, str):
        return COUNT
    found = OPS["count"](text.text, what)
    assert isinstance(found, int)
    return Between(found, INF)


def _contains(text: Certain, part: Certain) -> Certain:
    what = known(part)
    return True if isinstance(text, Text) and isinstance(what, str) and what in text.text else None


def _starts_with(text: Certain, part: Certain) -> Certain:
    what = known(part)
    if not isinstance(text, Text) or not isinstance(what, str):
        return None
    if text.text.startswith(what):
        return True
    return None if what.startswith(text.text) else False


def _begins_otherwise(a: Certain, b: Certain) -> bool:
    """Whether two texts are certainly different: they begin differently, or one is too long."""
    if not isinstance(a, Text) or not isinstance(b, Text):
        return False
    for one, other in ((a, b), (b, a)):
        if one.whole and len(other.text) + other.more > len(one.text):
            return True
    shared = min(len(a.text), len(b.text))
    return a.text[:shared] != b.text[:shared]


def _equal(a: Certain, b: Certain) -> Certain:
    if _begins_otherwise(a, b):
        return False
    if isinstance(a, Between) and isinstance(b, Between) and (a.high < b.low or b.high < a.low):
        return False
    return None


def _unequal(a: Certain, b: Certain) -> Certain:
    return True if _equal(a, b) is False else None


_TEXTS: dict[str, Callable[..., Certain]] = {
    "chars": _chars,
    "words": _words,
    "count": _count,
    "contains": _contains,
    "starts_with": _starts_with,
    "==": _equal,
    "!=": _unequal,
}


# ------------------------------------------------------------------- numbers


def _bounds(low: float, high: float) -> Certain:
    """Between two bounds; nothing is certain where one of them is ∞ − ∞."""
    return None if math.isnan(low) or math.isnan(high) else Between(low, high)


def _times(a: Between, b: Between) -> Certain:
    products = [0.0 if 0 in (x, y) else x * y for x in (a.low, a.high) for y in (b.low, b.high)]
    return _bounds(min(products), max(products))


def _less(a: Between, b: Between) -> Certain:
    return True if a.high < b.low else (False if a.low >= b.high else None)


def _at_most(a: Between, b: Between) -> Certain:
    return True if a.high <= b.low else (False if a.low > b.high else None)


_NUMBERS: dict[str, Callable[..., Certain]] = {
    "+": lambda a, b: _bounds(a.low + b.low, a.high + b.high),
    "-": lambda a, b: _bounds(a.low - b.high, a.high - b.low),
    "unary -": lambda a: Between(-a.high, -a.low),
    "*": _times,
    "min": lambda a, b: Between(min(a.low, b.low), min(a.high, b.high)),
    "max": lambda a, b: Between(max(a.low, b.low), max(a.high, b.high)),
    "<": _less,
    "<=": _at_most,
    ">": lambda a, b: _less(b, a),
    ">=": lambda a, b: _at_most(b, a),
}
