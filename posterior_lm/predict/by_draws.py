"""Predictions that are averages over weighted draws: how the draws vote, and how sure that is.

Listed values of a parameter are averaged over draws that have not seen it. Letters: N draws z_i
with weights w_i that the data without y give them, V values of y, t_i(y) = exp(terms that read y).
With m_i = Σ_y t_i(y),

    p(y | z_i) = t_i(y) / m_i,     W_i ∝ w_i m_i,     p(y) = Σ_i W_i p(y | z_i),

so W_i weighs a draw by its posterior once it is known that y is one of the values.

    entropy H(p)  =  Σ_i W_i H(p(· | z_i))  +  I(y; z),

the first part what every draw is unsure of by itself (aleatoric), the second, a mutual
information, what the draws do not agree on (epistemic; Depeweg et al. 2018, eq. 2). Of a latent's
marginal every draw has one value, so all that is unsure is between the draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import evolve, frozen

from posterior_lm.api.engine import draw
from posterior_lm.api.posterior import Estimate, Posterior
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.request import Request
from posterior_lm.infer.weights import normalize, wilson
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.predict.prediction import Datum, Prediction, Vote
from posterior_lm.predict.terms import only, without
from posterior_lm.target.prepared import Data, PreparedProgram
from posterior_lm.target.values import take


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
    return InferenceError.of(
        "PLM703", f"no value of `{name}` has positive probability with these data", where=name
    )


# ------------------------------------------------------------------------------- of a latent


def marginal(posterior: Posterior, latent: str, vote: Vote) -> Prediction:
    """The values of a latent by posterior probability; a hard vote is the same, as a draw has one value.

    `likeliest` is the value of the draw with the highest log reward.
    """
    draws, weights = posterior.draws, posterior.weights
    rows: list[tuple[Datum, float]] = [*posterior.marginal(latent)]
    probs = np.array([p for _, p in rows])
    total = entropy(probs)
    if vote == "likeliest":
        alive = np.where(np.isfinite(draws.log_weights), draws.log_reward, -np.inf)
        value: Datum = draws.values[latent][int(np.argmax(alive))].datum
        return Prediction(latent, ((value, 1.0),), posterior, vote, {}, 0.0, total, 0.0, total)
    if draws.decoded:
        return Prediction(latent, tuple(rows), posterior, vote, {}, 0.0, total, 0.0, total)
    errors, n = np.zeros(len(rows)), math.inf
    if draws.certificate is None:
        n = independent(draws, weights)
        errors = _marginal_errors(posterior, latent, [value for value, _ in rows], probs, n)
    bounds = intervals(probs.tolist(), errors.tolist(), n=n, missing=draws.missing)
    estimates: dict[Datum, Estimate] = {
        value: Estimate(p, float(se), low, high)
        for (value, p), se, (low, high) in zip(rows, errors, bounds, strict=True)
    }
    return Prediction(latent, tuple(rows), posterior, vote, estimates, 0.0, total, 0.0, total)


def _marginal_errors(
    posterior: Posterior, latent: str, values: Sequence[Datum], probs: np.ndarray, n: float
) -> np.ndarray:
    """(V,) as `standard_errors` of indicators, without a column for each value.

    Σ_o (S_o(y) − p S_o)² = Σ_o S_o(y)² − 2 p Σ_o S_o(y) S_o + p² Σ_o S_o², where S_o is the
    weight of one ancestor's draws, and S_o(y) that of those with the value.
    """
    draws, weights = posterior.draws, posterior.weights
    found = origins(draws)
    origin = np.arange(len(weights)) if found is None else found
    place: dict[Datum, int] = {value: k for k, value in enumerate(values)}
    of_draw = np.array([place[v.datum] for v in draws.values[latent]])
    pairs, at = np.unique(np.stack([origin, of_draw]), axis=1, return_inverse=True)
    share = np.bincount(at.reshape(-1), weights=weights)
    whole = np.bincount(origin, weights=weights)
    own = np.bincount(pairs[1], weights=share**2, minlength=len(values))
    crossed = np.bincount(pairs[1], weights=share * whole[pairs[0]], minlength=len(values))
    return _spread(draws, np.maximum(0.0, own - 2 * probs * crossed + probs**2 * np.sum(whole**2)), n)


# ------------------------------------------------------------------------------- weighted averages

TIE = 1e-9
"""Probabilities of one draw that are this near its largest share its vote."""


@frozen(eq=False)
class Mixture:
    """Weights W (N,) and p(y | z_i) (N, V); rows of weight zero are zero."""

    weights: np.ndarray
    conditional: np.ndarray
    missing: float
    """The share that draws that were not listed may have, 0 of sampled ones."""

    @classmethod
    def of(cls, draws: Draws, gained: np.ndarray) -> Mixture:
        """From log t (N, V), nats. Raises ValueError where every value of every draw is impossible."""
        mass = _mass(gained)
        with np.errstate(invalid="ignore"):  # −inf − −inf of a draw that no value fits
            weights = normalize(draws.log_weights + mass)
            conditional = np.where(np.isneginf(mass)[:, None], 0.0, np.exp(gained - mass[:, None]))
        return cls(weights, conditional, _missing(draws, mass))

    def soft(self) -> np.ndarray:
        """(V,) p(y)."""
        return self.weights @ self.conditional

    def votes(self) -> np.ndarray:
        """(N, V): one vote a draw for its likeliest value, split evenly among values that tie."""
        best = self.conditional.max(axis=1, keepdims=True)
        votes = ((self.conditional >= best - TIE) & (best > 0)).astype(float)
        return votes / np.maximum(votes.sum(axis=1, keepdims=True), 1.0)

    def entropies(self) -> tuple[float, float, float]:
        """Total, aleatoric and epistemic entropy, nats; the last two add up to the first."""
        total = entropy(self.soft())
        aleatoric = float(self.weights @ np.array([entropy(row) for row in self.conditional]))
        aleatoric = min(aleatoric, total)  # Jensen's inequality holds but for rounding
        return total, aleatoric, total - aleatoric


def entropy(p: np.ndarray) -> float:
    """−Σ p log p, nats."""
    positive = p[p > 0]
    return max(0.0, float(-(positive * np.log(positive)).sum()))


def _mass(gained: np.ndarray) -> np.ndarray:
    top = gained.max(axis=1)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.where(np.isneginf(top), -np.inf, safe + np.log(np.exp(gained - safe[:, None]).sum(axis=1)))


def _missing(draws: Draws, mass: np.ndarray) -> float:
    """The share that is missing, where no missing draw gives the values more than the best that is there."""
    share = draws.missing
    if share in (0.0, 1.0):
        return share
    listed = float(normalize(draws.log_weights) @ np.exp(mass - mass.max()))
    return share / (share + (1 - share) * listed)


def independent(draws: Draws, weights: np.ndarray) -> float:
    """How many independent draws an average with these weights (N,) rests on, 1 / Σ W² (Kish 1965).

    Of resampled particles the shares are those of their ancestors; of Markov chains at
    most their bulk ESS.
    """
    shares = _by_ancestor(draws, weights)
    count = float(1.0 / np.sum(shares**2))
    return count if draws.chains is None else min(count, draws.chains.bulk_ess or 1.0)


def standard_errors(draws: Draws, weights: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(V,) of Σ_i W_i f_i for columns f (N, V): √Σ W² (f − mean)², times √(n / (n − 1)).

    Self-normalised averages (Owen 2013, eq. 9.9); 0 for a list, which has no sampling
    error; n as in `independent`, and infinite errors where it is 1.
    """
    if draws.exact:
        return np.zeros(columns.shape[1])
    n = independent(draws, weights)
    means = weights @ columns
    squares = np.array([
        np.sum(_by_ancestor(draws, weights * (columns[:, v] - means[v])) ** 2)
        for v in range(columns.shape[1])
    ])  # fmt: skip
    return _spread(draws, squares, n)


