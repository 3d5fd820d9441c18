"""Importance sampling is exact once its random choices are summed over, and its draws follow its own law."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from posterior_lm.infer.base import run
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.exact import Exact
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.infer.importance import Importance, log_weights
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lm.counting import CountingModel
from posterior_lm.target.target import Target
from tests.brute import Brute, log_sum
from tests.laws.models import build
from tests.strategies import Bound, assigned, bound_cases, compiled, listed, table, values_of

MODEL = table(("a", "b", ".", "ab"), seed=31, order=2, max_tokens=30)
DIGITS = table(("0", "1", "2", "a", " "), seed=32, order=1, max_tokens=30)
P_VALUE = 1e-4


def target_of(body: str, model: object = MODEL) -> Target:
    return compiled(f'lm base = "b"\nprogram p() {{\n{body}\n}}', {}, {"base": model})


def everything(target: Target, brute: Brute) -> tuple[list[dict], dict]:
    rows = list(brute.assignments())
    return rows, values_of(target, rows)


# ------------------------------------------------------------------- summed over every draw


@settings(max_examples=30)
@given(bound_cases(n=0, small=True, latents=2), st.sampled_from(("prior", "guide")))
def test_q_sums_to_one_and_the_weights_to_the_evidence(bound: Bound, reads: str) -> None:
    rows, rewards = listed(bound)
    values = values_of(bound.target, rows)
    try:
        guide = PriorGuide(bound.target, reads=reads)
        log_q = guide.log_prob(values)
    except InferenceError as problem:
        assert reads == "guide" and problem.diagnostics[0].code == "PLM540"  # another tokenizer
        return
    assert np.exp(log_q).sum() == pytest.approx(1, abs=1e-9)
    drawn = log_q > -np.inf
    if reads == "prior":
        assert np.isneginf(rewards[~drawn]).all()  # what the prior cannot draw has no reward
    elif not np.isneginf(rewards[~drawn]).all():
        return  # a table's guide may rule out what its prior does not
    some = {name: [v for v, ok in zip(column, drawn, strict=True) if ok] for name, column in values.items()}
    if np.isneginf(rewards).all():
        with pytest.raises(InferenceError, match="PLM702"):
            log_weights(bound.target, some, log_q[drawn])
        return
    log_w, log_reward = log_weights(bound.target, some, log_q[drawn])
    np.testing.assert_allclose(log_reward, rewards[drawn], rtol=1e-9, atol=1e-9)
    assert log_sum(log_w + log_q[drawn]) == pytest.approx(log_sum(rewards), abs=1e-9)


PROGRAMS = {
    "stop": 'latent z: text(tokens=1..3, stop=".") ~ base("a") observe "ab" ~ base(z)',
    "stop of two tokens": 'latent z: text(tokens=2..4, stop="b.") ~ base() ^ 1.7 factor -0.4 * chars(z)',
    "end of text": 'latent z: text(tokens=0..3) ~ base("b") ^ 0.6 observe "a" ~ base(z)',
    "free": 'latent z: text(tokens=1..3, end="free") ~ base("b") observe "a" ~ base(z)',
    "free, one length": 'latent z: text(tokens=2..2, end="free", chars="ab") ~ base() ^ 2',
    "characters": 'latent z: text(tokens=1..3, chars="a", stop="b") ~ base()',
    "canonical": 'latent z: text(tokens=1..3, canonical=true) ~ base()',
    "negative power": 'latent z: text(tokens=1..2) ~ base() ^ -0.5',
    "several": """latent x: text(tokens=1..2, stop="b") ~ base() latent o: one_of("a", "b.", ".") ~ base(x) ^ 2
                  latent z: text(tokens=0..2) ~ base(o, x) condition z != x""",
    "temper": 'temper 1.5 { latent z: text(tokens=1..3, stop=".") ~ base() ^ 0.5 observe z ~ base("a") }',
    "computed": """latent x: text(tokens=1..2) ~ base()
                   latent z: text(tokens=1..2) ~ base(if contains(x, "a") then "ab" else "", x)""",
    "guided": """latent z: text(tokens=1..3, stop=".") ~ base("a") guide z ~ base("b", "b")
                 latent y: text(tokens=0..2) ~ base(z) guide y ~ base(z, "a") observe "ab" ~ base(z, y)""",
}  # fmt: skip
NUMBERS = {
    "int": 'latent n: int(0..2, lead=" ") ~ base("a") observe n ~ uniform(1, 2)',
    "binomial": 'latent n: int(0..2) ~ binomial(4, 0.3) ^ 2 latent m: int(0..2) ~ choice(base(n)) condition n >= m',
    "outside": 'latent n: int(0..2) ~ uniform(2, 5) latent z: text(tokens=1..1) ~ base(n)',
}  # fmt: skip
CASES = [(n, b, MODEL) for n, b in PROGRAMS.items()] + [(n, b, DIGITS) for n, b in NUMBERS.items()]
cases = pytest.mark.parametrize(("body", "model"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])


@cases
@pytest.mark.parametrize("reads", ("prior", "guide"))
def test_the_weights_are_exact_for_each_kind_of_latent(body: str, model: object, reads: str) -> None:
    source = f'lm base = "b"\nprogram p() {{ {body} }}'
    target, brute = compiled(source, {}, {"base": model}), Brute(source, {}, {"base": model})
    rows, values = everything(target, brute)
    log_q = PriorGuide(target, reads=reads).log_prob(values)  # type: ignore[arg-type]
    assert np.exp(log_q).sum() == pytest.approx(1, abs=1e-9)
    rewards = np.array([brute.log_reward(row) for row in rows])
    assert np.isneginf(rewards[np.isneginf(log_q)]).all()
    drawn = log_q > -np.inf
    log_w, _ = log_weights(
        target,
        {k: [v for v, ok in zip(c, drawn, strict=True) if ok] for k, c in values.items()},
        log_q[drawn],
    )
    assert log_sum(log_w + log_q[drawn]) == pytest.approx(log_sum(rewards), abs=1e-9)
    if reads == "guide" and "guide" in body:
        assert np.abs(log_q - PriorGuide(target).log_prob(values)).max() > 0.1


# ------------------------------------------------------------------- draws


@cases
@pytest.mark.parametrize("reads", ("prior", "guide"))
def test_draws_follow_q(body: str, model: object, reads: str) -> None:
    """Chi-square of 4000 draws against the guide's own probabilities, bins of at least 5 expected."""
    if reads == "guide" and "guide" not in body:
        return
    source = f'lm base = "b"\nprogram p() {{ {body} }}'
    target = compiled(source, {}, {"base": model})
    rows, values = everything(target, Brute(source, {}, {"base": model}))
    guide = PriorGuide(target, reads=reads)  # type: ignore[arg-type]
    log_q = guide.log_prob(values)
    n = 4000
    proposal = guide.sample(np.random.default_rng(11), n)
    np.testing.assert_allclose(proposal.log_prob, guide.log_prob(proposal.values), rtol=1e-9, atol=1e-9)
    place = {tuple(row.values()): k for k, row in enumerate(rows)}
    counts = np.bincount([place[assigned(target, proposal.values, d)] for d in range(n)], minlength=len(rows))
    assert (counts[np.isneginf(log_q)] == 0).all()
    wanted = n * np.exp(log_q)
    rare = wanted < 5
    observed, expected = (
        np.append(counts[~rare], counts[rare].sum()),
        np.append(wanted[~rare], wanted[rare].sum()),
    )
    observed, expected = observed[expected > 0], expected[expected > 0]
    if len(expected) > 1:
        p = stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue
        assert p > P_VALUE / (2 * len(CASES)), (p, observed, expected)


