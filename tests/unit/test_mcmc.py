"""Markov chains: where they begin, what they keep, what they say of themselves, and that they stay in place."""

from __future__ import annotations

import math

import numpy as np
import pytest
from attrs import evolve, frozen
from scipy import stats

import posterior_lm as plm
from posterior_lm.infer.base import Info, run
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.guide import PriorGuide, Proposal
from posterior_lm.infer.mcmc import BLOCK, LEAST, MOST, START, Mcmc, Snapshot, State, agreement, features_of
from posterior_lm.infer.methods import METHODS
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.target.target import Target
from posterior_lm.target.values import Values
from tests.brute import Brute, log_sum
from tests.strategies import assigned, compiled, table, values_of

MODEL = table(("a", "b", ".", "ab"), seed=31, order=2, max_tokens=30)
MOVES = ("mixed", "suffix", "independence")
BODY = """latent x: text(tokens=0..2) ~ base("b") guide x ~ base("ab")
          latent o: one_of("a", "b.", ".") ~ base(x) ^ 2
          latent z: text(tokens=1..2, stop=".") ~ base(o, x) observe "ab" ~ base(z, x)"""


def target_of(body: str = BODY) -> Target:
    return compiled(f'lm base = "b"\nprogram p() {{ {body} }}', {}, {"base": MODEL})


def listed(target: Target, body: str) -> tuple[list[tuple], np.ndarray, dict]:
    """Every value, its posterior probability, and all of them as values."""
    brute = Brute(f'lm base = "b"\nprogram p() {{ {body} }}', {}, {"base": MODEL})
    rows = list(brute.assignments())
    rewards = np.array([brute.log_reward(row) for row in rows])
    return [tuple(row.values()) for row in rows], np.exp(rewards - log_sum(rewards)), values_of(target, rows)


def walk(target: Target, seed: int = 3, n: int = 40, **options: object) -> Draws:
    return run(Mcmc(**options), target, n=n, rng=np.random.default_rng(seed))  # type: ignore[arg-type]


def walked(algorithm: Mcmc, rng: np.random.Generator, state: State) -> tuple[State, list[Info]]:
    """All the steps."""
    infos: list[Info] = []
    while not infos or not infos[-1].done:
        state, info = algorithm.step(rng, state)
        infos.append(info)
    return state, infos


# ------------------------------------------------------------------- the right distribution


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("reads", ("prior", "guide"))
def test_chains_that_begin_in_the_posterior_stay_there(move: str, reads: str) -> None:
    """5,000 chains from exact draws, ten moves through the whole algorithm: chi-square against the posterior."""
    target = target_of()
    names, posterior, values = listed(target, BODY)
    chains = 5_000
    rng = np.random.default_rng(17)
    rows = rng.choice(len(names), size=chains, p=posterior)
    algorithm = Mcmc(chains=chains, steps=10, warmup=0, move=move)  # type: ignore[arg-type]
    guide = PriorGuide(target, reads=reads)  # type: ignore[arg-type]
    now = Snapshot(
        {name: tuple(column[r] for r in rows) for name, column in values.items()},
        target.log_reward(values)[rows],
    )
    small = Mcmc(chains=1).init(np.random.default_rng(0), target, guide)
    state = evolve(small, now=now, guided=np.zeros(chains), known=np.zeros(chains, dtype=bool))
    state, _ = walked(algorithm, rng, state)
    assert len(state.past) == 10
    place = {name: k for k, name in enumerate(names)}
    found = np.array([place[assigned(target, state.now.values, c)] for c in range(chains)])
    assert (found != rows).mean() > 0.1
    expected = chains * posterior
    rare = expected < 5
    counts = np.bincount(found, minlength=len(names))
    seen = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    p = stats.chisquare(seen, wanted).pvalue
    assert p > 1e-4, p
    # What is remembered of each chain belongs to what it holds.
    np.testing.assert_allclose(state.now.log_reward, target.log_reward(state.now.values))
    held = guide.log_prob(state.now.values)
    np.testing.assert_allclose(state.guided[state.known], held[state.known])
    assert move == "mixed" or state.known.all() == (move == "independence")


@pytest.mark.parametrize("move", MOVES)
def test_chains_that_begin_elsewhere_get_there(move: str) -> None:
    body = """latent x: text(tokens=0..1) ~ base("b") latent z: text(tokens=1..2, stop=".") ~ base(x)
              observe "ab" ~ base(z, x)"""
    target = target_of(body)
    names, posterior, _ = listed(target, body)
    draws = walk(target, n=100_000, chains=200, steps=160, move=move)
    assert len(draws) == 200 * 120 and draws.chains is not None
    place = {name: k for k, name in enumerate(names)}
    shares = np.bincount(
        [place[assigned(target, draws.values, d)] for d in range(len(draws))], minlength=len(names)
    )
    far = 0.5 * np.abs(shares / len(draws) - posterior).sum()
    assert far < 0.05, far


