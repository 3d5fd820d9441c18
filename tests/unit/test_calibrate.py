"""Calibration: ranks and their test, bounds from both sides, exact draws, and what the command shows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve

from posterior_lm.api.query import Query, loads
from posterior_lm.infer.base import run
from posterior_lm.infer.draws import Chains, Draws
from posterior_lm.infer.exact import Exact
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.infer.smc import Smc, swarm_beside
from posterior_lm.lang.diagnostics import DataError, InferenceError, error
from posterior_lm.target.values import Value
from posterior_lm.validate.calibration import ALPHA, Calibration, _frequency, _independent, calibration_of
from posterior_lm.validate.exact_draws import exact_draws
from posterior_lm.validate.measures import (
    PLACES,
    band,
    bounds,
    coverage,
    guided,
    method_under_test,
    p_value,
    quantities,
    rank,
)
from tests.cli import plm
from tests.statistical.test_calibration_catches_faults import MODEL, query

NUMBER = """program number(seen: int(0..9)) {
  latent n: int(0..7) ~ categorical([0.3, 0.05, 0.2, 0.02, 0.25, 0.08, 0.06, 0.04])
  observe seen ~ binomial(9, 0.1 + 0.1 * n)
}
"""
TEXT = """lm base = "b"
program text(seen: text) {
  latent z: text(tokens=1..3, stop=".") ~ base("a")
  observe seen ~ base(z)
}
"""
KEYS = {"method", "rows", "lower", "upper", "jeffreys", "sbc_p", "coverage90", "verdict", "passed"}


def posterior(one: Query, **data: object) -> Draws:
    """Every value of a program with its log reward, as listed."""
    return run(Exact(values=10_000, mass=1.0), one.given(**data).target(), n=1, rng=np.random.default_rng(0))


# ------------------------------------------------------------------------------- ranks


def test_a_rank_counts_weights_below_and_splits_ties() -> None:
    weights, others = np.array([0.1, 0.2, 0.3, 0.4]), np.array([1.0, 2.0, 2.0, 5.0])
    for seed in range(20):
        u = np.random.default_rng(seed).random()
        found = rank(weights, others, 2.0, 0.25, np.random.default_rng(seed))
        assert found == pytest.approx((0.1 + u * (0.5 + 0.25)) / 1.25)
    assert rank(weights, others, 9.0, 0.0, np.random.default_rng(0)) == pytest.approx(1.0)
    assert 0 <= rank(weights, others, 9.0, math.inf, np.random.default_rng(0)) < 1


def test_ranks_of_one_of_equals_are_uniform() -> None:
    """A draw among N others of the same skewed distribution, with ties."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(4000):
        values = rng.geometric(0.4, size=8).astype(float)
        found.append(rank(np.full(7, 1 / 7), values[1:], values[0], 1 / 7, rng))
    assert p_value(np.array(found)) > 1e-3
    wrong = [rank(np.full(7, 1 / 7), np.zeros(7) + k % 2, 0.5, 0.0, rng) for k in range(200)]
    assert p_value(np.array(wrong)) < 1e-3


def test_weighed_among_draws_of_another_law_ranks_are_uniform() -> None:
    """z* from p, the others from q, each weighed by p/q: exact for any number of them."""
    p, q = np.array([0.5, 0.3, 0.15, 0.05]), np.array([0.05, 0.15, 0.2, 0.6])
    rng = np.random.default_rng(4)
    right, wrong = [], []
    for _ in range(4000):
        own, others = rng.choice(4, p=p), rng.choice(4, p=q, size=3)
        w = (p / q)[others]
        right.append(rank(w / w.sum(), others.astype(float), float(own), (p / q)[own] / w.sum(), rng))
        wrong.append(rank(w / w.sum(), others.astype(float), float(own), (q / p)[own] / w.sum(), rng))
    assert p_value(np.array(right)) > 1e-3
    assert p_value(np.array(wrong)) < 1e-3


def test_p_values_are_uniform_at_most() -> None:
    rng = np.random.default_rng(5)
    found = np.array([p_value(rng.random(60)) for _ in range(800)])
    for level in (0.01, 0.05, 0.2, 0.5):
        # Counts are discrete, so the test may be a little on the safe side.
        spread = 3 * math.sqrt(level * (1 - level) / len(found))
        assert level - 0.35 * level - spread < np.mean(found <= level) < level + spread


