"""Every pass keeps the log reward, alone and after those before it, and the verifier sees what is broken."""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx
import numpy as np
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from posterior_lm.graph import PASSES, RewardGraph, ground, optimize, verify
from posterior_lm.graph.dump import text
from posterior_lm.graph.nodes import (
    Constant,
    Latent,
    LmScore,
    Node,
    PlateSum,
    Power,
    Segments,
    Sum,
    TermInfo,
    Total,
)
from posterior_lm.graph.passes import Pass
from posterior_lm.lang.diagnostics import InternalError
from posterior_lm.lang.source import NOWHERE
from posterior_lm.target.evaluate import Evaluator
from posterior_lm.target.prepared import PreparedProgram, support_of
from posterior_lm.target.segments import Speller
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.validate import validate_data
from tests.strategies import Bound, bound_cases, graph_of, table, values_of

FEW = settings(max_examples=20)


def run(graph: RewardGraph, passes: Sequence[Pass]) -> RewardGraph:
    for step in passes:
        graph = verify(step.run(graph))
    return graph


def evaluated(bound: Bound, before: Sequence[Pass], after: Sequence[Pass]) -> np.ndarray:
    """Terms of a program with some passes before data is bound and some after, and none besides."""
    program = run(graph_of(bound.case.source), before)
    graph = run(verify(ground(program, validate_data(program, bound.case.data))), after)
    models = bound.case.models
    infos = tuple(
        LatentInfo(n.name, n.type, support_of(graph, n, models), n.lm, i, n.span) for i, n in graph.latents()
    )
    spellers = {
        alias: Speller.of(
            m.tokenizer,
            frozenset(i.name for i in infos if i.lm and models[i.lm].tokenizer.digest == m.tokenizer.digest),
        )
        for alias, m in models.items()
    }
    evaluator = Evaluator(graph, models, spellers, {i.name: i.support for i in infos})
    target = Target(PreparedProgram.of(program, models), graph, bound.case.data, infos, evaluator)
    assert target.names == bound.target.names
    return target.terms(values_of(target, bound.rows))


