"""Weights of log rewards of any size, functions that keep them finite, and what stands in a text."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.graph.ops import OPS
from posterior_lm.infer.exact import upper_bound
from posterior_lm.infer.weights import log_shares, normalize
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lm.tabular import TabularModel
from tests.cli import plm as command

METHODS = ("exact", "importance", "smc", "mcmc", "auto")


def seven(statement: str) -> plm.Query:
    return plm.loads(f"program p() {{ latent n: int(0..6) ~ uniform() {statement} }}")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", ["1e17", "-1e17", "1e308", "-1e308"])
def test_weights_sum_to_one_whatever_the_log_reward(method: str, size: str, tmp_path: Path) -> None:
    found = seven(f"factor {size}").using(method).draw(70)
    assert found.weights.sum() == pytest.approx(1.0)
    assert sum(m.weight for m in found.merged()) == pytest.approx(1.0)
    assert sum(p for _, p in found.marginal("n")) == pytest.approx(1.0)
    found.save(tmp_path / "saved")
    again = plm.Posterior.load(tmp_path / "saved")
    assert np.array_equal(again.weights, found.weights)
    assert sum(d["weight"] for d in again.to_json()["draws"]) == pytest.approx(1.0)
    if method == "exact":
        assert found.weights == pytest.approx(np.full(7, 1 / 7))


def test_a_large_difference_is_kept() -> None:
    found = seven("factor if n == 3 then 1e308 else -1e308").using("exact").draw()
    assert dict(found.marginal("n"))[3] == 1.0
    found = seven("factor 1e15 + (if n == 3 then 2 else 0)").using("exact").draw()
    assert dict(found.marginal("n"))[3] == pytest.approx(math.e**2 / (6 + math.e**2))


def test_priors_of_any_size() -> None:
    found = plm.loads("program p() { latent n: int(0..5) ~ poisson(1e308) }").draw()
    assert found.weights.sum() == pytest.approx(1.0)
    drawn = plm.loads("program p() { latent n: int(0..5) ~ poisson(1e308) }").using("importance").draw(60)
    assert drawn.weights.sum() == pytest.approx(1.0) and drawn.draws.distinct > 1


@pytest.mark.parametrize("one", ["1e308", "-1e308"])
def test_a_log_reward_beyond_every_number_is_an_error(one: str) -> None:
    """And not "outside the support", which −inf would say."""
    for both in (f"factor {one} factor {one}", f"temper 1 {{ factor {one} factor {one} }}"):
        with pytest.raises(InferenceError, match=r"PLM70[14]"):
            seven(both).using("exact").draw()


def test_shares_are_those_of_exact_arithmetic() -> None:
    for shift in (0.0, 1e9, -1e12):
        at = np.array([0.0, 1.0, -2.0, -math.inf])
        expected = np.exp(at) / np.exp(at).sum()
        assert normalize(at + shift) == pytest.approx(expected, rel=1e-3)
        assert np.exp(log_shares(at + shift)).sum() == pytest.approx(1.0, abs=1e-12)


# ------------------------------------------------------------- functions


def test_functions_against_what_they_stand_for(rng: np.random.Generator) -> None:
    for x in [*rng.normal(0, 20, 40), 0.0, 30.0, -30.0]:
        x = float(x)
        assert OPS["sigmoid"](x) == pytest.approx(1 / (1 + math.exp(-x)))
        assert OPS["log_sigmoid"](x) == pytest.approx(math.log(1 / (1 + math.exp(-x))))
        assert OPS["softplus"](x) == pytest.approx(math.log1p(math.exp(x)))
        assert OPS["logsumexp"](x, 0.5) == pytest.approx(math.log(math.exp(x) + math.exp(0.5)))
        assert OPS["mean"]((x, 1.0), 4) == pytest.approx((x + 5.0) / 3)
    for big in (1e4, 1e17, 1e308):
        assert (OPS["sigmoid"](big), OPS["sigmoid"](-big)) == (1.0, 0.0)
        assert OPS["log_sigmoid"](-big) == -big and OPS["softplus"](big) == big
        assert OPS["logsumexp"](-big, -big) == pytest.approx(-big + math.log(2))
        assert OPS["mean"](big, big) == pytest.approx(big)
    assert OPS["logsumexp"]((-math.inf, -math.inf)) == -math.inf and OPS["softplus"](-math.inf) == 0.0
    assert OPS["logsumexp"](-math.inf, 2.0) == 2.0 and OPS["logsumexp"](math.inf, -math.inf) == math.inf
    for nonsense in ((math.nan, 1.0), ((1.0, math.nan),)):
        assert math.isnan(OPS["logsumexp"](*nonsense)) and math.isnan(OPS["mean"](*nonsense))  # type: ignore[arg-type]
    assert math.isnan(OPS["mean"](math.inf, -math.inf))  # type: ignore[arg-type]


def test_a_mixture_of_models_over_a_long_text(rng: np.random.Generator) -> None:
    """The log of the sum of two small probabilities, where the sum itself is zero."""
    a, b = (TabularModel.random(["a", "b"], order=1, max_tokens=2000, rng=rng) for _ in range(2))
    text = (
        'lm a = "unused"\nlm b = "unused"\nprogram p(doc: text) {\n  latent n: int(0..1) ~ uniform()\n'
        "  factor logsumexp([log(0.5) + log_prob(doc, a()), log(0.5) + log_prob(doc, b())])\n}\n"
    )
    doc = "ab" * 700
    query = plm.loads(text).lm(a=a, b=b).given(doc=doc)
    parts = [plm.loads(text.replace("logsumexp([log(0.5) + ", "(").replace(", log(0.5) + log_prob(doc, b())])",
                                    ")").replace("log_prob(doc, a()", f"log_prob(doc, {which}()"))
             .lm(a=a, b=b).given(doc=doc).draw().log_evidence for which in "ab"]  # fmt: skip
    assert max(parts) < -800  # exp of it is zero
    assert query.draw().log_evidence == pytest.approx(float(np.logaddexp(*parts)) - math.log(2))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("34", 34.0), (" -3.5e2\n", -350.0), ("+.5", 0.5), ("7.", 7.0), ("1e400", math.inf)]
    + [(t, math.nan) for t in ("", "x", "1,5", "0x1", "1_0", "nan", "inf", "3 4", "٣", "--1", "1e", ".")],
)
def test_the_number_that_a_text_spells(text: str, expected: float) -> None:
    assert OPS["number"](text) == pytest.approx(expected, nan_ok=True)


RECORD = (
    '{"name": "Ann", "age": 34, "tags": ["a", "é"], "ok": true, "none": null, "in": {"x": "1"}, "r": 1.0}'
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("name", "Ann"), ("age", "34"), ("tags", '["a", "é"]'), ("ok", "true"), ("none", "null")),
        *(("r", "1.0"), ("in", '{"x": "1"}'), ("absent", ""), ("", "")),
    ],
)
def test_a_field_of_a_json_text(name: str, expected: str) -> None:
    assert OPS["field"](RECORD, name) == expected


def test_what_spells_no_object_has_no_fields() -> None:
    for text in ("", "{", "[1]", '"name"', "{'name': 1}", "NaN", '{"name": 1} x', "[" * 100_000):
        assert OPS["field"](text, "name") == ""
    assert OPS["number"](OPS["field"](OPS["field"](RECORD, "in"), "x")) == 1.0


def texts(*values: str) -> str:
    return ", ".join(json.dumps(v) for v in values)


def test_no_number_is_an_error_and_can_be_guarded() -> None:
    def asked(statement: str) -> plm.Posterior:
        listed = texts("7", "12", "x")
        return plm.loads(f"program p() {{ latent z: one_of({listed}) ~ uniform() {statement} }}").draw()

    for statement in ("factor number(z)", "condition number(z) > 8", "condition number(z) != 7"):
        with pytest.raises(InferenceError, match="PLM701") as caught:
            asked(statement)
        assert caught.value.diagnostics[0].primary is not None and caught.value.diagnostics[0].help
    for guarded in (
        'condition matches(z, r"\\d+") and number(z) > 8',
        'condition if z == "x" then false else number(z) > 8',
    ):
        assert dict(asked(guarded).marginal("z"))["12"] == pytest.approx(1.0)
    found = asked('factor if z == "x" then 0 else 0.1 * number(z)').marginal("z")
    assert dict(found)["12"] == pytest.approx(math.exp(1.2) / (1 + math.exp(0.7) + math.exp(1.2)))


def test_a_field_is_scored_where_it_stands() -> None:
    a = TabularModel.random(list('{}":x1,'), order=0, max_tokens=40, rng=3)
    text = (
        'lm a = "unused"\nprogram p(r: text) { latent n: int(0..1) ~ uniform() observe field(r, "x") ~ a() }'
    )
    same = 'lm a = "unused"\nprogram p(r: text) { latent n: int(0..1) ~ uniform() observe r ~ a() }'
    got = plm.loads(text).lm(a=a).given(r='{"x":"1x"}').draw().log_evidence
    assert got == pytest.approx(plm.loads(same).lm(a=a).given(r="1x").draw().log_evidence)


def test_the_bound_of_exact_knows_the_new_functions() -> None:
    """Without a bound a list that is not complete could not say what it left out."""
    for statement, most in (
        ("factor logsumexp([-0.1 * n, -1])", None),
        ("factor log_sigmoid(n - 3)", 0.0),
        ("factor sigmoid(n)", 1.0),
        ("factor -softplus(n)", 0.0),
        ("factor mean([0.1, 0.3 - n])", None),
        ("factor log(sigmoid(n))", 0.0),
    ):
        target = plm.loads(f"program p() {{ latent n: int(0..9) ~ uniform() {statement} }}").target()
        prior = target.graph.sink.inputs[0]
        bound = upper_bound(target, {prior: 1.0})
        values = {"n": target.listed("n")}
        terms = target.terms(values)
        assert bound >= terms[:, 1].max() - 1e-12, statement
        if most is not None:
            assert bound == pytest.approx(most), statement


# ------------------------------------------------------------- names and helps


def test_new_names_can_still_be_declared() -> None:
    body = "program p(number: int, field: text, mean: real = 1.0) { latent n: int(0..1) ~ uniform() factor mean * number * n }"
    assert plm.loads(body).given(number=1, field="x").draw().n == 2


@pytest.mark.parametrize(
    ("statement", "help"),
    [
        ("latent x: int(0..3) ~ gamma(1, 1)", "factor -abs(x)"),
        ("latent x: bool ~ bernouli(0.5)", "bernoulli"),
        ("condition length(z) > 3", "chars(…)"),
        ('condition "cat" in z', "contains(text, part)"),
        ('condition z not in "cat"', "contains(text, part)"),
        ('observe z == "cat"', "condition"),
        ("factor float(z)", "number(…)"),
        ("factor sqrt(2)", "exp(b * log(x))"),
        ("factor logaddexp(1, 2)", "logsumexp"),
    ],
)
def test_names_of_other_languages_get_a_hint(statement: str, help: str) -> None:
    text = f'lm base = "tiny"\nprogram p() {{\n  latent z: text(tokens=1..4) ~ base()\n  {statement}\n}}\n'
    result = command("check", "-", input=text)
    assert result.exit_code == 1 and help in result.stderr.partition("help: ")[2], result.stderr
