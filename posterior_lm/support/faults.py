"""Faults that the types share."""

from __future__ import annotations

from posterior_lm.lang.diagnostics import Diagnostic, error
from posterior_lm.lang.source import Span


def reversed_range(what: str, low: int, high: int, span: Span | None) -> Diagnostic:
    """PLM330: the range that `what` spells has its ends the wrong way round."""
    return error(
        "PLM330",
        f"{what} is empty",
        span,
        f"{low} is more than {high}",
        help=f"write {high}..{low}",
    )


def half_surrogate(what: str, text: str, span: Span | None) -> Diagnostic:
    """PLM531: a text that UTF-8 has no bytes for."""
    return error(
        "PLM531",
        f"{what}{text!a} holds half of a surrogate pair, which no tokenizer can spell",
        span,
        "not a character",
        help="write the character itself",
    )