@pytest.mark.parametrize(
    "shape", [lambda u: u**1.8, lambda u: 0.5 + 0.5 * np.sign(u - 0.5) * np.abs(2 * u - 1) ** 0.45,
              lambda u: 0.25 + 0.5 * u], ids=["low", "edges", "middle"],
)  # fmt: skip
def test_ranks_that_lean_or_crowd_are_found(shape) -> None:
    u = np.random.default_rng(6).random(100)
    assert p_value(u) > 0.01
    assert p_value(shape(u)) < ALPHA


def test_the_band_is_what_the_test_allows() -> None:
    least, most = band(80, 0.95)
    assert len(least) == PLACES - 1 and (least <= np.arange(1, PLACES) / PLACES).all()
    rng = np.random.default_rng(7)
    for _ in range(200):
        u = rng.random(80)
        share = np.array([np.mean(u <= k / PLACES) for k in range(1, PLACES)])
        inside = bool(((share >= least - 1e-9) & (share <= most + 1e-9)).all())
        p = p_value(u)
        assert inside == (p > 0.05) or abs(p - 0.05) < 0.01


def test_coverage() -> None:
    assert coverage([np.array([0.04, 0.06, 0.5]), np.array([0.94, 0.96])]) == pytest.approx(3 / 5)


# ------------------------------------------------------------------------------- quantities


def test_quantities() -> None:
    one = (
        loads("""lm base = "b"
    program q(xs: table(s: one_of("a", "b"))) {
      plate x in xs { latent z: text(tokens=1..2) ~ base("a") observe x.s ~ base(z) }
      latent o: one_of("b", "ab", "a") ~ uniform()
      latent n: int(2..5) ~ uniform()
      factor 0.3 * n
    }""")
        .lm(base=MODEL)
        .given(xs=[{"s": "a"}, {"s": "b"}])
    )
    target = one.target()
    draws = [{"z[0]": "a", "z[1]": "ab.", "o": "a", "n": 4}, {"z[0]": "b.", "z[1]": ".a", "o": "b", "n": 2}]
    values: Mapping[str, list[Value]] = {k: [target.value(k, d[k]) for d in draws] for k in target.names}
    found = quantities(target, values)
    assert list(found) == ["log reward", "log prior", "other terms", "tokens of z", "o", "n"]
    tokens = [sum(len(values[k][d].ids) for k in ("z[0]", "z[1]")) for d in range(2)]
    assert found["tokens of z"].tolist() == tokens and tokens[0] != tokens[1]
    assert found["o"].tolist() == [2, 0] and found["n"].tolist() == [4, 2]
    terms = target.terms(values)
    keywords = [info.keyword for info in target.statements]
    prior = sum(terms[:, k] for k, word in enumerate(keywords) if word == "latent")
    np.testing.assert_allclose(found["log prior"], prior)
    np.testing.assert_allclose(found["log prior"] + found["other terms"], target.log_reward(values))


# ------------------------------------------------------------------------------- bounds


def test_bounds_hold_the_evidence_on_average() -> None:
    """Summed over every exact draw and every pair of prior draws."""
    one = loads(NUMBER).using("importance")
    listed = posterior(one, seen=6)
    target, log_z = one.given(seen=6).target(), listed.log_evidence
    assert log_z is not None
    prior = PriorGuide(target)
    values = listed.values["n"]
    log_q = prior.log_prob({"n": values})
    log_w = listed.log_reward - log_q
    inverse = lower = upper = 0.0
    rng = np.random.default_rng(0)
    way = method_under_test(one.prepared, one.request)
    for star, a, b in product(range(8), repeat=3):
        chance = listed.normalized_weights[star] * math.exp(log_q[a] + log_q[b])
        draws = Draws(
            {"n": (values[a], values[b])},
            log_w[[a, b]],
            listed.log_reward[[a, b]],
            "importance",
            log_q[[a, b]],
        )
        held = bounds(way, target, draws, {"n": values[star]}, rng)
        assert held.lower is not None and held.upper is not None and held.share is not None
        assert held.share == pytest.approx(math.exp(log_w[star]) / (math.exp(log_w[a]) + math.exp(log_w[b])))
        inverse += chance * math.exp(-held.upper)
        lower += chance * held.lower
        upper += chance * held.upper
    assert inverse == pytest.approx(math.exp(-log_z))
    assert lower < log_z - 0.01 < log_z + 0.01 < upper


