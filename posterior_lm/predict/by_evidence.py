"""Listed values of a parameter that a latent's own distribution reads: each is bound in turn.

p(y | data) ∝ evidence of y. No draw is for two values, so there is nothing that draws
could vote on, and the entropy has no two parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from posterior_lm.api.engine import draw
from posterior_lm.api.posterior import Estimate, Posterior
from posterior_lm.graph.graph import ParamSpec
from posterior_lm.infer.methods import METHODS
from posterior_lm.infer.request import Request
from posterior_lm.infer.weights import logsumexp
from posterior_lm.lang.diagnostics import InferenceError, either
from posterior_lm.predict.by_draws import entropy, intervals, nothing_possible
from posterior_lm.predict.prediction import Datum, Prediction, Vote
from posterior_lm.target.prepared import Data, PreparedProgram

IMPOSSIBLE = ("PLM702", "PLM703", "PLM710")
"""What says that a value, or all that was drawn with it, has probability zero."""


def by_evidence(
    program: PreparedProgram, request: Request, param: ParamSpec, values: Sequence[Datum], data: Data,
    n: int | None, vote: Vote, ask: Mapping[str, Any],
) -> Prediction:  # fmt: skip
    """Each value with its share of the evidence. Raises PLM808 for a vote, PLM712 for a method without evidence."""
    name = param.name
    if vote != "soft":
        raise InferenceError.of(
            "PLM808",
            f"the vote `{vote}` needs draws that have not seen `{name}`, and a latent's distribution reads it",
            param.span,
            where=name,
            help="use the vote soft: each value is then compared by its evidence",
        )
    posteriors: dict[int, Posterior] = {}
    mass = np.full(len(values), -np.inf)
    for v, value in enumerate(values):
        try:
            bound = program.bind_valid({**data, name: value})
            posteriors[v] = draw(program, bound, request, n, **ask)
            mass[v] = _evidence(posteriors[v], name)
        except InferenceError as problem:
            dead = all(d.code in IMPOSSIBLE for d in problem.diagnostics)
            if not dead or (v == len(values) - 1 and not posteriors):
                raise
    if logsumexp(mass) == -np.inf:
        raise nothing_possible(name)
    probs = np.exp(mass - logsumexp(mass))
    errors = _errors(probs, [posteriors.get(v) for v in range(len(values))])
    n_least = min((p.draws.independent or np.inf for p in posteriors.values()), default=np.inf)
    missing = max(
        (c.likely_missing_share for p in posteriors.values() if (c := p.draws.certificate)), default=0.0
    )
    bounds = intervals(probs.tolist(), errors.tolist(), n=n_least, missing=missing)
    estimates = {
        value: Estimate(float(p), float(se), low, high)
        for value, p, se, (low, high) in zip(values, probs, errors, bounds, strict=True)
    }
    rows = sorted(((v, float(p)) for v, p in zip(values, probs, strict=True)), key=lambda item: -item[1])
    best = posteriors[max(posteriors, key=lambda v: mass[v])]
    return Prediction(name, tuple(rows), best, vote, estimates, 0.0, entropy(probs))


def _errors(probs: np.ndarray, posteriors: Sequence[Posterior | None]) -> np.ndarray:
    """(V,) by the delta method: ∂p_y / ∂L_k = p_y (1[y = k] − p_k) for log evidences L with errors s."""
    s = np.array([(p.log_evidence_se or 0.0) if p is not None else 0.0 for p in posteriors])
    jacobian = probs[:, None] * (np.eye(len(probs)) - probs[None, :])
    with np.errstate(invalid="ignore"):
        spread: np.ndarray = np.sqrt((jacobian**2) @ (s**2))
    return np.where(np.isnan(spread), np.inf, spread)  # 0 × ∞: one draw knows no error


def _evidence(posterior: Posterior, name: str) -> float:
    if posterior.log_evidence is None:
        giving = [one.name for one in METHODS.values() if one.evidence and not one.needs_policy]
        raise InferenceError.of(
            "PLM712",
            f"`{name}` is predicted by comparing evidence, and {posterior.method} has none",
            where=name,
            help=f"use the method {either(giving)}",
        )
    return posterior.log_evidence
