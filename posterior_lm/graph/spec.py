"""What a legal graph looks like; `verify` runs after every pass.

A failure here is our mistake, never the user's, so it is an `InternalError`.
"""

from __future__ import annotations

from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.nodes import (
    NODE_KINDS,
    Apply,
    ChoiceScore,
    Constant,
    DistScore,
    Input,
    Latent,
    LmScore,
    Marker,
    Node,
    PlateSum,
    Power,
    RowField,
    Segments,
    Sum,
    Test,
    Total,
)  # fmt: skip
from posterior_lm.lang.diagnostics import InternalError

VALUES = (Input, Constant, Marker, RowField, Latent, Segments, Apply)
LOGS = (LmScore, ChoiceScore, DistScore, Test, Power, PlateSum, Sum)
TERMS = (*LOGS, Apply, Constant, Input, RowField, Latent)  # a `factor` may be any number

SHAPES: dict[type[Node], tuple[tuple[type[Node], ...] | None, ...]] = {
    # kind -> the kinds its inputs may have; None stands for "any value or log", last one repeats
    Input: (),
    Constant: (),
    Marker: (),
    RowField: (),
    Latent: (VALUES,),
    Segments: ((Constant, Input, RowField, Latent, Marker, Apply, Segments),),
    Apply: (None,),
    LmScore: ((Segments,), (Segments,)),
    ChoiceScore: ((Segments,), VALUES),
    DistScore: (None,),
    Test: ((*VALUES, *LOGS),),
    Power: ((*VALUES, *LOGS), TERMS),
    PlateSum: ((Input,), TERMS),
    Sum: (TERMS,),
    Total: (TERMS,),
}

FIXED_ARITY = {LmScore: 2, Test: 1, Power: 2, PlateSum: 2}


def verify(graph: RewardGraph) -> RewardGraph:
    """The graph itself; raises InternalError where it breaks a rule of this page."""
    totals = [i for i, n in graph.nodes.items() if isinstance(n, Total)]
    if totals != [graph.total]:
        raise InternalError(f"a graph has exactly one total, this one has {totals}")
    if len(graph.sink.terms) != len(graph.sink.inputs):
        raise InternalError("every term of the total belongs to one statement")
    for i, node in graph.nodes.items():
        if type(node) not in NODE_KINDS:
            raise InternalError(f"%{i} is no node kind: {type(node).__name__}")
        _verify_inputs(graph, i, node)
    if not graph.is_acyclic():
        raise InternalError("the graph has a cycle")
    names = [n.name for _, n in graph.latents()]
    if len(set(names)) != len(names):
        raise InternalError(f"latents are unique by name: {names}")
    for name, guide in graph.guides.items():
        if name not in names or not isinstance(graph.nodes.get(guide.context), Segments):
            raise InternalError(f"guide of {name!r} reads no segments or guides no latent")
    return graph


def _verify_inputs(graph: RewardGraph, i: int, node: Node) -> None:
    if any(j not in graph.nodes for j in node.inputs):
        raise InternalError(f"%{i} reads a node that is not there")
    arity = FIXED_ARITY.get(type(node))
    if arity is not None and len(node.inputs) != arity:
        raise InternalError(f"%{i} {node.KIND} has {len(node.inputs)} inputs, not {arity}")
    shape = SHAPES[type(node)]
    if not shape and node.inputs:
        raise InternalError(f"%{i} {node.KIND} reads nothing")
    for place, j in enumerate(node.inputs):
        legal = shape[min(place, len(shape) - 1)]
        if legal is not None and not isinstance(graph[j], legal):
            raise InternalError(f"input {place} of %{i} {node.KIND} cannot be %{j} {graph[j].KIND}")
        if isinstance(graph[j], Total):
            raise InternalError("nothing reads the total")
    if isinstance(node, LmScore) and node.rides is not None and node.rides not in graph.nodes:
        raise InternalError(f"%{i} rides on a node that is not there")
