"""Which method `auto` takes when there is a policy, and what it checks before it believes one."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from attrs import frozen

from posterior_lm.api.query import loads
from posterior_lm.infer import auto
from posterior_lm.infer.auto import choose, doubt, infer
from posterior_lm.infer.base import Offer
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.guide import PriorGuide, Proposal
from posterior_lm.infer.mixture import FLOOR
from posterior_lm.infer.prefix_expansion import MANY
from posterior_lm.infer.verdict import verdict
from posterior_lm.infer.weights import logsumexp
from posterior_lm.lang.diagnostics import InferenceError, ModelError, error
from posterior_lm.target.target import Target
from posterior_lm.target.values import Values

PROGRAM = """
program near(x: int(0..399)) {
  latent a: int(0..399) ~ uniform(0, 399)
  latent b: int(0..399) ~ uniform(0, 399)
  factor 0 - abs(a - x) / 6 - abs(b - x) / 3
}
"""
PLACES = np.arange(400)


def target(x: int, program: str = PROGRAM) -> Target:
    return loads(program).given(x=x).target()


@frozen(eq=False)
class Near:
    """Proposes a and b near a place, as a policy would that was trained on rows with x there."""

    target: Target
    place: int
    width: float = 8.0
    fails: bool = False
    name: str = "a stub"
    names: ClassVar[tuple[str, ...]] = ("a", "b")

    @property
    def probs(self) -> np.ndarray:
        found = np.exp(-np.abs(PLACES - self.place) / self.width)
        return found / found.sum()

    def sample(self, rng: np.random.Generator, n: int) -> Proposal:
        if self.fails:
            raise ModelError(error("PLM520", "too long"))
        drawn = {k: rng.choice(400, size=n, p=self.probs) for k in self.names}
        values = {k: tuple(self.target.value(k, int(v)) for v in column) for k, column in drawn.items()}
        return Proposal(values, self.log_prob(values))

    def log_prob(self, values: Values) -> np.ndarray:
        return sum((np.log(self.probs[[int(v.datum) for v in values[k]]]) for k in self.names), np.zeros(()))


class Far(Near):
    """The same for three latents."""

    names = ("a", "b", "c")


def offer(guide: object, level: str = "good") -> Offer:
    return Offer("runs/p", level, lambda: guide)  # type: ignore[arg-type, return-value]


def draws(at: Target, policy: Offer | None, method: str = "auto", **more: object) -> Draws:
    settings: dict = {"options": {}, "n": 300, "rng": np.random.default_rng(5)} | more
    return infer(at, method=method, policy=policy, **settings)


def exact_evidence(x: int) -> float:
    grid = -np.abs(PLACES - x)[:, None] / 6 - np.abs(PLACES - x)[None, :] / 3
    return logsumexp(grid.ravel()) - 2 * np.log(400)


# ------------------------------------------------------------------------------- choosing


@pytest.mark.parametrize("level", ["good", "usable", "poor", "uncertified"])
def test_auto_draws_from_the_prior_and_from_a_policy_whatever_its_verdict(level: str) -> None:
    at = target(50)
    found, reason = choose(at, "auto", offer(Near(at, 50), level))
    assert found == "mixture" and reason.startswith("mixture: ")
    words = "which is not certified" if level == "uncertified" else f"whose verdict is {level}"
    assert f"the prior and from the policy in runs/p, {words}" in reason and "\n" not in reason


def test_exact_stands_before_a_policy() -> None:
    small = "program near(x: int(0..399)) {\n  latent a: int(0..399) ~ uniform(0, 399)\n}\n"
    at = target(50, small)
    assert choose(at, "auto", offer(None))[0] == "exact"
    assert draws(at, offer(None)).method == "exact"
    assert MANY < 400 * 400


def test_gflownet_needs_a_policy() -> None:
    with pytest.raises(InferenceError) as caught:
        choose(target(50), "gflownet")
    assert caught.value.diagnostics[0].code == "PLM627"
    assert "plm fit" in str(caught.value) and "--policy" in (caught.value.diagnostics[0].help or "")


@pytest.mark.parametrize("method", ["gflownet", "importance"])
@pytest.mark.parametrize("level", ["good", "usable", "poor", "uncertified"])
def test_a_policy_that_was_asked_for_is_used_and_warned_of(method: str, level: str) -> None:
    at = target(50)
    made = draws(at, offer(Near(at, 150), level), method)
    assert made.method == method
    assert "the policy in runs/p" in made.reason
    assert ("warning" in made.reason) == (level in ("poor", "uncertified"))
    assert np.median([int(v.datum) for v in made.values["a"]]) > 120, "its draws, not the prior's"


def test_without_a_policy_nothing_changes() -> None:
    at = target(50)
    assert choose(at, "auto", None)[0] == "importance"
    plain = draws(at, None)
    assert plain.method == "importance" and "policy" not in plain.reason


# ------------------------------------------------------------------------------- on the row itself


def shares(made: Draws) -> tuple[float, ...]:
    assert made.method == "mixture" and made.mixture is not None
    return made.mixture.shares


def test_a_good_policy_has_most_of_the_draws() -> None:
    at = target(50)
    made = draws(at, offer(Near(at, 50)), n=2000)
    assert shares(made) == pytest.approx((FLOOR, 1 - FLOOR), abs=0.05)
    assert made.ess is not None and made.ess > 800
    assert made.log_evidence == pytest.approx(exact_evidence(50), abs=0.1)


def test_a_policy_asked_of_another_kind_of_row_does_no_harm() -> None:
    """Trained where x is 50, asked where it is 150: what it never draws, the prior does."""
    at = target(150)
    made = draws(at, offer(Near(at, 50)), n=8000)
    alone = draws(at, None, n=8000)
    assert shares(made) == (1.0, 0.0) and made.ess is not None and alone.ess is not None
    assert made.ess > 0.6 * alone.ess
    assert made.log_evidence == pytest.approx(exact_evidence(150), abs=0.5)


def test_a_policy_that_has_lost_a_mode_does_not_lose_it() -> None:
    """Two modes of one weight, and a policy that knows one, with a fine ESS of its own."""
    two = PROGRAM.replace("abs(a - x) / 6", "min(abs(a - x), abs(a - x - 100)) / 6")
    at = target(50, two)
    own = draws(at, offer(Near(at, 50)), "gflownet", n=2000)
    made = draws(at, offer(Near(at, 50)), n=2000)
    far = np.array([int(v.datum) > 100 for v in made.values["a"]])
    assert own.ess is not None and own.ess > 800 and max(int(v.datum) for v in own.values["a"]) < 130
    assert made.normalized_weights[far].sum() == pytest.approx(0.5, abs=0.12)
    assert own.log_evidence == pytest.approx((made.log_evidence or 0) - np.log(2), abs=0.2)


def test_a_policy_that_finds_more_is_used_whatever_its_ess() -> None:
    """All weights of the prior's draws are alike, far from where the mass is."""
    far = PROGRAM.replace(
        "factor 0 - abs(a - x) / 6 - abs(b - x) / 3",
        "factor if a == x and b == x then 30 else 0 - abs(a - x) / 100",
    )
    at = target(77, far)
    made = draws(at, offer(Near(at, 77, width=0.7)), n=2000)
    assert shares(made)[0] == pytest.approx(FLOOR, abs=0.05)
    assert made.log_evidence == pytest.approx(30 - 2 * np.log(400), abs=0.2)


