"""What is wrong with a pattern as a diagnostic, its caret inside the pattern."""

from __future__ import annotations

import re

from posterior_lm.lang.diagnostics import Diagnostic, error
from posterior_lm.lang.regex.mend import mend
from posterior_lm.lang.regex.tree import PatternError
from posterior_lm.lang.source import Span

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
        case "not regular":
            return error(
                "PLM333",
                "the pattern is not regular, so no automaton can follow it",
                narrow,
                wrong.message,
                help="say it without that, for instance by listing the alternatives",
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
