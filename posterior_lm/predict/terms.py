"""What of a program reads one parameter: the graph without those terms, with nothing but them, and
where an answer is written in it (the text before it, what ends it, and the model that scores it).

Places are found in the grounded graph with a marker in the answer's place, so that nothing about
the answer has to be known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attrs import evolve, frozen

from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.ground import ground
from posterior_lm.graph.nodes import Constant, Input, Latent, LmScore, Marker, Segments, TermInfo, Total
from posterior_lm.graph.ops import spelled
from posterior_lm.lang.source import Span

# ------------------------------------------------------------------------------- terms


def readers(graph: RewardGraph, name: str) -> set[int]:
    """The nodes whose value depends on the parameter."""
    inputs = [i for i, node in graph.nodes.items() if isinstance(node, Input) and node.name == name]
    return graph.dependents(*inputs)


def read_by_prior(graph: RewardGraph, name: str) -> bool:
    """Whether a latent's own distribution or type depends on the parameter."""
    reading = readers(graph, name)
    if any(i in reading for i, node in graph.nodes.items() if isinstance(node, Latent)):
        return True
    sink = graph.sink
    return any(
        i in reading for i, info in zip(sink.inputs, sink.terms, strict=True) if info.keyword == "latent"
    )


def without(graph: RewardGraph, name: str) -> RewardGraph:
    """The graph without the terms that read the parameter; no guide may read it."""
    reading = readers(graph, name)
    kept = [k for k, i in enumerate(graph.sink.inputs) if i not in reading]
    return _of_terms(graph, kept, graph.guides)


def only(graph: RewardGraph, name: str) -> RewardGraph:
    """The graph of nothing but the terms that read the parameter, and without guides."""
    reading = readers(graph, name)
    kept = [k for k, i in enumerate(graph.sink.inputs) if i in reading]
    return _of_terms(graph, kept, ())


def _of_terms(graph: RewardGraph, kept: Iterable[int], guides: Iterable[str]) -> RewardGraph:
    sink = graph.sink
    places = list(kept)
    total: Total = evolve(
        sink, inputs=tuple(sink.inputs[k] for k in places), terms=tuple(sink.terms[k] for k in places)
    )
    few = {latent: graph.guides[latent] for latent in guides}
    smaller = graph.rebuilt({**graph.nodes, graph.total: total}, guides=few)
    keep = smaller.ancestors(graph.total, *(g.context for g in few.values()))
    return smaller.rebuilt({i: n for i, n in smaller.nodes.items() if i in keep})


# ------------------------------------------------------------------------------- places

MARK = "\ue000 the answer \ue000"
"""Stands where the answer does; private-use characters, which no program writes by chance."""


@frozen
class Place:
    """One score of the answer: `before` is a program whose only term scores what stands before it.

    `after` is the known text right behind the answer, None where end-of-text is scored there.
    """

    lm: str
    before: RewardGraph
    after: str | None
    span: Span


def place_of(graph: RewardGraph, name: str, data: Mapping[str, object], *, ended: bool) -> Place | None:
    """The first place where the parameter stands once in a scored text, not in its context, and has an end.

    An answer that is `ended` by its own type needs none.
    """
    grounded = ground(only(graph, name), {**data, name: MARK})
    marks = [i for i, n in grounded.nodes.items() if isinstance(n, Constant) and n.value == MARK]
    if not marks:
        return None
    (mark,) = marks
    reading = grounded.dependents(mark)
    for _, node in sorted(grounded.nodes.items()):
        if not isinstance(node, LmScore):
            continue
        context, text = node.inputs
        parts = grounded[text].inputs
        if context in reading or [i for i in parts if i in reading] != [mark]:
            continue
        at = parts.index(mark)
        after, ends = _after(grounded, parts[at + 1 :])
        if not (after or ends or ended):
            continue
        before = _scoring(grounded, node, parts[:at], name)
        return Place(node.lm, before, None if ends and not after else after, node.span)
    return None


def _after(graph: RewardGraph, parts: Sequence[int]) -> tuple[str, bool]:
    """The known text that comes next, and whether end-of-text comes right behind it."""
    known = ""
    for i in parts:
        node = graph[i]
        if isinstance(node, Constant):
            known += spelled(node.value)
        else:
            return known, isinstance(node, Marker) and node.kind == "eos"
    return known, False


def _scoring(graph: RewardGraph, score: LmScore, parts: Sequence[int], name: str) -> RewardGraph:
    """A program of one term: the score of the first parts of a text after its context."""
    text = max(graph.nodes) + 1
    nodes = {
        **graph.nodes,
        text: Segments(inputs=tuple(parts), span=score.span),
        text + 1: LmScore(lm=score.lm, inputs=(score.inputs[0], text), span=score.span),
        graph.total: Total(inputs=(text + 1,), terms=(TermInfo("observe", name, score.span),)),
    }
    whole = graph.rebuilt(nodes)
    return whole.rebuilt({i: n for i, n in nodes.items() if i in whole.ancestors(graph.total)})
