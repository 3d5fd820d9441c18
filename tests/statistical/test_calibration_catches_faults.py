"""Calibration with its default settings: planted faults fail it, right methods pass it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import pytest
from attrs import evolve, frozen

from posterior_lm.api.query import Query, loads
from posterior_lm.infer import importance
from posterior_lm.infer.draws import Chains, Draws
from posterior_lm.infer.guide import PriorGuide, Proposal
from posterior_lm.lm.tabular import TabularModel
from posterior_lm.target.target import Target
from posterior_lm.target.values import Values, take
from posterior_lm.validate.calibration import ALPHA, DRAWS, ROWS, calibration_of
from posterior_lm.validate.exact_draws import ExactDraws, exact_draws
from posterior_lm.validate.measures import MethodUnderTest, guided, method_under_test

MODEL = TabularModel.random(["a", "b", ".", "ab"], order=2, max_tokens=30, rng=31, concentration=0.5)
PROGRAMS: Mapping[str, str] = {
    "number": """program number(seen: int(0..9), again: int(0..9)) {
      latent n: int(0..7) ~ categorical([0.3, 0.05, 0.2, 0.02, 0.25, 0.08, 0.06, 0.04])
      observe seen ~ binomial(9, 0.1 + 0.1 * n)
      observe again ~ poisson(0.5 + n / 2)
    }""",
    "text": """lm base = "b"
    program text_and_choice(seen: one_of("a", "b", "ab"), other: one_of("a", "b", ".")) {
      latent z: text(tokens=1..3, stop=".") ~ base("a")
      observe seen ~ base(z)
      observe other ~ choice(base("b", z))
    }""",
    "two latents": """lm base = "b"
    program two(seen: one_of("a", "b", "ab")) {
      latent o: one_of("a", "ab", "b") ~ categorical([0.6, 0.1, 0.3])
      latent z: text(tokens=1..2) ~ base(o)
      observe seen ~ base(o, z)
    }""",
    "conditioned": """lm base = "b"
    program conditioned(seen: one_of("a", "b", "ab")) {
      latent z: text(tokens=1..3, stop=".") ~ base("a") ^ 0.7
      condition not starts_with(z, "b")
      observe seen ~ base(z)
    }""",
}  # fmt: skip
programs = pytest.mark.parametrize("name", PROGRAMS)


def query(name: str) -> Query:
    made = loads(PROGRAMS[name]).using("importance")
    return made.lm(base=MODEL) if "lm base" in PROGRAMS[name] else made


@lru_cache
def known(name: str) -> ExactDraws:
    """The rows that faults are shown."""
    return exact_draws(query(name).prepared, (), ROWS, 5)


# ------------------------------------------------------------------------------- right methods


@programs
@pytest.mark.parametrize("seed", [1, 2])
def test_right_methods_pass(name: str, seed: int) -> None:
    found = query(name).calibrate(seed=seed)
    assert found.rows >= 0.9 * ROWS and found.draws == DRAWS
    assert found.passed, (seed, found.verdict)


@programs
def test_exact_enumeration_passes_without_a_gap(name: str) -> None:
    one = query(name).using("exact")
    found = calibration_of(method_under_test(one.prepared, one.request), known(name), draws=DRAWS, seed=5)
    assert found.passed, found.verdict
    assert found.jeffreys == 0.0 and found.weighed is None


# ------------------------------------------------------------------------------- planted faults


@frozen(eq=False)
class Blind(PriorGuide):
    """The prior, but for values that `misses`, which it draws hardly ever or never."""

    misses: Callable[[Mapping[str, str]], bool] = lambda values: False
    log_leak: float = -np.inf

    def sample(self, rng: np.random.Generator, n: int) -> Proposal:
        whole = PriorGuide.sample(self, rng, 4 * n)
        kept = np.flatnonzero(~self._missed(whole.values))[:n]
        assert len(kept) == n
        values = {k: tuple(v) for k, v in take(whole.values, kept.tolist()).items()}
        return Proposal(values, self.log_prob(values))

    def log_prob(self, values: Values) -> np.ndarray:
        # Unnormalised by the mass of what is missed: the same factor for every value but those.
        return PriorGuide.log_prob(self, values) + np.where(self._missed(values), self.log_leak, 0.0)

    def _missed(self, values: Values) -> np.ndarray:
        columns = [[(k, str(v.datum)) for v in column] for k, column in values.items()]
        return np.array([self.misses(dict(one)) for one in zip(*columns, strict=True)])


MODES: Mapping[str, Callable[[Mapping[str, str]], bool]] = {
    "number": lambda v: v["n"] in ("2", "3"),
    "text": lambda v: not v["z"].startswith("ab"),
    "two latents": lambda v: v["o"] == "b",
    "conditioned": lambda v: not v["z"].startswith("ab"),
}


@programs
@pytest.mark.parametrize("log_leak", [-np.inf, -20.0])
def test_a_guide_blind_to_one_mode_fails(name: str, log_leak: float) -> None:
    way = guided(lambda target: Blind(target, misses=MODES[name], log_leak=log_leak))
    found = calibration_of(way, known(name), draws=DRAWS, seed=5)
    assert not found.passed, found.verdict
    assert (found.missed > 0) == (log_leak == -np.inf), found.verdict
    assert found.jeffreys is not None and found.jeffreys > 0.5


@programs
def test_a_weight_with_the_wrong_sign_fails(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = importance.log_weights

    def wrong(
        target: Target, values: Values, log_prob: np.ndarray, scores: object
    ) -> tuple[np.ndarray, np.ndarray]:
        weights, log_reward = right(target, values, log_prob)
        return np.where(np.isfinite(weights), -weights, -np.inf), log_reward

    monkeypatch.setattr(importance, "log_weights", wrong)
    found = calibration_of(
        method_under_test(query(name).prepared, query(name).request), known(name), draws=DRAWS, seed=6
    )
    assert not found.passed, found.verdict
    assert found.sbc_p is not None and found.sbc_p < 0.001


@pytest.mark.parametrize("name", ["number", "two latents"])
def test_a_sign_in_front_of_the_proposal_fails(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = importance.log_weights

    def wrong(
        target: Target, values: Values, log_prob: np.ndarray, scores: object
    ) -> tuple[np.ndarray, np.ndarray]:
        weights, log_reward = right(target, values, log_prob)
        return weights + 2 * log_prob, log_reward

    monkeypatch.setattr(importance, "log_weights", wrong)
    found = calibration_of(
        method_under_test(query(name).prepared, query(name).request), known(name), draws=DRAWS, seed=7
    )
    assert not found.passed, found.verdict


def dropping(one: Query, keyword: str, number: int = 0) -> MethodUnderTest:
    """The query's method with one term missing from its weights."""
    plain = method_under_test(one.prepared, one.request)

    def draw(target: Target, n: int, rng: np.random.Generator) -> Draws:
        draws = plain.draw(target, n, rng)
        places = [k for k, info in enumerate(target.statements) if info.keyword == keyword]
        term = target.terms(draws.values)[:, places[number]]
        with np.errstate(invalid="ignore"):
            weights = np.where(np.isfinite(term), draws.log_weights - term, draws.log_weights)
        return evolve(draws, log_weights=weights)

    return MethodUnderTest(plain.name, draw, plain.guide)