def test_a_value_that_cannot_be_drawn_has_no_upper_bound() -> None:
    one = loads(NUMBER).using("importance").given(seen=6)
    target = one.target()

    class Never(PriorGuide):
        def log_prob(self, values):  # type: ignore[no-untyped-def]
            return np.where([v.datum == 3 for v in values["n"]], -np.inf, PriorGuide.log_prob(self, values))

    way = guided(Never)
    draws = way.draw(target, 5, np.random.default_rng(0))
    held = bounds(way, target, draws, {"n": target.value("n", 3)}, np.random.default_rng(0))
    assert held.upper == math.inf and held.share == math.inf and held.lower is not None


@pytest.mark.parametrize("name", ["two latents", "conditioned"])
def test_a_swarm_with_an_exact_draw_in_it(name: str) -> None:
    """E[1/Ẑ] = 1/Z, with the exact draw summed over and 12 runs for each."""
    one = query(name).given(seen="ab")
    listed, target = posterior(one), one.target()
    log_z = listed.log_evidence
    assert log_z is not None
    means, spread, lows = 0.0, 0.0, 0.0
    for k, weight in enumerate(listed.normalized_weights):
        if weight < 1e-3:
            continue
        values = {n: column[k] for n, column in listed.values.items()}
        found = [
            swarm_beside(
                Smc(threshold=0.95), target, None, values, 3, np.random.default_rng([k, j])
            ).log_evidence
            for j in range(12)
        ]
        ratio = np.exp(log_z - np.array(found))
        means += weight * ratio.mean()
        spread += weight**2 * ratio.var(ddof=1) / len(ratio)
        lows += weight * float(np.mean(found))
    assert abs(means - 1) < 4 * math.sqrt(spread) + 2e-3, (means, spread)
    assert lows > log_z


def test_listed_values_are_held_by_their_certificate() -> None:
    one = query("two latents").given(seen="ab").using("exact", values=5, mass=0.5)
    target, asked = one.target(), one.using("exact", values=5, mass=0.5)
    way = method_under_test(asked.prepared, asked.request)
    draws = way.draw(target, 5, np.random.default_rng(0))
    assert draws.certificate is not None and not draws.certificate.complete
    values = {n: column[0] for n, column in draws.values.items()}
    held = bounds(way, target, draws, values, np.random.default_rng(0))
    truth = posterior(query("two latents"), seen="ab").log_evidence
    assert held.lower is not None and held.upper is not None and truth is not None
    assert held.lower < truth < held.upper


# ------------------------------------------------------------------------------- exact draws


CASES = {
    "number": (loads(NUMBER), "simulated"),
    "conditioned": (query("conditioned"), "listed"),
    "text": (loads(TEXT).lm(base=MODEL), "simulated"),
}


@pytest.mark.parametrize("name", CASES)
def test_exact_draws_follow_the_posterior(name: str) -> None:
    """The posterior probability of what was not drawn, on average, against how often it was drawn."""
    one, how = CASES[name]
    known = exact_draws(
        one.prepared, [{"seen": s} for s in ("ab", "b", "a")] if name == "text" else (), 300, 1
    )
    assert known.how == how and len(known.rows) > 250
    expected, drawn, spread = 0.0, 0, 0.0
    for row in known.rows:
        listed = run(Exact(values=10_000, mass=1.0), row.target, n=1, rng=np.random.default_rng(0))
        likely = listed.normalized_weights
        expected += likely[0]  # the likeliest value of each row
        spread += likely[0] * (1 - likely[0])
        drawn += all(row.values[k].ids == column[0].ids for k, column in listed.values.items())
    assert abs(drawn - expected) < 4 * math.sqrt(spread), (drawn, expected)
    assert 0.1 * len(known.rows) < expected < 0.95 * len(known.rows)


def test_draws_kept_by_weight_say_so() -> None:
    one = loads("""lm base = "b"
    program long(seen: text) {
      latent z: text(tokens=1..9, stop=".") ~ base("a") ^ 1.5
      observe seen ~ base(z)
    }""").lm(base=MODEL)
    known = exact_draws(one.prepared, [{"seen": "ab"}, {"seen": "b"}], 40, 2)
    assert known.how == "weighed" and "approximate" in known.assumed and len(known.rows) == 40


def test_a_text_needs_rows_that_say_how_long_it_is() -> None:
    with pytest.raises(DataError, match="PLM730") as caught:
        loads(TEXT).lm(base=MODEL).calibrate()
    assert "--data" in str(caught.value)


