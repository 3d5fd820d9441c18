"""A graph as text (the golden format), DOT, Mermaid or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable

from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.nodes import Latent, LmScore, Node, Total


def _label(node: Node) -> str:
    return f"{node.KIND} {node.detail}".strip()


def _term_of(graph: RewardGraph) -> dict[int, list[int]]:
    """Which terms of the total each node is."""
    terms: dict[int, list[int]] = {}
    for k, i in enumerate(graph.sink.inputs):
        terms.setdefault(i, []).append(k)
    return terms


def text(graph: RewardGraph) -> str:
    """One line per node: id, kind, detail, inputs, and the terms it is."""
    terms = _term_of(graph)
    rows = []
    for i in sorted(graph.nodes):
        node = graph[i]
        parts = [f"%{i}", _label(node)]
        if node.inputs:
            parts.append("(" + ", ".join(f"%{j}" for j in node.inputs) + ")")
        for k in terms.get(i, ()):
            info = graph.sink.terms[k]
            parts.append(f"term {k}: {info.label}")
        if i in graph.fixed and not isinstance(node, Total):
            parts.append("fixed")
        rows.append("  " + "  ".join(parts))
    for name, guide in sorted(graph.guides.items()):
        rows.append(f"  guide {name}: {guide.lm} %{guide.context}")
    return f"graph {graph.name}\n" + "\n".join(rows) + "\n"


_BOX = ("box", "[", "]")
_SHAPES = {Latent: ("ellipse", "([", "])"), Total: ("doublecircle", "((", "))")}
"""In DOT, and the brackets of Mermaid."""


def _quoted(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', "'").replace("\n", " ")


def dot(graph: RewardGraph) -> str:
    """Graphviz: latents are ellipses, scores boxes, the total a double circle."""
    rows = [f'digraph "{_quoted(graph.name)}" {{', "  rankdir=LR;"]
    for i in sorted(graph.nodes):
        shape = _SHAPES.get(type(graph[i]), _BOX)[0]
        rows.append(f'  n{i} [shape={shape}, label="{_quoted(_label(graph[i]))}"];')
    rows += [f"  n{a} -> n{b};" for a, b in sorted(graph.edges())]
    rows += [f"  n{n.rides} -> n{i} [style=dashed];" for i, n in _riders(graph)]
    return "\n".join([*rows, "}"]) + "\n"


def mermaid(graph: RewardGraph) -> str:
    """A Mermaid flowchart with the same shapes as `dot`."""
    rows = ["flowchart LR"]
    for i in sorted(graph.nodes):
        _, left, right = _SHAPES.get(type(graph[i]), _BOX)
        label = _quoted(_label(graph[i])).replace("<", "&lt;").replace(">", "&gt;")
        rows.append(f'  n{i}{left}"{label}"{right}')
    rows += [f"  n{a} --> n{b}" for a, b in sorted(graph.edges())]
    rows += [f"  n{n.rides} -.-> n{i}" for i, n in _riders(graph)]
    return "\n".join(rows) + "\n"


def _riders(graph: RewardGraph) -> list[tuple[int, LmScore]]:
    return [(i, n) for i, n in sorted(graph.nodes.items()) if isinstance(n, LmScore) and n.rides is not None]


def to_json(graph: RewardGraph) -> str:
    """{"name", "fingerprint", "nodes": [{"id", "kind", "detail", "inputs", "fixed"}], "terms", "guides"}."""
    nodes = [
        {"id": i, "kind": n.KIND, "detail": n.detail, "inputs": list(n.inputs), "fixed": i in graph.fixed}
        for i, n in sorted(graph.nodes.items())
    ]
    terms = [
        {"node": i, "statement": info.label, "line": info.span.line}
        for i, info in zip(graph.sink.inputs, graph.sink.terms, strict=True)
    ]
    guides = {name: {"lm": g.lm, "context": g.context} for name, g in sorted(graph.guides.items())}
    whole = {
        "name": graph.name,
        "fingerprint": graph.fingerprint,
        "nodes": nodes,
        "terms": terms,
        "guides": guides,
    }
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[RewardGraph], str]] = {
    "text": text,
    "dot": dot,
    "mermaid": mermaid,
    "json": to_json,
}
