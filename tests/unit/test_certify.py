"""Certificates against posteriors that can be written out: what they measure, and what they must not miss."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from attrs import evolve, frozen

from benchmarks.targets import write_table
from posterior_lm.api.query import loads
from posterior_lm.infer.guide import Guide, Proposal
from posterior_lm.target.target import Target
from posterior_lm.target.validate import validate_data
from posterior_lm.target.values import Values
from posterior_lm.train.certificate import Bounds, PolicyReport, RowCheck, Simulated
from posterior_lm.train.evaluate import Both, bounds_of, certify, uniform_p_value
from posterior_lm.train.simulate import Simulator

SEEN = [str(d) for d in range(10)]
PROGRAM = """
lm noisy = tabular("TABLE")
program digit(seen: text) {
  latent n: int(0..9, lead=" ") ~ categorical([0.22, 0.04, 0.13, 0.02, 0.16, 0.05, 0.18, 0.03, 0.06, 0.11])
  observe seen ~ noisy(n)
}
"""


@frozen(eq=False)
class TableGuide:
    """Draws the digit with given probabilities, whatever else."""

    target: Target
    probs: np.ndarray
    name: str = "a table"

    def sample(self, rng: np.random.Generator, n: int) -> Proposal:
        values = [self.target.value("n", int(k)) for k in rng.choice(10, size=n, p=self.probs)]
        return Proposal({"n": tuple(values)}, self.log_prob({"n": values}))

    def log_prob(self, values: Values) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.log(self.probs[[int(v.datum) for v in values["n"]]])


class Known:
    """The program with its ten rows, and each row's posterior by summation."""

    def __init__(self, program: str) -> None:
        self.graph = loads(program).graph
        self.rows = [validate_data(self.graph, {"seen": s}) for s in SEEN]
        self.program = loads(program).prepared
        self.simulator = Simulator(self.program, self.rows)
        self.log_reward = np.stack([self._log_rewards(self.target(row)) for row in self.rows])
        self.evidence = np.logaddexp.reduce(self.log_reward, axis=1)
        self.posterior = np.exp(self.log_reward - self.evidence[:, None])

    def target(self, row: Mapping[str, object]) -> Target:
        return self.program.bind_valid(row)

    def _log_rewards(self, target: Target) -> np.ndarray:
        return target.log_reward({"n": [target.value("n", k) for k in range(10)]})

    def certificate(self, change: Callable[[np.ndarray], np.ndarray], **more: object) -> PolicyReport:
        """Of the guide whose probabilities are the posterior, changed."""

        def guide_of(target: Target) -> Guide:
            return TableGuide(target, self.q(change, SEEN.index(str(target.data["seen"]))))

        settings: dict = {"simulator": self.simulator, "draws": 200, "simulated": 48} | more
        return certify(self.program, self.rows, range(10), guide_of, **settings)

    def q(self, change: Callable[[np.ndarray], np.ndarray], row: int) -> np.ndarray:
        made = change(self.posterior[row])
        return made / made.sum()


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    table = write_table(tmp_path_factory.mktemp("table"))
    return Known(PROGRAM.replace("TABLE", str(table)))


def without_second(p: np.ndarray) -> np.ndarray:
    """The second mode is as good as never drawn."""
    q = p.copy()
    q[np.argsort(p)[-2]] = 1e-9
    return q


def flat(p: np.ndarray) -> np.ndarray:
    return p**0.5


def test_the_exact_posterior_is_good(known: Known) -> None:
    found = known.certificate(lambda p: p)
    assert found.verdict.level == "good", found.verdict.words
    assert found.ess == pytest.approx(1.0) and found.prior_ess < 0.6
    for check in found.rows:
        assert check.log_evidence == pytest.approx(known.evidence[check.row])
        assert check.elbo == pytest.approx(known.evidence[check.row])
    assert found.simulated is not None and found.simulated.rows == 48
    assert found.simulated.forward == pytest.approx((0, 0), abs=1e-9)
    assert found.simulated.reverse == pytest.approx((0, 0), abs=1e-9)


def test_a_missed_mode_is_not_good_however_high_the_ess(known: Known) -> None:
    found = known.certificate(without_second)
    assert found.ess > 0.99 and found.worst_ess > 0.99, "which is why ESS certifies nothing"
    assert found.verdict.level == "poor"
    assert "KL(posterior‖policy)" in found.verdict.words
    assert found.simulated is not None and found.simulated.forward[1] > 2
    assert found.simulated.forward[0] < min(math.log(201), found.simulated.forward[1] - 1), "both bounds"
    alone = known.certificate(without_second, simulator=None)
    assert alone.verdict.level == "poor", "draws of the prior show it, too"
    assert "by draws of the prior, so it misses a part" in alone.verdict.words
    fine = known.certificate(lambda p: p, simulator=None)
    assert fine.verdict.level == "usable", "what neither drew nobody can know, so it says so"
    assert "neither the policy nor the prior drew would not show" in fine.verdict.words


