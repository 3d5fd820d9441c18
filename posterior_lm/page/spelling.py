"""Expressions of a graph as text, close to how the language writes them."""

from __future__ import annotations

from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.nodes import (
    Apply,
    ChoiceScore,
    Constant,
    DistScore,
    Input,
    Latent,
    LmScore,
    Marker,
    Node,
    PlateSum,
    Power,
    RowField,
    Segments,
    Sum,
)


def spelled(graph: RewardGraph, i: int) -> str:
    """The expression of a node, close to how the language writes it."""
    node = graph[i]
    inside = [spelled(graph, j) for j in node.inputs]
    match node:
        case Input(name=name) | Latent(name=name):
            return name
        case Constant(value=value):
            return literal(value)
        case Marker(kind=kind):
            return kind
        case RowField(column=column):
            return f"row.{column}"
        case Segments():
            return ", ".join(inside)
        case LmScore(lm=lm) | ChoiceScore(lm=lm):
            return f"log {lm}({inside[1]} | {inside[0]})" if inside[0] else f"log {lm}({inside[1]})"
        case DistScore(dist=dist):
            return f"log {dist}({', '.join(inside[1:])})({inside[0]})"
        case Apply(op=op):
            if not op[0].isalpha() or op in ("and", "or", "unary -", "unary not"):
                loose = [_is_loose(graph[j]) for j in node.inputs]
                inside = [f"({x})" if wrap else x for x, wrap in zip(inside, loose, strict=True)]
            return _applied(op, inside)
        case Power():
            return f"{inside[0]} \u00d7 " + (
                f"({inside[1]})" if _is_loose(graph[node.inputs[1]]) else inside[1]
            )
        case PlateSum() | Sum():
            return f"sum of {inside[-1]}" if inside else "0"
    return node.KIND


def literal(value: object) -> str:
    """A constant as the language writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return str(value)


def _applied(op: str, inside: list[str]) -> str:
    if op == "list":
        return f"[{', '.join(inside)}]"
    if op == "if":
        return f"if {inside[0]} then {inside[1]} else {inside[2]}"
    if op.startswith("unary "):
        return f"{op[6:]} {inside[0]}" if op[6:].isalpha() else f"{op[6:]}{inside[0]}"
    if len(inside) == 2 and (not op[0].isalpha() or op in ("and", "or")):
        return f"{inside[0]} {op} {inside[1]}"
    return f"{op.removeprefix('use ')}({', '.join(inside)})"


def _is_loose(node: Node) -> bool:
    """Whether an expression needs brackets as a part of another: an infix operator or `if`."""
    if not isinstance(node, Apply):
        return False
    return node.op in ("if", "and", "or") or not node.op[0].isalpha()