@cases
def test_the_same_seed_gives_the_same_draws(body: str, model: object) -> None:
    target = target_of(body, model)

    def draws(seed: int) -> Draws:
        return run(Importance(), target, n=40, rng=np.random.default_rng(seed))

    first, again, other = draws(5), draws(5), draws(6)
    for name in target.names:
        assert first.values[name] == again.values[name]
    np.testing.assert_array_equal(first.log_weights, again.log_weights)
    assert any(first.values[name] != other.values[name] for name in target.names) or "one length" in body
    assert len(first) == 40 and first.log_prob is not None
    np.testing.assert_allclose(first.log_weights, first.log_reward - first.log_prob)
    np.testing.assert_allclose(first.log_reward, target.log_reward(first.values))
    for info in target.latents:
        assert all(info.support.accepts(v.ids) for v in first.values[info.name])


def test_batches_are_draws_like_any_others() -> None:
    target = target_of(PROGRAMS["several"])
    algorithm = Importance(draws=50, batch=16)
    draws = run(algorithm, target, n=50, rng=np.random.default_rng(0))
    assert len(draws) == 50
    np.testing.assert_allclose(draws.log_prob, PriorGuide(target).log_prob(draws.values), rtol=1e-9)


# ------------------------------------------------------------------- q by hand