def test_a_mode_of_probability_zero_is_counted(known: Known) -> None:
    def never(p: np.ndarray) -> np.ndarray:
        q = p.copy()
        q[np.argsort(p)[-2]] = 0.0
        return q

    found = known.certificate(never)
    assert found.simulated is not None and 0 < found.simulated.unreachable < found.simulated.rows
    assert found.simulated.forward == (math.inf, math.inf)
    assert found.verdict.level == "poor" and "infinite" in found.verdict.words
    json.dumps(found.to_json(), allow_nan=False)
    assert PolicyReport.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_both_divergences_are_those_by_summation(known: Known) -> None:
    """The expectation over what is simulated: first seen is drawn, then n given seen."""
    p = known.posterior
    q = np.stack([known.q(flat, row) for row in range(10)])
    shown = np.exp(known.evidence - np.logaddexp.reduce(known.evidence))
    forward = float(np.sum(shown[:, None] * p * np.log(p / q)))
    reverse = float(np.sum(shown[:, None] * q * np.log(q / p)))
    found = known.certificate(flat, simulated=500, draws=100).simulated
    assert found is not None and abs(forward - reverse) > 0.05, "a swap would show"
    for (low, high), exact, room in ((found.forward, forward, 0.08), (found.reverse, reverse, 0.05)):
        assert low <= high and abs((low + high) / 2 - exact) < room, (low, high, exact)
    assert found.jeffreys == pytest.approx(forward + reverse, abs=0.1)


def test_row_checks_are_those_by_summation(known: Known) -> None:
    found = known.certificate(flat, draws=4000, simulator=None)
    for check in found.rows:
        p, q = known.posterior[check.row], known.q(flat, check.row)
        assert check.ess == pytest.approx(1 / np.sum(p * p / q), rel=0.12)
        assert check.elbo == pytest.approx(known.evidence[check.row] - np.sum(q * np.log(q / p)), abs=0.1)
        assert check.log_evidence == pytest.approx(known.evidence[check.row], abs=0.08)
        assert check.elbo < check.log_evidence and check.dead == 0


def test_the_bounds_of_a_row_are_those_by_summation(known: Known) -> None:
    found = known.certificate(flat, draws=2000, simulator=None)
    inside = []
    for check in found.rows:
        p, q = known.posterior[check.row], known.q(flat, check.row)
        forward, b = float(np.sum(p * np.log(p / q))), check.bounds
        assert b is not None and b.divergence == pytest.approx(forward, abs=5 * b.divergence_se)
        assert b.evidence == pytest.approx(known.evidence[check.row], abs=5 * b.evidence_se)
        assert b.forward == pytest.approx(known.evidence[check.row] + forward, abs=5 * b.forward_se)
        assert check.elbo < b.evidence < b.forward and b.divergence_se < 0.05
        inside += [abs(b.divergence - forward) < 2 * b.divergence_se]
        inside += [abs(b.evidence - known.evidence[check.row]) < 2 * b.evidence_se]
        inside += [abs(check.ess - 1 / np.sum(p * p / q)) < 2 * b.ess_se]
        inside += [abs(check.elbo - known.evidence[check.row] + np.sum(q * np.log(q / p))) < 2 * b.elbo_se]
    assert sum(inside) >= 34, "of 40 at 95 %"


def test_a_mode_that_the_prior_alone_can_draw_makes_the_bound_infinite(known: Known) -> None:
    def never(p: np.ndarray) -> np.ndarray:
        return np.where(np.arange(10) == np.argmax(p), 1.0, 0.0)

    found = known.certificate(never, simulator=None)
    assert found.divergence == (math.inf, math.inf) and found.verdict.level == "poor"
    assert "E_p[log w], above it    infinite" in "\n".join(found.lines())
    assert PolicyReport.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


def test_ranks_tell_a_spread_guide_from_the_posterior(known: Known) -> None:
    exact = known.certificate(lambda p: p, simulated=300, draws=60).simulated
    spread = known.certificate(flat, simulated=300, draws=60).simulated
    assert exact is not None and exact.p_value is not None and exact.p_value > 0.01
    assert spread is not None and spread.p_value is not None and spread.p_value < 1e-3


