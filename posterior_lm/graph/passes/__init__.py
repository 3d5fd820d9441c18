"""The passes, in order, each with its name and its reason.

Every pass is a function from a graph to a graph that keeps the log reward of
every value; the verifier runs after each one.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.passes.fold import fold
from posterior_lm.graph.passes.mark import mark
from posterior_lm.graph.passes.prune import prune
from posterior_lm.graph.passes.share import share
from posterior_lm.graph.spec import verify


@frozen
class Pass:
    name: str
    reason: str
    run: Callable[[RewardGraph], RewardGraph]


PASSES: tuple[Pass, ...] = (
    Pass("fold", "compute what is constant, join known neighbours, merge powers", fold),
    Pass("prune", "drop what neither the total nor a guide reads", prune),
    Pass("share", "let one forward pass serve scores whose token sequences share a prefix", share),
    Pass("mark", "find what depends on no latent, so it is computed once", mark),
)


def optimize(graph: RewardGraph, *, until: str | None = None) -> RewardGraph:
    """Every pass in order, verified after each; `until` names the last one to run.

    Raises KeyError for an unknown name.
    """
    if until is not None and until not in {p.name for p in PASSES}:
        raise KeyError(until)
    for step in PASSES:
        graph = step.run(graph)
        verify(graph)
        if step.name == until:
            break
    return graph
