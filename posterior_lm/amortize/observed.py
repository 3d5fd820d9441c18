"""Which scores of a graph belong to observed statements."""

from __future__ import annotations

from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.nodes import ChoiceScore, DistScore, LmScore, PlateSum, Power, Sum


def observed_scores(graph: RewardGraph) -> set[int]:
    """The scores that observed statements add to the log reward, powers and plates seen through."""
    found: set[int] = set()
    sink = graph.sink
    stack = [i for i, info in zip(sink.inputs, sink.terms, strict=True) if info.keyword == "observe"]
    while stack:
        i = stack.pop()
        node = graph[i]
        match node:
            case Sum():
                stack += node.inputs
            case Power() | PlateSum():
                stack.append(node.inputs[1])
            case LmScore() | ChoiceScore() | DistScore():
                found.add(i)
    return found
