"""A step of smc is one choice of every particle: what a budget stops there, what is reported, and what is kept."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from posterior_lm.infer import base
from posterior_lm.infer.base import Info, run
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.infer.particles import Dice
from posterior_lm.infer.smc import Smc, State
from posterior_lm.infer.weights import normalize
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lm.counting import CountingModel
from posterior_lm.target.target import Target
from tests.strategies import compiled, table

MODEL = table(("a", "b", "."), seed=41, order=2, max_tokens=30)
TWO = """latent x: text(tokens=3..3, chars="ab", end="free") ~ base("a") observe "b" ~ base("b", x)
         latent n: int(0..2) ~ binomial(2, 0.4) observe "a" ~ base(x)
         latent z: text(tokens=2..2, end="free") ~ base(x) observe "." ~ base(x, z)"""
CHOICES = 3 + 1 + 2
"""Of every particle, and so steps of a swarm."""


def target_of(body: str, model: object = MODEL) -> Target:
    return compiled(f'lm base = "b"\nprogram p() {{ {body} }}', {}, {"base": model})


def same(one: Draws, other: Draws) -> None:
    assert one.values == other.values
    np.testing.assert_array_equal(one.log_weights, other.log_weights)


def clock(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """After so many steps a budget of 1 second is over."""
    ticks = itertools.count()
    monkeypatch.setattr(base.time, "monotonic", lambda: 0.0 if next(ticks) <= steps - 1 else 2.0)


def stopped(
    monkeypatch: pytest.MonkeyPatch, after: int, target: Target, algorithm: Smc, *, seed: int = 5
) -> tuple[Draws, list[Info]]:
    told: list[Info] = []
    with monkeypatch.context() as patch:
        clock(patch, after)
        draws = run(
            algorithm,
            target,
            n=algorithm.draws,
            rng=np.random.default_rng(seed),
            budget=1.0,
            progress=told.append,
        )
    return draws, told


def test_every_choice_is_a_step_and_is_reported() -> None:
    target, told = target_of(TWO), list[Info]()
    draws = run(Smc(draws=40), target, n=40, rng=np.random.default_rng(1), progress=told.append)
    assert len(told) == CHOICES and [one.done for one in told] == [False] * (CHOICES - 1) + [True]
    shares = [one.fraction for one in told]
    np.testing.assert_allclose(shares, [1 / 9, 2 / 9, 1 / 3, 2 / 3, 5 / 6, 1])
    assert [one.drawn for one in told] == [0] * (CHOICES - 1) + [40]
    assert told[1].note == "0 draws, 22% of 40 more"
    # `sample` alone takes the same way.
    smc, rng = Smc(), np.random.default_rng(1)
    same(draws, smc.sample(rng, smc.init(rng, target, None), 40))


def test_a_state_is_a_value() -> None:
    """Whoever keeps one goes on from it as often as they like: nothing that it holds changes."""
    target, smc = target_of(TWO), Smc(draws=30, threshold=1.0)
    state = smc.init(np.random.default_rng(0), target, None)
    states = [state]
    for k in range(CHOICES):
        state, _ = smc.step(np.random.default_rng(k), state)
        states.append(state)
    for k in reversed(range(CHOICES)):
        again, _ = smc.step(np.random.default_rng(k), states[k])
        held, wanted = (_arrays(one) for one in (again, states[k + 1]))
        assert len(held) == len(wanted)
        for mine, theirs in zip(held, wanted, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def _arrays(state: State) -> list[np.ndarray]:
    if state.swarm is None:
        return [draws.log_weights for draws in state.swarms]
    p = state.swarm.particles
    return [p.log_weights, p.log_q, p.origin, np.array([len(v) for v in p.values.values()])]


@pytest.mark.parametrize("extra", range(CHOICES))
def test_a_budget_ends_inside_a_swarm_and_drops_it(monkeypatch: pytest.MonkeyPatch, extra: int) -> None:
    """What is given is the first whole swarms, those that there are without a budget."""
    counting = CountingModel(MODEL)
    target = target_of(TWO, counting)
    smc = Smc(draws=100, batch=20)
    draws, told = stopped(monkeypatch, 2 * CHOICES + extra, target, smc)
    assert len(told) == 2 * CHOICES + extra and not told[-1].done and told[-1].drawn == 40
    spent = counting.tokens
    rng = np.random.default_rng(5)
    same(draws, run(Smc(draws=40, batch=20), target, n=40, rng=rng))
    two = counting.tokens - spent
    # What was begun of the third swarm is all that was spent beside the two.
    assert spent == two if extra == 0 else two < spent < 1.5 * two + 1


@pytest.mark.parametrize("after", (1, CHOICES - 1, CHOICES))
def test_the_first_swarm_is_finished_whatever_the_clock_says(
    monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    target = target_of(TWO)
    draws, told = stopped(monkeypatch, after, target, Smc(draws=100, batch=20))
    assert len(told) == CHOICES and len(draws) == 20
    same(draws, run(Smc(), target, n=20, rng=np.random.default_rng(5)))
    # Without a batch it is the only one.
    assert len(stopped(monkeypatch, after, target, Smc(draws=30))[0]) == 30


def test_a_budget_that_ends_after_dead_swarms_says_what_killed_them(monkeypatch: pytest.MonkeyPatch) -> None:
    target = target_of('latent z: text(tokens=2..2, end="free") ~ base("a") factor log(0)')
    with pytest.raises(InferenceError, match="PLM702"):
        stopped(monkeypatch, 3, target, Smc(draws=100, batch=10))


def test_the_model_never_reads_a_dead_prefix() -> None:
    """After the prompt there are two letters and four pairs of them; of three no text is short enough."""
    counting = CountingModel(MODEL)
    target = target_of('latent z: text(tokens=1..9, stop=".") ~ base("a") condition chars(z) <= 3', counting)
    run(Smc(threshold=0.0), target, n=500, rng=np.random.default_rng(0))
    assert counting.tokens == 1 + 2 + 4


def test_a_particle_is_weighed_by_what_it_chose_from_where_it_draws_from_the_prior() -> None:
    """Between two tokens: under a mask the mass of the second depends on the first; a guide's says nothing."""
    asked: list[np.ndarray] = []

    class Staying(Dice):
        def ancestors(self, weights: np.ndarray) -> np.ndarray:
            asked.append(weights)
            return np.arange(len(weights))

    target = target_of("""latent z: text(tokens=2..2, chars="ab", end="free") ~ base("b")
                          guide z ~ base(".")""")
    allowed = list(MODEL.tokenizer.encode("ab"))

    def mass(context: str, first: tuple[int, ...]) -> float:
        log_probs = MODEL.open([MODEL.tokenizer.encode_start(context) + first]).log_probs[0]
        return float(np.logaddexp.reduce(log_probs[allowed]))

    for reads in ("prior", "guide"):
        asked.clear()
        guide = PriorGuide(target, reads=reads)  # type: ignore[arg-type]
        draws = run(
            Smc(threshold=2.0, chance=Staying), target, n=30, rng=np.random.default_rng(7), guide=guide
        )
        np.testing.assert_allclose(asked[0], 1 / 30)
        wanted = (
            np.array([mass("b", v.ids[:1]) for v in draws.values["z"]]) if reads == "prior" else np.zeros(30)
        )
        assert reads == "guide" or np.std(wanted) > 0.05
        np.testing.assert_allclose(asked[1], normalize(wanted), rtol=1e-6)


def test_a_walk_in_blocks_is_the_same_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Particles that are moved choose by the probabilities of the prefix that they have now."""
    target = target_of(TWO)
    smc = Smc(draws=50, threshold=1.0)
    draws = run(smc, target, n=50, rng=np.random.default_rng(3))
    np.testing.assert_allclose(draws.log_prob, PriorGuide(target).log_prob(draws.values), rtol=1e-9)
    monkeypatch.setattr(
        "posterior_lm.infer.rollout.BLOCK", 1
    )  # a point at a time: nothing is looked up twice
    again = run(smc, target, n=50, rng=np.random.default_rng(3))
    same(draws, again)
