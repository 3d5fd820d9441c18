"""A graph without the terms that read one parameter, and with nothing but them."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import evolve

from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.nodes import Input, Latent, Total


def readers(graph: RewardGraph, name: str) -> set[int]:
    """The nodes whose value depends on the parameter."""
    inputs = [i for i, node in graph.nodes.items() if isinstance(node, Input) and node.name == name]
    return graph.dependents(*inputs)


def read_by_prior(graph: RewardGraph, name: str) -> bool:
    """Whether a latent's own distribution or type depends on the parameter."""
    reading = readers(graph, name)
    if any(i in reading for i, node in graph.nodes.items() if isinstance(node, Latent)):
        return True
    sink = graph.sink
    return any(
        i in reading for i, info in zip(sink.inputs, sink.terms, strict=True) if info.keyword == "latent"
    )


def without(graph: RewardGraph, name: str) -> RewardGraph:
    """The graph without the terms that read the parameter; no guide may read it."""
    reading = readers(graph, name)
    kept = [k for k, i in enumerate(graph.sink.inputs) if i not in reading]
    return _of_terms(graph, kept, graph.guides)


def only(graph: RewardGraph, name: str) -> RewardGraph:
    """The graph of nothing but the terms that read the parameter, and without guides."""
    reading = readers(graph, name)
    kept = [k for k, i in enumerate(graph.sink.inputs) if i in reading]
    return _of_terms(graph, kept, ())


def _of_terms(graph: RewardGraph, kept: Iterable[int], guides: Iterable[str]) -> RewardGraph:
    sink = graph.sink
    places = list(kept)
    total: Total = evolve(
        sink, inputs=tuple(sink.inputs[k] for k in places), terms=tuple(sink.terms[k] for k in places)
    )
    few = {latent: graph.guides[latent] for latent in guides}
    smaller = graph.rebuilt({**graph.nodes, graph.total: total}, guides=few)
    keep = smaller.ancestors(graph.total, *(g.context for g in few.values()))
    return smaller.rebuilt({i: n for i, n in smaller.nodes.items() if i in keep})