@pytest.mark.parametrize("simulated", [0, 15])
def test_few_simulated_rows_are_none(known: Known, simulated: int) -> None:
    found = known.certificate(lambda p: p, simulated=simulated, draws=20)
    assert found.simulated is None and str(simulated) in found.note and found.verdict.level == "usable"


def test_the_same_seed_gives_the_same_certificate(known: Known) -> None:
    one, again, other = (known.certificate(flat, seed=s) for s in (3, 3, 4))
    assert one == again != other


def test_p_values_are_those_of_the_chi_square_table() -> None:
    ranks = [0] * 15 + [1] * 5 + [2] * 10 + [3] * 10  # 4 bins of 10 expected: statistic 5
    assert uniform_p_value(ranks, 4) == pytest.approx(0.1717971, abs=1e-6)  # of 3 degrees of freedom
    assert uniform_p_value(list(range(201)) * 2, 201) == pytest.approx(1.0, abs=1e-6)
    assert uniform_p_value([0] * 15, 201) is None, "too few"


def test_dead_draws_are_a_poor_row_and_no_error(tmp_path_factory: pytest.TempPathFactory) -> None:
    table = write_table(tmp_path_factory.mktemp("table"))
    text = PROGRAM.replace("TABLE", str(table)).replace("  observe", "  condition n < 5\n  observe")
    known = Known(text)
    assert not known.simulator.exact
    dead = np.where(np.arange(10) == 7, 1.0, 0.0)
    found = known.certificate(lambda p: dead)
    assert {(r.ess, r.khat, r.elbo, r.dead) for r in found.rows} == {(0.0, None, -math.inf, 1.0)}
    assert found.verdict.level == "poor" and found.simulated is None and found.note
    back = PolicyReport.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    assert back == found
    assert any("no simulated rows" in line for line in found.lines())


# ------------------------------------------------------------------------------- the verdict

ROW = RowCheck(row=3, ess=0.8, khat=0.4, elbo=-5.0, log_evidence=-4.8, dead=0.0, prior_ess=0.1)
FINE = PolicyReport(
    200, (ROW, evolve(ROW, row=9, ess=0.6)), Simulated(32, (0.2, 0.3), (0.1, 0.2), 0.4, 0, 0.3)
)


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({}, "good", "9% of the posterior"),
        ({"ess": 0.199}, "usable", "worst row is 0.20, below 0.2"),
        ({"ess": 0.21}, "good", "ESS/N is 0.51"),
        ({"khat": 0.71}, "usable", "k-hat is 0.71"),
        ({"khat": 1.23}, "poor", "k-hat is 1.23, above 1, so its weights have no mean"),
        ({"khat": None}, "good", ""),
        ({"ess": 0.18}, "usable", "ESS/N is 0.49, below 0.5"),
        ({"prior_ess": 1.35}, "usable", "the prior is as good"),
        ({"prior_ess": 1.5}, "poor", "less than the prior's"),
        ({"ess": 0.019}, "poor", "row 9 is 0.019"),
    ],
)
def test_levels_by_held_out_rows(change: dict, level: str, words: str) -> None:
    verdict = evolve(FINE, rows=(evolve(ROW, ess=0.81), evolve(FINE.rows[1], **change))).verdict
    assert verdict.level == level and words in verdict.words


@pytest.mark.parametrize(
    ("change", "level"),
    [
        ({"forward": (0.4, 0.5)}, "good"),
        ({"forward": (0.4, 0.51)}, "usable"),
        ({"forward": (1.0, 2.0)}, "usable"),
        ({"forward": (1.0, 2.1)}, "poor"),
        ({"p_value": 0.002}, "good"),
        ({"p_value": 0.0009}, "poor"),
        ({"p_value": None}, "good"),
    ],
)
def test_levels_by_simulated_rows(change: dict, level: str) -> None:
    assert FINE.simulated is not None
    assert evolve(FINE, simulated=evolve(FINE.simulated, **change)).verdict.level == level


def test_the_table_says_what_was_measured() -> None:
    text = "\n".join(FINE.lines())
    assert not FINE.worth, "there are no bounds, as in certificates of before"
    for shown in ("2 held-out rows, 200 draws each", "0.70", "0.60", "at most 0.40, fitted on 2", "-4.80",
                  "0.20 to 0.30 nats", "p = 0.3", "0 of 32", FINE.verdict.words):  # fmt: skip
        assert shown in text


