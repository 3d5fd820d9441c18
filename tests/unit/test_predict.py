"""Predictions of listed values: averages and votes, intervals, the two parts of the entropy, what is refused."""

from __future__ import annotations

import itertools
import math

import attrs
import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.infer.draws import Chains, Draws, EnumerationBound, SmcReport
from posterior_lm.predict.by_draws import Mixture, independent, intervals, standard_errors
from posterior_lm.target.values import Value
from tests.strategies import table

MODEL = table(("a", "b", "ab", "."), seed=5, order=1, max_tokens=9)
THREE = 'y: one_of("a", "b", "ab")'
BODY = 'latent z: text(tokens=1..2) ~ base("b") latent k: int(0..1) ~ categorical([0.8, 0.2]) '
SEEN = 'observe [y, "."] ~ base(z) factor 0.7 * k * chars(y)'


def asked(params: str, body: str, method: str = "exact") -> plm.Query:
    return plm.loads(f'lm base = "b"\nprogram p({params}) {{ {body} }}').lm(base=MODEL).using(method)


def joint(query: plm.Query, ys: tuple[object, ...]) -> tuple[np.ndarray, list[tuple[Value, int]]]:
    """(Z, Y) exp(log reward) of every pair, by binding each y and scoring every value of z and k."""
    targets = [query.given(y=y).target() for y in ys]
    support = targets[0].evaluator.supports["z"]
    tokens = range(len(MODEL.tokenizer.tokens))
    ids = [s for size in (1, 2) for s in itertools.product(tokens, repeat=size) if support.accepts(s)]
    pairs = [(targets[0].value_of("z", s), k) for s in ids for k in (0, 1)]
    columns = {"z": [z for z, _ in pairs], "k": [targets[0].value("k", k) for _, k in pairs]}
    return np.exp(np.stack([t.log_reward(columns) for t in targets], axis=1)), pairs


def draws_of(log_weights: np.ndarray, **more: object) -> Draws:
    values = {"z": tuple(Value((i,), str(i), str(i)) for i in range(len(log_weights)))}
    return Draws(values, log_weights, log_weights, "importance", **more)  # type: ignore[arg-type]


# ------------------------------------------------------------------- averages and votes


def test_votes_and_entropies_are_those_of_the_joint() -> None:
    query, ys = asked(THREE, BODY + SEEN), ("a", "b", "ab")
    mass, _ = joint(query, ys)
    weights, inner = mass.sum(1) / mass.sum(), mass / mass.sum(1, keepdims=True)
    soft = weights @ inner
    found = {vote: query.predict("y", vote=vote) for vote in ("soft", "hard", "likeliest")}
    for y, p in zip(ys, soft, strict=True):
        assert found["soft"].prob(y) == pytest.approx(p, abs=1e-9)
        mine = weights[inner.argmax(1) == ys.index(y)].sum()
        assert found["hard"].prob(y) == pytest.approx(mine, abs=1e-9)
    top = int(mass.max(1).argmax())
    for y, p in zip(ys, inner[top], strict=True):
        assert found["likeliest"].prob(y) == pytest.approx(p, abs=1e-9)
    assert abs(found["hard"].prob("a") - found["soft"].prob("a")) > 0.02, "the votes differ here"
    assert abs(found["likeliest"].prob("a") - found["soft"].prob("a")) > 0.02
    aleatoric = float(weights @ -(inner * np.log(inner)).sum(1))
    for one in found.values():
        assert one.entropy == pytest.approx(-(soft * np.log(soft)).sum(), abs=1e-9)
        assert one.aleatoric == pytest.approx(aleatoric, abs=1e-9)
        assert one.aleatoric + one.epistemic == pytest.approx(one.entropy)
        assert one.other == 0.0 and sum(one.probabilities.values()) == pytest.approx(1.0)
        assert one.best == one.probs[0][0] == max(one.probabilities, key=one.prob)
    assert found["soft"].epistemic > 0.005
    assert found["likeliest"].interval("a") is None
    assert found["soft"].interval("a") == pytest.approx((soft[0], soft[0])), "a list has no sampling error"


