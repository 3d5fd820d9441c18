"""The log-reward graph: a frozen DAG whose one sink is the total, how it is built and what is legal.

The graph owns a frozen networkx DiGraph (an edge runs from an input to the node
that reads it) and hands out read methods only. Passes build new graphs. `verify`
runs after every pass; a failure there is our mistake, never the user's, so it is
an `InternalError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from attrs import evolve, field, frozen

from posterior_lm.graph.fingerprint import fingerprint
from posterior_lm.graph.nodes import (
    NODE_KINDS,
    Apply,
    Carried,
    ChoiceScore,
    Constant,
    DistScore,
    Input,
    Latent,
    LmScore,
    Marker,
    Mix,
    Node,
    PlateSum,
    Pool,
    Power,
    Previous,
    Role,
    RowField,
    Running,
    Segments,
    Sum,
    Test,
    Total,
)  # fmt: skip
from posterior_lm.lang.diagnostics import InternalError
from posterior_lm.lang.source import NOWHERE, Span
from posterior_lm.lang.values import FiniteSpec, finite_spec

if TYPE_CHECKING:
    from networkx import DiGraph

    from posterior_lm.lang.typed import Type


@frozen
class LmSpec:
    """A declared language model: its alias, what was asked for, its options."""

    alias: str
    spec: str
    kind: str = "auto"  # "auto" | "transformers" | "tabular" | "server" | "masked" | "use"
    options: tuple[tuple[str, object], ...] = ()
    span: Span = field(default=NOWHERE, eq=False, repr=False)


@frozen
class ParamSpec:
    """A parameter as the data binder sees it. `required` is False where `default` stands."""

    name: str
    type: str  # a name in `lang.signatures`
    choices: tuple[str | bool, ...] = ()
    low: float | None = None
    high: float | None = None
    lead: str = ""
    options: tuple[tuple[str, object], ...] = ()
    columns: tuple[ParamSpec, ...] = ()
    default: object = None
    required: bool = True
    span: Span = field(default=NOWHERE, eq=False, repr=False)

    @classmethod
    def of(
        cls, name: str, type_: Type, span: Span, columns: tuple[ParamSpec, ...] = (), default: object = None,
        required: bool = True,
    ) -> ParamSpec:  # fmt: skip
        """From a declared type."""
        low, high = type_.range or (None, None)
        options = sorted((option, value) for option, value in type_.options.items() if option != "lead")
        lead = str(type_.options.get("lead", ""))
        return cls(
            name, type_.name, type_.choices, low, high, lead, tuple(options), columns, default, required, span
        )

    @property
    def finite(self) -> FiniteSpec | None:
        """The values that its type lists one by one; None where it lists none."""
        return finite_spec(self.choices, self.low, self.high, self.lead)


@frozen
class GuideSpec:
    """What the proposal of a latent reads: a model alias and a `Segments` node.

    A `masked` model fills the latent, which stands among the segments, instead of going on behind them.
    """

    lm: str
    context: int
    reads: tuple[str, ...] = ()
    masked: bool = False
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
    def dag(self) -> DiGraph:
        """For networkx, frozen: an edge runs from an input to the node that reads it.

        Made where it is asked for: thousands of graphs of rows are grounded and only walked in order.
        """
        import networkx

        dag = networkx.DiGraph()
        dag.add_nodes_from(sorted(self.nodes))
        dag.add_edges_from((i, n) for n in sorted(self.nodes) for i in self.nodes[n].inputs)
        return networkx.freeze(dag)

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
    def _built(self) -> bool:
        """Whether ids respect dependency, as a builder hands them out."""
        return all(i < n for n, node in self.nodes.items() for i in node.inputs)

    @cached_property
    def _order(self) -> tuple[int, ...]:
        if self._built:
            return tuple(sorted(self.nodes))  # what the search below finds
        from networkx import lexicographical_topological_sort

        return tuple(lexicographical_topological_sort(self.dag))

    def is_acyclic(self) -> bool:
        if self._built:
            return True
        from networkx import is_directed_acyclic_graph

        return is_directed_acyclic_graph(self.dag)

    @cached_property
    def plates(self) -> Mapping[int, frozenset[int]]:
        """The plates whose current row each node's value depends on."""
        found: dict[int, frozenset[int]] = {}
        for i in self._order:
            node = self.nodes[i]
            inside = frozenset().union(*(found[j] for j in node.inputs))
            match node:
                case RowField(plate=plate) | Previous(plate=plate):
                    inside |= {plate}
                case Latent(plates=plates) | Carried(plates=plates):
                    inside |= set(plates)
                case PlateSum(plate=plate) | Pool(plate=plate):
                    inside -= {plate}
            found[i] = inside
        return found

    def ancestors(self, *roots: int) -> set[int]:
        """The roots and everything they read, directly or not."""
        found: set[int] = set()
        stack = list(roots)
        while stack:
            if (node := stack.pop()) not in found:
                found.add(node)
                stack += self.nodes[node].inputs
        return found

    def dependents(self, *roots: int) -> set[int]:
        """The roots and everything that reads them, directly or not."""
        found = set(roots)
        for i in self._order:
            if not found.isdisjoint(self.nodes[i].inputs):
                found.add(i)
        return found

    def latents(self) -> Iterator[tuple[int, Latent]]:
        """The latents in the order in which they are drawn."""
        return ((i, n) for i, n in sorted(self.nodes.items()) if isinstance(n, Latent))

    def edges(self) -> Iterable[tuple[int, int]]:
        return tuple((i, n) for n in sorted(self.nodes) for i in dict.fromkeys(self.nodes[n].inputs))

    def param(self, name: str) -> ParamSpec | None:
        return next((p for p in self.params if p.name == name), None)

    # ------------------------------------------------------------- new graphs

    def rebuilt(self, nodes: Mapping[int, Node], **changes: Any) -> RewardGraph:
        """The same program over other nodes."""
        return evolve(self, nodes=nodes, **changes)

    @property
    def filled(self) -> bool:
        """Whether a masked model is the guide of a latent."""
        return any(guide.masked for guide in self.guides.values())

    @cached_property
    def conversing(self) -> frozenset[str]:
        """The models that read a conversation, whose chat template is a part of what the program means."""
        scores = [(n.lm, n.inputs[0]) for n in self.nodes.values() if isinstance(n, LmScore | ChoiceScore)]
        contexts = [*scores, *((guide.lm, guide.context) for guide in self.guides.values())]
        return frozenset(
            lm for lm, context in contexts if any(isinstance(self[i], Role) for i in self[context].inputs)
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what the log reward is; see `graph.fingerprint`."""
        return fingerprint(self)


class GraphBuilder:
    """Collects nodes, equal ones once; ids grow, so every input has a smaller id than its reader."""

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

    def reduced(self, op: str, inputs: Sequence[int], span: Span = NOWHERE) -> int:
        """`+`, `and` or `or` of all the inputs, pair by pair, so that no tree is deep; of none 0, true or false."""
        if not inputs:
            return self.constant({"+": 0, "and": True, "or": False}[op], span)
        while len(inputs) > 1:
            pairs = zip(inputs[::2], inputs[1::2], strict=False)
            inputs = [
                *(self.add(Apply(op=op, inputs=pair, span=span)) for pair in pairs),
                *inputs[len(inputs) // 2 * 2 :],
            ]
        return inputs[0]

    def segments(self, inputs: list[int], span: Span = NOWHERE) -> int:
        """A `Segments` node over the inputs, nested segments flattened."""
        flat: list[int] = []
        for i in inputs:
            node = self.nodes[i]
            flat.extend(node.inputs if isinstance(node, Segments) else [i])
        return self.add(Segments(inputs=tuple(flat), span=span))


# ------------------------------------------------------------- what a legal graph looks like

OF_ROWS = (Pool, Previous, Running, Carried)
VALUES = (Input, Constant, Marker, Role, RowField, Latent, Segments, *OF_ROWS, Apply)
LOGS = (LmScore, ChoiceScore, DistScore, Test, Power, Mix, PlateSum, Sum)
TERMS = (*LOGS, *OF_ROWS, Apply, Constant, Input, RowField, Latent)  # a `factor` may be any number

SHAPES: dict[type[Node], tuple[tuple[type[Node], ...] | None, ...]] = {
    # kind -> the kinds its inputs may have; None stands for "any value or log", last one repeats
    Input: (),
    Constant: (),
    Marker: (),
    Role: (),
    RowField: (),
    Latent: (VALUES,),
    Segments: ((Constant, Input, RowField, Latent, Marker, Role, Apply, *OF_ROWS, Segments),),
    Pool: ((Input,), None),
    Previous: (None,),
    Running: (None,),
    Carried: (),
    Apply: (None,),
    LmScore: ((Segments,), (Segments,)),
    ChoiceScore: ((Segments,), VALUES),
    DistScore: (None,),
    Test: ((*VALUES, *LOGS),),
    Power: ((*VALUES, *LOGS), TERMS),
    Mix: ((*VALUES, *LOGS), TERMS),
    PlateSum: ((Input,), TERMS),
    Sum: (TERMS,),
    Total: (TERMS,),
}

FIXED_ARITY = {LmScore: 2, Test: 1, Power: 2, Mix: 3, PlateSum: 2, Previous: 2, Running: 1}


def verify(graph: RewardGraph) -> RewardGraph:
    """The graph itself; raises InternalError where it is not legal."""
    totals = [i for i, n in graph.nodes.items() if isinstance(n, Total)]
    if totals != [graph.total]:
        raise InternalError(f"a graph has exactly one total, this one has {totals}")
    if len(graph.sink.terms) != len(graph.sink.inputs):
        raise InternalError("every term of the total belongs to one statement")
    for i, node in graph.nodes.items():
        if type(node) not in NODE_KINDS:
            raise InternalError(f"%{i} is no node kind: {type(node).__name__}")
        _verify_inputs(graph, i, node)
    if not graph.is_acyclic():
        raise InternalError("the graph has a cycle")
    names = [n.name for _, n in graph.latents()]
    if len(set(names)) != len(names):
        raise InternalError(f"latents are unique by name: {names}")
    for name, guide in graph.guides.items():
        if name not in names or not isinstance(graph.nodes.get(guide.context), Segments):
            raise InternalError(f"guide of {name!r} reads no segments or guides no latent")
    return graph


def _verify_inputs(graph: RewardGraph, i: int, node: Node) -> None:
    if any(j not in graph.nodes for j in node.inputs):
        raise InternalError(f"%{i} reads a node that is not there")
    arity = FIXED_ARITY.get(type(node))
    if arity is not None and len(node.inputs) != arity:
        raise InternalError(f"%{i} {node.KIND} has {len(node.inputs)} inputs, not {arity}")
    shape = SHAPES[type(node)]
    if not shape and node.inputs:
        raise InternalError(f"%{i} {node.KIND} reads nothing")
    for place, j in enumerate(node.inputs):
        legal = shape[min(place, len(shape) - 1)]
        if legal is not None and not isinstance(graph[j], legal):
            raise InternalError(f"input {place} of %{i} {node.KIND} cannot be %{j} {graph[j].KIND}")
        if isinstance(graph[j], Total):
            raise InternalError("nothing reads the total")
    if isinstance(node, LmScore) and node.rides is not None and node.rides not in graph.nodes:
        raise InternalError(f"%{i} rides on a node that is not there")