@pytest.mark.parametrize(
    "change",
    [{"rows": []}, {"draws": 0}, {"draws": "200"}, {"note": ...}, {"simulated": {"rows": 3}}],
)
def test_a_wrong_certificate_is_refused(change: dict) -> None:
    whole = {**FINE.to_json(), **change}
    if change.get("note") is ...:
        del whole["note"]
    with pytest.raises((ValueError, KeyError, TypeError)):
        PolicyReport.from_json(whole)


def test_an_edited_verdict_changes_nothing() -> None:
    poor = evolve(FINE, rows=(evolve(ROW, ess=0.001),))
    whole = {**poor.to_json(), "verdict": {"level": "good", "words": "Good"}}
    assert PolicyReport.from_json(whole).verdict.level == "poor"


# ------------------------------------------------------------------------------- bounds, and what it was worth

THIRD = math.log(1 / 3)


def test_bounds_and_their_errors_by_hand() -> None:
    """Rewards 0.3 and 0.1; the policy says 0.9 and 0.1, the prior a half; each drew either value once."""
    reward, policy = np.log([0.3, 0.1]), np.log([0.9, 0.1])
    under = np.stack([policy, np.log([0.5, 0.5])], axis=1)
    found = bounds_of(Both(np.stack([reward, reward]), np.stack([under, under]), (3.0, 1.0)))
    assert found.evidence == pytest.approx(math.log(8 / 21)), "of 3/7 and 1/3, twice"
    assert found.evidence_se == pytest.approx(math.sqrt(2 / 256)), "shares 9/32 and 7/32 in either stratum"
    assert found.forward == pytest.approx(9 / 16 * THIRD)
    assert found.divergence == pytest.approx(9 / 16 * THIRD - math.log(8 / 21))
    assert found.forward_se == pytest.approx(math.sqrt(2) * abs(126 / 512 * THIRD))
    assert found.divergence_se == pytest.approx(math.sqrt(2) * abs(126 / 512 * THIRD - 2 / 32))
    assert found.gain == pytest.approx(9 / 16 * math.log(1.8) + 7 / 16 * math.log(0.2))
    assert found.elbo_se == pytest.approx(-THIRD / 2)
    assert found.ess_se == pytest.approx(0.16), "relative weights 0.5 and 1.5"
    assert found.prior_ess_se == pytest.approx(0.16) and found.seconds == (3.0, 1.0)


def test_dead_draws_have_no_bounds() -> None:
    dead = np.full((2, 2), -np.inf)
    found = bounds_of(Both(dead, np.zeros((2, 2, 2)), (1.0, 1.0)))
    assert (found.evidence, found.forward, found.divergence) == (-math.inf, math.inf, math.inf)


BOUNDS = Bounds(-4.9, 0.1, -4.7, 0.2, 0.05, 0.1, 0.08, 0.02, (4.0, 2.0))
WORTH = evolve(ROW, bounds=BOUNDS)
HELD = PolicyReport(200, (WORTH, evolve(WORTH, row=9, ess=0.6)), FINE.simulated, "", True, 75.0)
TRAINED = PolicyReport(200, (WORTH,), None, "it is of the rows trained on", False, 75.0)


def test_the_prior_s_draws_that_one_replaces_by_hand() -> None:
    assert TRAINED.replaced == pytest.approx((8.0, 8 * math.exp(-0.36780), 8 * math.exp(0.36780)), rel=1e-4)
    assert HELD.replaced == pytest.approx((7.0, 7 * math.exp(-0.79598), 7 * math.exp(0.79598)), rel=1e-4), (
        "residuals of a tenth over two rows, with t of one degree of freedom"
    )


def test_what_training_paid_for_by_hand() -> None:
    """For an ESS of 100 the prior takes 1000 draws of 0.01 s, the policy 125 of 0.02 s: 7.5 s less."""
    assert TRAINED.saved == pytest.approx(7.5)
    begin = "One draw of the policy replaces 8.0 of the prior (5.5 to 12, 90 %); its 75 s of training"
    assert TRAINED.worth == (
        f"{begin} have paid for themselves from 10 rows on, at an ESS of 100 each, or with this row from an ESS of 1,000 on."
    )
    held = HELD.worth
    assert held.endswith("have paid for themselves from 11 rows on, at an ESS of 100 each."), held
    assert "never pay, since the prior is no slower" in evolve(TRAINED, rows=(slow(8.1),)).worth
    assert "from 600 rows on" in evolve(TRAINED, rows=(slow(7.9),)).worth, "0.125 s less for each"
    assert evolve(TRAINED, training=None).worth.endswith("(5.5 to 12, 90 %).")
    assert HELD.worth in HELD.lines() and HELD.to_json()["worth"] == HELD.worth


