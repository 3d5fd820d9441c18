"""A latent's marginal as a prediction: every draw has one value, so what is unsure is between the draws."""

from __future__ import annotations

import math

import numpy as np

from posterior_lm.posterior import Estimate, Posterior
from posterior_lm.predict.averaging import entropy, independent, intervals, origins
from posterior_lm.predict.prediction import Datum, Prediction, Vote


def marginal(posterior: Posterior, latent: str, vote: Vote) -> Prediction:
    """The values of a latent by posterior probability; a hard vote is the same, as a draw has one value.

    `likeliest` is the value of the draw with the highest log reward.
    """
    draws, weights = posterior.draws, posterior.weights
    rows = posterior.marginal(latent)
    probs = np.array([p for _, p in rows])
    total = entropy(probs)
    if vote == "likeliest":
        alive = np.where(np.isfinite(draws.log_weights), draws.log_reward, -np.inf)
        value = draws.values[latent][int(np.argmax(alive))].datum
        return Prediction(latent, ((value, 1.0),), posterior, vote, {}, 0.0, total, 0.0, total)
    if draws.decoded:
        return Prediction(latent, tuple(rows), posterior, vote, {}, 0.0, total, 0.0, total)
    errors, n, missing = np.zeros(len(rows)), math.inf, 0.0
    if draws.certificate is not None:
        missing = draws.certificate.likely_missing_share
    else:
        n = independent(draws, weights)
        errors = _errors(posterior, latent, [value for value, _ in rows], probs, n)
    bounds = intervals(probs.tolist(), errors.tolist(), n=n, missing=missing)
    estimates = {
        value: Estimate(p, float(se), low, high)
        for (value, p), se, (low, high) in zip(rows, errors, bounds, strict=True)
    }
    return Prediction(latent, tuple(rows), posterior, vote, estimates, 0.0, total, 0.0, total)


def _errors(
    posterior: Posterior, latent: str, values: list[Datum], probs: np.ndarray, n: float
) -> np.ndarray:
    """(V,) as `averaging.standard_errors` of indicators, without a column for each value.

    Σ_o (S_o(y) − p S_o)² = Σ_o S_o(y)² − 2 p Σ_o S_o(y) S_o + p² Σ_o S_o², where S_o is the
    weight of one ancestor's draws, and S_o(y) that of those with the value.
    """
    draws, weights = posterior.draws, posterior.weights
    found = origins(draws)
    origin = np.arange(len(weights)) if found is None else found
    place = {value: k for k, value in enumerate(values)}
    of_draw = np.array([place[v.datum] for v in draws.values[latent]])
    pairs, at = np.unique(np.stack([origin, of_draw]), axis=1, return_inverse=True)
    share = np.bincount(at.reshape(-1), weights=weights)
    whole = np.bincount(origin, weights=weights)
    own = np.bincount(pairs[1], weights=share**2, minlength=len(values))
    crossed = np.bincount(pairs[1], weights=share * whole[pairs[0]], minlength=len(values))
    squares = np.maximum(0.0, own - 2 * probs * crossed + probs**2 * np.sum(whole**2))
    if draws.chains is not None:
        squares *= len(weights) / max(1.0, draws.chains.bulk_ess or 1.0)
    few = n / (n - 1) if n > 1 + 1e-9 else math.inf
    with np.errstate(invalid="ignore"):
        return np.where(squares > 0, np.sqrt(squares * few), 0.0)
