"""A pattern as Python's own parser reads it, and where in it something stands that is not regular."""

from __future__ import annotations

import re
import warnings
from re import _parser  # type: ignore[attr-defined]
from typing import Any, Literal

Reason = Literal["syntax", "not regular", "too large"]


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


_SPELLINGS: dict[str, tuple[str, str]] = {
    "ASSERT": (r"\(\?<?=", "look-ahead and look-behind are not regular"),
    "ASSERT_NOT": (r"\(\?<?!", "look-ahead and look-behind are not regular"),
    "GROUPREF": (r"\\[1-9]\d?|\(\?P=\w*\)", "a back reference is not regular"),
    "GROUPREF_EXISTS": (r"\(\?\(", "a test of a group is not regular"),
    "ATOMIC_GROUP": (r"\(\?>", "an atomic group depends on the order of search"),
    "POSSESSIVE_REPEAT": (r"[*+?}]\+", "a possessive repeat depends on the order of search"),
}
"""How the refused parts are spelled, and why they are refused."""


def not_regular(pattern: str, op: str) -> PatternError:
    """The error for a part of this kind; its place is the first spelling outside escapes and sets."""
    spelling, why = _SPELLINGS.get(op, ("(?!)", "this is not regular"))
    # An escape or a set is skipped as a whole, so that `\(?=` and `[(?=]` are not mistaken for it.
    scan = re.compile(rf"(?P<found>{spelling})|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
    for match in scan.finditer(pattern):
        if match["found"] is not None:
            return PatternError("not regular", why, match.start(), match.end() - match.start())
    return PatternError("not regular", why)
