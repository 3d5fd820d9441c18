"""Functions of lists of whole numbers, one after the other: it writes what they make of the list before its trigger.

For programs that are found from pairs of inputs and outputs. Every function takes a list to a list, and nothing is run
but what stands in the table below.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from attrs import frozen

Numbers = list[int]

MOST_ITEMS, LARGEST = 64, 10**9
"""A longer list, or a larger number, is declined."""

PLAIN: dict[str, Callable[[Numbers], Numbers]] = {
    "sort": sorted,
    "reverse": lambda x: x[::-1],
    "unique": lambda x: list(dict.fromkeys(x)),
    "evens": lambda x: [v for v in x if v % 2 == 0],
    "odds": lambda x: [v for v in x if v % 2],
    "sum": lambda x: [sum(x)],
    "length": lambda x: [len(x)],
    "max": lambda x: [max(x)] if x else x,
    "min": lambda x: [min(x)] if x else x,
}
COUNTED: dict[str, Callable[[Numbers, int], Numbers]] = {
    "add": lambda x, n: [v + n for v in x],
    "times": lambda x, n: [v * n for v in x],
    "take": lambda x, n: x[: max(n, 0)],
    "drop": lambda x, n: x[max(n, 0) :],
    "above": lambda x, n: [v for v in x if v > n],
    "below": lambda x, n: [v for v in x if v < n],
}
"""Those that a number follows, as in `take 2`."""

_CALL = re.compile(
    r"\[([-0-9, ]{0,400})\]((?: *(?:, *)?[a-z]+(?![a-z])(?: -?[0-9]{1,9}(?![0-9]))?)*) *", re.ASCII
)
_STEP = re.compile(r"([a-z]+)(?: (-?[0-9]{1,9}))?", re.ASCII)


@frozen
class ListFunctions:
    """Writes the list that functions make of the one before them: "[3, 1, 2] sort, take 2" becomes "[1, 2]"."""

    trigger: str

    def __call__(self, text: str) -> str | None:
        """The list as text, with a space in front where the trigger has one; None for what is no call of known functions."""
        body = text[: len(text) - len(self.trigger)]
        call = _CALL.fullmatch(body[body.rfind("[") :]) if "[" in body else None
        if call is None:
            return None
        try:
            found = [int(v) for v in call[1].split(",")] if call[1].strip() else []
        except ValueError:
            return None
        for name, number in _STEP.findall(call[2]):
            if name in PLAIN and not number:
                found = PLAIN[name](found)
            elif name in COUNTED and number:
                found = COUNTED[name](found, int(number))
            else:
                return None
            if len(found) > MOST_ITEMS or any(abs(v) > LARGEST for v in found):
                return None
        return " " * body.endswith(" ") + str(found)
