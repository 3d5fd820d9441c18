"""What lowering and grounding make of a program: terms, names, options, what is left for later."""

from __future__ import annotations

import json

import pytest

from posterior_lm.graph import ground, optimize
from posterior_lm.graph.dump import FORMATS, dot, mermaid, text, to_json
from posterior_lm.graph.nodes import Constant, Latent, LmScore, PlateSum, Power, Sum, Test
from posterior_lm.lang.diagnostics import DataError
from posterior_lm.target.validate import validate_data
from tests.strategies import compiled, graph_of, table, values_of

SOURCE = """lm base = "b.json"
program prog(q: text, w: real = 2, t: table(a: text)) {
  latent z: text(tokens=1..2, stop=".") ~ base(q)
  temper w {
    observe q ~ base(z) ^ 3
    condition contains(z, "a")
    plate r in t { temper 0.5 { observe r.a ~ base(z) } condition chars(z) > 0 latent y: text(tokens=1..1) ~ base(r.a) }
  }
  factor 1 + 2 * chars(z)
  condition 1 < 2
}"""


def test_one_term_per_statement_in_order_with_its_wrappers_inside_out() -> None:
    graph = graph_of(SOURCE)
    assert [t.keyword for t in graph.sink.terms] == [
        "latent", "observe", "condition", "observe", "condition", "latent", "factor", "condition",
    ]  # fmt: skip
    assert [t.span.line for t in graph.sink.terms] == [3, 5, 6, 7, 7, 7, 9, 10]

    def shape(i: int) -> list[str]:
        node = graph[i]
        inner = {Power: 1, PlateSum: 1, Test: 0}.get(type(node))
        return [node.KIND] + (
            shape(node.inputs[inner]) if inner is not None and not isinstance(node, Test) else []
        )

    assert [shape(i) for i in graph.sink.inputs] == [
        ["lm_score"],
        ["power", "power", "lm_score"],
        ["test"],
        ["power", "plate", "power", "lm_score"],
        ["plate", "test"],
        ["power", "plate", "lm_score"],
        ["apply"],
        ["test"],
    ]


@pytest.mark.parametrize("let", ["let y = r.n", "let x = r.n let y = x"])
def test_a_let_of_a_column_keeps_its_range(let: str) -> None:
    start = "program p(t: table(n: int(2..5))) { latent z: int(0..1) ~ uniform() plate r in t {"
    named = graph_of(f"{start} {let} observe y ~ poisson(z + 1) }} }}")
    assert named.fingerprint == graph_of(f"{start} observe r.n ~ poisson(z + 1) }} }}").fingerprint


def test_folding() -> None:
    graph = optimize(graph_of(SOURCE))
    last = graph[graph.sink.inputs[-1]]
    assert isinstance(last, Constant) and last.value == 0.0
    assert not any(n.KIND == "apply" and n.detail in ("<", "unary -") for n in graph.nodes.values())


def test_grounding_writes_plates_out_and_names_rows() -> None:
    graph = optimize(graph_of(SOURCE))
    data = validate_data(graph, {"q": "a", "t": [{"a": "x"}, {"a": "y"}, {"a": "x"}]})
    grounded = optimize(ground(graph, data))
    assert [n.name for _, n in grounded.latents()] == ["z", "y[0]", "y[1]", "y[2]"]
    assert not any(n.KIND in ("input", "row", "plate") for n in grounded.nodes.values())
    sums = [n for n in grounded.nodes.values() if isinstance(n, Sum)]
    assert {len(n.inputs) for n in sums} == {3}
    assert grounded.sink.terms == graph.sink.terms
    # 2 ^ 3: the parameter's power and the statement's are one constant now.
    observed = grounded[grounded.sink.inputs[1]]
    assert isinstance(observed, Power)
    exponent = grounded[observed.inputs[0]]
    assert isinstance(exponent, Constant) and exponent.value == 6.0
    assert isinstance(grounded[observed.inputs[1]], LmScore)


