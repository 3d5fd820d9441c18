"""Conditions on one latent alone that no value of it satisfies: which one to blame (PLM340)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from posterior_lm.graph.conditions import Conjunct, conjuncts
from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.nodes import Constant, Latent
from posterior_lm.lang.diagnostics import Diagnostic, error
from posterior_lm.lang.values import finite_spec
from posterior_lm.target.certainty import Certainty
from posterior_lm.target.values import Value

LISTED = 10_000
"""Values of a finite latent that are tried without a model: a tenth of a second."""

Parts = Sequence[Conjunct]


def blamed(latent: Latent, parts: Parts, leaves: Callable[[Parts], bool]) -> Diagnostic:
    """PLM340 at the first part with which nothing is left; `leaves` says whether parts leave a value."""
    last = next(k for k in range(len(parts)) if not leaves(parts[: k + 1]))
    part, alone = parts[last], not leaves(parts[last : last + 1])
    return error(
        "PLM340",
        f"no value of `{latent.name}` satisfies this condition",
        part.statement,
        "no value is left" if alone else "no value is left of those that other conditions allow",
        secondary=[(latent.span, "drawn here")],
        notes=_others(() if alone else parts[:last]),
        help=f"loosen the condition, or widen the type of `{latent.name}`",
    )


def _others(parts: Parts) -> list[str]:
    seen = dict.fromkeys((part.statement.line, " ".join(part.statement.text.split())) for part in parts)
    return [f"`{text}` (line {line}) holds too" for line, text in seen]


def impossible(graph: RewardGraph) -> list[Diagnostic]:
    """PLM340 for finite latents of a program before data is bound; needs no model.

    What a parameter decides counts as possible.
    """
    found = []
    for _, latent in graph.latents():
        values = _values(graph, latent)
        parts = [part for part in conjuncts(graph) if part.kind(latent.name) == "mask"]

        def leaves(
            some: Parts, latent: Latent = latent, values: Sequence[tuple[str, str | int]] = values
        ) -> bool:
            return any(holds(graph, latent.name, text, datum, some) for text, datum in values)

        if values and parts and not leaves(parts):
            found.append(blamed(latent, parts, leaves))
    return found


def holds(graph: RewardGraph, name: str, text: str, datum: str | int, parts: Parts) -> bool:
    """Whether a value of a finite latent satisfies the parts, as far as that is certain.

    What is not a number is let through: it is an error, which the evaluator reports.
    """
    certainty = Certainty(graph, {name: Value((), text, datum)})
    return all(certainty.of(part.node) is not part.negated for part in parts)


def _values(graph: RewardGraph, latent: Latent) -> list[tuple[str, str | int]]:
    """Text and datum of every value, where they are few and known; else none."""
    options = dict(zip(latent.options, (graph[i] for i in latent.inputs), strict=True))
    known = {name: node.value for name, node in options.items() if isinstance(node, Constant)}
    finite = finite_spec(latent.choices, known.get("low"), known.get("high"), known.get("lead"))
    if finite is None or finite.size > LISTED:
        return []
    return [(finite.spelling(k), finite.datum(k)) for k in range(finite.size)]