def test_votes_that_tie_are_shared() -> None:
    gained = np.log([[0.4, 0.4, 0.2], [0.1, 0.6, 0.3], [0.5, 0.25, 0.25]])
    mixture = Mixture.of(draws_of(np.log([0.5, 0.3, 0.2])), gained)
    assert mixture.weights == pytest.approx([0.5, 0.3, 0.2])
    assert mixture.weights @ mixture.votes() == pytest.approx([0.25 + 0.2, 0.25 + 0.3, 0.0])


def test_a_draw_that_no_value_fits_counts_nothing() -> None:
    gained = np.array([[-np.inf, -np.inf], [-1.0, -2.0], [-np.inf, -np.inf]])
    mixture = Mixture.of(draws_of(np.array([3.0, 0.0, -np.inf])), gained)
    assert mixture.weights.tolist() == [0.0, 1.0, 0.0] and mixture.votes()[0].tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="zero"):
        Mixture.of(draws_of(np.zeros(3)), np.full((3, 2), -np.inf))


def test_the_weights_are_those_without_what_reads_the_parameter() -> None:
    """An observe that is much likelier after some z must not move the draws, only their weights."""
    query = asked(THREE, BODY + SEEN, "importance")
    plain = query.predict("y", n=3000, seed=3)
    assert plain.posterior.fingerprint == query.fingerprint
    draws = plain.posterior.draws
    unseen = asked("", BODY).target().log_reward(draws.values)
    assert draws.log_weights == pytest.approx(unseen - draws.log_prob)
    assert draws.log_reward == pytest.approx(unseen)
    mass, _ = joint(query, ("a", "b", "ab"))
    assert plain.prob("ab") == pytest.approx(mass[:, 2].sum() / mass.sum(), abs=0.03)


def test_a_prediction_says_what_it_did() -> None:
    found = asked(THREE, BODY + SEEN, "importance").predict("y", n=300, vote="hard")
    shape = found.to_json()
    assert (shape["vote"], shape["best"], shape["other"]) == ("hard", found.best, 0.0)
    first = shape["predictions"][0]
    assert list(first) == ["value", "prob", "se", "low", "high"]
    assert first["low"] < first["prob"] < first["high"] and 0 < first["se"] < 0.1
    assert (first["low"], first["high"]) == found.interval(found.best)
    likeliest = asked(THREE, BODY + SEEN, "importance").predict("y", n=30, vote="likeliest").to_json()
    assert likeliest["predictions"][0]["se"] is None and likeliest["predictions"][0]["low"] is None


# ------------------------------------------------------------------- intervals


PRIOR = np.array([0.62, 0.25, 0.1, 0.03])
INNER = np.array([[0.93, 0.05, 0.02], [0.15, 0.8, 0.05], [0.3, 0.3, 0.4], [0.01, 0.09, 0.9]])
MASS = np.array([1.0, 0.6, 0.9, 0.4])
PROPOSAL = np.array([0.45, 0.2, 0.25, 0.1])


@pytest.mark.parametrize("vote", ["soft", "hard"])
@pytest.mark.parametrize("n", [25, 200])
def test_intervals_cover_what_they_say(vote: str, n: int) -> None:
    """400 predictions from weighted draws of a small target whose prediction is known."""
    weight = PRIOR * MASS / (PRIOR * MASS).sum()
    truth = weight @ (INNER if vote == "soft" else np.eye(3)[INNER.argmax(1)])
    rng, inside, wide = np.random.default_rng(11), np.zeros(3), 0.0
    for _ in range(400):
        z = rng.choice(4, size=n, p=PROPOSAL)
        draws = draws_of(np.log(PRIOR[z] / PROPOSAL[z]))
        mixture = Mixture.of(draws, np.log(MASS[z][:, None] * INNER[z]))
        columns = mixture.conditional if vote == "soft" else mixture.votes()
        p, se = mixture.weights @ columns, standard_errors(draws, mixture.weights, columns)
        bounds = intervals(p, se, n=independent(draws, mixture.weights))
        inside += [low <= t <= high for (low, high), t in zip(bounds, truth, strict=True)]
        wide += bounds[0][1] - bounds[0][0]
    # Three standard errors of 400 coin flips with 0.9; the widening for what was not seen only adds.
    assert np.all(inside / 400 >= 0.855) and inside[0] / 400 <= 0.965
    assert wide / 400 < (0.4 if n == 25 else 0.14), "intervals that cover by being short"


