"""The query: the verbs of the language, composing, printing back, asking."""

from __future__ import annotations

import importlib
import math
import sys

import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.lang.diagnostics import CompileError
from posterior_lm.target.values import Value

TOKENS = ["a", "b", "ab", ".", " "]
MODEL = plm.TabularModel.random(TOKENS, order=1, max_tokens=9, rng=3, concentration=0.4)

FILE = """\
lm base = "table"

program p(x: text, beta: real = 1.5, label: one_of("a", "b") = "a", rows: table(y: text)) {
  let start = [x, "a"]
  latent z: text(tokens=1..3, stop=".") ~ base(start) ^ beta
  observe label ~ base(x, z)
  temper 0.5 {
    factor -0.3 * count(z, "a")
    condition not contains(z, "bb")
  }
  plate r in rows {
    observe r.y ~ base(z)
  }
  guide z ~ base(x)
  infer importance(n=50)
}
"""


def built() -> plm.Query:
    return (
        plm.program(
            "p",
            "x: text",
            "beta: real = 1.5",
            'label: one_of("a", "b") = "a"',
            "rows: table(y: text)",
            lm={"base": "table"},
        )
        .let("start", '[x, "a"]')
        .latent("z", 'text(tokens=1..3, stop=".")', "base(start) ^ beta")
        .observe("label", "base(x, z)")
        .temper(0.5, lambda b: b.factor('-0.3 * count(z, "a")').condition('not contains(z, "bb")'))
        .plate("r", "rows", lambda b: b.observe("r.y", "base(z)"))
        .guide("z", "base(x)")
    )


def bound(query: plm.Query) -> plm.Query:
    return query.lm(base=MODEL).given(x="b", rows=[{"y": "a"}, {"y": "ab"}])


def test_file_and_calls_give_one_fingerprint() -> None:
    file = plm.loads(FILE)
    assert built().fingerprint == file.fingerprint
    assert built().observe('"a"', "base()").fingerprint != file.fingerprint


def test_a_query_prints_back_as_a_program() -> None:
    again = plm.loads(str(built()))
    assert again.module == built().module
    assert plm.loads(str(plm.loads(FILE))).module == plm.loads(FILE).module


def test_verbs_leave_the_query_they_are_called_on_alone() -> None:
    query = built()
    before = str(query)
    query.factor("1.0").given(x="a").lm(base=MODEL).using("exact")
    assert str(query) == before and not query.data and query.method is None


def test_fragments_report_their_own_text() -> None:
    with pytest.raises(plm.CompileError) as caught:
        built().factor("1 +")
    assert "1 +" in str(caught.value)
    with pytest.raises(plm.CompileError) as caught:
        _ = built().factor("countt(z, 'a')").fingerprint if False else built().factor('countt(z, "a")').graph
    assert "count" in str(caught.value)


def log_reward(query: plm.Query, text: str) -> float:
    return query.score({"z": text}).log_reward


@pytest.mark.parametrize("text", ["a.", "b.", "ab.", "ba."])
def test_product_adds_log_rewards(text: str) -> None:
    a = bound(built())
    b = (
        plm.program("q", "x: text", lm={"other": "table"})
        .let("start", "[x]")
        .latent("z", 'text(tokens=1..3, stop=".")', "other(start)")
        .factor("0.7 * words(z)")
        .given(x="b")
        .lm(other=MODEL)
    )
    both = a * b
    assert math.isclose(log_reward(both, text), log_reward(a, text) + log_reward(b, text), abs_tol=1e-9)
    assert plm.loads(str(both)).fingerprint == both.fingerprint


def test_binding_commutes_with_the_product() -> None:
    a = built().lm(base=MODEL)
    rows = [{"y": "a"}]
    left = (a * a).given(x="b", rows=rows)
    right = a.given(x="b", rows=rows) * a.given(x="b", rows=rows)
    assert log_reward(left, "a.") == log_reward(right, "a.")


@pytest.mark.parametrize("exponent", [0.5, 2.0])
def test_power_multiplies_all_but_conditions(exponent: float) -> None:
    query = bound(built())
    raised = query**exponent
    assert math.isclose(log_reward(raised, "a."), exponent * log_reward(query, "a."), abs_tol=1e-9)
    dead = bound(built().condition('contains(z, "b")'))
    assert log_reward(dead**exponent, "a.") == -math.inf
    assert math.isclose(log_reward(dead**exponent, "b."), exponent * log_reward(dead, "b."), abs_tol=1e-9)


