"""Methods by name: options that arrive, the choice of auto, and what posteriors, files and pages say of particles and chains."""

from __future__ import annotations

import json
import math
from pathlib import Path

import attrs
import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.api.posterior import Posterior
from posterior_lm.cli.output import show_posterior
from posterior_lm.infer import auto
from posterior_lm.infer.draws import Chains, Draws, SecondLook, SmcReport
from posterior_lm.infer.methods import METHODS
from posterior_lm.infer.request import checked
from posterior_lm.infer.verdict import verdict
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.target.values import Value
from posterior_lm.validate.database import entries
from posterior_lm.validate.trials import TRUSTED, trials
from tests.cli import ROOT
from tests.strategies import compiled, table

MODEL = table(("a", "b", ".", " "), seed=61, order=1, max_tokens=40)


def query(body: str) -> plm.Query:
    return plm.loads(f'lm base = "b"\nprogram p() {{ {body} }}').lm(base=MODEL)


TWO = """latent x: text(tokens=1..4) ~ base("a") observe ["b", "."] ~ base(x)
         latent z: text(tokens=1..6) ~ base(x) observe ["a", "b"] ~ base(z)"""


# ------------------------------------------------------------------- names and options


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("mixture", "gflownet", "few_shot")])
def test_every_method_draws(method: str) -> None:
    options = {
        "mcmc": {"steps": 12, "chains": 2, "n": 9}, "smc": {"particles": 40}, "exact": {"values": 50},
        "greedy": {},
    }  # fmt: skip
    posterior = query(TWO).using(method, **options.get(method, {"n": 30})).draw(seed=1)
    assert posterior.method == ("smc" if method == "auto" else method)
    assert posterior.n == {"mcmc": 9, "smc": 40, "auto": 30, "importance": 30}.get(method, posterior.n)
    json.dumps(posterior.to_json(), allow_nan=False)


def test_options_of_smc_arrive() -> None:
    plain = query(TWO).using("smc", particles=60)
    never = plain.using("smc", particles=60, threshold=0).draw()
    always = plain.using("smc", particles=60, threshold=1).draw()
    assert never.draws.particles is not None and never.draws.particles.resampled == 0
    assert always.draws.particles is not None and always.draws.particles.resampled >= 3
    ways = [plain.using("smc", particles=60, threshold=1, resample=r).draw()
            for r in ("systematic", "stratified", "residual", "multinomial")]  # fmt: skip
    assert len({round(one.log_evidence or 0.0, 9) for one in ways}) == 4
    ahead = plain.using("smc", particles=60, threshold=1, look_ahead=1).draw()
    assert ahead.log_evidence != always.log_evidence
    guided = query(f'{TWO} guide x ~ base("b")').using("smc", particles=60, proposal="guide").draw()
    assert "proposing with guide" in guided.reason and guided.log_evidence != never.log_evidence


def test_options_of_mcmc_arrive() -> None:
    found = query(TWO).using("mcmc", n=10, steps=8, chains=2, warmup=0.5, move="suffix").draw()
    assert found.draws.chains is not None and found.draws.chains.number == 2
    assert found.n == 8  # 2 chains, half of 8 moves each


@pytest.mark.parametrize(
    ("method", "options"),
    [("smc", {"particles": 0}), ("smc", {"threshold": 1.5}), ("smc", {"resample": "best"}),
     ("smc", {"look_ahead": -1}), ("mcmc", {"chains": 0}), ("mcmc", {"move": "jump"}), ("mcmc", {"warmup": 1})],
)  # fmt: skip
def test_wrong_options_are_refused(method: str, options: dict[str, object]) -> None:
    with pytest.raises(plm.InferenceError, match="PLM802"):
        checked(method, options)


def test_a_budget_ends_between_swarms() -> None:
    posterior = query(TWO).using("smc", particles=100_000).draw(budget=0.3)
    assert 64 <= posterior.n < 100_000 and posterior.n % auto.BUDGET_BATCH == 0
    assert f"ended it after {posterior.n} of 100000" in posterior.reason


