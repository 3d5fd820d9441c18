"""What of a bound program a simulation draws: in which order, from which scores, and whether that is all."""

from __future__ import annotations

from collections.abc import Sequence

from posterior_lm.amortize.observable import Observable
from posterior_lm.amortize.texts import split_lead
from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.nodes import ChoiceScore, DistScore, LmScore, Segments, Sum
from posterior_lm.infer.prior import prior_of
from posterior_lm.support.base import Support
from posterior_lm.target.segments import Known, Splice
from posterior_lm.target.target import LatentInfo, Target


def drawing_score(target: Target, info: LatentInfo) -> int:
    """The score node that says how an observed parameter is distributed."""
    for i, node in sorted(target.graph.nodes.items()):
        match node:
            case LmScore():
                text = target.graph[node.inputs[1]]
                if isinstance(text, Segments) and info.node in text.inputs:
                    return i
            case ChoiceScore() if node.inputs[1] == info.node:
                return i
            case DistScore() if node.inputs[0] == info.node:
                return i
    raise KeyError(info.name)


def order(target: Target, seen: set[str]) -> list[str]:
    """Names in an order in which each one's distribution reads only earlier ones."""
    nodes = {info.node: info.name for info in target.latents}
    needs: dict[str, set[str]] = {}
    for info in target.latents:
        base = info.name.split("[", 1)[0]
        score = drawing_score(target, info) if base in seen else prior_of(target, info.name).node
        needs[info.name] = {nodes[i] for i in target.graph.ancestors(score) if i in nodes} - {info.name}
    order: list[str] = []
    while len(order) < len(needs):
        ready = [n for n in needs if n not in order and needs[n] <= set(order)]
        if not ready:
            raise KeyError("observations that read each other")
        order += ready
    return order


def unsimulated(graph: RewardGraph, observed: Sequence[Observable]) -> tuple[str, ...]:
    """Labels of the observed statements that no simulated parameter belongs to."""
    nodes = {o.node for o in observed}
    sink = graph.sink
    return tuple(
        info.label
        for i, info in zip(sink.inputs, sink.terms, strict=True)
        if info.keyword == "observe" and not nodes & graph.ancestors(i)
    )


def is_exact(target: Target, seen: set[str]) -> bool:
    """Whether the terms are plain priors and observations that are drawn whole, each of them once."""
    leaves: list[int] = []
    stack = list(target.graph.sink.inputs)
    while stack:
        i = stack.pop()
        node = target.graph[i]
        if isinstance(node, Sum):
            stack += node.inputs
        else:
            leaves.append(i)
    plain, drawn = set(), {}
    for info in target.latents:
        if info.name.split("[", 1)[0] in seen:
            drawn[drawing_score(target, info)] = info
        elif info.support.ending == "free" and _lengths(info.support) > 1:
            return False  # how long the draw is was a choice that the program does not score
        else:
            plain.add(prior_of(target, info.name).node)
    whole = all(i in plain or (i in drawn and _drawn_whole(target, i, drawn[i])) for i in leaves)
    return whole and len(leaves) == len(set(leaves))


def _lengths(support: Support) -> int:
    least = getattr(getattr(support, "plain", support), "min_tokens", 0)
    return support.max_tokens - int(least) + 1


def _drawn_whole(target: Target, score: int, info: LatentInfo) -> bool:
    """Whether the observed statement holds nothing but what is drawn and the space before it."""
    if not isinstance(target.graph[score], LmScore):
        return True
    if info.type != "text":
        return False  # its known words are not drawn
    text = target.evaluator.plan(score).text
    known = text[0].text if isinstance(text[0], Known) else ""
    return not split_lead(known)[0] and isinstance(text[-1], Splice) and len(text) <= 2
