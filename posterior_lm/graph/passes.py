"""The passes over a graph, at the end in order, each with its name and its reason.

Every pass is a function from a graph to a graph that keeps the log reward of
every value; the verifier runs after each one that gave another graph.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from attrs import evolve, frozen

from posterior_lm.graph.graph import GraphBuilder, RewardGraph, verify
from posterior_lm.graph.nodes import (
    Apply,
    ChoiceScore,
    Constant,
    Latent,
    LmScore,
    Mix,
    Node,
    PlateSum,
    Power,
    Role,
    Segments,
    Sum,
    Test,
)
from posterior_lm.graph.ops import OPS, spelled

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
        node = graph[old]
        inputs = tuple(new[i] for i in node.inputs)
        if inputs != node.inputs:
            node = evolve(node, inputs=inputs)
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


def fold(graph: RewardGraph) -> RewardGraph:
    """Constants are computed, known neighbours joined, powers merged."""
    return rewrite(graph, _fold)


def _fold(node: Node, build: GraphBuilder) -> Node | int:
    known = [build.nodes[i] for i in node.inputs]
    match node:
        case Apply() if node.op in OPS and all(isinstance(k, Constant) for k in known):
            return _apply(node, [k.value for k in known if isinstance(k, Constant)])
        case Apply(op="if") if isinstance(known[0], Constant):
            return node.inputs[1 if known[0].value else 2]
        case Mix() if isinstance(known[0], Constant) and known[0].value in (0, 1):
            return node.inputs[1 if known[0].value else 2]
        case Segments():
            return _join(node, build)
        case Test() if isinstance(known[0], Constant):
            return Constant(value=0.0 if known[0].value else -math.inf, span=node.span)
        case Power() if isinstance(known[0], Constant):
            return _power(node, known[0], known[1], build)
    return node


def _apply(node: Apply, values: list) -> Node:
    try:
        result = OPS[node.op](*values)
    except (ArithmeticError, ValueError, re.error):
        return node  # the evaluator names the statement
    if isinstance(result, float) and math.isnan(result):
        return node
    return Constant(value=result, span=node.span)


def _join(node: Segments, build: GraphBuilder) -> Node:
    joined: list[int] = []
    for i in node.inputs:
        item = build.nodes[i]
        if isinstance(item, Segments):  # an `if` between lists was folded away
            joined.extend(item.inputs)
            continue
        if isinstance(item, Constant) and joined:
            before = build.nodes[joined[-1]]
            if isinstance(before, Constant):
                text = spelled(before.value) + spelled(item.value)
                joined[-1] = build.constant(text, before.span)
                continue
        joined.append(i)
    return Segments(inputs=tuple(joined), span=node.span)


def _power(node: Power, exponent: Constant, term: Node, build: GraphBuilder) -> Node | int:
    if exponent.value == 1:
        return node.inputs[1]
    if not isinstance(exponent.value, int | float):
        return node
    if isinstance(exponent.value, int):  # `^ 2` and `^ 2.0` are one power
        node = Power(
            inputs=(build.constant(float(exponent.value), exponent.span), node.inputs[1]), span=node.span
        )
    if isinstance(term, Power):
        inner = build.nodes[term.inputs[0]]
        if isinstance(inner, Constant) and isinstance(inner.value, int | float):
            product = float(exponent.value) * float(inner.value)
            if product == 1:
                return term.inputs[1]
            return Power(inputs=(build.constant(product, node.span), term.inputs[1]), span=node.span)
    return node


def spell(graph: RewardGraph) -> RewardGraph:
    """A latent is spelled by a model that may draw it: which one is known once its branch is."""
    drawing: dict[int, list[str]] = {}
    stack = [
        i for i, info in zip(graph.sink.inputs, graph.sink.terms, strict=True) if info.keyword == "latent"
    ]
    while stack:
        node = graph[stack.pop()]
        match node:
            case LmScore() | ChoiceScore():
                text = graph[node.inputs[1]]
                latent = text.inputs[0] if isinstance(text, Segments) else node.inputs[1]
                drawing.setdefault(latent, []).append(node.lm)
            case Mix() | Power() | PlateSum():
                stack += node.inputs[:0:-1]
            case Sum():
                stack += node.inputs[::-1]
    nodes = dict(graph.nodes)
    for i, lms in drawing.items():
        latent_node = nodes[i]
        if isinstance(latent_node, Latent) and latent_node.lm not in lms:
            nodes[i] = evolve(latent_node, lm=lms[0])
    return graph if nodes == dict(graph.nodes) else graph.rebuilt(nodes)


def prune(graph: RewardGraph) -> RewardGraph:
    """What neither the total nor a guide reads is dropped.

    Latents stay even where nothing but their own term reads them, because that term
    is part of the total.
    """
    read = graph.ancestors(graph.total)
    names = {
        node.name for i, node in graph.latents() if i in read
    }  # those of a branch that is never taken are gone
    guides = {name: guide for name, guide in graph.guides.items() if name in names}
    keep = read | graph.ancestors(*(g.context for g in guides.values()))
    if len(keep) == len(graph.nodes):
        return graph
    return graph.rebuilt({i: n for i, n in graph.nodes.items() if i in keep}, guides=guides)


def share(graph: RewardGraph) -> RewardGraph:
    """A score whose tokens begin another score's tokens rides on it.

    Score A rides on score B where both use one model and the segments of A's context
    and text, in order, are the first segments of B's context. One forward pass over
    B's tokens then gives both. That holds token by token only where no boundary of A
    is joined with a known neighbour in B, so both of A's boundaries must touch a
    latent or be B's own; the evaluator still compares the tokens of every draw. In a
    conversation the answer is one more message of B's context.
    """
    scores = {i: n for i, n in graph.nodes.items() if isinstance(n, LmScore)}
    if not scores:
        return graph
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
    if a.lm == b.lm and context and isinstance(graph[context[0]], Role):
        return bool(text) and _is_answer(graph, context, text, other)
    if a.lm != b.lm or not text or other[: len(whole)] != whole:
        return False

    def latent(i: int) -> bool:
        return isinstance(graph[i], Latent)

    starts_clean = not context or latent(context[-1]) or latent(text[0])
    ends_clean = latent(text[-1]) or other == whole or latent(other[len(whole)])
    return starts_clean and ends_clean


def _is_answer(
    graph: RewardGraph, context: tuple[int, ...], text: tuple[int, ...], other: tuple[int, ...]
) -> bool:
    """Whether a conversation goes on with a text as its answer."""
    role, answer = other[len(context) : len(context) + 1], other[len(context) + 1 :]
    says = [node.role for i in role if isinstance(node := graph[i], Role)]
    return other[: len(context)] == context and says == ["assistant"] and answer[: len(text)] == text


def mark(graph: RewardGraph) -> RewardGraph:
    """Which nodes depend on no latent, and so have one value for all draws."""
    moving = graph.dependents(*(i for i, _ in graph.latents()))
    return graph.rebuilt(graph.nodes, fixed=frozenset(set(graph.nodes) - moving))


@frozen
class Pass:
    name: str
    reason: str
    run: Callable[[RewardGraph], RewardGraph]


PASSES: tuple[Pass, ...] = (
    Pass(
        "fold",
        "compute what is constant, take the branch that is known, join known neighbours, merge powers",
        fold,
    ),
    Pass("spell", "let the model that draws a latent spell it, whichever branch that is", spell),
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
        found = step.run(graph)
        if found is not graph:
            graph = verify(found)
        if step.name == until:
            break
    return graph