def test_options_of_latents_are_sorted_and_computed_from_parameters() -> None:
    source = """lm base = "b.json"
    program p(n: int) { latent z: text(stop=".", chars="ab", tokens=1..n + 1) ~ base() latent i: int(n..n * 2, lead=" ") ~ base() }"""
    graph = graph_of(source)
    options = {n.name: n.options for _, n in graph.latents()}
    assert options == {"z": ("chars", "stop", "tokens_low", "tokens_high"), "i": ("low", "high", "lead")}
    model = table(("a", "b", ".", "1", "2", " "), seed=1)
    target = compiled(source, {"n": 1}, {"base": model})
    assert target.latent("z").support.max_tokens == 2
    assert [target.latent("i").support.datum(ids) for ids in target.latent("i").support.values()] == [1, 2]  # type: ignore[attr-defined]


def test_constants_may_be_computed_wherever_they_stand() -> None:
    source = """lm base = "b"
    program p(n: int(0..2 * 3) = 1 + 1, w: real = -0.5) {
      latent z: text(tokens=1..1) ~ base() factor n * w infer importance(n=2 * 50)
    }"""
    target = compiled(source, {}, {"base": table(("a", "b"), seed=1)})
    assert target.terms(values_of(target, [{"z": (0,)}]))[0, 1] == -1.0
    assert target.program.infer[0].options == (("n", 100),)
    with pytest.raises(DataError):
        validate_data(target.program, {"n": 7})


def test_values_outside_the_support_are_data_errors() -> None:
    source = 'lm base = "b"\nprogram p() { latent z: text(tokens=1..2, stop=".") ~ base() latent o: one_of("a", "b") ~ base() }'
    target = compiled(source, {}, {"base": table(("a", "b", "."), seed=1)})
    assert target.value("z", "a.").ids == (0, 2) and target.value("o", "b").datum == "b"
    for name, wrong in (("z", "a"), ("z", "aa."), ("z", ".a"), ("o", "c"), ("o", "")):
        with pytest.raises(DataError) as caught:
            target.value(name, wrong)
        assert caught.value.diagnostics[0].code == "PLM610"
    with pytest.raises(KeyError):
        target.value("y", "a")


# ------------------------------------------------------------------- dumps


def test_dumps_hold_every_node_edge_and_term() -> None:
    graph = optimize(graph_of(SOURCE))
    lines = text(graph).splitlines()
    assert lines[0] == "graph prog" and len(lines) == 1 + len(graph.nodes)
    for k, info in enumerate(graph.sink.terms):
        assert any(f"term {k}: {info.label}" in line for line in lines)
    assert dot(graph).count(" -> ") == len(graph.edges()) + sum(
        isinstance(n, LmScore) and n.rides is not None for n in graph.nodes.values()
    )
    assert mermaid(graph).count(" --> ") == len(graph.edges())
    assert mermaid(graph).startswith("flowchart") and dot(graph).rstrip().endswith("}")
    whole = json.loads(to_json(graph))
    assert whole["fingerprint"] == graph.fingerprint and len(whole["nodes"]) == len(graph.nodes)
    assert [t["statement"] for t in whole["terms"]] == [t.label for t in graph.sink.terms]
    assert [t["line"] for t in whole["terms"]] == [t.span.line for t in graph.sink.terms]
    assert {i for node in whole["nodes"] for i in node["inputs"]} <= {n["id"] for n in whole["nodes"]}


def test_quotes_and_line_ends_do_not_break_the_drawings() -> None:
    graph = graph_of(
        'lm base = "b"\nprogram p() { latent z: text(tokens=1..1) ~ base("say \\"hi\\" \\\\ <b>\\n") }'
    )
    for name in ("dot", "mermaid"):
        for line in FORMATS[name](graph).splitlines():
            assert line.count('"') % 2 == 0
    assert "<b>" not in mermaid(graph)


def test_latents_keep_their_order() -> None:
    source = """lm base = "b"
    program p(t: table(a: text)) {
      latent c: text(tokens=1..1) ~ base()
      plate r in t { latent b: text(tokens=1..1) ~ base(c) latent a: text(tokens=1..1) ~ base(b) }
      latent z: text(tokens=1..1) ~ base(c)
    }"""
    target = compiled(source, {"t": [{"a": ""}] * 2}, {"base": table(("a", "b"), seed=1)})
    assert target.names == ("c", "b[0]", "b[1]", "a[0]", "a[1]", "z")
    latents = [n for _, n in target.graph.latents()]
    assert all(isinstance(n, Latent) for n in latents) and [n.name for n in latents] == list(target.names)