@FEW
@given(bound_cases(), st.integers(0, len(PASSES)), st.integers(0, len(PASSES)))
def test_every_prefix_of_the_passes_keeps_every_term(bound: Bound, before: int, after: int) -> None:
    got = evaluated(bound, PASSES[:before], PASSES[:after])
    np.testing.assert_allclose(got, bound.wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("step", PASSES, ids=lambda p: p.name)
@settings(max_examples=8)
@given(bound=bound_cases())
def test_every_pass_alone_keeps_every_term(step: Pass, bound: Bound) -> None:
    for before, after in (((step,), ()), ((), (step,)), ((step, step), (step, step))):
        np.testing.assert_allclose(evaluated(bound, before, after), bound.wanted, rtol=1e-9, atol=1e-9)


@FEW
@given(bound_cases())
def test_passes_have_nothing_left_to_do(bound: Bound) -> None:
    for graph in (bound.target.program, bound.target.graph):
        again = optimize(graph)
        assert len(again.nodes) == len(graph.nodes)
        assert text(optimize(again)) == text(again)
        assert again.fingerprint == graph.fingerprint


@FEW
@given(bound_cases())
def test_prune_and_share_and_mark_keep_the_fingerprint(bound: Bound) -> None:
    folded = run(graph_of(bound.case.source), PASSES[:1])
    for k in range(2, len(PASSES) + 1):
        assert run(folded, PASSES[1:k]).fingerprint == folded.fingerprint


@FEW
@given(bound_cases())
def test_a_rider_begins_its_host_and_hosts_do_not_ride(bound: Bound) -> None:
    graph = bound.target.graph
    spell = bound.target.evaluator
    columns = spell.columns(bound.values, len(bound.rows))
    for i, node in graph.nodes.items():
        if not isinstance(node, LmScore) or node.rides is None:
            continue
        host = graph[node.rides]
        assert isinstance(host, LmScore) and host.rides is None and host.lm == node.lm
        for d in range(len(bound.rows)):
            latent, computed = spell._readers(columns, bound.values, d)
            rider, whole = (
                spell.plan(k).spell(spell.spellers[node.lm], latent, computed) for k in (i, node.rides)
            )
            assert whole.context[: len(rider.ids)] == rider.ids


@FEW
@given(bound_cases())
def test_what_is_marked_depends_on_no_latent_and_all_else_does(bound: Bound) -> None:
    graph = bound.target.graph
    latents = {i for i, _ in graph.latents()}
    for i in graph.nodes:
        assert (i in graph.fixed) == (not graph.ancestors(i) & latents)


# ------------------------------------------------------------------- the verifier

SOURCE = """lm base = "b.json"
program prog(q: text, t: table(a: text)) {
  latent z: text(tokens=1..2) ~ base(q) ^ 2
  observe ["a", z] ~ base(z)
  plate r in t { latent y: text(tokens=1..2) ~ base(z) observe r.a ~ base(y) }
  factor -0.5 * chars(z)
  condition contains(z, "a")
  guide z ~ base(q)
}"""


def broken_graphs() -> dict[str, RewardGraph]:
    graph = optimize(graph_of(SOURCE))
    nodes = dict(graph.nodes)
    total = graph.sink
    find = {type(n): i for i, n in nodes.items()}
    top = max(nodes) + 1

    def put(i: int, node: object) -> RewardGraph:
        return graph.rebuilt({**nodes, i: node})  # type: ignore[dict-item]

    latent, score, power = find[Latent], find[LmScore], find[Power]
    other = Total(inputs=total.inputs[:1], terms=total.terms[:1])
    context, _ = nodes[score].inputs
    return {
        "a term is dropped": put(graph.total, evolve(total, inputs=total.inputs[1:])),
        "a statement is dropped": put(graph.total, evolve(total, terms=total.terms[1:])),
        "a term is added": put(graph.total, evolve(total, inputs=(*total.inputs, total.inputs[0]))),
        "two totals": put(top, other),
        "the total is not the total": graph.rebuilt(nodes, total=score),
        "no total": graph.rebuilt({i: n for i, n in nodes.items() if i != graph.total}),
        "a cycle": put(context, Segments(inputs=(top,))).rebuilt(
            {**nodes, context: Segments(inputs=(top,)), top: _apply("if", (power, context, context))}
        ),
        "a node reads itself": put(power, evolve(nodes[power], inputs=(power, power))),
        "a missing input": graph.rebuilt({i: n for i, n in nodes.items() if i != context}),
        "a power of three": put(power, evolve(nodes[power], inputs=(*nodes[power].inputs, score))),
        "a score without text": put(score, evolve(nodes[score], inputs=(context,))),
        "a score of a score": put(score, evolve(nodes[score], inputs=(context, power))),
        "a constant that reads": put(find[Constant], evolve(nodes[find[Constant]], inputs=(latent,))),
        "something reads the total": put(top, Sum(inputs=(graph.total,))),
        "a text is a term": put(graph.total, evolve(total, inputs=(*total.inputs[1:], context))),
        "two latents of one name": put(top, nodes[latent]),
        "a foreign node": put(top, Node()),
        "a ride on nothing": put(score, evolve(nodes[score], rides=top)),
        "a guide of nothing": graph.rebuilt(nodes, guides={"nobody": graph.guides["z"]}),
        "a guide that reads a score": graph.rebuilt(
            nodes, guides={"z": evolve(graph.guides["z"], context=score)}
        ),
        "a plate over a text": put(find[PlateSum], evolve(nodes[find[PlateSum]], inputs=(latent, score))),
    }


def _apply(op: str, inputs: tuple[int, ...]):
    from posterior_lm.graph.nodes import Apply

    return Apply(op=op, inputs=inputs)


@pytest.mark.parametrize("fault", broken_graphs())
def test_the_verifier_sees(fault: str) -> None:
    with pytest.raises(InternalError):
        verify(broken_graphs()[fault])


def test_the_verifier_runs_after_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def drop(graph: RewardGraph) -> RewardGraph:
        return graph.rebuilt({**graph.nodes, graph.total: evolve(graph.sink, inputs=graph.sink.inputs[1:])})

    import posterior_lm.graph.passes as passes

    for k in range(len(PASSES)):
        monkeypatch.setattr(passes, "PASSES", (*PASSES[:k], Pass("drop", "a test", drop), *PASSES[k:]))
        with pytest.raises(InternalError, match="one statement"):
            optimize(graph_of(SOURCE))


def test_until_stops_after_the_named_pass() -> None:
    graph = graph_of(SOURCE)
    for k, step in enumerate(PASSES):
        assert text(optimize(graph, until=step.name)) == text(run(graph, PASSES[: k + 1]))
    with pytest.raises(KeyError):
        optimize(graph, until="nothing")


def test_graphs_are_frozen() -> None:
    graph = optimize(graph_of(SOURCE))
    with pytest.raises(TypeError):
        graph.nodes[0] = Constant(value=1)  # type: ignore[index]
    with pytest.raises(Exception, match=r"[Ff]rozen"):
        graph.dag.add_edge(0, 1)
    with pytest.raises(AttributeError):
        graph.sink.inputs = ()  # type: ignore[misc]
    assert graph.sink.terms[0] == TermInfo("latent", "z", NOWHERE)


def test_one_model_is_enough_for_the_source_above() -> None:
    """So that the graphs above are broken by what breaks them and nothing else."""
    model = table(("a", "b"), seed=1)
    graph = optimize(graph_of(SOURCE))
    verify(graph)
    grounded = optimize(ground(graph, validate_data(graph, {"q": "a", "t": [{"a": "b"}]})))
    assert [n.name for _, n in grounded.latents()] == ["z", "y[0]"] and model is not None


def test_the_order_is_the_lexicographical_one_whatever_the_numbers_are() -> None:
    graph = graph_of(SOURCE)
    top = max(graph.nodes)
    turned = {top - i: evolve(n, inputs=tuple(top - j for j in n.inputs)) for i, n in graph.nodes.items()}
    for one in (graph, evolve(graph, nodes=turned, total=top - graph.total, guides={})):
        assert one.order() == list(nx.lexicographical_topological_sort(one.dag))
        for i in one.nodes:
            assert one.ancestors(i) == nx.ancestors(one.dag, i) | {i}
            assert one.dependents(i) == nx.descendants(one.dag, i) | {i}


def test_a_cycle_is_one_whatever_the_numbers_are() -> None:
    graph = optimize(graph_of(SOURCE))
    i, node = next((i, n) for i, n in graph.nodes.items() if n.inputs)
    assert (
        graph.is_acyclic()
        and not evolve(graph, nodes={**graph.nodes, i: evolve(node, inputs=(i,))}).is_acyclic()
    )