WEIGHED_BETWEEN = PROGRAM.replace(
    "factor 0 - abs(a - x) / 6 - abs(b - x) / 3",
    "factor 0 - 2 * abs(a - x)\n  latent c: int(0..399) ~ uniform(0, 399)\n"
    "  factor 0 - 2 * abs(b - x) - 2 * abs(c - x)",
)


def test_where_smc_would_be_taken_the_two_are_tried_on_the_row() -> None:
    at = target(150, WEIGHED_BETWEEN)
    assert draws(at, None).method == "smc" and doubt(at, PriorGuide(at), np.random.default_rng(1))
    made = draws(at, offer(Far(at, 5)))
    assert made.method == "smc" and "the policy in runs/p is not used, since with it" in made.reason
    made = draws(at, offer(Far(at, 150, width=1.0)))
    assert made.method == "mixture" and made.ess is not None and made.ess > 60
    assert doubt(target(150), Near(target(150), 5), np.random.default_rng(1)) is None, (
        "the prior is in the mixture"
    )


def test_a_row_that_the_policy_cannot_read_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    at, seen = target(50), list[Draws]()
    monkeypatch.setattr(auto, "looked", lambda at, made, *rest: seen.append(made) or made)
    made = draws(at, offer(Near(at, 50, fails=True)))
    assert made.method == "importance" and "window" in made.reason
    assert len(seen) == 1, "they get a second look, as draws do where there is no policy"
    with pytest.raises(ModelError):
        draws(at, offer(Near(at, 50, fails=True)), "gflownet")


def test_the_check_does_not_change_the_draws() -> None:
    at = target(150, WEIGHED_BETWEEN)
    checked = draws(at, offer(Far(at, 150, width=1.0)))
    forced = draws(at, offer(Far(at, 150, width=1.0)), "mixture")
    assert np.array_equal(checked.log_weights, forced.log_weights)


def test_an_explicit_guide_stands_before_a_policy() -> None:
    at = target(50)
    made = draws(at, offer(None), "gflownet", guide=Near(at, 50))
    assert made.method == "gflownet" and "proposing with a stub" in made.reason
    assert draws(at, offer(None), guide=Near(at, 50)).method == "importance"
    made = draws(at, offer(None), "mixture", guide=Near(at, 50))
    assert "proposing with a stub" in made.reason and "the prior (10%) and a stub (90%)" in verdict(made)


@pytest.mark.parametrize("method", ["gflownet", "mixture"])
def test_a_budget_ends_a_policy_too(method: str) -> None:
    at = target(50)
    made = draws(at, offer(Near(at, 50)), method, n=10**6, budget=0.05)
    assert 0 < len(made) < 10**6 and "the budget of 0.05 s" in made.reason and "the policy" in made.reason
