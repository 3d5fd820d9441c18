"""Which observed parameters of a program can be simulated, and how: from which scores, in which order.

A parameter (or a column of a table) can be drawn where one observed statement
says how it is distributed and nothing else of the log reward reads it. In the
simulation's graph it is one more latent, so everything that handles latents
handles it. Whether a simulation leaves nothing out, so that its draws are exact, is
said by a bound program.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from attrs import frozen

from posterior_lm.graph.graph import ParamSpec, RewardGraph
from posterior_lm.graph.nodes import (
    ChoiceScore,
    Constant,
    DistScore,
    Input,
    Latent,
    LmScore,
    Node,
    PlateSum,
    Power,
    RowField,
    Segments,
    Sum,
)
from posterior_lm.infer.schedule import prior_of
from posterior_lm.support.base import Support
from posterior_lm.target.segments import Known, Splice
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.train.simulated_texts import split_lead

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
        options: list[tuple[str, str | float]] = []
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


# ------------------------------------------------------------------------------- of a graph and of a bound program


def observed_scores(graph: RewardGraph) -> set[int]:
    """The scores that observed statements add to the log reward, powers and plates seen through."""
    found: set[int] = set()
    sink = graph.sink
    stack = [i for i, info in zip(sink.inputs, sink.terms, strict=True) if info.keyword == "observe"]
    while stack:
        i = stack.pop()
        node = graph[i]
        match node:
            case Sum():
                stack += node.inputs
            case Power() | PlateSum():
                stack.append(node.inputs[1])
            case LmScore() | ChoiceScore() | DistScore():
                found.add(i)
    return found


def drawing_score(target: Target, info: LatentInfo) -> int:
    """The score node that says how an observed parameter is distributed."""
    for i, node in sorted(target.graph.nodes.items()):
        match node:
            case LmScore():
                text = target.graph[node.inputs[1]]
                if isinstance(text, Segments) and info.node in text.inputs:
                    return i
            case ChoiceScore() if node.inputs[1] == info.node:
                return i
            case DistScore() if node.inputs[0] == info.node:
                return i
    raise KeyError(info.name)


def order(target: Target, seen: set[str]) -> list[str]:
    """Names in an order in which each one's distribution reads only earlier ones."""
    nodes = {info.node: info.name for info in target.latents}
    needs: dict[str, set[str]] = {}
    for info in target.latents:
        base = info.name.split("[", 1)[0]
        score = drawing_score(target, info) if base in seen else prior_of(target, info.name).node
        needs[info.name] = {nodes[i] for i in target.graph.ancestors(score) if i in nodes} - {info.name}
    order: list[str] = []
    while len(order) < len(needs):
        ready = [n for n in needs if n not in order and needs[n] <= set(order)]
        if not ready:
            raise KeyError("observations that read each other")
        order += ready
    return order


def unsimulated(graph: RewardGraph, observed: Sequence[Observable]) -> tuple[str, ...]:
    """Labels of the observed statements that no simulated parameter belongs to."""
    nodes = {o.node for o in observed}
    sink = graph.sink
    return tuple(
        info.label
        for i, info in zip(sink.inputs, sink.terms, strict=True)
        if info.keyword == "observe" and not nodes & graph.ancestors(i)
    )


def is_exact(target: Target, seen: set[str]) -> bool:
    """Whether the terms are plain priors and observations that are drawn whole, each of them once."""
    leaves: list[int] = []
    stack = list(target.graph.sink.inputs)
    while stack:
        i = stack.pop()
        node = target.graph[i]
        if isinstance(node, Sum):
            stack += node.inputs
        else:
            leaves.append(i)
    plain, drawn = set(), {}
    for info in target.latents:
        if info.name.split("[", 1)[0] in seen:
            drawn[drawing_score(target, info)] = info
        elif info.support.ending == "free" and _lengths(info.support) > 1:
            return False  # how long the draw is was a choice that the program does not score
        else:
            prior = prior_of(target, info.name)
            if not prior.adds_up or any(part.exponent != 1 for part in prior.parts):
                return False
            plain.add(prior.node)
    whole = all(i in plain or (i in drawn and _drawn_whole(target, i, drawn[i])) for i in leaves)
    return whole and len(leaves) == len(set(leaves))


def _lengths(support: Support) -> int:
    least = getattr(getattr(support, "plain", support), "min_tokens", 0)
    return support.max_tokens - int(least) + 1


def _drawn_whole(target: Target, score: int, info: LatentInfo) -> bool:
    """Whether the observed statement holds nothing but what is drawn and the space before it."""
    if not isinstance(target.graph[score], LmScore):
        return True
    if info.type != "text":
        return False  # its known words are not drawn
    text = target.evaluator.plan(score).text
    known = text[0].text if isinstance(text[0], Known) else ""
    return not split_lead(known)[0] and isinstance(text[-1], Splice) and len(text) <= 2