def test_what_can_hardly_be_simulated_is_refused() -> None:
    one = loads("""lm base = "b"
    program rare(a: text, b: text) {
      latent z: text(tokens=12..16, stop=".") ~ base("a")
      observe a ~ base(z)
      observe b ~ base(a, z)
      factor -60 * count(z, "b")
    }""").lm(base=MODEL)
    with pytest.raises(InferenceError, match="PLM731") as caught:
        one.calibrate([{"a": "ab", "b": "b"}], simulate=60)
    assert "cannot be simulated" in str(caught.value)


@pytest.mark.parametrize(("simulate", "draws"), [(15, 10), (16, 1)])
def test_too_few_are_refused(simulate: int, draws: int) -> None:
    with pytest.raises(ValueError, match="at least 16 rows and 2 draws"):
        loads(NUMBER).calibrate(simulate=simulate, draws=draws)


# ------------------------------------------------------------------------------- the result


def made(**more: object) -> Calibration:
    u = (np.arange(50) + 0.5) / 50
    plain: dict = {
        "method": "importance", "draws": 100, "seed": 0, "lower": np.full(50, -2.0), "upper": np.full(50, -1.9),
        "ranks": {"log reward": u, "n": u[::-1]}, "weighed": {"log reward": u}, "ess": 60.0, "rows": 50,
        "dead": 0, "assumed": "this",
    }  # fmt: skip
    return Calibration(**(plain | more))  # type: ignore[arg-type]


def test_a_good_result() -> None:
    found = made()
    assert found.passed and found.verdict.startswith("Passed: ") and "6% of the posterior" in found.verdict
    assert found.jeffreys == pytest.approx(0.1) and found.sbc_p == 1.0
    assert found.verdict.endswith("Assumed: this.")
    shown = found.to_json()
    assert (
        set(shown) == KEYS
        and shown["passed"] is True
        and shown["coverage90"] == pytest.approx(46 / 50, abs=0.03)
    )


def test_a_gap_that_rounds_to_nothing_has_no_sign() -> None:
    found = made(upper=np.full(50, -2.0001))
    assert found.jeffreys == pytest.approx(-1e-4)
    assert "are 0.00 nats apart" in found.verdict and "symmetrised KL          0.000 nats" in "\n".join(
        found.lines()
    )


LOW = np.linspace(0, 0.5, 50)
EVEN = (np.arange(50) + 0.5) / 50


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"upper": np.full(50, -1.4)}, "0.60 nats apart"),
        ({"upper": np.append(np.full(48, -1.9), [np.inf] * 2)}, "2 of 50 exact draws can never be drawn"),
        ({"lower": np.append(np.full(49, -2.0), -np.inf), "dead": 1}, "on 1 of 50 rows every draw has weight zero"),
        ({"ranks": {"log reward": LOW, "n": EVEN}}, "their `log reward` is too often low"),
        ({"ranks": {"n": 1 - LOW}}, "their `n` is too often high"),
        ({"ranks": {"n": np.where(EVEN < 0.5, EVEN / 6, 1 - (1 - EVEN) / 6)}}, "at the edge"),
        ({"weighed": {"log weight": LOW}}, "The weights themselves are wrong"),
        ({"ranks": {"n": LOW}, "ess": 3.0}, "worth too few draws (median ESS 3.0 of 100)"),
        ({"ranks": {"n": LOW}}, "drawn too seldom"),
        ({"ranks": {"n": LOW}, "weighed": None}, "Compare with another method"),
        ({"upper": np.full(50, -2.6)}, "the upper bound of the log evidence is below the lower one, by 0.60 nats"),
        ({"listed": np.full(50, -2.0 - np.log(2))}, "the evidence is 2.00 ± 0.00 times the listed one"),
        ({"listed": np.full(50, -2.0), "upper": np.full(50, -1.7)}, "inverse evidence beside an exact draw is 0.74 ± 0.00"),
        ({"listed": np.where(EVEN < 0.5, -1.7, -2.3), "upper": None, "errors": np.full(50, 0.01)},
         "off by more than 4 of its standard errors on 100% of the rows"),
        ({"apart": 0.3}, "The log reward itself is wrong, whatever the method"),
        ({"merged": 0.1}, "merging draws changes a weight by 0.1"),
    ],
)  # fmt: skip
def test_what_speaks_against_a_method(change: dict, words: str) -> None:
    found = made(**change)
    assert not found.passed and words in found.verdict, found.verdict
    shown = found.to_json()
    assert shown["passed"] is False
    json.dumps(shown, allow_nan=False)


