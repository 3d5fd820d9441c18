"""What of a bound program a simulation draws: in which order, from which scores, and whether that is all."""

from __future__ import annotations

from collections.abc import Sequence

from posterior_lm.amortize.observable import Observable
from posterior_lm.amortize.texts import split_lead
from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.nodes import ChoiceScore, DistScore, LmScore, Segments, Sum
from posterior_lm.infer.prior import prior_of
from posterior_lm.target.pieces import Known, Splice
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
    """Whether every term is a plain prior, or an observation that is drawn whole."""
    graph = target.graph
    latent = {info.node: info for info in target.latents}
    plain = {prior_of(target, i.name).node for i in target.latents if i.name.split("[", 1)[0] not in seen}
    drawn = {}
    for info in target.latents:
        if info.name.split("[", 1)[0] in seen:
            drawn[drawing_score(target, info)] = info

    def whole(i: int) -> bool:
        node = graph[i]
        if isinstance(node, Sum):
            return all(whole(j) for j in node.inputs)
        if i in plain:
            return True
        if i not in drawn:
            return False
        if not isinstance(node, LmScore):
            return True
        text = target.evaluator.plan(i).text
        known = text[0].text if isinstance(text[0], Known) else ""
        if latent[drawn[i].node].type != "text":
            return False  # its known words are not drawn
        return not split_lead(known)[0] and isinstance(text[-1], Splice) and len(text) <= 2

    return all(whole(i) for i in graph.sink.inputs)
