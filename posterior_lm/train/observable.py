"""Which observed parameters of a program can be simulated, and how: from which scores, in which order.

A parameter (or a column of a table) can be drawn where one observed statement, or
in every draw one of several in branches, says how it is distributed and nothing else
of the log reward reads it. In the
simulation's graph it is one more latent, so everything that handles latents
handles it. Whether a simulation leaves nothing out, so that its draws are exact, is
said by a bound program.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from attrs import frozen

from posterior_lm.graph.graph import ParamSpec, RewardGraph
from posterior_lm.graph.nodes import (
    Apply,
    ChoiceScore,
    Constant,
    DistScore,
    Input,
    Latent,
    LmScore,
    Mix,
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
from posterior_lm.target.values import Value
from posterior_lm.train.simulated_texts import split_lead

Tests = tuple[int, ...]
"""The nodes that say whether the branches around a place are taken, outermost first."""

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
    """Every parameter and column that an observed statement can draw, or one of each branch."""
    counted, drawing = graph.ancestors(graph.total), _observed(graph)
    columns = Counter((table, spec.name) for i, _, spec, table in _parameters(graph) if i in counted)
    readers: dict[int, list[int]] = {}
    for i in counted:
        for j in graph[i].inputs:
            readers.setdefault(j, []).append(i)
    found: list[Observable] = []
    taken: set[int] = set()
    for i, _node, spec, table in _parameters(graph):
        if columns[table, spec.name] > 1:
            continue  # two plates read it, each through a node of its own
        if i not in counted or (spec.type != "text" and spec.finite is None):
            continue
        scores = {score for place in readers.get(i, ()) for score in _scores(graph, i, place, readers, spec)}
        if not scores <= drawing.keys() or scores & taken or not _one_is_taken(graph, scores, drawing):
            continue
        taken |= scores
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


NO_SCORE = -1
"""In place of the number of a score: what reads the parameter draws it from none, or the text is ambiguous."""


def _scores(
    graph: RewardGraph, i: int, reader: int, readers: dict[int, list[int]], spec: ParamSpec
) -> list[int]:
    """The scores that draw parameter node `i` through one reader of it, `NO_SCORE` among them where it has another use."""
    node = graph[reader]
    if isinstance(node, ChoiceScore) and node.inputs[1] == i and list(node.inputs).count(i) == 1:
        return [reader]
    if isinstance(node, DistScore) and node.inputs[0] == i and list(node.inputs).count(i) == 1:
        return [reader]
    if not isinstance(node, Segments) or list(node.inputs).count(i) != 1:
        return [NO_SCORE]
    # A text ends where its rows' texts end, so nothing may follow it.
    whole = spec.type != "text" or node.inputs[-1] == i
    found = []
    for j in readers.get(reader, []):
        score = graph[j]
        alone = isinstance(score, LmScore) and score.inputs[1] == reader and score.inputs[0] != reader
        found.append(j if alone and whole else NO_SCORE)
    return found


MOST_TESTS = 8
"""Tests of the branches that a parameter is observed in; of more it is not known whether one is taken in every draw."""


def _one_is_taken(graph: RewardGraph, scores: set[int], drawing: Mapping[int, Sequence[Tests]]) -> bool:
    """Whether in every draw one of the scores of a parameter counts and no two, and one model makes them."""
    if len({getattr(graph[i], "lm", None) for i in scores}) != 1:
        return False
    atoms = sorted({atom for i in scores for tests in drawing[i] for t in tests for atom in _atoms(graph, t)})
    if len(atoms) > MOST_TESTS:
        return False

    def read(i: int, truth: Mapping[int, bool]) -> bool:
        return any(all(_holds(graph, test, truth) for test in tests) for tests in drawing[i])

    truths = (dict(zip(atoms, truth, strict=True)) for truth in product((True, False), repeat=len(atoms)))
    return all(sum(read(i, truth) for i in scores) == 1 for truth in truths)


LOGIC = {"and": all, "or": any}


def _atoms(graph: RewardGraph, test: int) -> set[int]:
    node = graph[test]
    if isinstance(node, Apply) and (node.op in LOGIC or node.op == "unary not"):
        return {atom for j in node.inputs for atom in _atoms(graph, j)}
    return {test}


def _holds(graph: RewardGraph, test: int, truth: Mapping[int, bool]) -> bool:
    """Whether a test is true where its atoms have this truth."""
    if test in truth:
        return truth[test]
    node = graph[test]
    assert isinstance(node, Apply)
    parts = [_holds(graph, j, truth) for j in node.inputs]
    return LOGIC[node.op](parts) if node.op in LOGIC else not parts[0]


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
    """The scores that observed statements add to the log reward, powers, plates and branches seen through."""
    return set(_observed(graph))


def _observed(graph: RewardGraph) -> dict[int, list[Tests]]:
    """The same with the tests of the branches around each place where one is added."""
    found: dict[int, list[Tests]] = {}
    sink = graph.sink
    stack: list[tuple[int, Tests]] = [
        (i, ()) for i, info in zip(sink.inputs, sink.terms, strict=True) if info.keyword == "observe"
    ]
    while stack:
        i, tests = stack.pop()
        node = graph[i]
        match node:
            case Sum():
                stack += [(j, tests) for j in node.inputs]
            case Power() | PlateSum():
                stack.append((node.inputs[1], tests))
            case Mix() if (inside := where_taken(graph, i)) is not None:
                stack.append((inside, (*tests, node.inputs[0])))
            case LmScore() | ChoiceScore() | DistScore():
                found.setdefault(i, []).append(tests)
    return found


def where_taken(graph: RewardGraph, i: int) -> int | None:
    """The term that a statement in a branch adds where the branch is taken; None for any other node."""
    node = graph[i]
    if not isinstance(node, Mix):
        return None
    elsewhere = graph[node.inputs[2]]
    return node.inputs[1] if isinstance(elsewhere, Constant) and elsewhere.value == 0.0 else None


def drawing_score(target: Target, info: LatentInfo, drawn: Mapping[str, Value]) -> int:
    """The score node that says how an observed parameter is distributed, where branches with scores of their own are
    known to be taken by what is drawn."""
    first, *others = drawing_scores(target, info)
    columns = {name: (value,) for name, value in drawn.items()} if others else {}
    return next((i for i in others if len(target.evaluator.readers(i, columns, 1))), first)


def drawing_scores(target: Target, info: LatentInfo) -> list[int]:
    """The score nodes that say how an observed parameter is distributed: one, or one of each branch."""
    found = []
    for i, node in sorted(target.graph.nodes.items()):
        match node:
            case LmScore():
                text = target.graph[node.inputs[1]]
                if isinstance(text, Segments) and info.node in text.inputs:
                    found.append(i)
            case ChoiceScore() if node.inputs[1] == info.node:
                found.append(i)
            case DistScore() if node.inputs[0] == info.node:
                found.append(i)
    return found


def order(target: Target, seen: set[str]) -> list[str]:
    """Names in an order in which each one's distribution, and whether there is one, reads only earlier ones."""
    nodes = {info.node: info.name for info in target.latents}
    needs: dict[str, set[str]] = {}
    for info in target.latents:
        if info.name.split("[", 1)[0] in seen:
            read = drawing_scores(target, info)
            sides = [mix for i in read for mix, _ in target.evaluator.sides.get(i, ())]
            read += [target.graph[mix].inputs[0] for mix in sides]
        else:
            read = [prior_of(target, info.name).node]
        needs[info.name] = {nodes[i] for i in target.graph.ancestors(*read) if i in nodes} - {info.name}
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
            drawn.update(dict.fromkeys(drawing_scores(target, info), info))
        elif info.support.ending == "free" and _lengths(info.support) > 1:
            return False  # how long the draw is was a choice that the program does not score
        else:
            prior = prior_of(target, info.name)
            if not prior.adds_up or any(part.exponent != 1 for part in prior.parts):
                return False
            plain.add(prior.node)
    scores = [i if (inside := where_taken(target.graph, i)) is None else inside for i in leaves]
    whole = all(
        i in plain or (score in drawn and _drawn_whole(target, score, drawn[score]))
        for i, score in zip(leaves, scores, strict=True)
    )
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
