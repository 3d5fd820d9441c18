"""Why a text support holds nothing: which options together leave no value."""

from __future__ import annotations

import numpy as np

from posterior_lm.lang.diagnostics import Diagnostic, error, shown
from posterior_lm.lang.source import Span
from posterior_lm.support.reach import Edges, fewest_tokens, most_tokens
from posterior_lm.support.spec import TextSpec


def why_empty(spec: TextSpec, edges: Edges, accepting: np.ndarray, span: Span | None) -> Diagnostic:
    """The PLM330 diagnostic of an empty support, of the arrays of `TextSupport`."""
    limits = f"tokens={spec.min_tokens}..{spec.max_tokens}"
    if spec.grammar is not None or spec.json is not None:
        which = "grammar" if spec.grammar is not None else "schema"
        return error(
            "PLM330",
            f"no value of {limits} satisfies the {which}",
            span,
            "no value is left",
            help="allow more tokens, or choose a model whose tokens spell it; a stop string is a part of the text",
        )
    if spec.pattern is not None or spec.also:
        return _no_match(spec, limits, edges, accepting, span)
    need = float(fewest_tokens(edges, accepting)[0])
    if np.isinf(need):
        message = f"no tokens of this model spell stop={spec.stop!r}"
        if spec.chars is not None:
            message = f"{message} after characters of {shown(spec.chars, 20)}"
        return error(
            "PLM330",
            message,
            span,
            "no value is left",
            help="choose another stop string, or a model whose tokens spell it",
        )
    if need > spec.max_tokens:
        enough = max(int(need), spec.min_tokens)
        return error(
            "PLM330",
            f"{limits} cannot spell stop={spec.stop!r}, which needs {need:.0f} tokens",
            span,
            "no value is left",
            help=f"write tokens={spec.min_tokens}..{enough}, or a shorter stop string",
        )
    if not spec.canonical or spec.min_tokens > most_tokens(edges, accepting, spec.max_tokens):
        options = [limits]
        if spec.stop is not None:
            options.append(f"stop={spec.stop!r}")
        if spec.chars is not None:
            options.append(f"chars={shown(spec.chars, 20)}")
        return error(
            "PLM330",
            f"no value has {' and '.join(options)}",
            span,
            "no value is left",
            help="allow fewer tokens, or more characters",
        )
    return error(
        "PLM330",
        f"the tokenizer itself spells no value of {limits} as canonical=true asks",
        span,
        "no value is left",
        help="drop canonical=true, or widen tokens=",
    )


def _no_match(
    spec: TextSpec, limits: str, edges: Edges, accepting: np.ndarray, span: Span | None
) -> Diagnostic:
    """PLM330 where a pattern or a condition is satisfied by some text, and by none of these tokens."""
    what = "the conditions" if spec.pattern is None else f"pattern {shown(spec.pattern, 20)}"
    need = float(fewest_tokens(edges, accepting)[0])
    if np.isinf(need):
        message, help = (
            f"no tokens of this model spell a text of {what}",
            "choose a model whose tokens spell it",
        )
    elif need > spec.max_tokens:
        message = f"no value of {limits} satisfies {what}: the shortest has {need:.0f} tokens"
        help = f"write tokens={spec.min_tokens}..{max(int(need), spec.min_tokens)}"
    elif spec.canonical and spec.min_tokens <= most_tokens(edges, accepting, spec.max_tokens):
        message = (
            f"the tokenizer itself spells no value of {limits} that satisfies {what}, as canonical=true asks"
        )
        help = "drop canonical=true, or widen tokens="
    else:
        message = f"no value of {limits} satisfies {what}"
        help = "allow fewer tokens, or widen the pattern"
    return error("PLM330", message, span, "no value is left", help=help)
