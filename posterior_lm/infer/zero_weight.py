"""The error for draws that all have weight zero: it names what killed them."""

from __future__ import annotations

import numpy as np

from posterior_lm.lang.diagnostics import InferenceError, error
from posterior_lm.target.restrict import built_in
from posterior_lm.target.target import LatentInfo, Target


def all_dead(target: Target, terms: np.ndarray, *, listed: bool = False) -> InferenceError:
    """From the terms (N, K) of dead draws; the statement with most terms of −inf is blamed.

    With `listed`, the draws were every value there is, so no value satisfies it.
    """
    killed = np.isneginf(terms).sum(axis=0)
    blamed = int(np.argmax(killed))
    info = target.statements[blamed]
    n = len(terms)
    notes = [
        f"`{other.label}` (line {other.span.line}) rules out {int(k)}"
        for other, k in zip(target.statements, killed, strict=True)
        if k and other is not info
    ]
    notes += [f"`{one.label}` (line {one.span.line}) is built into what is drawn" for one in built_in(target)]
    if listed:
        return InferenceError(
            error(
                "PLM703",
                f"no value satisfies the program: `{info.label}` rules out {_share(int(killed[blamed]), n)}",
                info.span,
                "this statement",
                notes=notes,
                help="loosen the condition or widen the latent's type",
            )
        )
    return InferenceError(
        error(
            "PLM702",
            f"every draw has weight zero: `{info.label}` rules out {int(killed[blamed])} of {n} draws",
            info.span,
            "this statement killed most",
            notes=notes,
            help="draw more with -n, loosen the statement, or make it part of the latent's type",
        )
    )


def _share(killed: int, n: int) -> str:
    return "every value" if killed == n else f"{killed} of all {n} values"


def all_dead_on_the_way(target: Target, info: LatentInfo, n: int) -> InferenceError:
    """For particles that all died while a latent was drawn: nothing that begins as they do has a weight."""
    suspects = [one for one in target.statements if one.keyword in ("condition", "factor")]
    return InferenceError(
        error(
            "PLM710",
            f"all {n} particles died while `{info.name}` was drawn: no value that begins as they did "
            "has a positive weight",
            info.span,
            "this latent",
            notes=[f"`{one.label}` (line {one.span.line}) may have ruled them out" for one in suspects],
            help="draw more with -n, loosen a condition, or make it part of the latent's type",
        )
    )
