"""Listed values of a parameter, averaged over draws that have not seen it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve, frozen

from posterior_lm.ask import draw
from posterior_lm.infer.request import Request
from posterior_lm.lang.diagnostics import InferenceError, error
from posterior_lm.posterior import Estimate, Posterior
from posterior_lm.predict.averaging import Mixture, independent, intervals, standard_errors
from posterior_lm.predict.prediction import Datum, Prediction, Vote
from posterior_lm.predict.terms import only, without
from posterior_lm.target.prepared import Data, PreparedProgram
from posterior_lm.target.values import take

if TYPE_CHECKING:
    from posterior_lm.infer.base import Draws


@frozen
class Kept:
    """The share of all answers that the listed values have, and a 90 % interval of it."""

    share: float = 1.0
    low: float = 1.0
    high: float = 1.0


ALL = Kept()
"""That of a type that lists its values."""


def by_draws(
    program: PreparedProgram, request: Request, name: str, values: Sequence[Datum], data: Data,
    n: int | None, vote: Vote, ask: Mapping[str, Any],
) -> Prediction:  # fmt: skip
    """Draws from the program without the terms that read y, and the average of those terms over them."""
    posterior = draw_without(program, request, name, data, n, ask)
    gained = gains(program, name, values, data, posterior.draws)
    return averaged(name, values, gained, posterior, vote)


def draw_without(
    program: PreparedProgram, request: Request, name: str, data: Data, n: int | None, ask: Mapping[str, Any]
) -> Posterior:  # fmt: skip
    """Draws that have not seen the parameter, under the fingerprint and the models of the whole program."""
    bound = program.part(without(program.graph, name)).bind_valid(data)
    return evolve(draw(program, bound, request, n, **ask), fingerprint=program.graph.fingerprint)


def gains(
    program: PreparedProgram, name: str, values: Sequence[Datum], data: Data, draws: Draws
) -> np.ndarray:
    """(N, V) nats: the sum of the terms that read the parameter, for each draw and value; −inf for dead draws."""
    reading = program.part(only(program.graph, name))
    alive = np.flatnonzero(np.isfinite(draws.log_weights))
    few = take(draws.values, alive.tolist())
    out = np.full((len(draws), len(values)), -np.inf)
    for v, value in enumerate(values):
        out[alive, v] = reading.bind_valid({**data, name: value}).log_reward(few)
    return out


def averaged(
    name: str, values: Sequence[Datum], gained: np.ndarray, posterior: Posterior, vote: Vote,
    kept: Kept = ALL,
) -> Prediction:  # fmt: skip
    """The prediction from log t (N, V), where the values have the `kept` share of all answers."""
    draws = posterior.draws
    try:
        mixture = Mixture.of(draws, gained)
    except ValueError:
        raise nothing_possible(name) from None
    total, aleatoric, epistemic = mixture.entropies()
    estimates: dict[Datum, Estimate] = {}
    if vote == "likeliest":
        pairs = np.where(np.isfinite(draws.log_weights)[:, None], draws.log_reward[:, None] + gained, -np.inf)
        probs = mixture.conditional[int(np.unravel_index(np.argmax(pairs), pairs.shape)[0])]
    else:
        columns = mixture.conditional if vote == "soft" else mixture.votes()
        probs = np.minimum(mixture.weights @ columns, 1.0)  # but for rounding
    if vote != "likeliest" and not draws.decoded:
        errors = standard_errors(draws, mixture.weights, columns)
        n = float("inf") if draws.exact else independent(draws, mixture.weights)
        bounds = intervals(probs.tolist(), errors.tolist(), n=n, missing=mixture.missing)
        for value, p, se, (low, high) in zip(values, probs, errors, bounds, strict=True):
            mean, spread = kept.share * float(p), kept.share * float(se)
            estimates[value] = Estimate(mean, spread, kept.low * low, kept.high * high)
    listed = [(v, kept.share * float(p)) for v, p in zip(values, probs, strict=True)]
    return Prediction(
        name, tuple(sorted(listed, key=lambda item: -item[1])), posterior, vote, estimates, 1 - kept.share,
        total, aleatoric, epistemic,
    )  # fmt: skip


def nothing_possible(name: str) -> InferenceError:
    """PLM703: no value of the parameter is possible with these data."""
    return InferenceError(
        error("PLM703", f"no value of `{name}` has positive probability with these data", where=name)
    )