@pytest.mark.parametrize(
    "change",
    [
        # Half of the runs with an exact draw may be below those without one, and all of them by 1/N.
        {"upper": np.where(EVEN < 0.5, -2.2, -1.8)},
        {"upper": np.full(50, -2.0 - 1 / 100)},
        {"listed": np.where(EVEN < 0.5, -1.96, -2.04), "upper": None, "errors": np.full(50, 0.01)},
        {"listed": np.full(50, np.nan), "apart": 1e-3, "merged": 1e-15},
    ],
)  # fmt: skip
def test_what_chance_does_is_no_fault(change: dict) -> None:
    assert made(**change).passed, made(**change).verdict


def test_particles_beside_an_exact_draw_rank_by_their_weights() -> None:
    """Also where nearly every particle is a value of its own, whose frequency says nothing (two numbers of 30)."""
    one = loads("""program two(sa: int(0..6), sb: int(0..6)) {
      latent a: int(0..29) ~ uniform()
      observe sa ~ binomial(6, 0.02 + 0.03 * a)
      latent b: int(0..29) ~ uniform()
      observe sb ~ binomial(6, 0.02 + 0.03 * b)
    }""").using("smc")
    found = one.calibrate(simulate=60, draws=60)
    assert found.passed, found.verdict
    assert found.weighed is not None and "frequency" in found.weighed and "frequency" not in found.ranks
    assert found.ratio is not None and abs(found.ratio[0] - 1) < 4 * found.ratio[1] < 0.2


def test_log_rewards_are_what_their_simulation_says() -> None:
    """Two ways to one number: of latents, of a text and its end, and of a plate."""
    text = loads(TEXT).lm(base=MODEL)
    for one, rows in ((loads(NUMBER), ()), (text, [{"seen": "ab"}, {"seen": "b"}])):
        assert exact_draws(one.prepared, rows, 40, 1).apart == pytest.approx(0.0, abs=1e-9)
    assert exact_draws(query("conditioned").prepared, (), 40, 1).apart is None


def test_p_values_of_several_quantities_are_corrected() -> None:
    bent = EVEN**1.4
    found = made(ranks={"a": bent, "b": EVEN, "c": EVEN}, weighed={"a": bent, "b": EVEN})
    assert found.sbc_p == pytest.approx(3 * p_value(bent)) and 0.001 < p_value(bent) < 0.3
    assert found.weighed_p == pytest.approx(2 * p_value(bent))
    assert made().sbc_p == 1.0


def test_a_method_without_bounds() -> None:
    found = made(lower=None, upper=None, weighed=None)
    assert found.passed and "only ranks were checked" in found.verdict
    assert "A small mode could still be missed" in found.verdict
    assert found.to_json()["jeffreys"] is None and found.to_json()["lower"] is None


@pytest.mark.parametrize("code", ["PLM702", "PLM710"])
def test_rows_whose_draws_are_all_dead(code: str) -> None:
    one = loads(NUMBER).using("importance")
    known = exact_draws(one.prepared, (), 20, 0)
    way = method_under_test(one.prepared, one.request)

    def draw(target, n, rng):  # type: ignore[no-untyped-def]
        if target.data["seen"] == 2:
            raise InferenceError(error(code, "every draw has weight zero"))
        return way.draw(target, n, rng)

    found = calibration_of(evolve(way, draw=draw), known, draws=50, seed=0)
    twos = sum(row.target.data["seen"] == 2 for row in known.rows)
    assert found.dead == twos > 0 and found.jeffreys == math.inf and not found.passed
    assert len(found.ranks["n"]) == 20 - twos and found.to_json()["lower"] is None


def test_the_same_seed_gives_the_same_result() -> None:
    one = loads(NUMBER).using("importance")
    a, b, c = (one.calibrate(simulate=30, draws=40, seed=s) for s in (1, 1, 2))
    assert a.to_json() == b.to_json() != c.to_json()


@pytest.mark.parametrize("method", ["smc", "mcmc"])
def test_other_methods(method: str) -> None:
    few = {"steps": 60, "chains": 2} if method == "mcmc" else {"threshold": 0.8}
    found = query("two latents").using(method, **few).calibrate(simulate=16, draws=40, seed=1)
    assert found.method == method and found.sbc_p is not None
    assert (found.jeffreys is None) == (method == "mcmc")
    if method == "smc":
        assert found.passed, found.verdict
        assert found.mean_lower is not None and found.mean_upper is not None
        assert found.mean_lower - 0.2 < found.mean_upper