def row(*ids: int) -> np.ndarray:
    return np.exp(MODEL.next_log_probs(ids))


def test_q_of_a_stop_by_hand() -> None:
    """Masked and renormalised step by step; a forced stop costs nothing. Tokens: a b . ab"""
    target = target_of('latent z: text(tokens=1..2, stop=".") ~ base("a")')
    values = values_of(target, [{"z": (2,)}, {"z": (1, 2)}, {"z": (3, 2)}, {"z": (0, 2)}])
    p = row(0)[:4] / row(0)[:4].sum()
    np.testing.assert_allclose(PriorGuide(target).log_prob(values), np.log(p[[2, 1, 3, 0]]), rtol=1e-12)
    assert not np.allclose(target.log_reward(values)[1:], np.log(p[[1, 3, 0]]))


def test_q_of_end_of_text_and_of_a_power_by_hand() -> None:
    target = target_of('latent z: text(tokens=1..2) ~ base("a") ^ 1.5')
    eos = MODEL.tokenizer.eos_id
    first = row(0)[:4] ** 1.5 / (row(0)[:4] ** 1.5).sum()
    after = row(0, 1) ** 1.5 / (row(0, 1) ** 1.5).sum()
    values = values_of(target, [{"z": (1,)}, {"z": (1, 3)}])
    wanted = np.log([first[1] * after[eos], first[1] * after[3]])  # the second one has to end there
    np.testing.assert_allclose(PriorGuide(target).log_prob(values), wanted, rtol=1e-12)


def test_q_of_a_free_end_by_hand() -> None:
    target = target_of('latent z: text(tokens=1..3, end="free") ~ base("a")')
    p, after, last = (row(*c)[:4] / row(*c)[:4].sum() for c in ((0,), (0, 1), (1, 3)))
    values = values_of(target, [{"z": (1,)}, {"z": (1, 3)}, {"z": (1, 3, 0)}])
    wanted = [p[1] / 3, p[1] * after[3] * 2 / 3 / 2, p[1] * after[3] * last[0] * 2 / 3 / 2]
    np.testing.assert_allclose(np.exp(PriorGuide(target).log_prob(values)), wanted, rtol=1e-12)


def test_what_is_forced_has_probability_one() -> None:
    target = target_of('latent z: text(tokens=2..2, chars="a", stop=".") ~ base("a")')
    values = values_of(target, [{"z": (0, 2)}])
    assert PriorGuide(target).log_prob(values)[0] == pytest.approx(0, abs=1e-12)
    proposal = PriorGuide(target).sample(np.random.default_rng(0), 5)
    assert {v.ids for v in proposal.values["z"]} == {(0, 2)} and np.abs(proposal.log_prob).max() < 1e-12


