"""The byte automaton of a text type: its body and stop, its pattern, and what conditions imply."""

from __future__ import annotations

import re

from posterior_lm.lang.diagnostics import CompileError, Diagnostic, error, shown
from posterior_lm.lang.regex import PatternError, wrong_pattern
from posterior_lm.lang.source import Span
from posterior_lm.support.bytes_dfa import BytesDfa, text_dfa
from posterior_lm.support.characters import any_bytes, any_characters, these_characters
from posterior_lm.support.products import MOST_STATES, both
from posterior_lm.support.regular import pattern_dfa
from posterior_lm.support.spec import TextSpec


def language(spec: TextSpec, span: Span | None = None) -> BytesDfa:
    """The texts of a type, whatever the tokenizer and however many tokens; a grammar is left out.

    Raises CompileError: PLM317 or PLM333 for a pattern that is none or not regular,
    PLM334 where the automaton is too large, PLM335 where there is no text. A mask of
    `also` that would make it too large is left out, so the condition that implies it
    has to be tested all the same.
    """
    if spec.chars is not None:
        body = these_characters(spec.chars)
    else:
        body = any_characters() if spec.canonical else any_bytes()
    plain = text_dfa(None if spec.stop is None else spec.stop.encode("utf-8"), body)
    if spec.pattern is None and not spec.also:
        return plain
    try:
        dfa = plain if spec.pattern is None else _small(both(plain, pattern_dfa(spec.pattern)))
    except PatternError as wrong:
        raise CompileError(wrong_pattern(spec.pattern or "", wrong, span)) from None
    for regular in spec.also:
        try:
            dfa = _small(both(dfa, regular.dfa()))
        except PatternError:
            continue
    if not dfa.accepting.any():
        raise CompileError(_no_text(spec, span))
    return dfa


def _small(dfa: BytesDfa) -> BytesDfa:
    if len(dfa.table) > MOST_STATES:
        raise PatternError("too large", "the pattern needs too many states")
    return dfa


def _no_text(spec: TextSpec, span: Span | None) -> Diagnostic:
    """PLM335: no text at all satisfies the options and conditions together."""
    parts = [f"pattern {shown(spec.pattern, 20)}"] if spec.pattern is not None else []
    if spec.stop is not None:
        parts.append(f"stop={spec.stop!r}")
    if spec.chars is not None:
        parts.append(f"chars={shown(spec.chars, 20)}")
    if spec.also:
        parts.append("the conditions")
    message = f"no text satisfies {' and '.join(parts)}"
    if spec.pattern is not None and spec.stop is not None:
        help = (
            f"the stop is a part of the text: let the pattern end in {re.escape(spec.stop)}, and nowhere else"
        )
    else:
        help = "let them have one text in common"
    return error("PLM335", message, span, "no text is left", help=help)
