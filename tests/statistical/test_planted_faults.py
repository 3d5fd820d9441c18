"""Twenty-five faults, each planted in the package: `plm calibrate` or `plm compare --db` says so at its defaults.

Whatever simulator and target share is no evidence of a mistake in it, so faults of the log reward are found by the
known posteriors, whose answers were summed by other code; the others by rows with an exact draw. Sound methods
raise no alarm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from attrs import evolve

from posterior_lm.api.posterior import Merged, Posterior
from posterior_lm.api.query import Query, loads
from posterior_lm.graph.nodes import Test
from posterior_lm.infer import choosers, draws, exact, importance, mcmc, particles, smc
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.infer.particles import Particles
from posterior_lm.lm.protocol import Request
from posterior_lm.lm.tabular import TabularModel
from posterior_lm.target import evaluate, functions, scores, target
from posterior_lm.target.evaluate import Evaluator
from posterior_lm.validate.database import entries
from posterior_lm.validate.trials import trials
from tests.cli import ROOT
from tests.statistical.test_calibration_catches_faults import MODEL, query

Plant = Callable[[pytest.MonkeyPatch], None]

TWO = """program two(sa: int(0..6), sb: int(0..6)) {
  latent a: int(0..29) ~ uniform()
  observe sa ~ binomial(6, 0.02 + 0.03 * a)
  latent b: int(0..29) ~ uniform()
  observe sb ~ binomial(6, 0.02 + 0.03 * b)
}"""
SHARP = """program sharp(sa: int(0..40), sb: int(0..40)) {
  latent a: int(0..19) ~ geometric(0.08)
  observe sa ~ binomial(40, 0.03 + 0.048 * a)
  latent b: int(0..19) ~ poisson(2 + 0.4 * a)
  observe sb ~ binomial(40, 0.02 + 0.024 * (a + b))
}"""
PLATE = """program rows(xs: table(y: int(0..6))) {
  plate x in xs {
    latent n: int(0..5) ~ categorical([0.4, 0.1, 0.2, 0.15, 0.05, 0.1])
    observe x.y ~ binomial(6, 0.1 + 0.15 * n)
  }
}"""
ORDER = """lm base = "b"
program order(seen: one_of("a", "b", "ab")) {
  latent z: text(tokens=2..3) ~ base("a")
  latent o: one_of("a", "ab", "b") ~ choice(base(z))
  observe seen ~ base(z, o)
}"""


def named(name: str) -> Query:
    if name in ("two", "sharp"):
        return loads(TWO if name == "two" else SHARP)
    if name == "plate":
        return loads(PLATE).given(xs=[{"y": 1}, {"y": 4}, {"y": 6}])
    return loads(ORDER).lm(base=MODEL) if name == "order" else query(name)


# ------------------------------------------------------------------------------- faults of methods


def replaced(place: object, name: str, change: Callable[..., Callable[..., object]]) -> Plant:
    """What stands at a place, with `change` of it in its stead."""
    return lambda patch: patch.setattr(place, name, change(getattr(place, name)))


def changed_weights(change: Callable[..., np.ndarray]) -> Plant:
    def made(right: Callable[..., tuple[np.ndarray, np.ndarray]]) -> Callable[..., object]:
        def log_weights(of, values, log_prob, known=None):  # type: ignore[no-untyped-def]
            weights, log_reward = right(of, values, log_prob, known)
            return change(of, values, log_prob, weights), log_reward

        return log_weights

    return replaced(importance, "log_weights", made)


def without_observation(of, values, log_prob, weights):  # type: ignore[no-untyped-def]
    place = next(k for k, info in enumerate(of.statements) if info.keyword == "observe")
    return weights - of.terms(values)[:, place]


def resample_with(change: Callable[[Particles, Particles], Particles]) -> Plant:
    def made(right: Callable[..., object]) -> Callable[..., object]:
        def resample(self, chance, threshold):  # type: ignore[no-untyped-def]
            moved, ancestors = right(self, chance, threshold)
            return (moved if ancestors is None else change(self, moved)), ancestors

        return resample

    return replaced(Particles, "resample", made)


def hot(right: Callable[..., object]) -> Callable[..., object]:
    return lambda at, point, probs: right(at, point, probs**0.4)


def last_wins(posterior: Posterior) -> list[Merged]:
    found = {}
    for d in range(posterior.n):
        data = {k: column[d].datum for k, column in posterior.draws.values.items()}
        found[tuple(data.values())] = Merged(data, float(posterior.weights[d]), 0.0, 1)
    return list(found.values())


def rotated(right: Callable[..., object]) -> Callable[..., object]:
    def found(values, numbers):  # type: ignore[no-untyped-def]
        first, where = right(values, numbers)
        return first, [*where[1:], *where[:1]]

    return found


def evenly(right: Callable[..., object]) -> Callable[..., object]:
    return lambda weights, places: right(np.ones_like(weights), places)


def never(right: Callable[..., object]) -> Callable[..., object]:
    """Values whose first token is the first of all are not among what is drawn."""

    def sample(self, rng, n):  # type: ignore[no-untyped-def]
        found = right(self, rng, 4 * n)
        name = next(iter(found.values))
        kept = [d for d, value in enumerate(found.values[name]) if value.datum not in ("a", 4)][:n]
        columns = {k: tuple(column[d] for d in kept) for k, column in found.values.items()}
        return evolve(found, values=columns, log_prob=found.log_prob[kept], scores={})

    return sample


def bare_choice(batch, context, texts, power, picked):  # type: ignore[no-untyped-def]
    """As `ask_choice`, without what the values of the type have together."""
    found = np.zeros(len(texts))
    for place, text in enumerate(texts):

        def read(answer, place=place, text=text):  # type: ignore[no-untyped-def]
            found[place] = float(np.sum(answer.tokens[: len(text)]))

        batch.ask(Request(context + text, len(context), len(context)), read)
    return lambda: [put(-math.inf if k is None else power * found[k]) for k, put in picked]


def without_log_q(right: Callable[..., object]) -> Callable[..., object]:
    return lambda of, swarm: right(of, evolve(swarm, log_q=np.zeros(swarm.n)))


METHODS: dict[str, tuple[str, str, Plant]] = {
    "sign": ("number", "importance", changed_weights(lambda of, v, q, w: np.where(np.isfinite(w), -w, -np.inf))),
    "dropped term": ("number", "importance", changed_weights(without_observation)),
    "sign of the proposal": ("two latents", "importance", changed_weights(lambda of, v, q, w: w + 2 * q)),
    "wrong proposal density": ("text", "importance", changed_weights(lambda of, v, q, w: w + 0.7 * q)),
    "wrong temperature": ("number", "importance", replaced(choosers, "_invert", hot)),
    "blind guide": ("number", "importance", replaced(PriorGuide, "sample", never)),
    "evidence off by ln 2": (
        "two", "importance",
        replaced(draws.weights, "log_evidence", lambda right: lambda log_w: right(log_w) + math.log(2)),
    ),
    "rewards of other draws": ("number", "importance", replaced(target, "distinct", rotated)),
    "merged, the last one winning": ("number", "importance", lambda patch: patch.setattr(Posterior, "merged", last_wins)),
    "resampling without reset": ("sharp", "smc", resample_with(lambda old, new: evolve(new, paid=np.zeros(new.n)))),
    "stale proposal density": ("sharp", "smc", resample_with(lambda old, new: evolve(new, log_q=old.log_q))),
    "evidence without its last product": ("sharp", "smc", resample_with(lambda old, new: evolve(new, log_evidence=0.0))),
    "resampling by other weights": ("sharp", "smc", replaced(particles, "_at", evenly)),
    "particles without their proposal": ("sharp", "smc", replaced(smc, "_finished", without_log_q)),
    "skipped plate row": (
        "plate", "importance",
        replaced(evaluate, "add", lambda right: lambda parts: right(parts[:2])),
    ),
    "every move accepted": (
        "number", "mcmc",
        replaced(mcmc, "_taken", lambda right: lambda held, found, taken: right(held, found, np.ones_like(taken))),
    ),
}  # fmt: skip


def timed(slow: bool, *values: object, id: str) -> object:
    """Programs with many values, particles and chains take seconds; one of them is in the suite."""
    return pytest.param(*values, id=id, marks=[pytest.mark.slow] * slow)


@pytest.mark.parametrize(
    "fault",
    [timed(METHODS[f][1] != "importance" and f != "resampling without reset", f, id=f) for f in METHODS],
)
def test_calibrate_finds_a_fault_of_a_method(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, method, plant = METHODS[fault]
    one = named(name).using(method)
    plant(monkeypatch)
    found = one.calibrate()
    assert not found.passed, found.verdict


# ------------------------------------------------------------------------------- faults of the log reward


def shifted(right: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda self, ids: right(self, tuple(ids)[:-1] or tuple(ids))


def stale(right: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A cache by the length of what was read."""
    kept: dict[tuple[int, int], np.ndarray] = {}
    return lambda self, ids: kept.setdefault((id(self), len(ids)), right(self, ids))