def test_temper_without_a_block_tempers_everything_so_far() -> None:
    query = built()
    assert query.temper(2.0).fingerprint == (query**2.0).fingerprint


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (plm.program("a", "x: text"), plm.program("b", "x: int")),
        (
            plm.program("a", lm={"m": "t"}).latent("z", "int(0..3)", "uniform(0, 3)"),
            plm.program("b", lm={"m": "t"}).latent("z", "int(0..4)", "uniform(0, 4)"),
        ),
        (plm.program("a", "z: int"), plm.program("b").latent("z", "int(0..4)", "uniform(0, 4)")),
    ],
)
def test_programs_that_contradict_do_not_compose(a: plm.Query, b: plm.Query) -> None:
    with pytest.raises(plm.CompileError) as caught:
        a * b
    assert caught.value.diagnostics[0].code == "PLM490"


def test_products_rename_what_only_shares_a_name() -> None:
    a = plm.program("a").let("k", "1").latent("u", "int(0..3)", "uniform(0, 3)").factor("k * 0.5")
    b = plm.program("b").let("k", "2").latent("v", "int(0..3)", "uniform(0, 3)").factor("k * v")
    both = a * b
    score = both.score({"u": 1, "v": 2})
    assert math.isclose(score.log_reward, 2 * math.log(1 / 4) + 0.5 + 4)


def test_same_seed_same_draws_and_settings_of_the_program() -> None:
    query = bound(plm.loads(FILE))
    one, two, other = query.draw(seed=5), query.draw(seed=5), query.draw(seed=6)
    assert one.method == "importance" and one.n == 50
    assert [v.ids for v in one.draws.values["z"]] == [v.ids for v in two.draws.values["z"]]
    assert np.array_equal(one.draws.log_weights, two.draws.log_weights)
    assert [v.ids for v in one.draws.values["z"]] != [v.ids for v in other.draws.values["z"]]


