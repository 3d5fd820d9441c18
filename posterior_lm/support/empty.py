"""Why a text support holds nothing: which options together leave no value."""

from __future__ import annotations

import numpy as np

from posterior_lm.lang.diagnostics import Diagnostic, error
from posterior_lm.lang.source import Span
from posterior_lm.support.reach import fewest_tokens
from posterior_lm.support.spec import TextSpec


def why_empty(spec: TextSpec, edges: np.ndarray, accepting: np.ndarray, span: Span | None) -> Diagnostic:
    """The PLM330 diagnostic of an empty support, of the arrays of `TextSupport`."""
    limits = f"tokens={spec.min_tokens}..{spec.max_tokens}"
    need = float(fewest_tokens(edges, accepting)[0])
    if np.isinf(need):
        message = f"no tokens of this model spell stop={spec.stop!r}"
        if spec.chars is not None:
            message = f"{message} after characters of {_short(spec.chars)}"
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
    if not spec.canonical or spec.min_tokens > _longest(edges, accepting, spec.max_tokens):
        options = [limits]
        if spec.stop is not None:
            options.append(f"stop={spec.stop!r}")
        if spec.chars is not None:
            options.append(f"chars={_short(spec.chars)}")
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


def _longest(edges: np.ndarray, accepting: np.ndarray, cap: int) -> int:
    """The most tokens, up to `cap`, of a sequence that ends in an accepting state; -1 without any."""
    here = np.zeros(len(edges), dtype=bool)
    here[0] = True
    longest = 0 if accepting[0] else -1
    for count in range(1, cap + 1):
        here = (here.astype(np.float32) @ (edges > 0)) > 0
        if here[accepting].any():
            longest = count
    return longest


def _short(chars: str) -> str:
    return repr(chars if len(chars) <= 20 else chars[:17] + "...")