# ------------------------------------------------------------------- where chains begin


@frozen(eq=False)
class Counting:
    """The prior, and how many values it was asked for; from `first` on, what it draws may be alive."""

    prior: PriorGuide
    drawn: list[int]
    name: str = "counting"

    def sample(self, rng: np.random.Generator, n: int) -> Proposal:
        self.drawn.append(n)
        return self.prior.sample(rng, n)

    def log_prob(self, values: Values) -> np.ndarray:
        return self.prior.log_prob(values)


def test_no_chain_begins_where_the_program_is_false() -> None:
    """One value in 33 is alive, so more than half of the chains have to begin at a draw of another one."""
    body = 'latent o: one_of("a", "b") ~ categorical([0.97, 0.03]) factor log(if o == "b" then 0.5 else 0)'
    target = target_of(body)
    state = Mcmc(chains=12).init(np.random.default_rng(0), target, None)
    assert {v.text for v in state.now.values["o"]} == {"b"}
    np.testing.assert_allclose(state.now.log_reward, target.log_reward(state.now.values))
    np.testing.assert_allclose(state.guided, PriorGuide(target).log_prob(state.now.values))


def test_the_priors_log_prob_is_kept_up_or_forgotten() -> None:
    """After suffix moves it is right where it is known, and unknown where a latent was left that reads another."""
    body = """latent x: text(tokens=0..1) ~ base("b") latent y: text(tokens=1..2) ~ base("a")
              latent z: text(tokens=1..2, stop=".") ~ base(x) observe "ab" ~ base(y, z)"""
    target = target_of(body)
    algorithm = Mcmc(chains=60, steps=5, move="suffix")
    rng = np.random.default_rng(2)
    state = algorithm.init(rng, target, None)
    assert state.known.all()
    begun = state.guided
    state, _ = walked(algorithm, rng, state)
    held = PriorGuide(target).log_prob(state.now.values)
    np.testing.assert_allclose(state.guided[state.known], held[state.known])
    assert (state.known & (held != begun)).sum() > 5 and (~state.known).sum() > 5


def test_chains_with_nowhere_to_begin_are_an_error_that_names_the_statement() -> None:
    target = target_of('latent z: text(tokens=1..2) ~ base("a")\ncondition log_prob(z, base()) > 0')
    guide = Counting(PriorGuide(target), [])
    with pytest.raises(InferenceError) as caught:
        run(Mcmc(chains=4), target, n=9, rng=np.random.default_rng(0), guide=guide)
    (found,) = caught.value.diagnostics
    assert found.code == "PLM702" and found.primary is not None
    assert found.primary.span.text == "condition log_prob(z, base()) > 0"
    assert sum(guide.drawn) == MOST and set(guide.drawn) == {4 * START}


def test_a_first_value_is_resampled_by_weight() -> None:
    """Posterior odds of about a hundred to one against the prior's: most chains begin at the likely value."""
    body = 'latent o: one_of("a", "b") ~ categorical([0.5, 0.5]) factor if o == "a" then 4.6 else 0'
    state = Mcmc(chains=400).init(np.random.default_rng(1), target_of(body), None)
    share = np.mean([v.text == "a" for v in state.now.values["o"]])
    assert 0.95 < share < 1


# ------------------------------------------------------------------- what is kept


def test_draws_lie_evenly_after_the_warm_up() -> None:
    target = target_of()
    algorithm = Mcmc(chains=3, steps=4 * BLOCK, warmup=0.5)
    rng = np.random.default_rng(5)
    state = algorithm.init(rng, target, None)
    state, infos = walked(algorithm, rng, state)
    made = [i.fraction * 160 for i in infos if i.fraction is not None]
    assert made[-1] == 160 and made == sorted(set(made)) and max(np.diff(made)) < BLOCK
    assert f"{made[2]:.0f} of 160 moves of 3" in infos[2].note
    draws = algorithm.sample(rng, state, 12)
    rows = [state.past[k] for k in (99, 119, 139, 159)]
    assert draws.chains is not None and draws.chains.of_draw.tolist() == [0, 1, 2] * 4
    for name in target.names:
        assert list(draws.values[name]) == [v for row in rows for v in row.values[name]]
    np.testing.assert_array_equal(draws.log_reward, [r for row in rows for r in row.log_reward])
    np.testing.assert_allclose(draws.log_reward, target.log_reward(draws.values))
    assert (draws.log_weights == 0).all() and draws.log_prob is None and draws.certificate is None
    assert draws.log_evidence is None
    assert draws.chains.acceptance == pytest.approx(sum(state.accepted[80:]) / 240)
    assert [len(algorithm.sample(rng, state, n)) for n in (1, 2, 239, 240, 500)] == [1, 2, 239, 240, 240]
    assert algorithm.sample(rng, state, 2).chains.of_draw.tolist() == [1, 2]  # type: ignore[union-attr]