# ------------------------------------------------------------------------------- the command


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "number.plm").write_text(NUMBER)
    return tmp_path


def test_the_command(file: Path) -> None:
    shown = plm(
        "calibrate", "number.plm", "--method", "importance", "--rows", 20, "--draws", 30, "--plot", "c.png"
    )
    assert shown.exit_code == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0] == "importance: 20 simulated rows, 30 draws each, seed 0"
    assert [line.split("  ")[1] for line in lines[1:4]] == [
        "log evidence, at least",
        "log evidence, at most",
        "symmetrised KL",
    ]
    assert lines[-1].startswith(("Passed: ", "Failed: "))
    assert (file / "c.png").read_bytes().startswith(b"\x89PNG")
    again = plm(
        "calibrate", "number.plm", "--method", "importance", "--rows", 20, "--draws", 30, "--format", "json"
    )
    found = json.loads(again.stdout)
    assert set(found) == KEYS and found["verdict"] == lines[-1] and found["rows"] == 20


def test_the_command_with_rows(file: Path) -> None:
    (file / "rows.csv").write_text("seen,n\n3,1\n4,2\n")
    shown = plm("calibrate", "number.plm", "--data", "rows.csv", "--rows", 16, "--draws", 5)
    assert shown.exit_code == 0 and shown.stdout.startswith("auto: 16 simulated rows"), shown.stderr
    wrong = plm("calibrate", "number.plm", "-g", "sen=3", "--rows", 16)
    assert wrong.exit_code == 1 and "PLM602" in wrong.stderr
    assert plm("calibrate", "number.plm", "--rows", 15).exit_code == 2


def test_a_method_that_fails_ends_with_exit_code_1(file: Path) -> None:
    (file / "far.plm").write_text(
        "program far(seen: int(0..199)) {\n  latent n: int(0..99) ~ uniform(0, 99)\n"
        "  observe seen ~ poisson(2 * n)\n}\n"
    )
    asked = ("calibrate", "far.plm", "--method", "importance", "--rows", 16)
    shown = plm(*asked, "--draws", 2)
    assert shown.exit_code == 1 and shown.stdout.splitlines()[-1].startswith("Failed: ")
    assert shown.stderr == "", "the verdict is the result, not a mistake of the program"
    shown = plm(*asked, "--draws", 2, "--format", "json")
    assert shown.exit_code == 1 and json.loads(shown.stdout)["passed"] is False


def test_a_picture_that_cannot_be_made(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = plm("calibrate", "number.plm", "--plot", "no/such/c.png")
    assert shown.exit_code == 1 and "PLM612" in shown.stderr
    from posterior_lm.validate import plots

    def absent(module: str, extra: str) -> None:
        raise ImportError(f"this needs the package matplotlib: pip install 'posterior_lm[{extra}]'")

    monkeypatch.setattr(plots, "need", absent)
    shown = plm("calibrate", "number.plm", "--plot", "c.png")
    assert shown.exit_code == 1 and "PLM732" in shown.stderr and "posterior_lm[plots]" in shown.stderr


def test_frequency_counts_the_exact_draw_too() -> None:
    keys = [(1,), (2,), (1,), (3,), (2,)]
    found = _frequency(keys, np.array([0.1, 0.2, 0.3, 0.4]), 0.25)
    np.testing.assert_allclose(found, [0.45, 0.5, 0.45, 0.3, 0.5])


def test_chains_are_thinned_to_what_they_are_worth() -> None:
    values = {"n": tuple(Value((k,), str(k), k) for k in range(40))}
    chains = Chains(2, np.repeat([0, 1], 20), 1.0, 8.7, 0.5)
    kept, weights = _independent(Draws(values, np.zeros(40), np.zeros(40), "mcmc", chains=chains))
    assert len(kept) == 8 and kept[0] == 0 and kept[-1] == 39 and len(set(np.diff(kept))) <= 2
    np.testing.assert_allclose(weights, 1 / 8)
    log_weights = np.append(np.log([1.0, 3.0]), np.full(38, -np.inf))
    kept, weights = _independent(Draws(values, log_weights, np.zeros(40), "importance"))
    assert kept.tolist() == [0, 1] and weights.tolist() == pytest.approx([0.25, 0.75])
