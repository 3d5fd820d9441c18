"""An upper bound of what the terms beside the priors can add, by interval arithmetic.

Exact enumeration needs it: the share of the posterior that it has not listed is at
most the prior mass it has not listed times the exponential of this bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from posterior_lm.graph.nodes import (
    Apply,
    ChoiceScore,
    Constant,
    DistScore,
    LmScore,
    Node,
    Power,
    Sum,
    Test,
)  # fmt: skip
from posterior_lm.target.target import Target

Interval = tuple[float, float]
ANY: Interval = (-math.inf, math.inf)
LOG: Interval = (-math.inf, 0.0)
COUNT: Interval = (0.0, math.inf)

FUNCTIONS: Mapping[str, Interval] = {
    "count": COUNT,
    "words": COUNT,
    "chars": COUNT,
    "tokens": COUNT,
    "similarity": (0.0, 1.0),
}


def upper_bound(target: Target, exclude: Mapping[int, float]) -> float:
    """Σ over terms of the largest value each can take, in nats; +inf where there is no bound.

    `exclude` maps the nodes of the priors to their exponents; they count as 0 here.
    """
    total = 0.0
    for i, info in zip(target.graph.sink.inputs, target.statements, strict=True):
        # Another statement may read a prior's node too, and there it counts.
        total += _Bounds(target, set(exclude) if info.keyword == "latent" else set()).of(i)[1]
    return total


class _Bounds:
    def __init__(self, target: Target, exclude: set[int]) -> None:
        self.target = target
        self.exclude = exclude
        self.known: dict[int, Interval] = {}

    def of(self, i: int) -> Interval:
        if i not in self.known:
            self.known[i] = self._bound(i, self.target.graph[i])
        return self.known[i]

    def _bound(self, i: int, node: Node) -> Interval:
        if i in self.exclude:
            return (0.0, 0.0)
        if i in self.target.graph.fixed:
            value = self.target.evaluator.fixed_value(i)
            if isinstance(value, int | float):
                return (float(value), float(value))
        match node:
            case Constant(value=value) if isinstance(value, int | float):
                return (float(value), float(value))
            case LmScore() | ChoiceScore() | DistScore() | Test():
                return LOG
            case Power():
                return _times(self.of(node.inputs[0]), self.of(node.inputs[1]))
            case Sum():
                parts = [self.of(j) for j in node.inputs]
                return (sum(p[0] for p in parts), sum(p[1] for p in parts))
            case Apply():
                return self._apply(node)
        return ANY

    def _apply(self, node: Apply) -> Interval:
        if node.op in FUNCTIONS:
            return FUNCTIONS[node.op]
        args = [self.of(j) for j in node.inputs]
        match node.op:
            case "+":
                return (args[0][0] + args[1][0], args[0][1] + args[1][1])
            case "-":
                return (args[0][0] - args[1][1], args[0][1] - args[1][0])
            case "unary -":
                return (-args[0][1], -args[0][0])
            case "*":
                return _times(*args)
            case "if":
                return (min(args[1][0], args[2][0]), max(args[1][1], args[2][1]))
            case "min":
                return (min(a[0] for a in args), min(a[1] for a in args))
            case "max":
                return (max(a[0] for a in args), max(a[1] for a in args))
            case "abs":
                low, high = args[0]
                return (0.0 if low <= 0 <= high else min(abs(low), abs(high)), max(abs(low), abs(high)))
        return ANY


def _times(a: Interval, b: Interval) -> Interval:
    products = [0.0 if 0 in (x, y) else x * y for x in a for y in b]
    return (min(products), max(products))
