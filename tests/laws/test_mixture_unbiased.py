"""Draws from several guides at once are unbiased: every random choice is walked over, and the sums are exact.

The choices are how many draws each guide makes, and every draw. What is checked is the strongest
form: for every value v, E[(1/N) Σ w_i 1(z_i = v)] is the reward of v, though the shares of the draws
after the pilot depend on what the pilot drew.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from attrs import frozen

from posterior_lm.api.query import loads
from posterior_lm.infer import mixture
from posterior_lm.infer.base import run
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.guide import PriorGuide, Proposal
from posterior_lm.infer.importance import Importance
from posterior_lm.infer.mixture import FLOOR, Mixture, MixtureGuide, allocated, best_shares
from posterior_lm.infer.weights import logsumexp
from posterior_lm.target.target import Target
from posterior_lm.target.values import Values

PROGRAM = """
program three() {
  latent n: int(0..2) ~ categorical([0.7, 0.25, 0.05])
  factor if n == 0 then -3 else if n == 1 then -0.5 else 1.5
}
"""
REWARD = np.log([0.7, 0.25, 0.05]) + np.array([-3.0, -0.5, 1.5])
LOST = (0.2, 0.8, 0.0)
"""A guide that never draws the 2, which has more than half of the posterior."""


class Tree:
    """A generator whose numbers are the middles of the pieces of (0, 1) on which nothing changes."""

    def __init__(self) -> None:
        self.path: list[int] = []
        self.sizes: list[int] = []
        self.prob = 1.0

    def pick(self, probs: np.ndarray) -> int:
        options = np.flatnonzero(probs > 1e-12)
        depth = len(self.sizes)
        if depth == len(self.path):
            self.path.append(0)
        self.sizes.append(len(options))
        chosen = int(options[self.path[depth]])
        self.prob *= probs[chosen]
        return chosen

    def next(self) -> bool:
        while self.path and self.path[-1] + 1 == self.sizes[len(self.path) - 1]:
            self.path.pop()
        if self.path:
            self.path[-1] += 1
        self.sizes, self.prob = [], 1.0
        return bool(self.path)


@frozen(eq=False)
class Stub:
    """Draws n with given probabilities; a `Tree` is asked for each draw."""

    target: Target
    probs: tuple[float, ...]
    name: str = "a stub"

    def sample(self, rng: object, n: int) -> Proposal:
        if isinstance(rng, Tree):
            drawn = [rng.pick(np.array(self.probs)) for _ in range(n)]
        else:
            drawn = rng.choice(3, size=n, p=self.probs)  # type: ignore[attr-defined]
        values = {"n": tuple(self.target.value("n", int(v)) for v in drawn)}
        return Proposal(values, self.log_prob(values))

    def log_prob(self, values: Values) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.log(np.array(self.probs)[[int(v.datum) for v in values["n"]]])


class TreePrior(PriorGuide):
    def sample(self, rng: object, n: int) -> Proposal:
        return Stub(self.target, (0.7, 0.25, 0.05)).sample(rng, n)


def every_allocation(tree: Tree, shares: np.ndarray, n: int) -> np.ndarray:
    """What `allocated` gives, over every outcome of its one random number."""
    ends = np.unique(np.r_[0.0, 1.0, np.mod(-np.cumsum(shares)[:-1] * n, 1)])
    k = tree.pick(np.diff(ends))

    class One:
        def random(self) -> float:
            return float(ends[k] + ends[k + 1]) / 2

    return allocated(One(), shares, n)  # type: ignore[arg-type]


def by_value(draws: Draws) -> np.ndarray:
    """(1/N) Σ w_i 1(n_i = v) for v = 0, 1, 2."""
    drawn = np.array([int(v.datum) for v in draws.values["n"]])
    return np.bincount(drawn, weights=np.exp(draws.log_weights), minlength=3) / len(draws)


@pytest.fixture
def target() -> Target:
    return loads(PROGRAM).target()


@pytest.mark.parametrize(("draws", "pilot"), [(1, 0), (3, 0), (2, 1), (3, 2), (3, 1)])
@pytest.mark.parametrize("probs", [LOST, (0.05, 0.25, 0.7)])
def test_the_weights_of_every_value_add_up_to_its_reward(
    draws: int, pilot: int, probs: tuple[float, ...], target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixture, "FEWEST", 1)
    monkeypatch.setattr(mixture, "PILOT", pilot / draws)
    monkeypatch.setattr(mixture, "allocated", every_allocation)
    monkeypatch.setattr(mixture, "PriorGuide", TreePrior)
    tree, total, mass, shares = Tree(), np.zeros(3), 0.0, set()
    while True:
        found = run(Mixture(draws), target, n=draws, rng=tree, guide=Stub(target, probs))  # type: ignore[arg-type]
        total += tree.prob * by_value(found)
        mass += tree.prob
        assert found.mixture is not None and found.mixture.pilot == pilot
        shares.add(found.mixture.shares)
        if not tree.next():
            break
    assert mass == pytest.approx(1, abs=1e-9)
    assert (len(shares) > 1) == (pilot > 0), "the shares depend on the pilot"
    np.testing.assert_allclose(np.log(total), REWARD, atol=1e-9)


def test_three_guides_are_unbiased_too(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prior, one that lost a mode, and one that is flatter than it; the second may end without a share."""
    monkeypatch.setattr(mixture, "FEWEST", 1)
    monkeypatch.setattr(mixture, "PILOT", 0.5)
    monkeypatch.setattr(mixture, "allocated", every_allocation)
    others = (Stub(target, LOST), Stub(target, (0.4, 0.4, 0.2)))
    guide = MixtureGuide(TreePrior(target), others, np.full(3, 1 / 3))
    monkeypatch.setattr(Mixture, "init", lambda *_: mixture.State(target, guide))
    tree, total, shares = Tree(), np.zeros(3), set()
    while True:
        found = run(Mixture(2), target, n=2, rng=tree)  # type: ignore[arg-type]
        total += tree.prob * by_value(found)
        assert found.mixture is not None and found.mixture.shares[0] >= FLOOR - 1e-9
        shares.add(found.mixture.shares)
        if not tree.next():
            break
    assert len(shares) > 2 and any(0.0 in one for one in shares)
    np.testing.assert_allclose(np.log(total), REWARD, atol=1e-9)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.1, 0.9), (1.0, 0.0), (0.25, 0.3, 0.45)])