# ------------------------------------------------------------------- auto


def chosen(body: str) -> tuple[str, str]:
    return auto.choose(compiled(f'lm base = "b"\nprogram p() {{ {body} }}', {}, {"base": MODEL}), "auto")


def test_auto_takes_smc_where_something_is_known_on_the_way() -> None:
    large = 'latent z: text(tokens=1..9) ~ base("a")'
    assert chosen(f'{large} observe "b" ~ base(z)')[0] == "importance"
    name, reason = chosen(f"{large} condition words(z) <= 2")
    assert name == "smc" and "rule out the beginnings of `z`" in reason
    name, reason = chosen(f'{large} observe "b" ~ base(z) latent y: text(tokens=1..9) ~ base(z)')
    assert name == "smc" and "`z` is weighed before" in reason
    name, reason = chosen(f'{large} condition contains(z, "ab")')
    assert name == "smc" and "leaves `z` only some of the tokens" in reason
    for mask in ('pattern="[ab]*b"', 'chars="ab"'):
        name, reason = chosen(f'latent z: text(tokens=1..20, end="free", {mask}) ~ base("a")')
        assert name == "smc" and "the type of `z` allows only some of the tokens" in reason
    # Both are only weighed at the very end.
    assert (
        chosen(f'{large} latent y: text(tokens=1..9) ~ base(z) observe "b" ~ base(z, y)')[0] == "importance"
    )
    assert chosen("latent z: text(tokens=1..2) ~ base() condition words(z) <= 1")[0] == "exact"


def test_a_way_that_ends_later_is_never_good() -> None:
    """Particles crowd where the first latent is likely, and what the second one sees dies there."""
    (entry,) = [one for one in entries(ROOT / "posteriors", ["several_latents"]) if one.name == "garden_path"]
    found = trials([entry], methods=["smc", "auto"], seeds=3).runs
    assert not any(run.wrong and run.level in TRUSTED for run in found), found
    assert not any(run.wrong for run in found if run.method == "auto"), found


def test_no_draws_and_no_seed_are_said() -> None:
    for how in ({"n": 0}, {"seed": -1}):
        with pytest.raises(InferenceError) as caught:
            query(TWO).draw(**how)
        assert caught.value.diagnostics[0].code == "PLM802"


# ------------------------------------------------------------------- what is shown


def value(k: int) -> Value:
    return Value((k,), f"v{k}", f"v{k}")


def draws_of(
    values: list[int], log_weights: list[float] | None = None, *, particles: SmcReport | None = None,
    chains: Chains | None = None, look: SecondLook | None = None,
) -> Draws:  # fmt: skip
    n = len(values)
    weights = np.zeros(n) if log_weights is None else np.array(log_weights)
    return Draws({"z": tuple(map(value, values))}, weights, np.zeros(n), "smc" if particles else "mcmc",
                 particles=particles, chains=chains, second_look=look)  # fmt: skip


def posterior_of(draws: Draws) -> Posterior:
    return Posterior("p", "f" * 64, {}, draws, 0, "", {"z": "text"})


PARTICLES = SmcReport(3.5, 2, 4, 0.09, np.array([0, 0, 0, 3]))
CHAINS = Chains(2, np.array([0, 0, 1, 1]), 1.002, 3.5, 0.25)


def test_particles_and_chains_survive_a_file(tmp_path: Path) -> None:
    for draws in (
        draws_of([1, 2, 3, 4], [0, -1, 0, -math.inf], particles=PARTICLES),
        draws_of([1, 1, 2, 3], chains=CHAINS),
    ):
        posterior_of(draws).save(tmp_path)
        found = Posterior.load(tmp_path).draws
        assert (found.particles is None) == (draws.particles is None)
        if found.particles is not None and draws.particles is not None:
            for name in ("least_ess", "ancestors", "resampled", "variance"):
                assert getattr(found.particles, name) == getattr(draws.particles, name)
            np.testing.assert_array_equal(found.particles.origin, draws.particles.origin)
        if found.chains is not None and draws.chains is not None:
            for name in ("number", "rhat", "bulk_ess", "acceptance"):
                assert getattr(found.chains, name) == getattr(draws.chains, name)
            np.testing.assert_array_equal(found.chains.of_draw, draws.chains.of_draw)
        assert found.log_evidence == draws.log_evidence and found.independent == draws.independent


