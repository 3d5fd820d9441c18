"""Particles by hand: what moves at a resampling, what it keeps of the weights, and what it reports."""

from __future__ import annotations

import math

import numpy as np
import pytest
from attrs import define, evolve, field

from posterior_lm.infer.draws import SmcReport
from posterior_lm.infer.particles import Dice, Particles, together
from posterior_lm.infer.weights import ess, logsumexp
from posterior_lm.target.values import Value

RATIOS = np.log([4.0, 1.0, 9.0, 2.0])


@define
class Given(Dice):
    """Ancestors that are told, and the weights that were asked about."""

    rng: np.random.Generator = field(factory=np.random.default_rng)
    told: list[list[int]] = field(factory=list)
    asked: list[np.ndarray] = field(factory=list)

    def ancestors(self, weights: np.ndarray) -> np.ndarray:
        self.asked.append(weights)
        return np.array(self.told[len(self.asked) - 1])


def particles() -> Particles:
    return evolve(
        Particles.begin(4),
        values={"x": [Value((k,), f"v{k}", f"v{k}") for k in range(4)]},
        scores={7: np.array([0.1, 1.1, 2.1, 3.1])},
        log_ratio=RATIOS,
        log_q=np.array([-1.0, -2.0, -3.0, -4.0]),
        twist=np.log([1.0, 3.0, 0.5, 1.5]),
    )


def moved() -> Particles:
    return particles().resample(Given(told=[[0, 2, 2, 3]]), 2.0)[0]


def test_all_that_belongs_to_a_particle_moves_with_it() -> None:
    before, chance = particles(), Given(told=[[0, 2, 2, 3]])
    found, ancestors = before.resample(chance, 2.0)
    assert ancestors is not None and ancestors.tolist() == [0, 2, 2, 3]
    np.testing.assert_allclose(chance.asked[0], np.array([4.0, 3.0, 4.5, 3.0]) / 14.5)
    assert [v.text for v in found.values["x"]] == ["v0", "v2", "v2", "v3"]
    assert found.scores[7].tolist() == [0.1, 2.1, 2.1, 3.1] and found.log_q.tolist() == [-1, -3, -3, -4]
    assert found.origin.tolist() == [0, 2, 2, 3]
    np.testing.assert_allclose(found.log_ratio, RATIOS[[0, 2, 2, 3]])
    # All weigh the same now, and together what they weighed.
    np.testing.assert_allclose(found.log_weights, logsumexp(before.log_weights) - math.log(4))


def test_what_was_paid_for_is_paid_once() -> None:
    """After a second resampling a particle descends from the ancestor of its ancestor."""
    found, chance = moved(), Given(told=[[1, 1, 3, 3]])
    mean = logsumexp(found.log_weights) - math.log(4)
    found = found.twisted(np.zeros(4)).weighed(np.log([1.0, 5.0, 1.0, 2.0]))
    # What the twist gave is taken back: 1, 0.5, 0.5 and 1.5 of the ancestors.
    gained = np.array([1.0, 5.0, 1.0, 2.0]) / np.array([1.0, 0.5, 0.5, 1.5])
    np.testing.assert_allclose(found.log_weights, mean + np.log(gained))
    found, _ = found.resample(chance, 2.0)
    np.testing.assert_allclose(chance.asked[0], gained / gained.sum())
    assert found.origin.tolist() == [2, 2, 3, 3] and found.resampled == 2
    assert found.log_evidence == pytest.approx(mean + math.log(gained.mean()))


def test_the_threshold_is_a_share_of_the_particles() -> None:
    size = ess(np.log([4.0, 3.0, 4.5, 3.0]))
    for share, moves in ((size / 4 - 0.01, False), (size / 4 + 0.01, True)):
        _, ancestors = particles().resample(Given(told=[[0, 1, 2, 3]]), share)
        assert (ancestors is not None) is moves
    even, ancestors = Particles.begin(4).resample(Given(), 1.0)
    assert ancestors is None and even.resampled == 0


def test_nothing_is_drawn_where_all_are_dead() -> None:
    chance = Given()
    found, ancestors = particles().twisted(np.full(4, -np.inf)).resample(chance, 2.0)
    assert ancestors is None and not chance.asked and found.least_ess == 4


def test_a_twist_of_nothing_kills_and_is_no_twist() -> None:
    found = particles().twisted(np.array([0.5, -np.inf, 1.5, 2.5]))
    assert found.alive.tolist() == [True, False, True, True]
    np.testing.assert_array_equal(found.twist, [0.5, math.log(3.0), 1.5, 2.5])
    assert np.isneginf(found.log_weights).tolist() == [False, True, False, False]


def test_the_least_ess_is_remembered() -> None:
    one = evolve(particles(), log_ratio=np.array([5.0, 0.0, 0.0, 0.0]))
    low = ess(one.log_weights)
    one, _ = one.resample(Given(told=[[0, 2, 2, 3]]), 2.0)
    found = one.report(np.zeros(4))
    assert low < 1.2 and found.least_ess == pytest.approx(low) and found.resampled == 1
    assert one.report(np.array([0.0, -np.inf, -np.inf, -np.inf])).least_ess == 1.0  # the end counts too


def test_an_ancestor_whose_draws_weigh_nothing_is_not_counted() -> None:
    one = moved()
    assert one.report(np.zeros(4)).ancestors == 3
    found = one.report(np.array([-np.inf, 0.0, -1.0, -2.0]))
    assert found.ancestors == 2 and found.origin is not None and found.origin.tolist() == [0, 2, 2, 3]


def test_the_variance_counts_pairs_of_different_ancestors() -> None:
    """Lee and Whiteley (2018), eq. 6, written out: 1 − (N/(N−1))^(times + 1) Σ over pairs of other origin."""
    one = moved()
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    apart = sum(weights[i] * weights[j] for i in range(4) for j in range(4)
                if one.origin[i] != one.origin[j])  # fmt: skip
    assert one.report(np.log(weights)).variance == pytest.approx(1 - (4 / 3) ** 2 * apart)


def test_swarms_together() -> None:
    one = SmcReport(3.0, 2, 1, 0.5, np.array([0, 0, 2]))
    two = SmcReport(1.5, 1, 3, 0.25, np.array([1, 1]))
    found = together([one, two], np.log([1.0, 3.0]))
    assert (found.least_ess, found.ancestors, found.resampled) == (4.5, 3, 4)
    assert found.variance == pytest.approx(0.5 / 16 + 0.25 * 9 / 16)
    assert found.origin is not None and found.origin.tolist() == [0, 0, 2, 4, 4]
