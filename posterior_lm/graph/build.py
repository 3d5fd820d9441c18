"""A builder of graphs: equal nodes are made once, latents are unique by name."""

from __future__ import annotations

from posterior_lm.graph.nodes import Constant, Node, Segments
from posterior_lm.lang.source import NOWHERE, Span


class GraphBuilder:
    """Collects nodes; ids grow, so every input has a smaller id than its reader."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}
        self._seen: dict[Node, int] = {}

    def add(self, node: Node) -> int:
        """The id of the node, or of the equal one that is there already."""
        missing = [i for i in node.inputs if i not in self.nodes]
        if missing:
            raise ValueError(f"{node.KIND} reads unknown nodes {missing}")
        if node in self._seen:
            return self._seen[node]
        identity = len(self.nodes)
        self.nodes[identity] = node
        self._seen[node] = identity
        return identity

    def constant(self, value: str | int | float | bool | tuple, span: Span = NOWHERE) -> int:
        return self.add(Constant(value=value, span=span))

    def segments(self, inputs: list[int], span: Span = NOWHERE) -> int:
        """A `Segments` node over the inputs, nested segments flattened."""
        flat: list[int] = []
        for i in inputs:
            node = self.nodes[i]
            flat.extend(node.inputs if isinstance(node, Segments) else [i])
        return self.add(Segments(inputs=tuple(flat), span=span))
