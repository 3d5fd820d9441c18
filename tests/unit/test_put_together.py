"""Mixtures, branches and products of distributions: what they are worth, and what is drawn from them."""

from __future__ import annotations

import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.infer.base import run
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.exact import Exact
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.infer.importance import Importance
from posterior_lm.infer.mcmc import Mcmc
from posterior_lm.infer.smc import Smc
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.target.prepared import PreparedProgram
from posterior_lm.target.target import Target
from posterior_lm.train.simulate import Simulator
from tests.brute import Brute, log_sum
from tests.strategies import assigned, compiled, fingerprint, table

A = table(("a", "b", ".", "ab"), seed=5, order=2, max_tokens=9)
B = table(("a", "b", ".", "ab"), seed=11, order=1, max_tokens=9)
MODELS = {"a1": A, "b1": B}
TEXT = 'text(tokens=1..3, stop=".")'
MIXED = f'latent z: {TEXT} ~ mix(0.2, a1("b"), b1())'
BRANCH = f"""latent k: one_of("a", "b") ~ categorical([0.7, 0.3])
             latent z: {TEXT} ~ if k == "a" then a1(k) else b1("a")"""
SHARE = f"""latent n: int(0..2) ~ binomial(2, 0.4)
            latent z: {TEXT} ~ mix(0.1 + n / 4, a1() ^ 1.5, if n == 1 then b1("b") else a1("ab"))"""
ENDS = 'latent z: text(tokens=0..2) ~ mix(0.4, a1("b"), mix(0.5, b1(), a1("ab")))'
FREE = 'latent z: text(tokens=1..2, end="free") ~ mix(0.4, a1("b"), b1())'
OBSERVED = f"""latent k: int(0..1) ~ binomial(1, 0.3) latent z: {TEXT} ~ mix(0.5, a1(), b1("b")) ^ 1.3
               observe "ab" ~ if k == 1 then a1(z) else b1(z)"""
PRODUCT = f'latent z: {TEXT} ~ a1("b") * b1() ^ 0.5 observe z ~ mix(0.3, a1(), b1("a"))'
INSIDE = f'latent z: {TEXT} ~ mix(0.3, a1() * b1("a"), b1())'
FINITE = 'latent k: one_of("a", "b", "ab") ~ mix(0.25, a1(), choice(b1())) latent n: int(0..3) ~ if k == "a" then uniform() else poisson(0.5)'
TEMPERED = 'plate r in rows { temper 0.7 { latent z: text(tokens=1..2, stop=".") ~ if r.t == "a" then a1() else mix(0.5, b1(), a1("b")) } }'
CHAIN = f'latent z: {TEXT} ~ mix(0.3, a1("b"), b1()) observe "a" ~ b1(z) latent y: text(tokens=1..2) ~ mix(0.6, a1(z), b1(z))'
BODIES = {"mixed": MIXED, "branch": BRANCH, "share": SHARE, "ends": ENDS, "free": FREE, "observed": OBSERVED,
          "chain": CHAIN, "tempered": TEMPERED, "product": PRODUCT, "inside": INSIDE, "finite": FINITE}  # fmt: skip
ROWS = {"rows": [{"t": "a"}, {"t": "b"}]}


def source(body: str, params: str = "") -> str:
    return f'lm a1 = "a"\nlm b1 = "b"\nprogram p({params}) {{ {body} }}'


def answer(body: str, **given: object) -> tuple[dict[tuple, float], float]:
    """The posterior by the slow reading, and the log evidence."""
    brute = Brute(source(body, "rows: table(t: text)" if given else ""), given, MODELS)
    rows = list(brute.assignments())
    logs = [brute.log_reward(row) for row in rows]
    whole = log_sum(logs)
    return {tuple(row.values()): float(np.exp(x - whole)) for row, x in zip(rows, logs, strict=True)}, whole


def distance(draws: Draws, target: Target, wanted: dict[tuple, float]) -> float:
    found: dict[tuple, float] = {}
    weights = np.exp(draws.log_weights - np.logaddexp.reduce(draws.log_weights))
    for d, w in enumerate(weights):
        key = assigned(target, draws.values, d)
        found[key] = found.get(key, 0.0) + float(w)
    return 0.5 * sum(abs(found.get(k, 0.0) - wanted.get(k, 0.0)) for k in {*found, *wanted})


def target_of(body: str, **given: object) -> Target:
    return compiled(source(body, "rows: table(t: text)" if given else ""), given, MODELS)