def without_end(right: Callable[..., float]) -> Callable[..., float]:
    return lambda found, start, tokens, *, ends: right(found, start, tokens, ends=False)


def all_but_one(right: Callable[..., object]) -> Callable[..., object]:
    def sample(self, rng, state, n):  # type: ignore[no-untyped-def]
        whole = right(self, rng, state, n)
        values = {k: column[1:] for k, column in whole.values.items()}
        return evolve(
            whole, values=values, log_weights=whole.log_weights[1:], log_reward=whole.log_reward[1:]
        )

    return sample


def kept_of(change: Callable[[Sequence[float]], Sequence[float]]) -> Callable[..., Callable[..., float]]:
    return lambda right: lambda parts: right(change(parts))


def passes(right: Callable[..., object]) -> Callable[..., object]:
    """Conditions hold, whatever they say."""
    return lambda self, node, *rest: [0.0] * rest[-1] if isinstance(node, Test) else right(self, node, *rest)


REWARDS: dict[str, tuple[str, Plant]] = {
    "prefixes shifted by one": ("reverse/cause_letters", replaced(TabularModel, "next_log_probs", shifted)),
    "stale cache": ("reverse/cause_letters", replaced(TabularModel, "next_log_probs", stale)),
    "lost stop": ("tempered/flat_letters", replaced(scores, "total", without_end)),
    "power applied twice": (
        "tempered/flat_letters", replaced(evaluate, "power", lambda right: lambda b, t, span: right(b * b, t, span)),
    ),
    "ignored condition": ("conditions/sum_of_three", replaced(Evaluator, "_node", passes)),
    "a value that is never listed": ("finite/two_dice", replaced(exact.Exact, "sample", all_but_one)),
    "a row of a plate left out": ("plates/counts", replaced(evaluate, "add", kept_of(lambda parts: parts[:2]))),
    "wrong mass of a distribution": (
        "finite/skewed_number",
        lambda patch: patch.setitem(functions.DISTS, "binomial", lambda args, finite: functions.poisson(args[:1], finite)),
    ),
    "a normaliser of choice dropped": ("finite/choice_with_lead", lambda patch: patch.setattr(evaluate, "ask_choice", bare_choice)),
}  # fmt: skip