def test_values_that_cannot_be_drawn_have_probability_zero() -> None:
    target = target_of('latent z: text(tokens=1..2, stop=".") ~ base()')
    outside = [(0,), (0, 1), (0, 0, 2), (2, 2), (), (4,), (2, 0)]
    values = {"z": [target.value_of("z", ids) for ids in outside]}
    assert np.isneginf(PriorGuide(target).log_prob(values)).all()


def test_a_plates_guide_is_read_row_by_row() -> None:
    source = """lm base = "b"
    program p(rows: table(t: text)) {
      plate r in rows { latent z: text(tokens=1..1) ~ base(r.t) guide z ~ base("ab", r.t) }
    }"""
    rows = {"rows": [{"t": "a"}, {"t": "b"}]}
    target = compiled(source, rows, {"base": MODEL})
    values = values_of(target, [{"z[0]": (1,), "z[1]": (3,)}])
    p, q = row(3, 0)[:4], row(3, 1)[:4]
    wanted = math.log(p[1] / p.sum() * q[3] / q.sum())
    assert PriorGuide(target, reads="guide").log_prob(values)[0] == pytest.approx(wanted, abs=1e-12)
    assert PriorGuide(target).log_prob(values)[0] != pytest.approx(wanted, abs=1e-3)


# ------------------------------------------------------------------- dead draws


def failure(body: str, model: object = MODEL, n: int = 30) -> tuple[str, str, list[str]]:
    with pytest.raises(InferenceError) as caught:
        run(Importance(), target_of(body, model), n=n, rng=np.random.default_rng(0))
    (found,) = caught.value.diagnostics
    assert found.primary is not None
    return found.code, found.primary.span.text, list(found.notes)


def test_all_dead_names_the_statement_that_killed_most() -> None:
    text = 'latent z: text(tokens=1..2) ~ base("a")'
    last = 'condition similarity(z, "q") > 0'
    code, named, notes = failure(f'{text}\ncondition similarity(z, "b") < 0.5\n{last}')
    assert (code, named) == ("PLM702", last) and 'similarity(z, "b") < 0.5' in notes[0]
    code, named, _ = failure(f"{text}\nfactor log(0)\ncondition chars(z) > 9")
    assert (code, named) == ("PLM702", "factor log(0)")
    code, named, _ = failure(
        f'{text}\nobserve "q" ~ base()'.replace('"q"', '["a", bos]'), table(("a", "b"), seed=1, bos=True)
    )
    assert (code, named) == ("PLM702", 'observe ["a", bos] ~ base()')
    code, named, notes = failure('latent o: one_of("a", "b") ~ categorical([0, 1])\ncondition o == "a"')
    assert (code, named.split(":")[0]) == ("PLM702", "latent o") and 'condition o == "a"' in notes[-1]


def test_a_choice_of_nothing_is_no_number_and_nothing_worse() -> None:
    """0 / 0: every choice is impossible after a text that is longer than the table's."""
    body = 'latent o: one_of("a", "b") ~ choice(base("aaaaaaaaa"))\ncondition o == "a"'
    target = target_of(body, table(("a", "b"), seed=1, max_tokens=4))
    for algorithm in (Importance(), Exact()):
        with pytest.raises(InferenceError) as caught:
            run(algorithm, target, n=10, rng=np.random.default_rng(0))
        assert caught.value.diagnostics[0].code == "PLM701"
        assert "latent o" in caught.value.diagnostics[0].message


def test_one_survivor_is_enough() -> None:
    target = target_of('latent z: text(tokens=1..1) ~ base("a")\nfactor log(if z == "b" then 1 else 0)')
    draws = run(Importance(), target, n=200, rng=np.random.default_rng(0))
    alive = np.isfinite(draws.log_weights)
    assert 0 < alive.sum() < 200 and draws.normalized_weights[~alive].sum() == 0
    assert draws.log_evidence == pytest.approx(math.log(alive.mean()) + draws.log_weights[alive][0], abs=1e-9)


# ------------------------------------------------------------------- unbiased