def slow(times: float) -> RowCheck:
    """A row on which a draw of the policy takes so many times as long as one of the prior, and is worth 8."""
    return evolve(WORTH, bounds=evolve(BOUNDS, seconds=(2.0 * times, 2.0)))


def test_nothing_is_compared_with_a_prior_that_is_dead() -> None:
    found = evolve(TRAINED, rows=(evolve(WORTH, prior_ess=0.0),))
    assert found.replaced is None and found.saved is None
    assert "is not known: none of the prior's 200 draws is alive" in found.worth


def test_a_certificate_of_trained_rows_says_so() -> None:
    lines = TRAINED.lines()
    assert lines[0] == "1 row of the training, 200 fresh draws each"
    assert "  log evidence, mean      -4.90 nats, -5.06 to -4.74 at 90 %" in lines
    assert "  E_q[log w], below it    -5.00 nats, -5.16 to -4.84 at 90 %" in lines
    assert "  E_p[log w], above it    -4.70 nats, -5.03 to -4.37 at 90 %" in lines


@pytest.mark.parametrize(
    ("forward", "level", "words"),
    [(-4.4, "usable", "may be 0.58 nats by draws of the prior"), (-2.7, "poor", "is 2.12 to 2.28 nats by draws"), (-4.7, "usable", "no exact")],
)  # fmt: skip
def test_levels_by_draws_of_the_prior(forward: float, level: str, words: str) -> None:
    found = evolve(TRAINED, rows=(evolve(WORTH, bounds=evolve(BOUNDS, forward=forward)),)).verdict
    assert found.level == level and words in found.words


def test_the_prior_is_better_where_its_own_draws_and_those_of_both_say_so() -> None:
    def report(ess: float, gain: float) -> PolicyReport:
        rows = [evolve(WORTH, ess=ess, bounds=evolve(BOUNDS, gain=one)) for one in (gain - 1, gain + 1)]
        return evolve(TRAINED, rows=tuple(rows))

    prior = WORTH.prior_ess
    assert report(prior / 2, -0.5).is_worse and report(prior / 2, -0.5).gain == pytest.approx(-0.5)
    words = report(prior / 2, -0.5).verdict.words
    assert words.startswith("Poor") and "KL(posterior‖policy) is 0.50 nats above the prior's" in words
    covers = report(prior / 2, 0.5)
    assert not covers.is_worse, "it covers more than the prior does"
    assert "KL(posterior‖policy) is 0.50 nats below the prior's all the same" in covers.alone
    assert covers.lines()[-1] == covers.alone and "`--method gflownet`" in covers.alone
    assert not report(prior / 2, -0.5).alone and not report(prior * 2, 0.5).alone
    assert not report(prior * 2, -0.5).is_worse, "its draws are worth more, whatever they miss"
    assert not report(0.95 * prior, -0.5).is_worse and report(0.85 * prior, -0.5).is_worse, (
        "by less than a tenth"
    )
    assert not FINE.is_worse and FINE.gain == 0, "nothing was measured"
    lost = report(prior / 2, -math.inf)
    assert lost.is_worse and PolicyReport.from_json(json.loads(json.dumps(lost.to_json()))).is_worse
    whole = lost.to_json()
    for row in whole["rows"]:
        del row["bounds"]["gain"]
    assert not PolicyReport.from_json(whole).is_worse, "certificates of before do not know"


def test_certificates_of_before_are_read() -> None:
    whole = FINE.to_json()
    for name in ("held_out", "training", "worth"):
        del whole[name]
    for row in whole["rows"]:
        del row["bounds"]
    assert PolicyReport.from_json(whole) == FINE


def test_a_row_without_a_reward_is_named_and_not_counted() -> None:
    lost = evolve(ROW, ess=0.0, khat=None, elbo=-math.inf, log_evidence=-math.inf, dead=1.0, prior_ess=0.0)
    found = evolve(FINE, rows=(*FINE.rows, evolve(lost, row=4)))
    assert (found.ess, found.worst_ess) == (FINE.ess, FINE.worst_ess) and found.lost == (4,)
    assert found.verdict.level == "usable" and "no draw has a reward on row 4" in found.verdict.words
    assert "  without a reward        row 4, not counted" in found.lines()
    found = evolve(FINE, rows=(lost, evolve(lost, row=4)), simulated=None, note="")
    assert found.verdict.words == "Poor: no draw of the policy or of the prior has a reward."
