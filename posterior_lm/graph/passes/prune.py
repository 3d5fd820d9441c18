"""Prune: what neither the total nor a guide reads is dropped.

Latents stay even where nothing but their own term reads them, because that term
is part of the total.
"""

from __future__ import annotations

from posterior_lm.graph.graph import RewardGraph


def prune(graph: RewardGraph) -> RewardGraph:
    keep = graph.ancestors(graph.total, *(g.context for g in graph.guides.values()))
    return graph.rebuilt({i: n for i, n in graph.nodes.items() if i in keep})
