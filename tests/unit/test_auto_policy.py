"""Which method `auto` takes when there is a policy, and what it checks before it believes one."""

from __future__ import annotations

import numpy as np
import pytest
from attrs import frozen

from posterior_lm.api.query import loads
from posterior_lm.infer.auto import choose, doubt, infer
from posterior_lm.infer.base import Offer
from posterior_lm.infer.guide import PriorGuide, Proposal
from posterior_lm.infer.prefix_expansion import SMALL
from posterior_lm.infer.weights import logsumexp
from posterior_lm.lang.diagnostics import InferenceError, ModelError, error
from posterior_lm.target.target import Target
from posterior_lm.target.values import Values

PROGRAM = """
program near(x: int(0..199)) {
  latent a: int(0..199) ~ uniform(0, 199)
  latent b: int(0..199) ~ uniform(0, 199)
  factor 0 - abs(a - x) / 6 - abs(b - x) / 3
}
"""
PLACES = np.arange(200)


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

    @property
    def probs(self) -> np.ndarray:
        found = np.exp(-np.abs(PLACES - self.place) / self.width)
        return found / found.sum()

    def sample(self, rng: np.random.Generator, n: int) -> Proposal:
        if self.fails:
            raise ModelError(error("PLM520", "too long"))
        drawn = {k: rng.choice(200, size=n, p=self.probs) for k in ("a", "b")}
        values = {k: tuple(self.target.value(k, int(v)) for v in column) for k, column in drawn.items()}
        return Proposal(values, self.log_prob(values))

    def log_prob(self, values: Values) -> np.ndarray:
        return sum((np.log(self.probs[[int(v.datum) for v in values[k]]]) for k in "ab"), np.zeros(()))


def offer(guide: object, level: str = "good", beats_prior: bool = True) -> Offer:
    return Offer("runs/p", level, beats_prior, lambda: guide)  # type: ignore[arg-type, return-value]


def draws(at: Target, policy: Offer | None, method: str = "auto", **more: object):
    settings: dict = {"options": {}, "n": 300, "rng": np.random.default_rng(5)} | more
    return infer(at, method=method, policy=policy, **settings)


def exact_evidence(x: int) -> float:
    grid = -np.abs(PLACES - x)[:, None] / 6 - np.abs(PLACES - x)[None, :] / 3
    return logsumexp(grid.ravel()) - 2 * np.log(200)


# ------------------------------------------------------------------------------- choosing


@pytest.mark.parametrize(
    ("level", "beats", "method", "words"),
    [
        ("good", True, "gflownet", "whose verdict is good"),
        ("good", False, "gflownet", "whose verdict is good"),
        ("usable", True, "gflownet", "whose verdict is usable"),
        ("usable", False, "importance", "the prior is as good a proposal"),
        ("poor", True, "importance", "its verdict is poor"),
        ("uncertified", False, "importance", "it is not certified"),
    ],
)
def test_auto_takes_a_policy_by_its_verdict(level: str, beats: bool, method: str, words: str) -> None:
    at = target(50)
    found, reason = choose(at, "auto", offer(Near(at, 50), level, beats))
    assert found == method and reason.startswith(f"{method}: ")
    assert words in reason and "the policy in runs/p" in reason and "\n" not in reason


def test_exact_stands_before_a_policy() -> None:
    small = "program near(x: int(0..199)) {\n  latent a: int(0..199) ~ uniform(0, 199)\n}\n"
    at = target(50, small)
    assert choose(at, "auto", offer(None))[0] == "exact"
    assert draws(at, offer(None)).method == "exact"
    assert SMALL < 200 * 200


def test_gflownet_needs_a_policy() -> None:
    with pytest.raises(InferenceError) as caught:
        choose(target(50), "gflownet")
    assert caught.value.diagnostics[0].code == "PLM627"
    assert "plm fit" in str(caught.value) and "--policy" in (caught.value.diagnostics[0].help or "")


