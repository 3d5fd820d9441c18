"""Mark: which nodes depend on no latent and so have one value for all draws."""

from __future__ import annotations

from posterior_lm.graph.graph import RewardGraph


def mark(graph: RewardGraph) -> RewardGraph:
    moving = graph.dependents(*(i for i, _ in graph.latents()))
    return graph.rebuilt(graph.nodes, fixed=frozenset(set(graph.nodes) - moving))
