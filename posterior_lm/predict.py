"""Posterior prediction: the distribution of what the query leaves out.

A parameter of a finite type that is left out is a latent with a flat prior over
its values: p(y | data) ∝ Σ_z exp(log reward(z, y)). Where no latent's own
distribution reads y, z is drawn from the program without the terms that do, and

    p(y | data) ∝ Σ_i w_i exp(log reward(z_i, y) − log reward without y (z_i));

else each value is bound in turn and p(y | data) ∝ its evidence. For a latent, the
prediction is its marginal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve, frozen

from posterior_lm.ask import draw_target, target
from posterior_lm.graph.graph import ParamSpec, RewardGraph
from posterior_lm.graph.nodes import Input, Latent, Total
from posterior_lm.infer.weights import logsumexp
from posterior_lm.lang.diagnostics import DataError, InferenceError, error
from posterior_lm.lang.near import nearest
from posterior_lm.posterior import Posterior
from posterior_lm.target.binding import bind_data

if TYPE_CHECKING:
    from posterior_lm.infer.base import Info
    from posterior_lm.lang.source import Span
    from posterior_lm.query import Query

Datum = str | int | bool
MOST_VALUES = 10_000
"""Values of a parameter that are tried one by one."""


@frozen(eq=False)
class Prediction:
    """`probs` sum to 1, likeliest first; `posterior` holds the draws they average over."""

    name: str
    probs: tuple[tuple[Datum, float], ...]
    posterior: Posterior

    def prob(self, value: Datum) -> float:
        """The probability of one value; 0 for one that is not of the type."""
        return dict(self.probs).get(value, 0.0)

    def to_json(self) -> dict[str, Any]:
        """The stable shape of `plm predict --format json`."""
        whole = self.posterior.to_json(top=0)
        kept = ("program", "fingerprint", "lm", "method", "reason", "seed")
        return {
            **{k: whole[k] for k in kept},
            "name": self.name,
            "predictions": [{"value": v, "prob": p} for v, p in self.probs],
            **{k: whole[k] for k in ("log_evidence", "ess", "khat", "n")},
        }


def predict(
    query: Query,
    name: str,
    n: int | None,
    *,
    seed: int,
    budget: float | None,
    progress: Callable[[Info], None] | None,
) -> Prediction:
    """See `Query.predict`. Raises InferenceError PLM803 where there is nothing to predict."""
    graph = query.graph
    ask = {"seed": seed, "budget": budget, "guide": None, "progress": progress}
    param = graph.param(name)
    if param is None:
        drawn = tuple(node.name for _, node in graph.latents())
        if name.split("[", 1)[0] not in drawn:
            _nothing(graph, name, drawn)
        bound = target(query)
        if name not in bound.names:
            _nothing(graph, name, bound.names)
        posterior = draw_target(query, bound, n, **ask)  # type: ignore[arg-type]
        return Prediction(name, tuple(posterior.marginal(name)), posterior)
    values = _values(param)
    _check_guides(graph, param)
    if name in query.data:
        raise DataError(
            error(
                "PLM803",
                f"`{name}` is given, so there is nothing to predict",
                param.span,
                where=name,
                help=f"leave out `{name}`, or name another parameter",
            )
        )
    data = bind_data(graph, query.data, missing=[name])
    data.pop(name, None)  # a default is no observation
    if _read_by_prior(graph, name):
        # A policy may read the value here: each is bound in turn, and no draw is for another.
        return _by_evidence(query, graph, name, values, data, n, ask)
    if query.policy_folder is not None:
        _check_default_guides(query, graph, param, values, data)
    return _by_draws(query, graph, name, values, data, n, ask)


def _nothing(graph: RewardGraph, name: str, latents: tuple[str, ...]) -> None:
    names = [*(p.name for p in graph.params), *latents]
    close = nearest(name, names)
    raise InferenceError(
        error(
            "PLM803",
            f"`{graph.name}` has no parameter or latent `{name}`",
            where=name,
            help=f"did you mean `{close}`?" if close else f"it has {', '.join(names) or 'none'}",
        )
    )


def _values(param: ParamSpec) -> tuple[Datum, ...]:
    match param.type:
        case "one_of":
            return param.choices
        case "bool":
            return (False, True)
        case "int" if param.low is not None and param.high is not None:
            if param.high - param.low < MOST_VALUES:
                return tuple(range(param.low, param.high + 1))
    raise InferenceError(
        error(
            "PLM501",
            f"predicting `{param.name}` is not available yet: its type "
            + (f"has more than {MOST_VALUES:,} values" if param.high is not None else "is not finite"),
            param.span,
            help="give it a type such as one_of(…) or int(0..99)",
        )
    )


def _check_guides(graph: RewardGraph, param: ParamSpec) -> None:
    for latent, guide in graph.guides.items():
        if param.name in guide.reads:
            raise InferenceError(
                error(
                    "PLM804",
                    f"the guide of `{latent}` reads `{param.name}`, which is to be predicted",
                    guide.span,
                    help=f"let the guide read only what is known when `{param.name}` is not",
                )
            )


def _check_default_guides(
    query: Query, graph: RewardGraph, param: ParamSpec, values: tuple[Datum, ...], data: Mapping[str, object]
) -> None:
    """As `_check_guides`, of latents without a `guide` statement: a policy shows them what they explain."""
    from posterior_lm.amortize.reading import readings_of

    if len(values) < 2:
        return
    # A default reading spells what was observed, so it differs between two values that it reads.
    one, other = (readings_of(target(query, graph=graph, data={**data, param.name: v})) for v in values[:2])
    for latent, reading in one.items():
        if not reading.stated and reading.pieces != other[latent].pieces:
            raise InferenceError(
                error(
                    "PLM804",
                    f"the policy reads `{param.name}`, which is to be predicted, to draw `{latent}`",
                    _declared(graph, latent),
                    help=f"write a `guide` statement for `{latent}` that reads only what is known when "
                    f"`{param.name}` is not, and fit again; or predict without the policy",
                )
            )


def _declared(graph: RewardGraph, latent: str) -> Span:
    """Where a latent, or one of a plate's, is declared."""
    base = latent.split("[", 1)[0]
    return next(node.span for _, node in graph.latents() if node.name == base)


