"""Which observed parameters of a program can be simulated, and the program with them unknown.

A parameter (or a column of a table) can be drawn where one observed statement
says how it is distributed and nothing else of the log reward reads it. In the
simulation's graph it is one more latent, so everything that handles latents
handles it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from attrs import frozen

from posterior_lm.amortize.observed import observed_scores
from posterior_lm.graph.graph import ParamSpec, RewardGraph
from posterior_lm.graph.nodes import (
    ChoiceScore,
    Constant,
    DistScore,
    Input,
    Latent,
    LmScore,
    Node,
    RowField,
    Segments,
)

LONGEST = 512
"""Tokens of a simulated text at most; the rows say how long one really is."""


@frozen
class Observable:
    """An observed parameter, or a column of a table, that can be simulated."""

    name: str
    """Its name as a latent of the simulation: `ending`, `examples.output`."""
    spec: ParamSpec
    table: str | None
    node: int
    """The `Input` or `RowField` in the program's graph."""


def observables(graph: RewardGraph) -> tuple[Observable, ...]:
    """Every parameter and column that an observed statement can draw."""
    counted, drawing = graph.ancestors(graph.total), observed_scores(graph)
    columns = Counter((table, spec.name) for i, _, spec, table in _parameters(graph) if i in counted)
    readers: dict[int, list[int]] = {}
    for i in counted:
        for j in graph[i].inputs:
            readers.setdefault(j, []).append(i)
    found: list[Observable] = []
    taken: set[int] = set()
    for i, _node, spec, table in _parameters(graph):
        places = [j for j in readers.get(i, ()) if i in counted]
        if columns[table, spec.name] > 1:
            continue  # two plates read it, each through a node of its own
        if len(places) != 1 or (spec.type != "text" and spec.finite is None):
            continue
        score = _score(graph, i, places[0], readers, spec)
        if score not in drawing or score is None or score in taken:
            continue
        taken.add(score)
        name = spec.name if table is None else f"{table}.{spec.name}"
        found.append(Observable(name, spec, table, i))
    return tuple(found)


def _parameters(graph: RewardGraph) -> Iterator[tuple[int, Node, ParamSpec, str | None]]:
    tables = {}
    for node in graph.nodes.values():
        if node.KIND == "plate":
            table = graph[node.inputs[0]]
            assert isinstance(table, Input)
            tables[node.plate] = table.name  # type: ignore[attr-defined]
    for i, node in sorted(graph.nodes.items()):
        match node:
            case Input(name=name):
                spec = graph.param(name)
                if spec is not None:
                    yield i, node, spec, None
            case RowField(plate=plate, column=column) if plate in tables:
                spec = graph.param(tables[plate])
                assert spec is not None
                yield i, node, next(c for c in spec.columns if c.name == column), tables[plate]


def _score(
    graph: RewardGraph, i: int, reader: int, readers: dict[int, list[int]], spec: ParamSpec
) -> int | None:
    """The score that draws parameter node `i`, or None where there is none or the text is ambiguous."""
    node = graph[reader]
    if isinstance(node, ChoiceScore) and node.inputs[1] == i and list(node.inputs).count(i) == 1:
        return reader
    if isinstance(node, DistScore) and node.inputs[0] == i and list(node.inputs).count(i) == 1:
        return reader
    if not isinstance(node, Segments) or list(node.inputs).count(i) != 1:
        return None
    scores = readers.get(reader, [])
    if len(scores) != 1:
        return None
    score = graph[scores[0]]
    if not isinstance(score, LmScore) or score.inputs[1] != reader or score.inputs[0] == reader:
        return None
    # A text ends where its rows' texts end, so nothing may follow it.
    return scores[0] if spec.type != "text" or node.inputs[-1] == i else None


def simulated(graph: RewardGraph, found: tuple[Observable, ...]) -> RewardGraph:
    """The program in which these parameters are latents; texts have 1 to `LONGEST` tokens and no terminator."""
    nodes = dict(graph.nodes)
    fresh = max(nodes) + 1
    for one in found:
        options: list[tuple[str, str | int]] = []
        if one.spec.type == "text":
            options = [("tokens_low", 1), ("tokens_high", LONGEST), ("end", "free")]
        elif one.spec.low is not None and one.spec.high is not None:
            options = [("low", one.spec.low), ("high", one.spec.high)]
            options += [("lead", one.spec.lead)] * bool(one.spec.lead)
        inputs = []
        for _, value in options:
            nodes[fresh] = Constant(value=value)
            inputs.append(fresh)
            fresh += 1
        old = graph[one.node]
        nodes[one.node] = Latent(
            name=one.name,
            type=one.spec.type,
            inputs=tuple(inputs),
            options=tuple(name for name, _ in options),
            choices=one.spec.choices,
            lm=_model(graph, one),
            plates=(old.plate,) if isinstance(old, RowField) else (),
            span=old.span,
        )
    return graph.rebuilt(nodes)


def _model(graph: RewardGraph, one: Observable) -> str | None:
    """The model whose score draws the parameter."""
    for i in sorted(graph.dependents(one.node)):
        node = graph[i]
        if isinstance(node, LmScore | ChoiceScore):
            return node.lm
    return None
