"""The log-reward graph: a frozen DAG whose one sink is the total.

The graph owns a frozen networkx DiGraph (an edge runs from an input to the node
that reads it) and hands out read methods only. Passes build new graphs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

import networkx as nx
from attrs import evolve, field, frozen

from posterior_lm.graph.fingerprint import fingerprint
from posterior_lm.graph.nodes import Latent, Node, Total
from posterior_lm.lang.finite import FiniteSpec, finite_spec
from posterior_lm.lang.source import NOWHERE, Span


@frozen
class LmSpec:
    """A declared language model: its alias, what was asked for, its options."""

    alias: str
    spec: str
    kind: str = "auto"  # "auto" | "transformers" | "tabular"
    options: tuple[tuple[str, object], ...] = ()
    span: Span = field(default=NOWHERE, eq=False, repr=False)


@frozen
class ParamSpec:
    """A parameter as the data binder sees it. `required` is False where `default` stands."""

    name: str
    type: str  # a name in `lang.value_types`
    choices: tuple[str, ...] = ()
    low: int | None = None
    high: int | None = None
    lead: str = ""
    options: tuple[tuple[str, object], ...] = ()
    columns: tuple[ParamSpec, ...] = ()
    default: object = None
    required: bool = True
    span: Span = field(default=NOWHERE, eq=False, repr=False)

    @property
    def finite(self) -> FiniteSpec | None:
        """The values that its type lists one by one; None where it lists none."""
        return finite_spec(self.choices, self.low, self.high, self.lead)


@frozen
class GuideSpec:
    """What the proposal of a latent reads: a model alias and a `Segments` node."""

    lm: str
    context: int
    reads: tuple[str, ...] = ()
    span: Span = field(default=NOWHERE, eq=False, repr=False)


@frozen
class InferSpec:
    method: str
    options: tuple[tuple[str, object], ...] = ()
    span: Span = field(default=NOWHERE, eq=False, repr=False)


@frozen
class UseSpec:
    """What enters from Python: its name in the program and "module:function"."""

    name: str
    where: str
    span: Span = field(default=NOWHERE, eq=False, repr=False)


@frozen(eq=False)
class RewardGraph:
    """Nodes by id, one `Total`, and what surrounds the density without changing it."""

    name: str
    nodes: Mapping[int, Node]
    total: int
    params: tuple[ParamSpec, ...] = ()
    lms: tuple[LmSpec, ...] = ()
    guides: Mapping[str, GuideSpec] = field(factory=dict)
    infer: tuple[InferSpec, ...] = ()
    uses: tuple[UseSpec, ...] = ()
    fixed: frozenset[int] = frozenset()
    """Nodes that depend on no latent (set by the pass `mark`)."""

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "nodes", MappingProxyType(dict(self.nodes)))
        object.__setattr__(self, "guides", MappingProxyType(dict(self.guides)))

    @cached_property
    def _dag(self) -> nx.DiGraph:
        # Made where it is asked for: thousands of graphs of rows are grounded and only walked in order.
        dag = nx.DiGraph()
        dag.add_nodes_from(sorted(self.nodes))
        dag.add_edges_from((i, n) for n in sorted(self.nodes) for i in self.nodes[n].inputs)
        return nx.freeze(dag)

    # ------------------------------------------------------------- reading

    def __getitem__(self, node: int) -> Node:
        return self.nodes[node]

    @property
    def sink(self) -> Total:
        total = self.nodes[self.total]
        assert isinstance(total, Total)
        return total

    def order(self) -> list[int]:
        """Every node after its inputs; ties by id, so the order is reproducible."""
        return list(self._order)

    @cached_property
    def _order(self) -> tuple[int, ...]:
        if all(i < n for n, node in self.nodes.items() for i in node.inputs):
            return tuple(sorted(self.nodes))  # what the search below finds
        return tuple(nx.lexicographical_topological_sort(self._dag))

    def is_acyclic(self) -> bool:
        return nx.is_directed_acyclic_graph(self._dag)

    def ancestors(self, *roots: int) -> set[int]:
        """The roots and everything they read, directly or not."""
        found: set[int] = set()
        for root in roots:
            if root not in found:
                found |= nx.ancestors(self._dag, root) | {root}
        return found

    def dependents(self, *roots: int) -> set[int]:
        """The roots and everything that reads them, directly or not."""
        found: set[int] = set()
        for root in roots:
            if root not in found:
                found |= nx.descendants(self._dag, root) | {root}
        return found

    def latents(self) -> Iterator[tuple[int, Latent]]:
        """The latents in the order in which they are drawn."""
        return ((i, n) for i, n in sorted(self.nodes.items()) if isinstance(n, Latent))

    def edges(self) -> Iterable[tuple[int, int]]:
        return tuple(self._dag.edges)

    def param(self, name: str) -> ParamSpec | None:
        return next((p for p in self.params if p.name == name), None)

    # ------------------------------------------------------------- new graphs

    def rebuilt(self, nodes: Mapping[int, Node], **changes: Any) -> RewardGraph:
        """The same program over other nodes."""
        return evolve(self, nodes=nodes, **changes)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what the log reward is; see `graph.fingerprint`."""
        return fingerprint(self)
