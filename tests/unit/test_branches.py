"""`if … { … } else { … }`: what exists only in a branch, by every method, against the slow reading of the language."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given

import posterior_lm as plm
from posterior_lm.decode.prompts import prior_readings, with_examples
from posterior_lm.infer.base import run
from posterior_lm.infer.exact import Exact
from posterior_lm.infer.prefix_expansion import support_size
from posterior_lm.lang.diagnostics import DataError, InferenceError
from posterior_lm.target.segments import Known
from tests.brute import log_sum
from tests.strategies import Bound, bound_cases, compiled, fingerprint, listed, table
from tests.unit.test_put_together import ALGORITHMS, MODELS, answer, distance, source, target_of

TEXT = 'text(tokens=1..3, stop=".")'
PLAN = 'latent plan: one_of("a", "b") ~ categorical([0.7, 0.3])'
TWO = f"""{PLAN}
          if plan == "a" {{ latent z: {TEXT} ~ a1(plan) observe "ab" ~ b1(z) }}
          else {{ latent y: one_of("a", "ab") ~ b1("b") factor 0.4 * chars(y) }}"""
NESTED = """latent z: text(tokens=1..2, stop=".") ~ mix(0.3, a1(), b1())
             if contains(z, "a") {
               latent n: int(0..2) ~ poisson(0.8)
               if n == 1 { condition not starts_with(z, "b") latent k: text(tokens=1..1) ~ b1(z) ^ 1.5 }
               observe "b" ~ if n > 0 then a1(z) else b1(z)
             }"""
LATER = f"""latent z: text(tokens=1..2, stop=".") ~ a1()
            temper 0.8 {{ if starts_with(z, "a") {{ latent y: {TEXT} ~ a1(z) * b1() ^ 0.5 factor 0.5 }} }}
            latent w: one_of("a", "b") ~ choice(a1(z))
            if w == "a" and contains(z, "b") {{ observe w ~ a1("b") condition words(z) < 2 }}"""
ROWS = """plate r in rows {
             latent k: int(0..1) ~ binomial(1, 0.3)
             if k == 1 { latent z: text(tokens=1..2, stop=".") ~ mix(0.4, a1(r.t), b1()) observe r.t ~ b1(z) }
           }"""
BODIES = {"two": TWO, "nested": NESTED, "later": LATER, "rows": ROWS}
GIVEN = {"rows": [{"t": "a"}, {"t": "b"}]}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("method", ALGORITHMS)
def test_every_method_finds_the_posterior(name: str, method: str) -> None:
    given = GIVEN if name == "rows" else {}
    wanted, whole = answer(BODIES[name], **given)
    target = target_of(BODIES[name], **given)
    found = run(
        ALGORITHMS[method], target, n=8000 if method == "mcmc" else 2000, rng=np.random.default_rng(3)
    )
    assert distance(found, target, wanted) < (1e-12 if method == "exact" else 0.15)
    if method != "mcmc":
        assert found.log_evidence == pytest.approx(whole, abs=1e-9 if method == "exact" else 0.1)


def test_a_branch_is_two_programs_weighed() -> None:
    first = f'let plan = "a" latent z: {TEXT} ~ a1(plan) observe "ab" ~ b1(z)'
    second = 'latent y: one_of("a", "ab") ~ b1("b") factor 0.4 * chars(y)'
    parts = [np.log(w) + answer(body)[1] for w, body in ((0.7, first), (0.3, second))]
    found = run(Exact(10**6, 1.0), target_of(TWO), n=1, rng=np.random.default_rng(0))
    assert found.log_evidence == pytest.approx(np.logaddexp(*parts), abs=1e-12)


def test_branches_that_exclude_each_other_are_not_multiplied() -> None:
    inner = "if n == 1 { latent k: int(0..9) ~ uniform() } else { latent m: int(0..4) ~ uniform() }"
    body = f"""{PLAN} if plan == "a" {{ latent n: int(0..2) ~ uniform() {inner} }}
               else {{ latent j: int(0..19) ~ uniform() }} latent i: int(0..3) ~ uniform()"""
    target = target_of(body)
    found = run(Exact(10**6, 1.0), target, n=1, rng=np.random.default_rng(0))
    assert found.distinct == 4 * (20 + 10 + 5 + 5)
    assert support_size(target) == 2 * 4 * max(3 * max(10, 5), 20) >= found.distinct
    assert support_size(target, 239) is None


def test_where_parameters_decide_the_program_is_the_branch_that_is_taken() -> None:
    body = f'if yes {{ latent z: {TEXT} ~ a1() guide z ~ b1("a") factor 0.3 }} else {{ latent y: {TEXT} ~ b1() observe 1 ~ poisson(rate) }}'
    # What is wrong with a branch that is not taken does not matter.
    target = compiled(source(body, "yes: bool, rate: real"), {"yes": True, "rate": -1.0}, MODELS)
    alone = target_of(f"latent z: {TEXT} ~ a1() factor 0.3")
    assert target.names == ("z",)
    mine, theirs = (run(Exact(10**6, 1.0), one, n=1, rng=np.random.default_rng(0)) for one in (target, alone))
    assert mine.values == theirs.values and np.array_equal(mine.log_weights, theirs.log_weights)


def test_a_branch_without_latents_is_a_factor_and_fingerprints_say_what_a_program_is() -> None:
    body = f'latent z: {TEXT} ~ a1() if contains(z, "a") {{ factor 0.5 }}'
    other = f'latent z: {TEXT} ~ a1() factor if contains(z, "a") then 0.5 else 0'
    assert answer(body)[1] == pytest.approx(answer(other)[1], abs=1e-12)
    assert fingerprint(source(body)) != fingerprint(source(body.replace("0.5", "0.6")))
    assert fingerprint(source(TWO)) == fingerprint(source(TWO.replace("plan", "which")))
    assert fingerprint(source(TWO)) != fingerprint(source(TWO.replace('plan == "a"', 'plan == "b"')))


@given(bound_cases(small=True, latents=2))
def test_a_program_in_a_branch_counts_where_it_is_taken(bound: Bound) -> None:
    whole = log_sum(listed(bound, 60)[1])
    assume(np.isfinite(whole))
    case = bound.case
    inside = " ".join((*case.statements, *(a for a in case.asides if not a.startswith("infer"))))
    coin = "latent coin: int(0..1) ~ categorical([0.4, 0.6])"
    put = replace(case, statements=(coin, f"if coin == 1 {{ {inside} }}"), asides=())
    found = run(Exact(10**6, 1.0), put.target(), n=1, rng=np.random.default_rng(0))
    assert found.log_evidence == pytest.approx(np.logaddexp(np.log(0.4), np.log(0.6) + whole), abs=1e-9)


def test_what_a_draw_does_not_have_is_nothing_everywhere(tmp_path: Path) -> None:
    query = plm.loads(source(TWO)).lm(**MODELS)
    posterior = query.draw(400, seed=1)
    assert None in posterior["z"] and None in posterior["y"]
    assert all((z is None) != (y is None) for z, y in zip(posterior["z"], posterior["y"], strict=True))
    marginal = dict(posterior.marginal("z"))
    assert marginal[None] == pytest.approx(dict(posterior.marginal("plan"))["b"], abs=1e-12)
    draws = posterior.to_json()["draws"]
    assert all(draw["values"]["z" if draw["values"]["plan"] == "b" else "y"] is None for draw in draws)
    assert posterior.prob('plan == "b" and y == "a"').value == pytest.approx(
        dict(posterior.marginal("y"))["a"]
    )
    with pytest.raises(InferenceError) as lost:
        posterior.prob('y == "a"')
    assert lost.value.diagnostics[0].code == "PLM701"
    again = plm.Posterior.load(posterior.save(tmp_path))
    assert again.to_json() == posterior.to_json()
    page = query.report(posterior, tmp_path / "page.html").read_text()
    assert "\u2013" in page and "None" not in page


def test_scores_of_given_values_say_which_latents_there_are() -> None:
    query = plm.loads(source(TWO)).lm(**MODELS)
    assert np.isfinite(query.score({"plan": "a", "z": "ab."}).log_reward)
    assert np.isfinite(query.score({"plan": "b", "y": "a"}).log_reward)
    for wrong in ({"plan": "a", "y": "a"}, {"plan": "b", "y": "a", "z": "ab."}):
        with pytest.raises(DataError) as found:
            query.score(wrong)
        assert found.value.diagnostics[0].code == "PLM601"


def test_python_writes_branches() -> None:
    query = plm.loads(source(TWO)).lm(**MODELS)
    built = (
        plm.loads(source(PLAN)).lm(**MODELS)
        .when(
            'plan == "a"',
            lambda q: q.latent("z", TEXT, "a1(plan)").observe('"ab"', "b1(z)"),
            lambda q: q.latent("y", 'one_of("a", "ab")', 'b1("b")').factor("0.4 * chars(y)"),
        )
    )  # fmt: skip
    assert built.fingerprint == query.fingerprint and plm.loads(str(built)).fingerprint == query.fingerprint


@pytest.mark.parametrize("method", ["greedy", "beam", "top_k"])
def test_decoders_say_what_a_branch_has(method: str) -> None:
    posterior = plm.loads(source(TWO)).lm(**MODELS).using(method).draw(40, seed=1)
    for plan, z, y in zip(posterior["plan"], posterior["z"], posterior["y"], strict=True):
        assert (z is not None) == (plan == "a") == (y is None)
    assert np.isfinite(posterior.draws.log_reward).all()
    assert {*posterior["plan"]} == ({"a"} if method == "greedy" else {"a", "b"})


def test_solved_examples_show_the_latents_that_they_have() -> None:
    model = table(("a", "b", ".", "ab", "\n"), seed=5, order=1, max_tokens=60)
    target = compiled(source(TWO), {}, {"a1": model, "b1": model})
    solved = [{"plan": "a", "z": "ab.", "y": None}, {"plan": "b", "z": None, "y": "ab"}]
    found = with_examples(target, prior_readings(target), solved, 2, np.random.default_rng(0))
    assert found["z"].segments[0] == Known("aab.\n\n") and found["y"].segments[0] == Known("bab\n\nb")
    with pytest.raises(DataError, match="PLM610"):
        with_examples(target, {}, [{**solved[0], "y": "ab"}], 1, np.random.default_rng(0))
