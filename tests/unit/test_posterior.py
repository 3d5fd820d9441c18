"""Results: estimates, merged views, other formats, saving; and prediction."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.infer import weights
from posterior_lm.infer.draws import Draws, EnumerationBound
from posterior_lm.infer.verdict import verdict
from posterior_lm.target.values import Value

MODEL = plm.TabularModel.random(["a", "b", "ab", "."], order=1, max_tokens=8, rng=5, concentration=0.4)


def text_query() -> plm.Query:
    return (
        plm.program("t", 'y: one_of("a", "b", "ab")', lm={"m": "table"})
        .latent("z", "text(tokens=1..3)", "m()")
        .latent("k", "int(0..2)", "categorical([0.7, 0.2, 0.1])")
        .observe("y", "m(z)")
        .factor("0.4 * k")
        .lm(m=MODEL)
    )


def brute(query: plm.Query, y: str) -> dict[tuple[str, int], float]:
    """Unnormalised mass of (text of z, k), by scoring every value."""
    target = query.given(y=y).target()
    mass: dict[tuple[str, int], float] = {}
    ids = [i for i, b in enumerate(MODEL.tokenizer.token_bytes) if b is not None]
    sequences = [(a,) for a in ids] + [(a, b) for a in ids for b in ids]
    sequences += [(a, b, c) for a in ids for b in ids for c in ids]
    for sequence in sequences:
        if not target.latent("z").support.accepts(sequence):
            continue
        for k in range(3):
            values = {"z": [target.value_of("z", sequence)], "k": [target.value("k", k)]}
            key = (values["z"][0].text, k)
            mass[key] = mass.get(key, 0.0) + math.exp(float(target.log_reward(values)[0]))
    return mass


def test_estimates_agree_with_enumeration() -> None:
    mass = brute(text_query(), "b")
    total = sum(mass.values())
    exact = text_query().given(y="b").using("exact").draw()
    assert math.isclose(exact.log_evidence, math.log(total), abs_tol=1e-9)
    truth = sum(m for (z, _), m in mass.items() if "a" in z) / total
    mean = sum(m * k for (_, k), m in mass.items()) / total
    found = exact.prob(lambda v: "a" in v["z"])
    assert math.isclose(found.value, truth, abs_tol=1e-9) and found.low == found.high == found.value
    assert math.isclose(exact.expect(lambda v: v["k"]).value, mean, abs_tol=1e-9)
    drawn = text_query().given(y="b").using("importance").draw(3000, seed=2)
    estimate, number = drawn.prob(lambda v: "a" in v["z"]), drawn.expect(lambda v: v["k"])
    assert estimate.low < truth < estimate.high and estimate.high - estimate.low < 0.2
    assert abs(number.value - mean) < 4 * number.se


def test_merged_draws_sum_to_one_and_merge_equal_texts() -> None:
    exact = text_query().given(y="b").using("exact").draw()
    merged = exact.merged()
    assert math.isclose(sum(m.weight for m in merged), 1.0)
    assert [m.weight for m in merged] == sorted((m.weight for m in merged), reverse=True)
    mass = brute(text_query(), "b")
    for m in merged:
        key = (m.values["z"], m.values["k"])
        assert math.isclose(m.log_reward, math.log(mass[key]), abs_tol=1e-9)
    twice = [m for m in merged if m.sequences > 1]
    assert twice, "`ab` and `a`,`b` spell one text in two ways"


def test_expect_refuses_nan() -> None:
    exact = text_query().given(y="b").using("exact").draw()
    with pytest.raises(ValueError, match="NaN"):
        exact.expect(lambda v: math.nan)


def test_resampling_keeps_proportions() -> None:
    exact = text_query().given(y="b").using("exact").draw()
    rows = exact.resample(np.random.default_rng(0), 5000)
    marginal = dict(exact.marginal("k"))
    for k in range(3):
        assert abs(sum(r["k"] == k for r in rows) / 5000 - marginal[k]) < 0.01


def test_other_formats_hold_the_same_numbers() -> None:
    posterior = text_query().given(y="b").using("importance").draw(200, seed=3)
    frame = posterior.to_pandas()
    assert math.isclose(frame["weight"].sum(), 1.0) and list(frame.columns[:2]) == ["z", "k"]
    tree = posterior.to_arviz()
    assert tree["posterior"]["k"].shape == (1, 200)
    assert np.allclose(tree["sample_stats"]["weight"].values[0], posterior.weights)
    shape = posterior.to_json()
    assert list(shape) == [
        "program", "fingerprint", "lm", "method", "reason", "seed", "log_evidence", "log_evidence_se",
        "ess", "khat", "least_ess", "ancestors", "rhat", "bulk_ess", "acceptance", "n", "notes", "respelled", "draws",
    ]  # fmt: skip
    json.dumps(shape, allow_nan=False)


def test_saved_posteriors_come_back_whole(tmp_path: Path) -> None:
    for query in text_query().using("importance"), text_query().using("exact"):
        posterior = query.given(y="ab").draw(64, seed=4)
        path = posterior.save(tmp_path / posterior.method)
        again = plm.Posterior.load(path.parent)
        assert again.to_json() == posterior.to_json() and again.verdict == posterior.verdict
        assert np.array_equal(again.draws.log_weights, posterior.draws.log_weights)
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", [None, "", "{}", '{"format": "plm-posterior-1"}', "[1]", "\x00"])
def test_damaged_files_are_coded(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "posterior.json").write_text(content)
    with pytest.raises(plm.DataError) as caught:
        plm.Posterior.load(tmp_path)
    assert caught.value.diagnostics[0].code == "PLM611"


def draws(
    log_weights: np.ndarray, certificate: EnumerationBound | None = None, *, same: bool = False
) -> Draws:
    values = {"z": tuple(Value((i * (not same),), str(i), str(i)) for i in range(len(log_weights)))}
    return Draws(values, log_weights, log_weights, "importance", certificate=certificate)


def test_weights_against_plain_formulas() -> None:
    log_weights = np.array([0.3, -1.2, 2.5, -np.inf, 0.0])
    w = np.exp(log_weights)
    assert math.isclose(weights.ess(log_weights), w.sum() ** 2 / (w**2).sum())
    assert math.isclose(weights.log_evidence(log_weights), math.log(w.mean()))
    assert math.isclose(weights.log_evidence_se(log_weights), w.std(ddof=1) / math.sqrt(5) / w.mean())
    assert weights.logsumexp(np.array([])) == -math.inf
    with pytest.raises(ValueError, match="zero"):
        weights.normalize(np.full(3, -np.inf))


def test_khat_sees_heavy_tails_and_ignores_ties() -> None:
    uniforms = np.random.default_rng(0).random(2000)
    for shape in (0.2, 0.8, 2.0):
        pareto = -shape * np.log(uniforms)  # weights u^-k have a Pareto tail of shape k
        found = weights.khat(pareto)
        assert found is not None and abs(found - shape) < 0.15
    assert weights.khat(np.repeat([0.0, 1.0, 2.0], 500)) is None
    assert weights.khat(uniforms[:20]) is None


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (draws(np.random.default_rng(2).normal(size=500) * 0.1), "Good"),
        (draws(np.random.default_rng(2).normal(size=60) * 0.1), "Use with care.*by chance alone"),
        (draws(np.zeros(500)), "Usable.*too much alike"),
        (draws(np.zeros(500), same=True), "all 500 draws are one value"),
        (draws(np.r_[30.0, np.zeros(999)]), "Do not trust"),
        (draws(-3.0 * np.log(np.random.default_rng(1).random(4000))), "trust|care"),
        (draws(np.zeros(3), EnumerationBound(1.0, -np.inf, True, 3)), "every value"),
        (draws(np.zeros(3), EnumerationBound(1.0, -5.0, False, 3)), "at most 0.0025"),
        (draws(np.zeros(3), EnumerationBound(1.0, 3.0, False, 3)), "cannot rule out"),
        (draws(np.zeros(3), EnumerationBound(1.0, 3.0, False, 3, 0.01, 0.002)), "about 0.0099"),
    ],
)
def test_verdicts_say_what_the_numbers_say(found: Draws, words: str) -> None:
    import re

    assert re.search(words, verdict(found)), verdict(found)


# ------------------------------------------------------------------- prediction


def test_prediction_is_the_joint_marginal() -> None:
    query = text_query()
    masses = {y: sum(brute(query, y).values()) for y in ("a", "b", "ab")}
    total = sum(masses.values())
    exact = query.using("exact").predict("y")
    assert [v for v, _ in exact.probs] == sorted(masses, key=lambda y: -masses[y])
    for y, mass in masses.items():
        assert math.isclose(exact.prob(y), mass / total, abs_tol=1e-9)
    drawn = query.using("importance").predict("y", n=4000, seed=1)
    assert all(abs(drawn.prob(y) - mass / total) < 0.05 for y, mass in masses.items())


def test_prediction_where_the_prior_reads_the_parameter() -> None:
    query = (
        plm.program("t", "n: int(0..2)", lm={"m": "table"})
        .latent("z", "text(tokens=1..2)", 'm(if n > 0 then "a" else "b")')
        .factor("0.5 * n")
        .condition('contains(z, "a")')
        .lm(m=MODEL)
        .using("exact")
    )
    evidence = [query.given(n=n).draw().log_evidence for n in range(3)]
    total = np.logaddexp.reduce(evidence)
    found = query.predict("n")
    for n in range(3):
        assert math.isclose(found.prob(n), math.exp(evidence[n] - total), abs_tol=1e-9)


def test_prediction_of_a_latent_is_its_marginal() -> None:
    query = text_query().given(y="b").using("exact")
    assert query.predict("k").probs == tuple(query.draw().marginal("k"))


@pytest.mark.parametrize(
    ("query", "name", "code"),
    [
        (text_query().given(y="b"), "y", "PLM803"),
        (text_query(), "yy", "PLM803"),
        (text_query().guide("z", "m(y)"), "y", "PLM804"),
        (
            plm.program("t", "x: text", lm={"m": "t"}).latent("z", "text(tokens=1..2)", "m(x)").lm(m=MODEL),
            "x",
            "PLM501",
        ),
    ],
)
def test_what_cannot_be_predicted_is_coded(query: plm.Query, name: str, code: str) -> None:
    with pytest.raises(plm.PlmError) as caught:
        query.predict(name)
    assert caught.value.diagnostics[0].code == code
