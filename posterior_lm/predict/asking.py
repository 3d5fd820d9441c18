"""The way from a question to its prediction, and what is refused on it.

A parameter that is left out is an unknown with a flat prior over the values of its
type: p(y | data) ∝ Σ_z exp(log reward(z, y)). Where no latent's own distribution reads
y, z is drawn from the program without the terms that do, and those terms are averaged
over the draws; else each value is bound in turn and compared by its evidence. For a
latent, the prediction is its marginal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, get_args

from posterior_lm.api.engine import draw
from posterior_lm.graph.graph import ParamSpec, RewardGraph
from posterior_lm.infer.request import Request
from posterior_lm.lang.diagnostics import DataError, InferenceError, meant
from posterior_lm.lang.signatures import VALUE_TYPES
from posterior_lm.predict.by_draws import by_draws, marginal
from posterior_lm.predict.by_evidence import by_evidence
from posterior_lm.predict.open_answers import by_drawn_answers
from posterior_lm.predict.prediction import Datum, Prediction, Vote
from posterior_lm.predict.terms import read_by_prior, readers
from posterior_lm.target.prepared import Data, PreparedProgram
from posterior_lm.train.guide import readings_of

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
    seed: int,
    budget: float | None,
    progress: Callable[[Info], None] | None,
) -> Prediction:
    """See `Query.predict`. Raises DataError or InferenceError PLM803, PLM804, PLM806–PLM809, PLM802 for a vote."""
    if vote not in get_args(Vote):
        raise InferenceError.of("PLM802", f"a vote is soft, hard or likeliest, not {vote!r}", where="vote")
    graph = program.graph
    ask: dict[str, Any] = {"seed": seed, "budget": budget, "progress": progress}
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
    if name.split("[", 1)[0] not in drawn:
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
        case "bool":
            return (False, True)
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
    return next(node.span for _, node in graph.latents() if node.name == base)
