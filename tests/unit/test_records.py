"""`record(field: T, …)`: the program with a latent for each field, whoever draws it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.infer.base import run
from posterior_lm.lang.driver import check
from posterior_lm.lang.parser import parse
from posterior_lm.lang.source import Source
from posterior_lm.train.policy import guide_digest
from posterior_lm.train.simulate import Simulator
from tests.strategies import compiled, fingerprint
from tests.unit.test_put_together import ALGORITHMS, MODELS, answer, source

NAME = 'text(tokens=1..2, stop=".")'
KIND = 'one_of("a", "ab")'
RECORD = f'latent c: record("b", name: {NAME}, "a", kind: {KIND}) ~ a1("b") ^ 1.3'
TERMS = (
    'condition contains({name}, "a") or {kind} == "ab" observe {whole} ~ b1("a") factor 0.3 * chars({kind})'
)
SPELLED = f"""latent x: {NAME} ~ a1("b", "b") ^ 1.3 latent y: {KIND} ~ a1("b", "b", x, "a") ^ 1.3"""
FIELDS = {"name": "c.name", "kind": "c.kind", "whole": "c"}
LATENTS = {"name": "x", "kind": "y", "whole": '["b", x, "a", y]'}
BODY, PLAIN = f"{RECORD} {TERMS.format(**FIELDS)}", f"{SPELLED} {TERMS.format(**LATENTS)}"
IN_PLATE = 'plate r in rows {{ let t = r.t {body} factor if previous({kind}, "a") == {kind} then 0.4 else 0 }} factor sum(chars({name}))'
IN_LIST = 'latent z: list(one_of("a", "ab"), 0..1, end="b") ~ a1() plate t in z {{ {body} }}'
BLOCKS = {
    "alone": "{body}",
    "plate": IN_PLATE,
    "list": IN_LIST,
    "branch": 'if "a" == q {{ {body} }} else {{ temper 0.5 {{ latent w: int(0..1) ~ binomial(1, 0.3) }} }}',
    "temper": "temper 0.7 {{ {body} }}",
}
PARAMS = "rows: table(t: text), q: text"


@pytest.mark.parametrize("block", BLOCKS)
def test_a_record_is_the_program_with_a_latent_for_each_field(block: str) -> None:
    both = [
        source(BLOCKS[block].format(body=body, **names), PARAMS)
        for body, names in ((BODY, FIELDS), (PLAIN, LATENTS))
    ]
    if block != "branch":
        both = [text.replace('a1("b") ^', 'a1("b", q) ^').replace('"b", "b"', '"b", q, "b"') for text in both]
    assert len({fingerprint(text.replace("let t = r.t", "")) for text in both}) == 1


@pytest.mark.parametrize("block", ["alone", "plate", "list", "branch"])
def test_a_guide_of_a_record_is_that_of_each_field_and_what_stands_before_it(block: str) -> None:
    read = {"plate": "r.t", "list": "t"}.get(block, "q")
    stated = f"guide c ~ b1({read})"
    spelled = f'guide x ~ b1({read}, "b") guide y ~ b1({read}, "b", x, "a")'
    both = [
        plm.loads(source(BLOCKS[block].format(body=body, **names), PARAMS)).graph
        for body, names in ((f"{stated} {BODY}", FIELDS), (f"{PLAIN} {spelled}", LATENTS))
    ]
    assert len({guide_digest(graph) for graph in both}) == 1
    assert all(len(graph.guides) == 2 for graph in both)


@pytest.mark.parametrize("method", ALGORITHMS)
def test_a_record_is_drawn_as_its_fields_are(method: str) -> None:
    posterior, whole = answer(PLAIN)
    target = compiled(source(BODY), {}, MODELS)
    found = run(
        ALGORITHMS[method], target, n=8000 if method == "mcmc" else 2000, rng=np.random.default_rng(2)
    )
    weights = np.exp(found.log_weights - np.logaddexp.reduce(found.log_weights))
    got: dict[tuple, float] = {}
    for d, w in enumerate(weights):
        key = (found.values["c.name"][d].ids, found.values["c.kind"][d].datum)
        got[key] = got.get(key, 0.0) + float(w)
    apart = 0.5 * sum(abs(got.get(k, 0.0) - posterior.get(k, 0.0)) for k in {*got, *posterior})
    assert apart < (1e-12 if method == "exact" else 0.1)
    if method != "mcmc":
        assert found.log_evidence == pytest.approx(whole, abs=1e-9 if method == "exact" else 0.2)


def test_questions_and_views_of_a_record(tmp_path: Path) -> None:
    query = plm.loads(source(BODY)).lm(**MODELS)
    found = query.using("exact", mass=1.0).draw()
    assert [*found.to_json()["draws"][0]["values"]] == ["c.name", "c.kind"]
    likely = dict(found.marginal("c.kind"))["ab"]
    assert found.prob('c.kind == "ab"').value == pytest.approx(likely, abs=1e-12)
    assert found.expect("chars(c.kind)").value == pytest.approx(1 + likely, abs=1e-12)
    assert dict(query.predict("c.kind").probs)["ab"] == pytest.approx(likely, abs=1e-12)
    assert plm.Posterior.load(found.save(tmp_path)).to_json() == found.to_json()
    assert {*found.columns()} >= {"c.name", "c.kind"}
    score = query.score({"c.name": "a.", "c.kind": "ab"})
    best = next(d for d in found if (d["c.name"], d["c.kind"]) == ("a.", "ab"))
    assert score.log_reward == pytest.approx(best.log_reward)


def test_fields_of_plates_are_asked_about() -> None:
    rows = {"rows": [{"t": "a"}, {"t": "b"}]}
    query = plm.loads(source(f"plate r in rows {{ {BODY.replace('1.3', '1')} }}", "rows: table(t: text)"))
    found = query.lm(**MODELS).given(rows).using("exact", mass=1.0).draw()
    assert found.draws.values.keys() == {"c.name[0]", "c.kind[0]", "c.name[1]", "c.kind[1]"}
    both = found.prob('all(c.kind == "ab")').value
    assert both == pytest.approx(
        dict(found.marginal("c.kind[0]"))["ab"] * dict(found.marginal("c.kind[1]"))["ab"]
    )


def test_text_and_python_say_the_same() -> None:
    query = plm.loads(source(BODY))
    assert plm.loads(str(query)).module == query.module
    built = plm.loads(source("latent k: int(0..1) ~ binomial(1, 0.4)"))
    built = built.latent("c", f'record("b", name: {NAME}, "a", kind: {KIND})', 'a1("b") ^ 1.3')
    assert (
        built.fingerprint == plm.loads(source(f"latent k: int(0..1) ~ binomial(1, 0.4) {RECORD}")).fingerprint
    )


def test_a_product_scores_a_record_again_field_by_field() -> None:
    one, other = (f"{RECORD.replace('^ 1.3', '')} {more}" for more in ("", "factor 0"))
    twice = plm.loads(source(one)) * plm.loads(source(other.replace('a1("b")', 'b1("a")')))
    plain = f"""{SPELLED.replace("^ 1.3", "")} observe x ~ b1("a", "b") observe y ~ b1("a", "b", x, "a") factor 0"""
    assert twice.fingerprint == plm.loads(source(plain)).fingerprint


def test_pairs_are_simulated_with_fields() -> None:
    body = f"{RECORD.replace(' ^ 1.3', '')} observe heard ~ b1(c)"
    program = plm.loads(source(body, 'heard: one_of("a", "b")')).lm(**MODELS).prepared
    simulator = Simulator(program, [{"heard": "a"}])
    for pair in simulator.draw([np.random.default_rng(k) for k in range(8)], [0] * 8):
        drawn = {name: (value,) for name, value in pair.values.items()}
        assert {*drawn} == {"c.name", "c.kind"}
        again = program.bind_valid(pair.data).log_reward(drawn)[0]
        assert pair.log_joint == pytest.approx(again, abs=1e-9)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("latent c: record() ~ a1()", "PLM322"),
        ("latent c: record(a: bool) ~ a1()", "PLM351"),
        ("latent c: record(a: real(0..1, grid=3)) ~ a1()", "PLM351"),
        ("latent c: record(a: record(b: int(0..1))) ~ a1()", "PLM351"),
        ("latent c: record(a: int) ~ a1()", "PLM308"),
        ("latent c: record(a: int(3..1)) ~ a1()", "PLM302"),
        ("latent c: record(a: int(0..1), a: int(0..1)) ~ a1()", "PLM202"),
        ("latent c: record(a: int(0..1), 3) ~ a1()", "PLM322"),
        ("latent c: record(a: int(0..1), q) ~ a1()", "PLM322"),
        ("latent c: record(a: int(0..1), end=\"a\") ~ a1()", "PLM206"),
        ("latent c: record(a: int(0..1)) ~ uniform()", "PLM311"),
        ("latent c: record(a: int(0..1)) ~ if q == \"a\" then a1() else b1()", "PLM311"),
        ("latent c: record(a: int(0..1)) ~ a1(user(q))", "PLM311"),
        ("latent c: record(a: int(0..1)) ~ a1() guide c ~ b1(c.a)", "PLM407"),
        ("latent c: record(a: int(0..1)) ~ a1() factor c.b", "PLM204"),
        ("latent c: record(a: int(0..1)) ~ a1(c.a)", "PLM403"),
        ("factor c.a latent c: record(a: int(0..1)) ~ a1()", "PLM401"),
        ("latent c: record(a: int(0..1)) ~ a1() plate x in c { factor 1 }", "PLM320"),
        ("latent c: int(0..1) ~ a1() factor c.a", "PLM305"),
        ("latent c: list(int(0..1), 0..1, end=\"b\") ~ a1() factor words(q, a: text)", "PLM318"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_record_is_said(body: str, code: str) -> None:
    module, found = parse(Source("p.plm", source(body, "q: text")))
    assert module is not None and not found
    assert code in [d.code for d in check(module).errors]


@pytest.mark.parametrize("type_", ["record(a: int(0..1))", 'list(int(0..1), 0..1, end="b")'])
def test_what_has_parts_is_not_given(type_: str) -> None:
    for params in (f"p: {type_}", f"p: table(a: {type_})"):
        module, found = parse(Source("p.plm", source("latent z: int(0..1) ~ uniform()", params)))
        assert module is not None and not found
        assert "PLM352" in [d.code for d in check(module).errors]