@pytest.mark.parametrize("rhat", [math.inf, None])
def test_an_r_hat_that_is_no_number_survives_too(tmp_path: Path, rhat: float | None) -> None:
    posterior = posterior_of(draws_of([1, 2], chains=Chains(2, np.array([0, 1]), rhat, None, 0.0)))
    posterior.save(tmp_path)
    found = Posterior.load(tmp_path)
    assert found.draws.chains is not None and found.draws.chains.rhat == rhat
    assert found.to_json()["rhat"] is None and found.to_json()["log_evidence"] is None


@pytest.mark.parametrize("field", ["origin", "of_draw"])
def test_a_file_whose_columns_disagree_is_refused(tmp_path: Path, field: str) -> None:
    draws = (
        draws_of([1, 2, 3, 4], particles=PARTICLES) if field == "origin" else draws_of([1] * 4, chains=CHAINS)
    )
    path = posterior_of(draws).save(tmp_path)
    whole = json.loads(path.read_text())
    whole["particles" if field == "origin" else "chains"][field].pop()
    path.write_text(json.dumps(whole))
    with pytest.raises(plm.DataError, match="PLM611"):
        Posterior.load(tmp_path)


def test_a_file_with_an_ancestor_below_zero_is_refused(tmp_path: Path) -> None:
    path = posterior_of(draws_of([1, 2, 3, 4], particles=PARTICLES)).save(tmp_path)
    whole = json.loads(path.read_text())
    whole["particles"]["origin"][1] = -1
    path.write_text(json.dumps(whole))
    with pytest.raises(plm.DataError, match="PLM611"):
        Posterior.load(tmp_path)


def test_a_file_from_before_there_were_particles_is_read(tmp_path: Path) -> None:
    draws = draws_of([1, 2, 3, 4], [0.0, -1.0, 0.5, 0.2])
    path = posterior_of(attrs.evolve(draws, log_prob=np.array([-1.0, -2.5, -3.0, -math.inf]))).save(tmp_path)
    whole = json.loads(path.read_text())
    del whole["particles"], whole["chains"]
    path.write_text(json.dumps(whole))
    found = Posterior.load(tmp_path).draws
    assert found.particles is None and found.chains is None
    assert found.log_prob is not None and found.log_prob.tolist() == [-1.0, -2.5, -3.0, -math.inf]


def test_json_has_what_each_method_knows() -> None:
    particles = posterior_of(draws_of([1, 2, 3, 4], particles=PARTICLES)).to_json()
    assert (particles["least_ess"], particles["ancestors"], particles["rhat"]) == (3.5, 2, None)
    chains = posterior_of(draws_of([1, 2, 3, 4], chains=CHAINS)).to_json()
    assert (chains["rhat"], chains["bulk_ess"], chains["acceptance"]) == (1.002, 3.5, 0.25)
    assert chains["ancestors"] is None and chains["log_evidence"] is None and chains["ess"] == 3.5


def test_the_standard_error_counts_ancestors_not_copies() -> None:
    """Three copies of one ancestor and one of another: as good as two draws of unequal weight."""
    posterior = posterior_of(draws_of([1, 1, 1, 4], particles=PARTICLES))
    found = posterior.expect(lambda row: 1.0 if row["z"] == "v1" else 0.0)
    assert found.value == pytest.approx(0.75)
    assert found.se == pytest.approx(math.sqrt((0.75 * 0.25) ** 2 + (0.25 * 0.75) ** 2))
    assert posterior.draws.independent == pytest.approx(1 / (0.75**2 + 0.25**2))
    assert posterior.draws.log_evidence_se == pytest.approx(0.3)
    assert posterior.log_evidence_se == math.inf  # two draws support no error
    wide, narrow = (posterior_of(one).prob(lambda row: row["z"] == "v1") for one in
                    (draws_of([1, 1, 1, 4], particles=PARTICLES), draws_of([1, 1, 1, 4], chains=CHAINS)))  # fmt: skip
    assert wide.high - wide.low > 1.05 * (narrow.high - narrow.low)