def test_guide_statement_proposes_and_weights_correct_it() -> None:
    query = bound(built())
    exact = query.using("exact").draw()
    drawn = query.using("importance", proposal="guide").draw(4000, seed=1)
    assert exact.draws.certificate is not None and exact.draws.certificate.complete
    assert drawn.log_evidence_se is not None
    assert abs(drawn.log_evidence - exact.log_evidence) < 4 * drawn.log_evidence_se
    assert "guide" in drawn.reason


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("exakt", {}, "exact"),
        ("importance", {"nn": 3}, "`n`"),
        ("importance", {"n": 0}, "at least 1"),
        ("importance", {"n": 10**400}, "whole number"),
        ("importance", {"n": 10**5000}, "whole number"),
        ("importance", {"proposal": "guid"}, "guide"),
    ],
)
def test_wrong_settings_are_coded(method: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(plm.InferenceError) as caught:
        built().using(method, **options)
    assert caught.value.diagnostics[0].code == "PLM802" and words in str(caught.value)


def test_unknown_model_alias_is_named() -> None:
    with pytest.raises(plm.ModelError) as caught:
        built().lm(bsae=MODEL)
    assert caught.value.diagnostics[0].code == "PLM515" and "`base`" in str(caught.value)


def test_score_names_what_is_missing_unknown_or_outside() -> None:
    query = bound(built())
    for values, code in ({}, "PLM601"), ({"z": "a.", "y": "b"}, "PLM602"), ({"z": "a"}, "PLM610"):
        with pytest.raises(plm.DataError) as caught:
            query.score(values)
        assert caught.value.diagnostics[0].code == code
    score = query.score({"z": "a."})
    assert math.isclose(score.log_reward, sum(x for _, x in score.terms))
    assert [t["statement"] for t in score.to_json()["terms"]][:2] == ["latent z", "observe label"]


@pytest.mark.parametrize(
    ("type_", "value", "code"),
    [
        ("real", 10**400, "PLM608"), ("int", 10**400, "PLM608"), ("int", -(10**5000), "PLM608"),
        ("int(0..9)", 10**5000, "PLM608"), ("text", 10**5000, "PLM603"), ("text", [10**5000], "PLM603"),
        ("text", "\ud800", "PLM608"),
    ],
    ids=range(7),
)  # fmt: skip
def test_given_values_that_no_message_can_print(type_: str, value: object, code: str) -> None:
    query = plm.loads(f"program p(v: {type_}) {{ latent n: int(0..3) ~ uniform(0, 3) }}")
    with pytest.raises(plm.DataError) as caught:
        query.given(v=value).draw()
    assert caught.value.diagnostics[0].code == code and len(caught.value.diagnostics[0].message) < 150


def test_use_is_off_unless_allowed() -> None:
    query = (
        plm.program("u", use={"bonus": "math:sqrt"})
        .latent("n", "int(0..4)", "uniform(0, 4)")
        .factor("bonus(n)")
    )
    with pytest.raises(plm.CompileError) as caught:
        query.draw()
    assert caught.value.diagnostics[0].code == "PLM541"
    scored = query.allow_use().score({"n": 4})
    assert math.isclose(scored.log_reward, math.log(1 / 5) + 2)


def test_a_used_function_that_raises_is_reported() -> None:
    query = (
        plm.program("u", use={"root": "math:sqrt"})
        .latent("n", "int(0..4)", "uniform(0, 4)")
        .factor("root(0 - n)")
    )
    with pytest.raises(plm.InferenceError) as caught:
        query.allow_use().draw()
    assert caught.value.diagnostics[0].code == "PLM542"


def test_value_keeps_text_and_datum_apart() -> None:
    target = plm.program("n").latent("n", "int(0..4)", "uniform(0, 4)").target()
    value = target.value("n", 3)
    assert isinstance(value, Value) and value.datum == 3 and value.text == "3"


@pytest.mark.parametrize("method", ["importance", "exact"])
def test_a_context_beyond_the_window_says_by_how_much_and_where(method: str) -> None:
    query = (
        plm.program("w", "x: text", lm={"base": "tiny"})
        .latent("z", 'text(tokens=1..3, stop=".")', "base(x)")
        .given(x="The dog ran. " * 200)
    )
    with pytest.raises(plm.ModelError) as caught:
        query.using(method).draw(10)
    found = caught.value.diagnostics[0]
    assert found.code == "PLM520" and found.primary is not None and found.primary.span.text == "base(x)"
    # "<s>", four tokens a sentence and the last space, beside a window of 512.
    assert "802 tokens is 290 tokens longer" in found.message


def test_a_text_that_cannot_be_spelled_points_at_who_reads_it() -> None:
    with pytest.raises(plm.ModelError) as caught:
        bound(built()).given(x="?").draw()
    found = caught.value.diagnostics[0]
    assert found.code == "PLM531" and found.primary is not None and "'?'" in found.message


def test_a_tool_is_declared_from_python_as_in_a_file() -> None:
    text = """lm base = "b"
tool calc = calculator(trigger="=", output="intervene")
program p() { latent z: text(tokens=1..6, chars="12+= ", tools=calc) ~ base() }"""
    tools = {"calc": 'calculator(trigger="=", output="intervene")'}
    built = plm.program("p", lm={"base": "b"}, tool=tools)
    built = built.latent("z", 'text(tokens=1..6, chars="12+= ", tools=calc)', "base()")
    assert built.fingerprint == plm.loads(text).fingerprint
    other = plm.program("p", lm={"base": "b"}, tool={"calc": 'calculator(trigger="=")'})
    assert (
        other.latent("z", 'text(tokens=1..6, chars="12+= ", tools=calc)', "base()").fingerprint
        != built.fingerprint
    )
    with pytest.raises(CompileError, match="PLM101"):
        plm.program("p", tool={"calc": "calculator"})


def test_the_old_name_of_the_module_warns_and_gives_the_same() -> None:
    sys.modules.pop("posterior_lm.query", None)
    with pytest.warns(DeprecationWarning, match=r"posterior_lm\.api\.query"):
        old = importlib.import_module("posterior_lm.query")
    assert (old.Query, old.load, old.loads, old.program) == (plm.Query, plm.load, plm.loads, plm.program)


@pytest.mark.parametrize("scored", ["observe z ~ two()", 'observe "." ~ two(z)', 'observe "a" ~ two([z])'])
def test_a_draw_that_another_model_cannot_spell_has_probability_zero(scored: str) -> None:
    """To write it, or to read it; the others keep their weights, by every method."""
    one = plm.TabularModel.from_dict(
        {"tokens": [*"ab."], "max_tokens": 4, "rows": {"": {"a": 0.5, "b": 0.3, ".": 0.2}}}
    )
    two = plm.TabularModel.from_dict(
        {"tokens": [*"ac."], "max_tokens": 4, "rows": {"": {"a": 0.5, "c": 0.3, ".": 0.2}}}
    )
    body = f'latent z: text(tokens=1..1, end="free") ~ base()\n{scored}'
    query = plm.loads(f'lm base = "x"\nlm two = "y"\nprogram p() {{ {body} }}').lm(base=one, two=two)
    right = {"a": 0.25, ".": 0.04} if scored.startswith("observe z") else {"a": 0.5, ".": 0.2}
    for method in ("exact", "importance", "smc"):
        posterior = query.using(method).draw(2000, seed=0)
        found = {z: w for z, w in posterior.marginal("z") if w > 0}
        assert found == pytest.approx({z: p / sum(right.values()) for z, p in right.items()}, abs=0.05), (
            method
        )
    assert query.score({"z": "b"}).log_reward == -np.inf
    with pytest.raises(plm.ModelError, match="cannot spell"):  # what is known before is no draw's
        plm.loads('lm base = "x"\nprogram p() { latent z: int(0..1) ~ uniform() observe "b" ~ base() }').lm(
            base=two
        ).draw(2)
