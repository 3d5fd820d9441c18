"""What is certain of the nodes of a grounded graph, where some latents are known and one is begun."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from attrs import frozen

from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.nodes import Apply, Constant, Latent, Marker, Segments
from posterior_lm.graph.ops import OPS, spelled
from posterior_lm.target.prefix_values import Between, Certain, Text, apply, certain, joined
from posterior_lm.target.values import Value

ANY_COUNT = Between(0, math.inf)


@frozen
class Beginning:
    """What is certain of a text latent by its first tokens: its text, and how many tokens it will have."""

    text: Text
    tokens: Between


class Certainty:
    """One answer per node; latents without a value are drawn later.

    `fixed` gives the value of a node that no latent changes. Without it only what is
    computed from constants is certain.
    """

    def __init__(
        self,
        graph: RewardGraph,
        values: Mapping[str, Value | Beginning],
        fixed: Callable[[int], object] | None = None,
    ) -> None:
        self.graph, self.values, self.fixed = graph, values, fixed
        self._found: dict[int, Certain] = {}

    def of(self, i: int) -> Certain:
        if i not in self._found:
            self._found[i] = self._find(i)
        return self._found[i]

    def _find(self, i: int) -> Certain:
        node = self.graph[i]
        match node:
            case Constant(value=value):
                return certain(value)
            case Latent():
                return self._latent(node, segment=False)
            case Segments(inputs=inputs):
                return joined([self._segment(j) for j in inputs])
            case _ if self.fixed is not None and i in self.graph.fixed:
                return certain(self.fixed(i))
            case Apply(op="tokens", inputs=(source,)):
                return self._tokens(source)
            case Apply(op=op, inputs=inputs) if op in OPS:
                return apply(op, [self.of(j) for j in inputs])
        return None

    def _latent(self, node: Latent, *, segment: bool) -> Certain:
        match self.values.get(node.name):
            case None:
                return None
            case Beginning(text=text):
                return text
            case Value(text=spelling, datum=datum):
                return certain(spelling if segment else datum)

    def _segment(self, i: int) -> Certain:
        """A node as a part of a text: numbers are spelled."""
        node = self.graph[i]
        match node:
            case Latent():
                return self._latent(node, segment=True)
            case Marker():
                return certain("")
        found = self.of(i)
        if isinstance(found, Between):
            return certain(spelled(found.low)) if found.low == found.high else None
        return None if isinstance(found, bool) else found

    def _tokens(self, source: int) -> Certain:
        node = self.graph[source]
        value = self.values.get(node.name) if isinstance(node, Latent) and node.type == "text" else None
        match value:
            case None:
                return ANY_COUNT
            case Beginning(tokens=tokens):
                return tokens
            case Value(ids=ids):
                return certain(len(ids))
