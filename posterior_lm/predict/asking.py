"""The way from a question to its prediction, and what is refused on it.

A parameter that is left out is an unknown with a flat prior over the values of its
type: p(y | data) ∝ Σ_z exp(log reward(z, y)). Where no latent's own distribution reads
y, z is drawn from the program without the terms that do, and those terms are averaged
over the draws; else each value is bound in turn and compared by its evidence, p(y | data) ∝ evidence
of y. No draw is then for two values, so there is nothing that draws could vote on, and the entropy
has no two parts. For a latent, the prediction is its marginal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from attrs import evolve

from posterior_lm.api.engine import draw
from posterior_lm.api.posterior import Estimate, Posterior
from posterior_lm.api.posteriors import check_rows, of_row
from posterior_lm.graph.graph import ParamSpec, RewardGraph
from posterior_lm.infer.methods import METHODS
from posterior_lm.infer.request import Request, seed_of_row
from posterior_lm.infer.verdict import level
from posterior_lm.infer.weights import logsumexp, normalize
from posterior_lm.lang.diagnostics import DataError, InferenceError, either, meant
from posterior_lm.lang.value_types import VALUE_TYPES
from posterior_lm.predict.by_draws import by_draws, entropy, intervals, marginal, nothing_possible
from posterior_lm.predict.open_answers import by_drawn_answers
from posterior_lm.predict.prediction import Datum, Prediction, Predictions, Vote
from posterior_lm.predict.terms import read_by_prior, readers
from posterior_lm.target.prepared import Data, PreparedProgram, in_row

if TYPE_CHECKING:
    from posterior_lm.infer.base import Info
    from posterior_lm.lang.source import Span

MOST_VALUES = 10_000
"""Values of a parameter that are tried one by one."""


def predict(
    program: PreparedProgram,
    request: Request,
    given: Data,
    name: str,
    n: int | None,
    *,
    vote: Vote = "soft",
    abstain: float | None = None,
    seed: int,
    budget: float | None,
    progress: Callable[[Info], None] | None,
) -> Prediction:
    """See `Query.predict`. Raises DataError or InferenceError PLM803, PLM804, PLM806–PLM809, PLM802 for a vote
    or a probability to abstain at."""
    if vote not in get_args(Vote):
        raise InferenceError.of("PLM802", f"a vote is soft, hard or likeliest, not {vote!r}", where="vote")
    if abstain is not None:
        _check_abstain(abstain, vote)
    found = _predict(
        program, request, given, name, n, vote, {"seed": seed, "budget": budget, "progress": progress}
    )
    return evolve(found, abstain=abstain)


def predict_rows(
    program: PreparedProgram, request: Request, rows: Any, name: str, *, given: Data, n: int | None = None,
    vote: Vote = "soft", abstain: float | None = None, seed: int = 0, budget: float | None = None,
    progress: Callable[[Info], None] | None = None,
) -> Predictions:  # fmt: skip
    """See `Query.predict_rows`."""
    check_rows(rows)
    for k, row in enumerate(rows):
        own = row if program.graph.param(name) is not None else {p: x for p, x in row.items() if p != name}
        program.validate({**given, **own}, path=f"rows[{k}].", missing=[name])
    found = []
    for k, row in enumerate(rows):
        data = {**given, **{p: x for p, x in row.items() if p != name}}
        watch = of_row(progress, k, len(rows))
        how: dict[str, Any] = {"seed": seed_of_row(seed, k), "budget": budget, "progress": watch}
        with in_row(k):
            found.append(predict(program, request, data, name, n, vote=vote, abstain=abstain, **how))
    return Predictions(tuple(found), tuple(row.get(name) for row in rows))


def _check_abstain(abstain: float, vote: Vote) -> None:
    if not 0 <= abstain <= 1:
        raise InferenceError.of(
            "PLM802", f"a probability of being wrong is between 0 and 1, not {abstain!r}", where="abstain"
        )
    if vote != "soft":
        raise InferenceError.of(
            "PLM802",
            f"the vote {vote} does not say with what probability it is wrong",
            where="abstain",
            help="abstain with the vote soft",
        )


def _predict(
    program: PreparedProgram, request: Request, given: Data, name: str, n: int | None, vote: Vote,
    ask: Mapping[str, Any],
) -> Prediction:  # fmt: skip
    graph = program.graph
    param = graph.param(name)
    if param is None:
        return _of_latent(program, request, given, name, n, vote, ask)
    values = _values(param)
    _check_guides(graph, param)
    if name in given:
        raise DataError.of(
            "PLM803",
            f"`{name}` is given, so there is nothing to predict",
            param.span,
            where=name,
            help=f"leave out `{name}`, or name another parameter",
        )
    data = program.validate(given, missing=[name])  # a default is no observation: it is bound over
    if read_by_prior(graph, name):
        # A policy may read the value here: each is bound in turn, and no draw is for another.
        if values is None:
            raise _unlisted(param)
        return by_evidence(program, request, param, values, data, n, vote, ask)
    if request.policy is not None:
        _check_default_guides(program, param, values or _samples(param), data)
    if values is None:
        return by_drawn_answers(program, request, param, data, n, vote, ask)
    return by_draws(program, request, name, values, data, n, vote, ask)


def _of_latent(
    program: PreparedProgram, request: Request, given: Data, name: str, n: int | None, vote: Vote,
    ask: Mapping[str, Any],
) -> Prediction:  # fmt: skip
    graph = program.graph
    drawn = tuple(node.name for _, node in graph.latents())
    if name.split("[", 1)[0] not in {one.split("[", 1)[0] for one in drawn}:
        raise _nothing(graph, name, drawn)
    bound = program.bind(given)
    if name not in bound.names:
        raise _nothing(graph, name, bound.names)
    return marginal(draw(program, bound, request, n, **ask), name, vote)


def _nothing(graph: RewardGraph, name: str, latents: tuple[str, ...]) -> InferenceError:
    names = [*(p.name for p in graph.params), *latents]
    return InferenceError.of(
        "PLM803",
        f"`{graph.name}` has no parameter or latent `{name}`",
        where=name,
        help=meant(name, names, f"it has {', '.join(names) or 'none'}"),
    )


def _values(param: ParamSpec) -> tuple[Datum, ...] | None:
    """The values of a type that lists them; None for a text or an int whose values are drawn."""
    finite = param.finite
    if finite is not None:
        return tuple(finite.values) if param.choices or finite.size <= MOST_VALUES else None
    match param.type:
        case "int" | "text":
            return None
    raise InferenceError.of(
        "PLM806",
        f"`{param.name}` must be {VALUE_TYPES[param.type].meant}, which is nothing that can be predicted",
        param.span,
        help="predict a one_of, bool, int or text",
    )


def _unlisted(param: ParamSpec) -> InferenceError:
    """A value that a latent's distribution reads cannot be drawn after the latents."""
    return InferenceError.of(
        "PLM501",
        f"predicting `{param.name}` is not available yet: a latent's own distribution reads it, and its type "
        + (f"has more than {MOST_VALUES:,} values" if param.high is not None else "is not finite"),
        param.span,
        help="give it a type such as one_of(…) or int(0..99)",
    )


