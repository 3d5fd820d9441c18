"""Log weights and what they say: evidence, effective sample size, Pareto k-hat; and the error where all are zero.

Log weights are (N,) in nats; −inf is a weight of zero.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.target.restrict import built_in
from posterior_lm.target.target import LatentInfo, Target


def logsumexp(log_weights: np.ndarray) -> float:
    """log Σ exp(log_weights); −inf of nothing."""
    if len(log_weights) == 0:
        return -math.inf
    top = float(np.max(log_weights))
    if not math.isfinite(top):
        return top
    with np.errstate(over="ignore"):  # 1e308 and its opposite are further apart than any number
        return top + math.log(float(np.sum(np.exp(log_weights - top))))


def normalize(log_weights: np.ndarray) -> np.ndarray:
    """(N,) weights that sum to 1. Raises ValueError where every weight is zero."""
    if logsumexp(log_weights) == -math.inf:
        raise ValueError("every weight is zero")
    return np.exp(log_shares(log_weights))


def log_shares(log_weights: np.ndarray) -> np.ndarray:
    """(N,) log of the weights that sum to 1, nats; one of them has to be positive.

    The largest is taken off first: beside 1e17 the log of a sum is lost in rounding, and the shares would be 1 each.
    """
    with np.errstate(over="ignore"):  # as above
        below = log_weights - np.max(log_weights)
    shares: np.ndarray = below - math.log(float(np.sum(np.exp(below))))
    return shares


def log_evidence(log_weights: np.ndarray) -> float:
    """log of the mean weight: its exponential is an unbiased estimate of the evidence."""
    return logsumexp(log_weights) - math.log(len(log_weights))


def log_evidence_se(log_weights: np.ndarray) -> float:
    """Standard error of `log_evidence` by the delta method: sd(w) / (mean(w) √N)."""
    n = len(log_weights)
    if n < 2:
        return math.inf
    w = normalize(log_weights) * n  # mean 1
    return float(np.sqrt(np.sum((w - 1) ** 2) / (n - 1) / n))


def ess(log_weights: np.ndarray) -> float:
    """(Σ w)² / Σ w² (Kish 1965): how many equal weights would be as good."""
    w = normalize(log_weights)
    return float(1.0 / np.sum(w * w))


Z90 = 1.6448536269514722
"""The 95 % quantile of the normal: a two-sided 90 % interval."""


def t90(df: int) -> float:
    """The 95 % quantile of Student's t, to 0.04 from two degrees of freedom on (of one it is 5.6, not 6.3).

    The expansion of Cornish & Fisher (Abramowitz & Stegun 1964, 26.7.5).
    """
    z, n = Z90, float(df)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3


def wilson(p: float, n: float) -> tuple[float, float]:
    """The 90 % interval of a share p seen in n independent draws (Wilson 1927)."""
    z = Z90
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def khat(log_weights: np.ndarray) -> float | None:
    """Shape of the generalised Pareto tail of the weights (Vehtari et al. 2024), by arviz-stats.

    Below 0.5 the estimates are reliable, above 0.7 they are not. None where there
    is no tail to fit: fewer than 25 weights, or a tail in which most weights are
    ties, as when few distinct values were drawn; a smooth fit of ties means nothing.
    """
    finite = log_weights[np.isfinite(log_weights)]
    tail = min(len(log_weights) // 5, int(3 * math.sqrt(len(log_weights))))  # the size of the fit
    if tail < 5 or len(finite) <= tail or 2 * len(np.unique(np.sort(finite)[-tail:])) < tail:
        return None
    array_stats = load_khat()
    # A zero weight lies in no upper tail, but the fit wants numbers, so zeros become
    # weights that are zero for any purpose. psislw takes log likelihoods, whose
    # negatives are the log weights of leave-one-out; hence the sign.
    filled = np.where(np.isfinite(log_weights), log_weights, finite.min() - 700.0)
    with np.errstate(all="ignore"):
        shape = float(np.asarray(array_stats.psislw(-filled)[1]))
    return shape if math.isfinite(shape) else None


def load_khat() -> Any:
    """What fits the tail. It loads scipy, which takes seconds that most of what is computed here need not wait for,
    and that whoever foretells the time of a fit of k-hat spends first."""
    from arviz_stats.base import array_stats

    return array_stats


# ---------------------------------------------------------------- where all are zero


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
        share = "every value" if killed[blamed] == n else f"{killed[blamed]} of all {n} values"
        what = f"no value satisfies the program: `{info.label}` rules out {share}"
        code, label = "PLM703", "this statement"
        help = "loosen the condition or widen the latent's type"
    else:
        what = f"every draw has weight zero: `{info.label}` rules out {killed[blamed]} of {n} draws"
        code, label = "PLM702", "this statement killed most"
        help = "draw more with -n, loosen the statement, or make it part of the latent's type"
        if any(one.type == "text" and info.draws(one.name) for one in target.latents):
            help = "no draw came to an end that its type and its model allow: allow more tokens, or bound what repeats, as `.{1,8}` for `.+`"
    return InferenceError.of(code, what, info.span, label, notes=notes, help=help)


def all_dead_on_the_way(target: Target, info: LatentInfo, n: int) -> InferenceError:
    """For particles that all died while a latent was drawn: nothing that begins as they do has a weight."""
    suspects = [one for one in target.statements if one.keyword in ("condition", "factor")]
    return InferenceError.of(
        "PLM710",
        f"all {n} particles died while `{info.name}` was drawn: no value that begins as they did "
        "has a positive weight",
        info.span,
        "this latent",
        notes=[f"`{one.label}` (line {one.span.line}) may have ruled them out" for one in suspects],
        help="draw more with -n, loosen a condition, or make it part of the latent's type",
    )