@pytest.mark.parametrize("reads", ("prior", "guide"))
@pytest.mark.parametrize("model", ("gpt2", "llama"))
def test_the_mean_weight_is_unbiased(
    model: str, reads: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """On random transformers: mean weights of 150 seeds against the sum over every value, z-score below 4."""
    lm = build(model, tmp_path_factory.getbasetemp())
    body = """latent z: text(tokens=1..2, chars="the a", stop="e") ~ base("a") ^ 1.5 guide z ~ base(" the")
              latent y: one_of("ed", "a", "the") ~ base(z) observe "a" ~ base(y, z)"""
    target = target_of(body, lm)
    exact = run(Exact(values=10**6, mass=1.0), target, n=1, rng=np.random.default_rng(0))
    assert exact.certificate is not None and exact.certificate.complete
    guide = PriorGuide(target, reads=reads)  # type: ignore[arg-type]
    means = []
    for seed in range(150):
        draws = run(Importance(), target, n=8, rng=np.random.default_rng(seed), guide=guide)
        means.append(math.exp(draws.log_evidence - exact.log_evidence))
    z = (np.mean(means) - 1) / (np.std(means, ddof=1) / math.sqrt(len(means)))
    assert abs(z) < 4, (z, np.mean(means))
    assert np.std(means) > 0.01


def test_more_draws_come_nearer_to_the_exact_posterior() -> None:
    target = target_of(PROGRAMS["several"])
    exact = run(Exact(values=10**6, mass=1.0), target, n=1, rng=np.random.default_rng(0))
    draws = run(Importance(), target, n=20_000, rng=np.random.default_rng(1))
    assert draws.log_evidence_se is not None
    assert abs(draws.log_evidence - exact.log_evidence) < 4 * draws.log_evidence_se < 0.2
    weight: dict[tuple, float] = {}
    for d, w in enumerate(draws.normalized_weights):
        key = assigned(target, draws.values, d)
        weight[key] = weight.get(key, 0.0) + w
    wanted = {assigned(target, exact.values, d): w for d, w in enumerate(exact.normalized_weights)}
    far = 0.5 * sum(abs(weight.get(k, 0.0) - wanted.get(k, 0.0)) for k in weight.keys() | wanted.keys())
    assert far < 0.05, far


# ------------------------------------------------------------------- a prior that drawing has scored already


@settings(max_examples=30)
@given(bound_cases(n=0, small=True, latents=2), st.integers(0, 1000))
def test_the_log_reward_of_draws_is_that_of_the_target(bound: Bound, seed: int) -> None:
    try:
        draws = Importance().sample(
            np.random.default_rng(seed), Importance().init(np.random.default_rng(0), bound.target, None), 20
        )
    except InferenceError as problem:
        assert problem.diagnostics[0].code in ("PLM701", "PLM702")
        return
    again = bound.target.log_reward(draws.values) if bound.target.names else draws.log_reward
    assert draws.log_reward == pytest.approx(again, abs=1e-9)


@pytest.mark.parametrize(
    ("body", "calls"),
    [
        ('latent z: text(tokens=1..3, stop=".") ~ base("a")', 0),
        ("latent z: text(tokens=1..3) ~ base()", 0),
        ('latent z: text(tokens=1..3, stop=".") ~ base("a") ^ 2', 0),
        ('latent z: text(tokens=1..3, end="free") ~ base("a")', 1),
        ('latent z: text(tokens=1..3, stop=".") ~ base("a")\nobserve "b" ~ base(z)', 1),
    ],
)
def test_what_drawing_scored_is_not_scored_again(body: str, calls: int) -> None:
    counting = CountingModel(MODEL)
    target = target_of(body, counting)
    proposal = PriorGuide(target).sample(np.random.default_rng(3), 50)
    before = counting.calls
    weights, log_reward = log_weights(target, proposal.values, proposal.log_prob, proposal.scores)
    assert counting.calls - before == calls
    plain = target_of(body)
    assert log_reward == pytest.approx(plain.log_reward(proposal.values), abs=1e-9)
    assert weights == pytest.approx(log_reward - proposal.log_prob)