def test_each_guide_makes_its_share_on_average(shares: tuple[float, ...]) -> None:
    for n in (1, 2, 3, 7, 100):
        mean, tree = np.zeros(len(shares)), Tree()
        while True:
            counts = every_allocation(tree, np.array(shares), n)
            assert counts.sum() == n and np.all(np.abs(counts - np.array(shares) * n) < 1)
            mean += tree.prob * counts
            if not tree.next():
                break
        np.testing.assert_allclose(mean, np.array(shares) * n, atol=1e-9)


# ------------------------------------------------------------------------------- the best shares


def second_moment(shares: np.ndarray, q: np.ndarray, reward: np.ndarray) -> float:
    return float(np.sum(reward**2 / (shares @ q)))


@pytest.mark.parametrize("seed", range(6))
def test_the_best_shares_have_the_least_second_moment(seed: int) -> None:
    """All values, each once, stand for a pilot: its draws are weighed by the mixture that gave them."""
    rng = np.random.default_rng(seed)
    size = 2 + seed % 2
    q, reward = rng.dirichlet(np.full(12, 0.4), size=size), rng.dirichlet(np.full(12, 0.6))
    q = 0.98 * q + 0.02 / 12
    uniform = np.full(12, 1 / 12)
    found = best_shares(np.log(q).T, np.log(reward / uniform), np.log(uniform))
    least = second_moment(found, q, reward)
    assert found.sum() == pytest.approx(1) and found[0] >= FLOOR - 1e-9
    for other in rng.dirichlet(np.ones(size), size=400):
        other = np.r_[FLOOR, np.zeros(size - 1)] + (1 - FLOOR) * other
        assert least <= second_moment(other, q, reward) * (1 + 2e-2)


def test_the_prior_keeps_its_share_whatever_the_pilot_says(target: Target) -> None:
    """The second moment is at most 1 / FLOOR times the prior's, so N draws are worth FLOOR · N of the prior's."""
    n = 40
    never = best_shares(np.stack([np.full(n, -50.0), np.zeros(n)], 1), np.zeros(n), np.full(n, -0.7))
    assert never[0] == pytest.approx(FLOOR)
    useless = best_shares(np.stack([np.zeros(n), np.full(n, -50.0)], 1), np.zeros(n), np.full(n, -0.7))
    assert useless.tolist() == [1.0, 0.0], "nobody is scored for a guide of no use"
    dead = best_shares(np.zeros((n, 2)), np.full(n, -np.inf), np.zeros(n))
    assert dead.tolist() == [0.5, 0.5]


# ------------------------------------------------------------------------------- over many seeds


@pytest.mark.slow
def test_the_evidence_is_unbiased_over_seeds(target: Target) -> None:
    """The guide never draws what has most of the posterior; the mixture finds it, and alone it cannot."""
    evidence = math.exp(logsumexp(REWARD))
    guide = Stub(target, LOST)
    found = np.array(
        [
            math.exp(
                run(Mixture(320), target, n=320, rng=np.random.default_rng(s), guide=guide).log_evidence or 0
            )
            for s in range(2000)
        ]
    )
    assert abs(found.mean() - evidence) < 3 * found.std() / math.sqrt(len(found))
    assert found.std() / math.sqrt(len(found)) < 0.01 * evidence
    alone = run(Importance(), target, n=2000, rng=np.random.default_rng(1), guide=guide)
    assert math.exp(alone.log_evidence or 0) < 0.6 * evidence


def test_a_mode_that_a_guide_has_lost_is_drawn(target: Target) -> None:
    draws = run(Mixture(1000), target, n=1000, rng=np.random.default_rng(3), guide=Stub(target, LOST))
    share = by_value(draws) / by_value(draws).sum()
    np.testing.assert_allclose(share, np.exp(REWARD - logsumexp(REWARD)), atol=0.1)


def test_scores_of_one_pass_are_those_of_the_target(target: Target) -> None:
    """What a walk along another guide's draws finds out of the prior's term is not computed again."""
    story = (
        loads(
            'lm base = "tiny"\nprogram p(a: text) {\n  latent z: text(tokens=1..6, stop=".") ~ base(a) ^ 1.5\n'
            '  guide z ~ base("Say:")\n}\n'
        )
        .given(a="Tom had a red ball.")
        .target()
    )
    prior = PriorGuide(story)
    pair = MixtureGuide(prior, (PriorGuide(story, reads="guide"),), np.array([0.5, 0.5]))
    proposal, columns = pair.proposed(np.random.default_rng(0), 40)
    assert proposal.scores, "the prior's score of every draw"
    np.testing.assert_allclose(
        story.terms(proposal.values, proposal.scores), story.terms(proposal.values), atol=1e-4
    )
    np.testing.assert_allclose(columns[:, 0], prior.log_prob(proposal.values), atol=1e-4)
    np.testing.assert_allclose(proposal.log_prob, pair.log_prob(proposal.values), atol=1e-4)
    assert np.exp(columns[:20, 0]).mean() != pytest.approx(np.exp(columns[20:, 0]).mean(), rel=1e-3)