def _spread(draws: Draws, squares: np.ndarray, n: float) -> np.ndarray:
    """(V,) standard errors from sums of squares; the draws of Markov chains count as their bulk ESS."""
    if draws.chains is not None:
        squares = squares * (len(draws) / max(1.0, draws.chains.bulk_ess or 1.0))
    few = n / (n - 1) if n > 1 + 1e-9 else math.inf
    with np.errstate(invalid="ignore"):
        return np.where(squares > 0, np.sqrt(squares * few), 0.0)


def origins(draws: Draws) -> np.ndarray | None:
    """(N,) the ancestor of each draw, where particles were resampled; else None."""
    particles = draws.particles
    return None if particles is None or not particles.resampled else particles.origin


def _by_ancestor(draws: Draws, parts: np.ndarray) -> np.ndarray:
    origin = origins(draws)
    return parts if origin is None else np.bincount(origin, weights=parts)


def intervals(
    p: Sequence[float], se: Sequence[float], *, n: float = math.inf, missing: float = 0.0
) -> list[tuple[float, float]]:
    """A 90 % interval of each probability.

    Wilson's (1927) for the number of trials whose standard error is `se`; and at least
    from "none" to "all" of a share that may be unseen: that of a list which is `missing`,
    and 1 − 0.1^(1/n) of n independent draws, which all miss a larger one in less than 10 %.
    """
    unseen = max(missing, 0.0 if math.isinf(n) else 1 - 0.1 ** (1 / max(n, 1.0)))
    found = []
    for mean, spread in zip(p, se, strict=True):
        low, high = _wilson(min(1.0, max(0.0, mean)), spread)
        rest = mean * (1 - unseen)
        found.append((min(low, rest), max(high, rest + unseen)))
    return found


def _wilson(p: float, se: float) -> tuple[float, float]:
    if se == 0 or p in (0.0, 1.0):
        return p, p
    if not math.isfinite(se):
        return 0.0, 1.0
    return wilson(p, p * (1 - p) / se**2)
