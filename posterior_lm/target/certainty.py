"""What is certain of the nodes of a grounded graph, where some latents are known and one is begun.

So conditions on one latent alone that no value of it satisfies are found before a model is read (PLM340).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

from posterior_lm.graph.conditions import Conjunct, conjuncts
from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.nodes import Apply, Constant, Latent, Marker, Role, Segments
from posterior_lm.graph.ops import OPS, spelled
from posterior_lm.lang.diagnostics import Diagnostic, error
from posterior_lm.lang.values import finite_spec
from posterior_lm.target.prefix_values import Between, Certain, Text, apply, certain, joined
from posterior_lm.target.values import Datum, Value

Parts = Sequence[Conjunct]
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

    def allows(self, parts: Parts) -> bool:
        """Whether no part of a condition is certainly false.

        What is not a number is let through: it is an error, which the evaluator reports.
        """
        return all(self.of(part.node) is not part.negated for part in parts)

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
            case Marker() | Role():
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


LISTED = 10_000
"""Values of a finite latent that are tried without a model: a tenth of a second."""


def blamed(latent: Latent, parts: Parts, leaves: Callable[[Parts], bool]) -> Diagnostic:
    """PLM340 at the first part with which nothing is left; `leaves` says whether parts leave a value."""
    last = next(k for k in range(len(parts)) if not leaves(parts[: k + 1]))
    part, alone = parts[last], not leaves(parts[last : last + 1])
    return error(
        "PLM340",
        f"no value of `{latent.name}` satisfies this condition",
        part.statement,
        "no value is left" if alone else "no value is left of those that other conditions allow",
        secondary=[(latent.span, "drawn here")],
        notes=_others(() if alone else parts[:last]),
        help=f"loosen the condition, or widen the type of `{latent.name}`",
    )


def _others(parts: Parts) -> list[str]:
    seen = dict.fromkeys((part.statement.line, " ".join(part.statement.text.split())) for part in parts)
    return [f"`{text}` (line {line}) holds too" for line, text in seen]


def impossible(graph: RewardGraph) -> list[Diagnostic]:
    """PLM340 for finite latents of a program before data is bound; needs no model.

    What a parameter decides counts as possible.
    """
    found = []
    for _, latent in graph.latents():
        values = _values(graph, latent)
        parts = [part for part in conjuncts(graph) if part.kind(latent.name) == "mask"]

        def leaves(
            some: Parts, latent: Latent = latent, values: Sequence[tuple[str, Datum]] = values
        ) -> bool:
            return any(holds(graph, latent.name, text, datum, some) for text, datum in values)

        if values and parts and not leaves(parts):
            found.append(blamed(latent, parts, leaves))
    return found


def holds(graph: RewardGraph, name: str, text: str, datum: Datum, parts: Parts) -> bool:
    """Whether a value of a finite latent satisfies the parts, as far as that is certain."""
    return Certainty(graph, {name: Value((), text, datum)}).allows(parts)


def _values(graph: RewardGraph, latent: Latent) -> list[tuple[str, Datum]]:
    """Text and datum of every value, where they are few and known; else none."""
    options = dict(zip(latent.options, (graph[i] for i in latent.inputs), strict=True))
    known = {name: node.value for name, node in options.items() if isinstance(node, Constant)}
    names = ("low", "high", "lead", "grid")
    finite = finite_spec(latent.choices, *(known.get(name) for name in names))
    if finite is None or finite.size > LISTED:
        return []
    return [(finite.spelling(k), finite.datum(k)) for k in range(finite.size)]