def listed(name: str) -> list[str]:
    kind, one = name.split("/")
    chosen = [entry for entry in entries(ROOT / "posteriors", [kind]) if entry.name == one]
    return trials(chosen, methods=["exact"], seeds=1).faults


@pytest.mark.parametrize("fault", REWARDS)
def test_known_posteriors_find_a_fault_of_the_log_reward(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, plant = REWARDS[fault]
    assert listed(name) == []
    plant(monkeypatch)
    assert listed(name)


# ------------------------------------------------------------------------------- sound methods


SOUND = [("two", "smc", {}), ("number", "importance", {}), ("plate", "importance", {}), ("two", "importance", {}),
         ("sharp", "smc", {}), ("conditioned", "smc", {}), ("sharp", "smc", {"resample": "multinomial", "threshold": 0.9}),
         ("text", "auto", {}), ("two latents", "exact", {}), ("number", "mcmc", {})]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "method", "options"),
    [
        timed(n in ("two", "sharp", "plate") or m == "mcmc", n, m, o, id=f"{m}-{n}-{len(o)}")
        for n, m, o in SOUND
    ],
)
def test_sound_methods_raise_no_alarm(name: str, method: str, options: dict[str, object]) -> None:
    found = named(name).using(method, **options).calibrate()
    assert found.passed, found.verdict