@pytest.mark.parametrize("move", MOVES)
def test_a_budget_ends_the_walk_after_a_suffix_move(move: str) -> None:
    """Of those nobody waits for more than one; independence moves come in blocks, which are drawn at once."""
    target, chains = target_of(), Mcmc(chains=2, steps=500, warmup=0.0, move=move)  # type: ignore[arg-type]
    draws = run(chains, target, n=1000, rng=np.random.default_rng(0), budget=0.0)
    rng = np.random.default_rng(0)
    state, info = chains.step(rng, chains.init(rng, target, None))
    assert len(draws) == 2 * len(state.past) and not info.done
    assert (
        (1 if move == "suffix" else 2)
        <= len(state.past)
        <= {"suffix": 1, "mixed": BLOCK - 1}.get(move, BLOCK)
    )
    for name in target.names:  # the first moves of those that are made without a budget
        assert list(draws.values[name]) == [v for snap in state.past for v in snap.values[name]]


@pytest.mark.parametrize("move", MOVES)
def test_the_same_seed_gives_the_same_chains(move: str) -> None:
    target = target_of()
    first, again, other = (walk(target, seed=s, chains=4, steps=25, move=move) for s in (1, 1, 2))
    for name in target.names:
        assert first.values[name] == again.values[name]
    assert any(first.values[name] != other.values[name] for name in target.names)
    np.testing.assert_array_equal(first.log_reward, again.log_reward)


def test_only_what_the_move_says_is_used() -> None:
    """Suffix moves ask the guide for a beginning and no more; independence moves ask for every move."""
    target = target_of()

    def asked(move: str, steps: int) -> int:
        guide = Counting(PriorGuide(target), [])
        run(Mcmc(chains=2, steps=steps, move=move), target, n=5, rng=np.random.default_rng(0), guide=guide)  # type: ignore[arg-type]
        return (sum(guide.drawn) - 2 * START) // 2

    assert asked("suffix", 50) == 0 and asked("independence", 50) == 50
    assert 165 < asked("mixed", 200) < 195


def test_a_program_without_latents_has_one_value() -> None:
    draws = run(
        Mcmc(chains=3, steps=12), target_of('observe "ab" ~ base()'), n=6, rng=np.random.default_rng(0)
    )
    assert len(draws) == 6 and draws.chains is not None and draws.chains.rhat is None
    assert draws.log_reward == pytest.approx(math.log(np.exp(MODEL.next_log_probs(()))[3]))


# ------------------------------------------------------------------- what chains say of themselves


def test_chains_that_agree_and_chains_that_do_not() -> None:
    rng = np.random.default_rng(2)
    same = rng.gamma(2, size=(4, 500))
    rhat, ess = agreement({"same": same})
    assert rhat is not None and ess is not None and rhat < 1.01 and 1500 < ess < 2500
    apart = same + np.arange(4)[:, None]
    worst, least = agreement({"same": same, "apart": apart})
    assert worst is not None and least is not None and worst > 1.3 and least < 30
    assert (worst, least) == agreement({"apart": apart, "same": same, "constant": np.ones((4, 500))})


def test_the_ess_of_a_correlated_chain() -> None:
    """An autoregression of order one has N (1 − φ) / (1 + φ) effective draws."""
    rng, phi = np.random.default_rng(3), 0.8
    chain = rng.normal(size=(4, 20_000))
    for t in range(1, chain.shape[1]):
        chain[:, t] = phi * chain[:, t - 1] + math.sqrt(1 - phi**2) * chain[:, t]
    _, ess = agreement({"x": chain})
    assert ess == pytest.approx(chain.size * (1 - phi) / (1 + phi), rel=0.1)


def test_chains_that_stand_still() -> None:
    assert agreement({"x": np.ones((4, 100))}) == (None, None)
    rhat, ess = agreement({"x": np.repeat([[0.0], [1.0], [2.0], [3.0]], 100, axis=1)})
    assert rhat == math.inf and ess is not None and ess < 10
    moved_once = np.repeat([[1.0, 4.0]], 50, axis=1)  # one chain whose halves differ
    rhat, ess = agreement({"x": moved_once})
    assert rhat == math.inf and ess is not None and ess < 10