@programs
@pytest.mark.parametrize("keyword", ["observe", "latent"])
def test_a_dropped_term_fails(name: str, keyword: str) -> None:
    found = calibration_of(dropping(query(name), keyword), known(name), draws=DRAWS, seed=8)
    assert not found.passed, found.verdict
    # The weights are wrong, not too few: the exact draw among the draws shows that too.
    assert found.weighed_p is not None and found.weighed_p < ALPHA
    assert "weights themselves are wrong" in found.verdict


@pytest.mark.parametrize("name", ["number", "text", "two latents"])
@pytest.mark.parametrize("weighs", [True, False])
def test_draws_that_leave_out_a_mode_fail(name: str, weighs: bool) -> None:
    """Also where nothing tells the guide: the values are just never among the draws, as of a chain that is stuck."""
    plain = method_under_test(query(name).prepared, query(name).request)

    def draw(target: Target, n: int, rng: np.random.Generator) -> Draws:
        draws = plain.draw(target, n, rng)
        values = {k: [(k, str(v.datum)) for v in column] for k, column in draws.values.items()}
        missed = [MODES[name](dict(one)) for one in zip(*values.values(), strict=True)]
        weights = np.where(missed, -np.inf, draws.log_weights)
        if weighs:
            return evolve(draws, log_weights=weights)
        share = np.exp(weights - np.logaddexp.reduce(weights))
        kept = rng.choice(n, size=n, p=share).tolist()
        chains = Chains(1, np.zeros(n, dtype=np.int64), 1.0, n / 2, 0.5)
        chosen = {k: tuple(v) for k, v in take(draws.values, kept).items()}
        return Draws(chosen, np.zeros(n), draws.log_reward[kept], "mcmc", chains=chains)

    found = calibration_of(MethodUnderTest("stuck", draw, plain.guide), known(name), draws=DRAWS, seed=9)
    assert not found.passed, found.verdict
    assert (found.jeffreys is None) == (not weighs)