@pytest.mark.parametrize("method", ["gflownet", "importance"])
@pytest.mark.parametrize("level", ["good", "usable", "poor", "uncertified"])
def test_a_policy_that_was_asked_for_is_used_and_warned_of(method: str, level: str) -> None:
    at = target(50)
    made = draws(at, offer(Near(at, 150), level, beats_prior=False), method)
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


def test_a_good_policy_is_used_and_weighted() -> None:
    at = target(50)
    made = draws(at, offer(Near(at, 50)), n=2000)
    assert made.method == "gflownet" and made.ess is not None and made.ess > 800
    assert made.log_evidence == pytest.approx(exact_evidence(50), abs=0.1)


def test_a_policy_asked_of_another_kind_of_row_is_not_used() -> None:
    """Trained where x is 50, asked where it is 150: its own ESS does not betray it, the evidence does."""
    at = target(150)
    made = draws(at, offer(Near(at, 50)), n=2000)
    assert made.method == "importance"
    assert "the policy in runs/p is not used, since on this row it finds" in made.reason
    assert made.log_evidence == pytest.approx(exact_evidence(150), abs=0.5)


def test_a_policy_of_smaller_ess_is_not_used() -> None:
    # Flat log rewards: the prior's weights are all equal, the policy's are not.
    at = target(50, PROGRAM.replace("/ 6", "/ 600").replace("/ 3", "/ 300"))
    said = doubt(at, Near(at, 100, width=25.0), np.random.default_rng(1))
    assert said is not None and "its ESS is" in said and "the prior's" in said
    assert doubt(at, PriorGuide(at), np.random.default_rng(1)) is None


def test_a_policy_that_finds_more_is_used_whatever_its_ess() -> None:
    """All weights of the prior's draws are alike, far from where the mass is."""
    far = PROGRAM.replace(
        "factor 0 - abs(a - x) / 6 - abs(b - x) / 3",
        "factor if a == x and b == x then 30 else 0 - abs(a - x) / 100",
    )
    at = target(77, far)
    narrow = Near(at, 77, width=0.7)
    own = at.log_reward((p := narrow.sample(np.random.default_rng(2), 64)).values) - p.log_prob
    assert 1 / np.sum(np.exp(own - logsumexp(own)) ** 2) < 40
    assert doubt(at, narrow, np.random.default_rng(2)) is None


def test_dead_draws_of_the_policy_speak_for_the_prior_and_the_other_way_round() -> None:
    near, far = "abs(a - x) < 40 and abs(b - x) < 40", "a == x and b == x"
    program = PROGRAM.replace(
        "  factor 0 - abs(a - x) / 6 - abs(b - x) / 3\n", "  factor log(if WHAT then 1 else 0)\n"
    )
    at = target(150, program.replace("WHAT", near))
    said = doubt(at, Near(at, 5, width=3.0), np.random.default_rng(1))
    assert said is not None and "finds none of the evidence" in said
    at = target(150, program.replace("WHAT", far))
    assert doubt(at, Near(at, 150, width=1.0), np.random.default_rng(1)) is None


def test_a_row_that_the_policy_cannot_read_falls_back() -> None:
    at = target(50)
    made = draws(at, offer(Near(at, 50, fails=True)))
    assert made.method == "importance" and "window" in made.reason
    with pytest.raises(ModelError):
        draws(at, offer(Near(at, 50, fails=True)), "gflownet")


def test_the_check_does_not_change_the_draws() -> None:
    at = target(50)
    checked = draws(at, offer(Near(at, 50)))
    forced = draws(at, offer(Near(at, 50)), "gflownet")
    assert np.array_equal(checked.log_weights, forced.log_weights)


def test_an_explicit_guide_stands_before_a_policy() -> None:
    at = target(50)
    made = draws(at, offer(None), "gflownet", guide=Near(at, 50))
    assert made.method == "gflownet" and "proposing with a stub" in made.reason
    assert draws(at, offer(None), guide=Near(at, 50)).method == "importance"


def test_a_budget_ends_a_policy_too() -> None:
    at = target(50)
    made = draws(at, offer(Near(at, 50)), "gflownet", n=10**6, budget=0.05)
    assert 0 < len(made) < 10**6 and "the budget of 0.05 s" in made.reason and "the policy" in made.reason