def test_one_chain_is_compared_half_with_half() -> None:
    rng = np.random.default_rng(4)
    steady = rng.gamma(2, size=(1, 400))
    rhat, _ = agreement({"x": steady})
    assert rhat is not None and rhat < 1.05
    rhat, _ = agreement({"x": steady + 2 * (np.arange(400) > 200)})
    assert rhat is not None and rhat > 1.1


def test_few_draws_say_nothing() -> None:
    column = np.random.default_rng(5).gamma(2, size=(3, LEAST))
    assert agreement({"x": column[:, : LEAST - 1]}) == (None, None)
    rhat, ess = agreement({"x": column})
    assert rhat is not None and ess is not None


def test_chains_are_compared_by_the_log_reward_and_by_every_latent() -> None:
    target = target_of()
    _, _, values = listed(target, BODY)
    rows = {name: [column[:3], column[40:43]] for name, column in values.items()}
    rewards = np.arange(6.0).reshape(2, 3)
    found = features_of(target, rows, rewards)
    np.testing.assert_array_equal(found["log_reward"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(found["x"], [[len(row[c].ids) for row in rows["x"]] for c in range(3)])
    np.testing.assert_array_equal(
        found["o"], [[["a", "b.", "."].index(row[c].datum) for row in rows["o"]] for c in range(3)]
    )


def test_chains_at_texts_that_look_alike_are_told_apart() -> None:
    """Two texts of one length and one reward, a chain at each: nothing but which text it is differs."""
    target = target_of()
    _, _, values = listed(target, BODY)
    held = {name: (column[0], column[0]) for name, column in values.items()}
    other = {**held, "x": (held["x"][0], evolve(held["x"][0], text="other"))}
    for pair, rhat in ((held, None), (other, math.inf)):
        found = features_of(target, {k: [both] * LEAST for k, both in pair.items()}, np.zeros((LEAST, 2)))
        assert agreement(found)[0] == rhat


def test_draws_carry_what_the_chains_say_after_the_warm_up() -> None:
    target = target_of()
    algorithm = Mcmc(chains=4, steps=3 * BLOCK, warmup=0.25)
    rng = np.random.default_rng(8)
    state = algorithm.init(rng, target, None)
    state, _ = walked(algorithm, rng, state)
    kept = state.past[30:]
    values = {name: [snap.values[name] for snap in kept] for name in target.names}
    wanted = agreement(features_of(target, values, np.array([snap.log_reward for snap in kept])))
    chains = algorithm.sample(rng, state, 360).chains
    assert chains is not None and (chains.rhat, chains.bulk_ess) == wanted and chains.number == 4
    assert wanted[0] is not None and wanted[1] is not None and 5 < wanted[1] < 360
    few = algorithm.sample(rng, state, 5)
    assert few.chains is not None and (few.chains.rhat, few.chains.bulk_ess) == (wanted[0], 5)
    assert few.ess == few.independent == len(few) == 5


def test_the_ess_is_at_most_the_draws_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains that swing from side to side have a larger ESS than draws, and one may ask for more than there are."""
    monkeypatch.setattr("posterior_lm.infer.mcmc.agreement", lambda features: (1.0, 1e6))
    for asked, there in ((10, 10), (10**5, 2 * 15)):
        draws = walk(target_of(), n=asked, chains=2, steps=20)
        assert draws.ess == len(draws) == there


def test_what_the_language_says_of_mcmc_is_what_it_does() -> None:
    declared = METHODS["mcmc"].options
    for name in ("steps", "chains", "warmup", "move"):
        assert declared[name].default == getattr(Mcmc(), name), name


def test_a_posterior_says_the_same_ess_everywhere() -> None:
    """At most the draws that are kept: in the posterior, its JSON and the verdict."""
    asked = plm.loads(f'lm base = "b"\nprogram p() {{ {BODY} }}').lm(base=MODEL)
    asked = asked.using("mcmc", steps=200, chains=4)
    posterior, whole = asked.draw(8, seed=2), asked.draw(10**4, seed=2)
    assert whole.ess is not None and 8 < whole.ess <= whole.n == 600
    assert posterior.ess == posterior.n == 8
    found = posterior.to_json()
    assert (found["ess"], found["bulk_ess"], found["n"]) == (8, 8, 8)
    assert "bulk ESS 8," in posterior.verdict