ALGORITHMS = {
    "exact": Exact(10**6, 1.0),
    "importance": Importance(2000),
    "smc": Smc(2000),
    "mcmc": Mcmc(steps=1000),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("method", ALGORITHMS)
def test_every_method_finds_the_posterior(name: str, method: str) -> None:
    given = ROWS if name == "tempered" else {}
    wanted, whole = answer(BODIES[name], **given)
    target = target_of(BODIES[name], **given)
    found = run(ALGORITHMS[method], target, n=2000, rng=np.random.default_rng(3))
    assert distance(found, target, wanted) < (1e-12 if method == "exact" else 0.15)
    if method != "mcmc":
        assert found.log_evidence == pytest.approx(whole, abs=1e-9 if method == "exact" else 0.1)


def test_what_a_short_list_leaves_out_lies_below_its_bound() -> None:
    for name in ("mixed", "chain", "ends"):
        found = run(Exact(6, 1.0, batch=2), target_of(BODIES[name]), n=1, rng=np.random.default_rng(0))
        whole = answer(BODIES[name])[1]
        assert found.certificate is not None and not found.certificate.complete
        bound = np.logaddexp(found.certificate.covered, found.certificate.rest)
        assert found.certificate.covered < whole <= bound + 1e-9 < whole + 4.0


@pytest.mark.parametrize("name", ["mixed", "branch", "share", "ends"])
def test_nothing_observed_leaves_equal_weights_and_the_mixtures_density(name: str) -> None:
    # No mask cuts anything off: tables end after nine tokens.
    body = (
        BODIES[name]
        .replace(" ^ 1.5", "")
        .replace(TEXT, "text(tokens=0..12)")
        .replace("0..2) ~ mix", "0..12) ~ mix")
    )
    target = target_of(body)
    drawn = PriorGuide(target).sample(np.random.default_rng(1), 300)
    terms = target.terms(drawn.values).sum(axis=1)
    np.testing.assert_allclose(drawn.log_prob, terms, atol=1e-9)
    np.testing.assert_allclose(PriorGuide(target).log_prob(drawn.values), drawn.log_prob, atol=1e-9)
    known = target.terms(drawn.values, PriorGuide(target).retraced(drawn.values).scores)
    np.testing.assert_allclose(known.sum(axis=1), terms, atol=1e-9)


def test_a_branch_that_parameters_decide_is_the_chosen_program() -> None:
    choice = f'latent z: {TEXT} ~ if k == "a" then a1("b") else b1("a") observe "ab" ~ if k == "a" then a1(z) else b1()'
    for k, wanted in (
        ("a", f'latent z: {TEXT} ~ a1("b") observe "ab" ~ a1(z)'),
        ("b", f'latent z: {TEXT} ~ b1("a") observe "ab" ~ b1()'),
    ):
        bound = compiled(source(choice, 'k: one_of("a", "b")'), {"k": k}, MODELS)
        assert bound.graph.fingerprint == target_of(wanted).graph.fingerprint
        assert bound.latents[0].lm == wanted[wanted.index("~") + 2 :][:2]
        plain = run(Importance(50), target_of(wanted), n=50, rng=np.random.default_rng(2))
        found = run(Importance(50), bound, n=50, rng=np.random.default_rng(2))
        np.testing.assert_array_equal(found.log_weights, plain.log_weights)


def test_products_are_sums_of_terms() -> None:
    for product, same in (
        ("a1() * a1()", "a1() ^ 2"),
        ("(a1() * b1()) ^ 2 * a1()", "a1() ^ 3 * b1() ^ 2"),
        ("mix(1, a1(), b1())", "a1()"),
    ):
        one, other = (target_of(f"latent z: {TEXT} ~ {dist}") for dist in (product, same))
        values = PriorGuide(one).sample(np.random.default_rng(0), 20).values
        np.testing.assert_allclose(one.terms(values), other.terms(values), atol=1e-12)
        assert one.terms(values).shape == (20, 1)


def test_a_share_outside_0_to_1_is_an_error() -> None:
    with pytest.raises(InferenceError) as caught:
        run(
            Importance(50),
            target_of(f"latent n: int(0..2) ~ uniform() latent z: {TEXT} ~ mix(n / 1.5, a1(), b1())"),
            n=50,
            rng=np.random.default_rng(0),
        )
    assert caught.value.diagnostics[0].code == "PLM705"


def test_texts_of_different_tokens_are_not_mixed() -> None:
    models = {"a1": A, "b1": table(("a", "b", "."), seed=3)}
    target = compiled(source(MIXED.replace('a1("b")', "a1()")), {}, models)
    with pytest.raises(InferenceError, match="different tokens"):
        PriorGuide(target)


def test_python_says_the_same() -> None:
    text = source(f'latent z: {TEXT} ~ mix(0.2, a1("b"), b1()) observe "a" ~ a1() * b1(z) ^ 0.5')
    built = (
        plm.program("p", lm={"a1": "a", "b1": "b"})
        .latent("z", TEXT, 'mix(0.2, a1("b"), b1())')
        .observe('"a"', "a1() * b1(z) ^ 0.5")
    )
    assert built.fingerprint == plm.loads(text).fingerprint == plm.loads(str(plm.loads(text))).fingerprint
    assert fingerprint(text) != fingerprint(text.replace("0.2", "0.3"))


def test_simulated_pairs_of_a_mixture_are_exact_and_of_both_parts() -> None:
    text = source(f'latent z: {TEXT} ~ mix(0.5, a1("b"), b1()) observe y ~ a1(z)', 'y: one_of("a", "b")')
    text = text.replace("observe y ~ a1(z)", "observe y ~ categorical([0.3, 0.7])").replace(
        "tokens=1..3", "tokens=1..9"
    )
    program = PreparedProgram.of(plm.loads(text).graph, MODELS)
    simulator = Simulator(program, [{"y": "a"}, {"y": "b"}])
    pairs = simulator.draw([np.random.default_rng(k) for k in range(400)], [k % 2 for k in range(400)])
    assert simulator.exact
    target = target_of(MIXED.replace("0.2", "0.5"))
    wanted = answer(MIXED.replace("0.2", "0.5"))[0]
    found = [pair.values["z"].ids for pair in pairs]
    most = max(wanted, key=lambda key: wanted[key])
    share = sum(ids == most[0] for ids in found if len(ids) <= 3) / sum(len(ids) <= 3 for ids in found)
    assert share == pytest.approx(wanted[most], abs=0.08) and target.names == ("z",)
    for pair in pairs[:20]:
        assert pair.log_joint == pytest.approx(
            program.bind_valid(pair.data).log_reward({"z": (pair.values["z"],)})[0], abs=1e-9
        )