def test_intervals_of_a_query_cover_the_exact_prediction() -> None:
    query = asked(THREE, BODY + SEEN, "importance")
    truth = query.using("exact").predict("y")
    inside = 0
    for seed in range(40):
        low, high = query.predict("y", n=60, seed=seed).interval("a")  # type: ignore[misc]
        inside += low <= truth.prob("a") <= high
    assert 31 <= inside < 40 + 1


def test_one_draw_knows_nothing_and_many_that_agree_a_little_less_than_all() -> None:
    one = draws_of(np.zeros(1))
    assert standard_errors(one, np.ones(1), np.array([[0.3, 0.7]])).tolist() == [0.0, 0.0]
    low, high = intervals([0.3], [0.0], n=1)[0]
    assert low == pytest.approx(0.03) and high == pytest.approx(0.93)
    low, high = intervals([0.3], [0.0], n=100)[0]
    assert low < 0.3 < high and high - low == pytest.approx(1 - 0.1**0.01)
    assert intervals([0.3], [math.inf]) == [(0.0, 1.0)]


def test_draws_of_one_ancestor_are_one_and_chains_have_fewer() -> None:
    rng = np.random.default_rng(0)
    columns, origin = rng.random((6, 2)), np.array([0, 0, 1, 1, 1, 2])
    weights = np.array([0.3, 0.1, 0.2, 0.1, 0.1, 0.2])
    plain = draws_of(np.log(weights))
    particles = draws_of(np.log(weights), particles=SmcReport(1.0, 3, 1, origin=origin))
    shares = np.bincount(origin, weights=weights)
    assert independent(particles, weights) == pytest.approx(1 / (shares**2).sum())
    means = weights @ columns
    parts = np.stack([np.bincount(origin, weights=weights * (c - m)) for c, m in zip(columns.T, means)], 1)  # noqa: B905
    n = 1 / (shares**2).sum()
    expected = np.sqrt((parts**2).sum(0) * n / (n - 1))
    assert standard_errors(particles, weights, columns) == pytest.approx(expected)
    assert not np.allclose(standard_errors(plain, weights, columns), expected)
    chains = draws_of(np.zeros(6), chains=Chains(1, np.zeros(6, dtype=int), 1.0, 3.0, 0.5))
    equal = np.full(6, 1 / 6)
    assert independent(chains, equal) == 3.0
    ratio = standard_errors(chains, equal, columns) / standard_errors(draws_of(np.zeros(6)), equal, columns)
    assert ratio == pytest.approx(math.sqrt(6 / 3 * (3 / 2) / (6 / 5)))


def test_a_list_with_a_rest_leaves_room_for_it() -> None:
    gained = np.log([[0.9, 0.1], [0.5, 0.5]])
    certificate = EnumerationBound(0.0, math.log(0.25), complete=False, listed=2)  # a fifth is missing
    mixture = Mixture.of(draws_of(np.log([0.75, 0.25]), certificate=certificate), gained)
    assert mixture.missing == pytest.approx(0.2), "every draw gives the values all it has"
    (low, high), _ = intervals(mixture.soft(), [0.0, 0.0], missing=mixture.missing)
    assert (low, high) == pytest.approx((0.8 * 0.8, 0.8 * 0.8 + 0.2))
    # Where the unlisted ones may give the values twice as much as the listed, they may have more.
    lopsided = Mixture.of(
        draws_of(np.log([0.75, 0.25]), certificate=certificate), gained + np.array([[0.0], [-9.0]])
    )
    assert lopsided.missing == pytest.approx(0.25 / (0.25 + 0.75 + 0.25 * math.exp(-9)), rel=1e-6)


