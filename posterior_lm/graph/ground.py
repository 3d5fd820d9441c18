"""Grounding: a graph and bound data become a graph without parameters or plates.

Inputs and row fields turn into constants, every plate sum into a plain sum with
one copy of its body per row. A latent inside a plate becomes one latent per row,
named `z[0]`, `z[1]`, … (`z[2][0]` in nested plates).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import define, evolve, field

from posterior_lm.graph.graph import GraphBuilder, RewardGraph
from posterior_lm.graph.nodes import (
    Apply,
    Carried,
    Constant,
    Input,
    Latent,
    LmScore,
    Node,
    PlateSum,
    Pool,
    Previous,
    RowField,
    Running,
    Segments,
    Sum,
)

Row = Mapping[str, object]
Env = Mapping[int, tuple[int, Row]]  # plate -> (row number, row)


@define
class _Grounding:
    graph: RewardGraph
    data: Mapping[str, object]
    build: GraphBuilder = field(factory=GraphBuilder)
    memo: dict[tuple[int, tuple[tuple[int, int], ...]], int] = field(factory=dict)
    tables: dict[int, Sequence[Row]] = field(factory=dict)  # plate -> its rows
    homes: dict[str, tuple[str, Env]] = field(factory=dict)  # ground name -> (name, rows)
    running: dict[int, int] = field(factory=dict)  # number of a running value -> its node

    def run(self) -> RewardGraph:
        for i in self.graph.order():
            if isinstance(node := self.graph[i], Running):
                self.running[node.number] = i
        total = self.place(self.graph.total, {})
        guides = {}
        for ground, (name, env) in self.homes.items():
            if name in self.graph.guides:
                guide = self.graph.guides[name]
                guides[ground] = evolve(guide, context=self.place(guide.context, env))
        return self.graph.rebuilt(self.build.nodes, total=total, guides=guides, fixed=frozenset())

    def place(self, i: int, env: Env) -> int:
        """The ground id of node `i` for the rows in `env`."""
        rows = tuple(sorted((p, env[p][0]) for p in self.graph.plates[i]))
        if (i, rows) not in self.memo:
            node = self.graph[i]
            if isinstance(node, Pool):
                self.memo[i, rows] = self.pool(node, env)
            elif isinstance(node, Previous):
                self.memo[i, rows] = self.previous(node, env)
            elif isinstance(node, Running):
                self.memo[i, rows] = self.place(node.inputs[0], env)
            elif isinstance(node, Carried):
                self.memo[i, rows] = self.place(self.running[node.number], env)
            elif isinstance(node, Segments):  # which stay flat where rows are joined in one
                inputs = [self.place(j, env) for j in node.inputs]
                self.memo[i, rows] = self.build.segments(inputs, node.span)
            else:
                self.memo[i, rows] = self.build.add(self.ground(node, env))
        return self.memo[i, rows]

    def ground(self, node: Node, env: Env) -> Node:
        match node:
            case Input(name=name):
                return Constant(value=_constant(self.data[name]), span=node.span)
            case RowField(plate=plate, column=column):
                return Constant(value=_constant(env[plate][1][column]), span=node.span)
            case PlateSum(plate=plate):
                return Sum(inputs=tuple(self.each(node, plate, env)), span=node.span)
            case Latent(name=name, plates=plates):
                base, bracket, place = name.partition("[")  # of a list the places come last
                ground = base + "".join(f"[{env[p][0]}]" for p in plates) + bracket + place
                self.homes[ground] = (name, {p: env[p] for p in plates})
                inputs = tuple(self.place(i, env) for i in node.inputs)
                return evolve(node, name=ground, inputs=inputs, plates=())
        inputs = tuple(self.place(i, env) for i in node.inputs)
        if isinstance(node, LmScore):
            return evolve(node, inputs=inputs, rides=None)  # places are new, and nothing is shared yet
        return node if inputs == node.inputs else evolve(node, inputs=inputs)

    def each(self, node: Node, plate: int, env: Env) -> list[int]:
        """What a node reads of every row of its table."""
        table = self.tables[plate] = self._rows(node.inputs[0])
        return [self.place(node.inputs[1], {**env, plate: (r, row)}) for r, row in enumerate(table)]

    def pool(self, node: Pool, env: Env) -> int:
        """The ground id of the rows put together: operators and functions that are there for single values too."""
        rows = self.each(node, node.plate, env)
        match node.op:
            case "join":
                between = self.place(node.inputs[2], env)
                parts = [part for row in rows for part in (between, row)]
                return self.build.segments(parts[1:], node.span)
            case "last":
                return rows[-1] if rows else self.place(node.inputs[2], env)
            case "mean":
                return self.build.add(Apply(op="mean", inputs=tuple(rows), span=node.span))
        return self.build.reduced(node.op, rows, node.span)

    def previous(self, node: Previous, env: Env) -> int:
        """The ground id of the value in the row before."""
        row = env[node.plate][0]
        if row == 0:
            return self.place(node.inputs[1], env)
        return self.place(node.inputs[0], {**env, node.plate: (row - 1, self.tables[node.plate][row - 1])})

    def _rows(self, table: int) -> Sequence[Row]:
        node = self.graph[table]
        assert isinstance(node, Input)
        return self.data[node.name]  # type: ignore[return-value]


def _constant(value: object) -> str | int | float | bool | tuple:
    if isinstance(value, str | int | float | bool):
        return value
    return ()  # a table is only ever read row by row


def ground(graph: RewardGraph, data: Mapping[str, object]) -> RewardGraph:
    """The graph for one binding; `data` has a value for every parameter that is read.

    Tables are sequences of mappings from column to value.
    """
    return _Grounding(graph, data).run()
