"""Answers of a type without a list of values: they are drawn, then scored under every draw.

Answers y_r are drawn after latents z_r that are resampled by their weights. The distinct
ones are the values; the program's terms score each of them under all draws, as they do
listed values, so p(y) is exact but for the latents and for the answers that were not
drawn. Their share is estimated from answers that only one draw gave (Good 1953), each
with its importance weight:

    other = U / (A + U),   A = Σ_i w_i Σ_y t_i(y),
    U = 1/R Σ_r t_r(y_r) / g_r(y_r)  over the r whose answer no other draw gave,

which has the expectation of what R − 1 draws leave out. g is the probability of drawing
the answer; one whose tokens are not those that the program scores counts 0. Intervals
take in what this estimate can err by.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve

from posterior_lm.graph.graph import ParamSpec
from posterior_lm.infer.methods import DRAWS
from posterior_lm.infer.request import Request
from posterior_lm.infer.weights import logsumexp, normalize
from posterior_lm.lang.diagnostics import InferenceError, error
from posterior_lm.predict.averaging import Z90
from posterior_lm.predict.by_draws import Kept, averaged, draw_without, gains, nothing_possible
from posterior_lm.predict.drawn import Answer, draw_answers
from posterior_lm.predict.places import place_of
from posterior_lm.predict.prediction import Datum, Prediction, Vote
from posterior_lm.target.prepared import Data, PreparedProgram

if TYPE_CHECKING:
    from posterior_lm.infer.base import Draws

MOST_ANSWERS = 64
"""Distinct answers that are scored under every draw, those drawn most often."""
MOST_RARE = 64
"""Answers beyond these that are scored under their own draw, to estimate the share of all of them."""


def by_drawn_answers(
    program: PreparedProgram, request: Request, param: ParamSpec, data: Data,
    n: int | None, vote: Vote, ask: Mapping[str, Any],
) -> Prediction:  # fmt: skip
    """The prediction of a text or of an int without bounds. Raises PLM807 where nothing says where it ends."""
    name = param.name
    own_end = param.type == "text" and "stop" in dict(param.options)
    place = place_of(program.graph, name, data, ended=own_end)
    if place is None:
        raise _endless(param)
    posterior = draw_without(program, request, name, data, n, ask)
    draws = posterior.draws
    rng = np.random.default_rng(ask["seed"]).spawn(1)[0]
    rows = _resampled(draws, rng, n or (DRAWS if draws.exact else len(draws)))
    bound = program.part(place.before).bind_valid({})
    answers = draw_answers(bound, place, param, draws.values, rows, rng)
    counts = Counter(a.value for a in answers if a.value is not None)
    if not counts:
        raise nothing_possible(name)
    values = _in_order(counts)[:MOST_ANSWERS]
    gained = gains(program, name, values, data, draws)
    possible = np.isfinite(gained).any(axis=0)
    if not possible.any():
        raise nothing_possible(name)
    values = [value for value, one in zip(values, possible, strict=True) if one]
    gained = gained[:, possible]
    kept = _kept(program, name, data, draws, rows, answers, values, gained, counts, rng)
    return averaged(name, values, gained, posterior, vote, kept)


def _endless(param: ParamSpec) -> InferenceError:
    return InferenceError(
        error(
            "PLM807",
            f"no language model writes `{param.name}` where its end is known, so it cannot be drawn",
            param.span,
            where=param.name,
            help=f'observe it with what follows, as in observe [{param.name}, "."] ~ ..., or with eos; '
            "or give it a type that lists its values, such as int(0..99)",
        )
    )


def _resampled(draws: Draws, rng: np.random.Generator, n: int) -> list[int]:
    """n rows of the draws by weight, systematically (Kitagawa 1996)."""
    cumulated = np.cumsum(draws.normalized_weights)
    cumulated[-1] = max(1.0, cumulated[-1])
    at = (rng.random() + np.arange(n)) / n
    return np.searchsorted(cumulated, at, side="right").clip(0, len(draws) - 1).tolist()


def _in_order(counts: Counter[Any]) -> list[Datum]:
    """Most often drawn first; of equally many, numbers by size and texts by their letters."""
    return [value for value, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def _kept(
    program: PreparedProgram, name: str, data: Data, draws: Draws, rows: Sequence[int],
    answers: Sequence[Answer], values: Sequence[Datum], gained: np.ndarray, counts: Counter[Any],
    rng: np.random.Generator,
) -> Kept:  # fmt: skip
    """The share of all answers that the values have, with a 90 % interval."""
    place = {value: v for v, value in enumerate(values)}
    with np.errstate(divide="ignore"):
        listed = logsumexp((np.log(normalize(draws.log_weights))[:, None] + gained).reshape(-1))
    weights = np.zeros(len(answers))  # t / (g A) of each drawn answer
    rare: list[int] = []
    for r, answer in enumerate(answers):
        if answer.value in place and answer.direct:
            weights[r] = np.exp(gained[rows[r], place[answer.value]] - answer.log_prob - listed)
        elif answer.value is not None and answer.direct:
            rare.append(r)
    picked = rng.permutation(rare)[:MOST_RARE].tolist() if rare else []
    for r in picked:
        one = evolve(
            draws,
            values={latent: (column[rows[r]],) for latent, column in draws.values.items()},
            log_weights=np.zeros(1),
            log_reward=draws.log_reward[[rows[r]]],
        )
        score = gains(program, name, [answers[r].value], data, one)[0, 0]  # type: ignore[list-item]
        weights[r] = np.exp(score - answers[r].log_prob - listed) * len(rare) / len(picked)
    outside = np.array([a.value not in place or counts[a.value] == 1 for a in answers])
    lone = np.where(outside, weights, 0.0)
    ratio = float(lone.mean())
    error = Z90 * float(lone.std()) / math.sqrt(len(answers))
    # A share that as many draws as these weights are worth may all have missed, as in `intervals`.
    worth = float(weights.sum() ** 2 / max(np.sum(weights**2), 1e-300))
    most = ratio + error + 0.1 ** (-1 / max(worth, 1.0)) - 1
    return Kept(1 / (1 + ratio), 1 / (1 + most), 1 / (1 + max(0.0, ratio - error)))