@pytest.mark.parametrize("name", ["y", "k"])
def test_what_a_decoder_wrote_has_no_interval(name: str) -> None:
    query = asked(THREE, BODY + SEEN, "ancestral")
    found = (query if name == "y" else query.given(y="b")).predict(name, n=20)
    assert found.posterior.draws.decoded and found.estimates == {} and found.interval(found.best) is None
    assert sum(found.probabilities.values()) == pytest.approx(1.0)


# ------------------------------------------------------------------- by evidence, and latents


def test_evidence_gives_intervals_and_no_votes() -> None:
    query = asked('y: one_of("a", "b")', 'latent z: text(tokens=1..3) ~ base(y) observe "a." ~ base(z)')
    exact = query.predict("y")
    assert exact.aleatoric is None and exact.epistemic is None and exact.entropy > 0
    found = [query.using("importance").predict("y", n=40, seed=s) for s in range(40)]
    spread = np.std([f.prob("a") for f in found])
    assert np.mean([f.estimates["a"].se for f in found]) == pytest.approx(spread, rel=0.4)
    inside = sum(f.interval("a")[0] <= exact.prob("a") <= f.interval("a")[1] for f in found)  # type: ignore[index]
    assert inside >= 31
    with pytest.raises(plm.InferenceError, match="PLM808"):
        query.predict("y", vote="hard")


def test_a_latent_has_its_marginal_and_its_errors() -> None:
    query = asked(THREE, BODY + SEEN, "importance").given(y="b")
    found = query.predict("z", n=400, seed=1)
    draws, weights = found.posterior.draws, found.posterior.weights
    values = [v for v, _ in found.probs]
    columns = np.array([[v.datum == value for value in values] for v in draws.values["z"]], dtype=float)
    dense = standard_errors(draws, weights, columns)
    assert [found.estimates[v].se for v in values] == pytest.approx(dense.tolist())
    assert found.aleatoric == 0.0 and found.epistemic == found.entropy > 0.5
    likeliest = query.predict("z", n=400, seed=1, vote="likeliest")
    assert likeliest.probs == ((draws.values["z"][int(draws.log_reward.argmax())].datum, 1.0),)
    assert query.predict("z", n=400, seed=1, vote="hard").probs == found.probs


def test_a_latents_errors_follow_its_ancestors() -> None:
    query = asked(THREE, BODY + SEEN, "smc").given(y="b").using("smc", threshold=1.0)
    found = query.predict("k", n=100, seed=1)
    draws = found.posterior.draws
    assert draws.particles is not None and draws.particles.resampled
    columns = np.array(
        [[v.datum == value for value, _ in found.probs] for v in draws.values["k"]], dtype=float
    )
    dense = standard_errors(draws, found.posterior.weights, columns)
    assert [found.estimates[v].se for v, _ in found.probs] == pytest.approx(dense.tolist())


# ------------------------------------------------------------------- where the parameter stands


def test_every_term_that_reads_the_parameter_counts() -> None:
    rows = [{"w": "a"}, {"w": "."}]
    body = (
        BODY
        + 'plate r in t { observe [r.w, y] ~ base(z) } condition k == 1 or y != "b" factor 0.2 * chars(y)'
    )
    query = asked(f"{THREE}, t: table(w: text)", body).given(t=rows)
    mass, _ = joint(query, ("a", "b", "ab"))
    found = query.predict("y")
    for v, y in enumerate(("a", "b", "ab")):
        assert found.prob(y) == pytest.approx(mass[:, v].sum() / mass.sum(), abs=1e-9)
    one = query.given(t=rows[:1]).predict("y")
    assert abs(one.prob("a") - found.prob("a")) > 0.01


