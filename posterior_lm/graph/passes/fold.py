"""Fold: constants are computed, known neighbours joined, powers merged."""

from __future__ import annotations

import math
import re

from posterior_lm.graph.build import GraphBuilder
from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.nodes import Apply, Constant, Node, Power, Segments, Test
from posterior_lm.graph.ops import OPS, spelled
from posterior_lm.graph.passes.rewrite import rewrite


def fold(graph: RewardGraph) -> RewardGraph:
    return rewrite(graph, _fold)


def _fold(node: Node, build: GraphBuilder) -> Node | int:
    known = [build.nodes[i] for i in node.inputs]
    match node:
        case Apply() if node.op in OPS and all(isinstance(k, Constant) for k in known):
            return _apply(node, [k.value for k in known if isinstance(k, Constant)])
        case Apply(op="if") if isinstance(known[0], Constant):
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
