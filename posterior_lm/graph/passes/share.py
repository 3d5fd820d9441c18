"""Share: a score whose tokens begin another score's tokens rides on it.

Score A rides on score B where both use one model and the segments of A's context
and text, in order, are the first segments of B's context. One forward pass over
B's tokens then gives both. That holds token by token only where no boundary of A
is joined with a known neighbour in B, so both of A's boundaries must touch a
latent or be B's own; the evaluator still compares the tokens of every draw.
"""

from __future__ import annotations

from attrs import evolve

from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.nodes import Latent, LmScore


def share(graph: RewardGraph) -> RewardGraph:
    scores = {i: n for i, n in graph.nodes.items() if isinstance(n, LmScore)}
    length = {i: len(_context(graph, n)) + len(_text(graph, n)) for i, n in scores.items()}
    rides: dict[int, int] = {}
    for a in sorted(scores, key=lambda i: (-length[i], i)):
        hosts = [
            b
            for b in scores
            if b != a and b not in rides and length[b] > length[a] and _begins(graph, scores[a], scores[b])
        ]
        if hosts:
            rides[a] = max(hosts, key=lambda b: (length[b], -b))
    nodes = {
        i: evolve(n, rides=rides.get(i)) if isinstance(n, LmScore) else n for i, n in graph.nodes.items()
    }
    return graph.rebuilt(nodes)


def _context(graph: RewardGraph, score: LmScore) -> tuple[int, ...]:
    return graph[score.inputs[0]].inputs


def _text(graph: RewardGraph, score: LmScore) -> tuple[int, ...]:
    return graph[score.inputs[1]].inputs


def _begins(graph: RewardGraph, a: LmScore, b: LmScore) -> bool:
    context, text, other = _context(graph, a), _text(graph, a), _context(graph, b)
    whole = context + text
    if a.lm != b.lm or not text or other[: len(whole)] != whole:
        return False

    def latent(i: int) -> bool:
        return isinstance(graph[i], Latent)

    starts_clean = not context or latent(context[-1]) or latent(text[0])
    ends_clean = latent(text[-1]) or other == whole or latent(other[len(whole)])
    return starts_clean and ends_clean