def test_a_value_that_leaves_a_latent_nothing_has_probability_zero() -> None:
    few = 'latent z: text(tokens=1..2, chars="a") ~ base("b") observe [y, "."] ~ base(z) '
    found = asked(THREE, few + "condition contains(z, y)").predict("y")
    assert found.prob("a") == pytest.approx(1.0) and found.prob("b") == found.prob("ab") == 0.0
    with pytest.raises(plm.PlmError, match="PLM531"):
        asked('y: one_of("a", "x")', few).predict("y")


def test_a_default_is_no_observation() -> None:
    plain = asked(THREE, BODY + SEEN).predict("y")
    assert asked(f'{THREE} = "ab"', BODY + SEEN).predict("y").probs == plain.probs
    evidence = 'latent z: text(tokens=1..2) ~ base(y) observe "a." ~ base(z)'
    assert asked(f'{THREE} = "ab"', evidence).predict("y").probs == asked(THREE, evidence).predict("y").probs


@pytest.mark.parametrize("params", ['y: bool', "y: int(0..3)"])  # fmt: skip
def test_other_listed_types(params: str) -> None:
    query = asked(params, BODY + 'observe (if y > 0 then "a." else "b.") ~ base(z)' if "int" in params
                  else BODY + 'observe (if y then "a." else "b.") ~ base(z)')  # fmt: skip
    values = (False, True) if "bool" in params else (0, 1, 2, 3)
    mass, _ = joint(query, values)
    found = query.predict("y")
    for v, y in enumerate(values):
        assert found.prob(y) == pytest.approx(mass[:, v].sum() / mass.sum(), abs=1e-9)


def test_a_program_without_latents_predicts_too() -> None:
    found = asked('y: one_of("a", "b")', 'observe [y, "."] ~ base("b")', "importance").predict("y", n=20)
    assert found.epistemic == pytest.approx(0.0, abs=1e-12) and found.aleatoric > 0.03
    scores = [math.exp(asked("", f'observe "{y}." ~ base("b")').score({}).log_reward) for y in ("a", "b")]
    assert found.prob("a") == pytest.approx(scores[0] / sum(scores))


# ------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("params", "body", "code"),
    [
        ("y: real", BODY + "factor y", "PLM806"),
        ("y: table(w: text)", BODY + "plate r in y { observe r.w ~ base(z) }", "PLM806"),
        (THREE, BODY + SEEN + " guide z ~ base(y)", "PLM804"),
        (THREE, 'let c = ["a", y] ' + BODY + SEEN + " guide z ~ base(c)", "PLM804"),
        (THREE, BODY + SEEN + " condition false", "PLM703"),
        (THREE, BODY + SEEN + " condition k == 7 and y == y", "PLM703"),
        (THREE, BODY + SEEN + " condition k == 7", "PLM340"),
        ("y: int(0..99999)", 'latent z: text(tokens=1..2) ~ base(if y > 5 then "a" else "b")', "PLM501"),
    ],
)
def test_what_cannot_be_predicted_is_coded(params: str, body: str, code: str) -> None:
    with pytest.raises(plm.PlmError) as caught:
        asked(params, body).predict("y", n=20)
    assert [d.code for d in caught.value.diagnostics] == [code]


def test_dead_draws_are_coded() -> None:
    with pytest.raises(plm.InferenceError, match="PLM702"):
        asked(THREE, BODY + SEEN + ' condition chars(z) * k > 90', "importance").predict("y", n=20)  # fmt: skip


def test_an_unknown_vote_is_refused() -> None:
    with pytest.raises(plm.InferenceError, match=r"PLM802.*soft, hard or likeliest"):
        asked(THREE, BODY + SEEN).predict("y", vote="loud")  # type: ignore[arg-type]


def test_a_prediction_is_a_value() -> None:
    found = asked(THREE, BODY + SEEN).predict("y")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        found.vote = "hard"  # type: ignore[misc]
    assert found.prob("nonsense") == 0.0 and found.interval("nonsense") is None
