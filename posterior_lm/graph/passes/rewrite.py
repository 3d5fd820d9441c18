"""Rewriting a graph node by node, inputs first."""

from __future__ import annotations

from collections.abc import Callable

from attrs import evolve

from posterior_lm.graph.build import GraphBuilder
from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.nodes import LmScore, Node

Rule = Callable[[Node, GraphBuilder], Node | int]


def rewrite(graph: RewardGraph, rule: Rule) -> RewardGraph:
    """A new graph in which `rule` replaced every node.

    The rule sees a node whose inputs are already new, and the builder that holds
    them; it answers a node to add, or the id of one that is there.
    """
    build = GraphBuilder()
    new: dict[int, int] = {}
    # By id where ids respect dependency (they do, the builder hands them out in order):
    # a stable order keeps latents in the order in which they are drawn.
    for old in sorted(graph.nodes):
        node = evolve(graph[old], inputs=tuple(new[i] for i in graph[old].inputs))
        if isinstance(node, LmScore) and node.rides is not None:
            node = evolve(node, rides=None)
        answer = rule(node, build)
        new[old] = answer if isinstance(answer, int) else build.add(answer)
    return graph.rebuilt(
        build.nodes,
        total=new[graph.total],
        guides={k: evolve(g, context=new[g.context]) for k, g in graph.guides.items()},
        fixed=frozenset(),
    )