def _readers(graph: RewardGraph, name: str) -> set[int]:
    """The nodes whose value depends on the parameter."""
    inputs = [i for i, node in graph.nodes.items() if isinstance(node, Input) and node.name == name]
    return graph.dependents(*inputs)


def _read_by_prior(graph: RewardGraph, name: str) -> bool:
    """Whether a latent's own distribution or type depends on the parameter."""
    readers = _readers(graph, name)
    if any(i in readers for i, node in graph.nodes.items() if isinstance(node, Latent)):
        return True
    sink = graph.sink
    return any(
        i in readers for i, info in zip(sink.inputs, sink.terms, strict=True) if info.keyword == "latent"
    )


def _without(graph: RewardGraph, name: str) -> RewardGraph:
    """The graph without the terms that read the parameter."""
    readers = _readers(graph, name)
    sink = graph.sink
    kept = [k for k, i in enumerate(sink.inputs) if i not in readers]
    total: Total = evolve(
        sink,
        inputs=tuple(sink.inputs[k] for k in kept),
        terms=tuple(sink.terms[k] for k in kept),
    )
    nodes = {i: n for i, n in graph.nodes.items() if i != graph.total}
    nodes[graph.total] = total
    reduced = graph.rebuilt(nodes)
    keep = reduced.ancestors(reduced.total, *(g.context for g in graph.guides.values()))
    return reduced.rebuilt({i: n for i, n in nodes.items() if i in keep})


def _by_draws(
    query: Query, graph: RewardGraph, name: str, values: tuple[Datum, ...], data: Mapping[str, object],
    n: int | None, ask: Mapping[str, Any],
) -> Prediction:  # fmt: skip
    reduced = _without(graph, name)
    base = target(query, graph=reduced, data=data)
    posterior = draw_target(query, base, n, **ask)
    draws = posterior.draws
    mass = []
    for value in values:
        full = target(query, graph=graph, data={**data, name: value})
        log_reward = full.log_reward(draws.values)
        alive = np.isfinite(draws.log_reward)
        gained = np.where(alive, log_reward - np.where(alive, draws.log_reward, 0.0), -np.inf)
        mass.append(logsumexp(draws.log_weights + gained))
    return Prediction(
        name, _normalized(values, mass, graph, name), evolve(posterior, fingerprint=graph.fingerprint)
    )


def _by_evidence(
    query: Query, graph: RewardGraph, name: str, values: tuple[Datum, ...], data: Mapping[str, object],
    n: int | None, ask: Mapping[str, Any],
) -> Prediction:  # fmt: skip
    posteriors: list[Posterior] = []
    mass: list[float] = []
    for value in values:
        try:
            posteriors.append(
                draw_target(query, target(query, graph=graph, data={**data, name: value}), n, **ask)
            )
            mass.append(_evidence(posteriors[-1], name))
        except InferenceError as problem:
            dead = all(d.code in ("PLM702", "PLM703", "PLM710") for d in problem.diagnostics)
            if not dead or (value == values[-1] and not posteriors):
                raise
            mass.append(-np.inf)  # this value, or all that was drawn with it, has probability zero
    best = max(posteriors, key=lambda p: _evidence(p, name))
    return Prediction(name, _normalized(values, mass, graph, name), best)


def _evidence(posterior: Posterior, name: str) -> float:
    if posterior.log_evidence is None:
        raise InferenceError(
            error(
                "PLM712",
                f"`{name}` is predicted by comparing evidence, and {posterior.method} has none",
                where=name,
                help="use the method auto, exact, importance or smc",
            )
        )
    return posterior.log_evidence


def _normalized(
    values: tuple[Datum, ...], mass: list[float], graph: RewardGraph, name: str
) -> tuple[tuple[Datum, float], ...]:
    total = logsumexp(np.array(mass))
    if total == -np.inf:
        raise InferenceError(
            error("PLM703", f"no value of `{name}` has positive probability with these data", where=name)
        )
    probs = [(v, float(np.exp(m - total))) for v, m in zip(values, mass, strict=True)]
    return tuple(sorted(probs, key=lambda item: -item[1]))