def test_the_standard_error_of_chains_uses_their_ess() -> None:
    few = Chains(2, np.array([0, 0, 1, 1]), 1.0, 2.0, 0.5)
    found = posterior_of(draws_of([1, 1, 1, 4], chains=few)).expect(lambda row: float(row["z"] == "v1"))
    assert found.se == pytest.approx(math.sqrt(0.75 * 0.25 / 2))


def shown(draws: Draws, capsys: pytest.CaptureFixture[str]) -> str:
    show_posterior(posterior_of(draws), None)
    return capsys.readouterr().out


def test_the_report_names_ancestors_and_chains(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(draws_of([1, 2, 3, 4], particles=PARTICLES), capsys)
    assert "resampled 4 times, least ESS 3.5, 2 ancestors, 4 distinct values" in out
    assert "log evidence 0.000 nats, of draws that support no error" in out
    out = shown(draws_of([1, 1, 2, 3], chains=CHAINS), capsys)
    assert "log evidence: not known to mcmc" in out and "R-hat 1.002, bulk ESS 3.5 of 4 draws" in out
    assert "2 chains, 25 % of the moves accepted, 3 distinct values" in out


# ------------------------------------------------------------------- verdicts


def of_chains(rhat: float | None, bulk: float | None, values: list[int]) -> str:
    n = len(values)
    return verdict(draws_of(values, chains=Chains(2, np.arange(n) % 2, rhat, bulk, 0.3)))


@pytest.mark.parametrize(
    ("rhat", "bulk", "begins"),
    [(1.005, 900.0, "Good"), (1.02, 900.0, "Use with care"), (1.005, 300.0, "Use with care"),
     (1.2, 900.0, "Do not trust"), (1.005, 50.0, "Use with care"), (1.1, 16.0, "Use with care"),
     (1.6, 16.0, "Do not trust"), (1.005, 9.0, "Do not trust"), (math.inf, 4.0, "Do not trust"),
     (None, None, "Do not trust")],
)  # fmt: skip
def test_the_verdict_of_chains(rhat: float | None, bulk: float | None, begins: str) -> None:
    assert of_chains(rhat, bulk, [1, 2, 3, 4] * 250).startswith(begins)
    assert of_chains(rhat, bulk, [1, 1, 1, 1] * 250).startswith("Do not trust")


def test_a_list_says_more_of_chains_than_they_do_themselves() -> None:
    """Chains that have not met do not frighten where the list is what they hold, nor do those that agree comfort where it is not."""
    values, chains = [1, 2, 3, 4] * 250, Chains(2, np.arange(1000) % 2, 1.2, 900.0, 0.3)
    for rhat, heavy, begins in ((1.2, 0.1, "Usable"), (1.001, 0.4, "Do not trust")):
        look = SecondLook(0, 0.0, 0.0, heavy, listed=9)
        said = verdict(draws_of(values, chains=attrs.evolve(chains, rhat=rhat), look=look))
        assert said.startswith(begins) and "a list of all 9 values" in said and f"{heavy:.0%}" in said
    rare = SecondLook(125, 0.0, 0.0, 0.2)
    assert "second look by 125 draws" in verdict(
        draws_of(values, chains=attrs.evolve(chains, rhat=1.0), look=rare)
    )


@pytest.mark.parametrize(
    ("rhat", "begins", "does"),
    [(1.005, "Use with care", "Draw more with -n"), (1.02, "Use with care", "Raise `steps`"),
     (1.2, "Do not trust", "Raise `steps`")],
)  # fmt: skip
def test_few_kept_draws_are_no_fault_of_the_chains(rhat: float, begins: str, does: str) -> None:
    """The ESS is at most the number of draws; that it is low then says how many were kept."""
    said = of_chains(rhat, 40.0, [1, 2, 3, 4] * 10)
    assert said.startswith(begins) and does in said


def test_the_verdict_is_not_fooled_by_copies() -> None:
    """Equal weights after resampling, and a handful of ancestors: ESS says 2000, the ancestors do not."""
    rng = np.random.default_rng(0)
    values, log_weights = rng.integers(0, 300, 2000).tolist(), rng.normal(0, 0.1, 2000).tolist()
    many = SmcReport(900.0, 1500, 1, 0.001, np.arange(2000))
    few = SmcReport(900.0, 6, 9, 0.3, np.arange(2000) % 6)
    assert verdict(draws_of(values, log_weights, particles=many)).startswith("Good")
    found = verdict(draws_of(values, log_weights, particles=few))
    assert found.startswith("Do not trust") and "6 ancestors" in found


def test_the_verdict_names_ancestors_where_there_was_a_resampling() -> None:
    for times, named in ((0, False), (1, True)):
        particles = SmcReport(50.0, 40, times, 0.01, np.arange(60) % 40)
        found = verdict(draws_of(list(range(60)), [0.01 * k for k in range(60)], particles=particles))
        assert ("40 ancestors" in found) is named, found


def test_the_verdict_of_particles_with_a_heavy_tail() -> None:
    """Pareto weights with shape 0.85, at their quantiles: enough ESS, and k-hat says that it cannot be trusted."""
    log_weights = -0.85 * np.log((np.arange(2000) + 0.5) / 2000)
    draws = draws_of(list(range(2000)), log_weights.tolist(), particles=SmcReport(50.0, 2000, 0, 0.1))
    assert draws.ess is not None and draws.ess > 10 and draws.khat == pytest.approx(0.85, abs=0.1)
    assert verdict(draws).startswith("Use with care") and "a few draws carry much" in verdict(draws)


def test_the_verdict_of_weights_without_a_mean() -> None:
    """Pareto weights with shape 1.07, at their quantiles: an ESS above 10 is no comfort."""
    log_weights = -1.07 * np.log((np.arange(8000) + 0.5) / 8000)
    draws = draws_of(list(range(8000)), log_weights.tolist())
    assert draws.ess is not None and draws.ess > 10 and draws.khat is not None and draws.khat > 1
    assert verdict(draws).startswith("Do not trust this yet") and "tail without a mean" in verdict(draws)


def test_particles_that_were_never_resampled_are_draws_like_others() -> None:
    log_weights = [0.0, -1.0, 0.5, -0.2]
    particles = SmcReport(3.0, 2, 0, 0.9, np.array([0, 0, 1, 1]))
    draws, plain = (draws_of([1, 2, 3, 4], log_weights, particles=p) for p in (particles, None))
    assert draws.log_evidence_se == pytest.approx(plain.log_evidence_se) != pytest.approx(math.sqrt(0.9))
    assert draws.independent == pytest.approx(plain.ess) and 2 < plain.ess < 4  # type: ignore[operator]


def test_the_verdict_of_one_draw_alive() -> None:
    found = verdict(draws_of([1, 2, 3], [-math.inf, -2.0, -math.inf], particles=SmcReport(1.0, 1, 0, 1.0)))
    assert found.startswith("Do not trust this: one of 3 draws is left")


# ------------------------------------------------------------------- prediction


def test_prediction_by_evidence_needs_an_evidence() -> None:
    source = """lm base = "b"
    program p(y: one_of("a", "b")) { latent z: text(tokens=1..3) ~ base(y) observe "b." ~ base(z) }"""
    asked = plm.loads(source).lm(base=MODEL)
    exact, smc = (asked.using(m).predict("y").prob("a") for m in ("exact", "smc"))
    assert smc == pytest.approx(exact, abs=0.08)
    with pytest.raises(plm.InferenceError, match="PLM712"):
        asked.using("mcmc", steps=6, chains=2).predict("y")
