"""Which node is a latent's own distribution, and how strongly the target weighs it."""

from __future__ import annotations

from attrs import frozen

from posterior_lm.graph.nodes import ChoiceScore, DistScore, Latent, LmScore, Node, Power, Segments, Sum
from posterior_lm.lang.diagnostics import InternalError
from posterior_lm.target.target import Target


@frozen
class Prior:
    """The score node of `latent z ~ d`, and the product of the powers around it."""

    node: int
    exponent: float
    lm: str | None
    """The model of a plain language-model prior; None for the other distributions."""


def prior_of(target: Target, name: str) -> Prior:
    """The prior of one latent of a bound program."""
    graph = target.graph
    base = name.split("[", 1)[0]
    for i, info in zip(graph.sink.inputs, graph.sink.terms, strict=True):
        if info.keyword == "latent" and info.about == base:
            found = _search(target, i, name, 1.0)
            if found is not None:
                return found
    raise InternalError(f"`{name}` has no prior")


def _search(target: Target, i: int, name: str, exponent: float) -> Prior | None:
    node = target.graph[i]
    match node:
        case Sum():
            for j in node.inputs:
                found = _search(target, j, name, exponent)
                if found is not None:
                    return found
            return None
        case Power():
            b = float(target.evaluator.fixed_value(node.inputs[0]))  # type: ignore[arg-type]
            return _search(target, node.inputs[1], name, exponent * b)
        case LmScore() | ChoiceScore() | DistScore() if _scores(target, node, name):
            return Prior(i, exponent, node.lm if isinstance(node, LmScore) else None)
    return None


def _scores(target: Target, node: Node, name: str) -> bool:
    graph = target.graph
    value = graph[node.inputs[0 if isinstance(node, DistScore) else 1]]
    if isinstance(value, Segments):
        if len(value.inputs) != 1:
            return False
        value = graph[value.inputs[0]]
    return isinstance(value, Latent) and value.name == name