def _check_guides(graph: RewardGraph, param: ParamSpec) -> None:
    reading = readers(graph, param.name)
    for latent, guide in graph.guides.items():
        if guide.context in reading:
            raise InferenceError.of(
                "PLM804",
                f"the guide of `{latent}` reads `{param.name}`, which is to be predicted",
                guide.span,
                help=f"let the guide read only what is known when `{param.name}` is not",
            )


def _samples(param: ParamSpec) -> tuple[Datum, ...]:
    """Two values that differ, of a type that does not list its own."""
    if param.type == "int":
        low = param.low or 0
        return (low, low + 1)
    chars = str(dict(param.options).get("chars", "ab"))
    return (chars[0], chars[-1] * 2)


def _check_default_guides(
    program: PreparedProgram, param: ParamSpec, values: tuple[Datum, ...], data: Data
) -> None:
    """As `_check_guides`, of latents without a `guide` statement: a policy shows them what they explain."""
    if len(values) < 2:
        return
    from posterior_lm.train.guide import readings_of

    # A default reading spells what was observed, so it differs between two values that it reads.
    one, other = (readings_of(program.bind_valid({**data, param.name: v})) for v in values[:2])
    for latent, reading in one.items():
        if not reading.stated and reading.segments != other[latent].segments:
            raise InferenceError.of(
                "PLM804",
                f"the policy reads `{param.name}`, which is to be predicted, to draw `{latent}`",
                _declared(program.graph, latent),
                help=f"write a `guide` statement for `{latent}` that reads only what is known when "
                f"`{param.name}` is not, and fit again; or predict without the policy",
            )


def _declared(graph: RewardGraph, latent: str) -> Span:
    """Where a latent, or one of a plate's, is declared."""
    base = latent.split("[", 1)[0]
    return next(node.span for _, node in graph.latents() if node.name.split("[", 1)[0] == base)


# ---- each value bound in turn

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
    probs = normalize(mass)
    errors = _errors(probs, [posteriors.get(v) for v in range(len(values))])
    n_least = min((p.draws.independent or np.inf for p in posteriors.values()), default=np.inf)
    missing = max((p.draws.missing for p in posteriors.values()), default=0.0)
    bounds = intervals(probs.tolist(), errors.tolist(), n=n_least, missing=missing)
    estimates = {
        value: Estimate(float(p), float(se), low, high)
        for value, p, se, (low, high) in zip(values, probs, errors, bounds, strict=True)
    }
    rows = sorted(((v, float(p)) for v, p in zip(values, probs, strict=True)), key=lambda item: -item[1])
    best = posteriors[max(posteriors, key=lambda v: mass[v])]
    doubted = tuple(values[v] for v, p in posteriors.items() if level(p.draws) == "bad")
    return Prediction(name, tuple(rows), best, vote, estimates, 0.0, entropy(probs), doubted=doubted)


def _errors(probs: np.ndarray, posteriors: Sequence[Posterior | None]) -> np.ndarray:
    """(V,) by the delta method: ∂p_y / ∂L_k = p_y (1[y = k] − p_k) for log evidences L with errors s."""
    s = np.array([(p.draws.log_evidence_se or 0.0) if p is not None else 0.0 for p in posteriors])
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
