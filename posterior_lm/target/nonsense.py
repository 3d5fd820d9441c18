"""NaN and +infinity among the terms are errors that name the statement."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from posterior_lm.graph.nodes import TermInfo
from posterior_lm.lang.diagnostics import InferenceError, error


def refuse_nonsense(terms: np.ndarray, statements: Sequence[TermInfo]) -> None:
    """Raises InferenceError PLM701 (NaN) or PLM704 (+inf) for terms (N, K) of K statements."""
    for code, bad, what in (
        ("PLM701", np.isnan(terms), "is not a number"),
        ("PLM704", terms == math.inf, "is +infinity"),
    ):
        if bad.any():
            info = statements[int(np.argmax(bad.any(axis=0)))]
            draws = int(bad.any(axis=1).sum())
            raise InferenceError(
                error(
                    code,
                    f"the term of `{info.label}` {what} for {draws} of {len(terms)} draws",
                    info.span,
                    "this statement",
                    help="guard the expression, for example with `if … then … else …`",
                )
            )
