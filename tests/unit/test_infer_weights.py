"""Weights: evidence, its error, ESS and k-hat against formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posterior_lm.infer import weights
from posterior_lm.infer.draws import Draws, EnumerationBound

LOGS = st.lists(st.one_of(st.floats(-30, 30), st.just(-math.inf)), min_size=2, max_size=40).filter(
    lambda logs: any(math.isfinite(x) for x in logs)
)


@given(LOGS, st.floats(-500, 500))
def test_plain_formulas(logs: list[float], shift: float) -> None:
    w = [math.exp(x) for x in logs]
    n, total = len(w), math.fsum(w)
    mean = total / n
    variance = math.fsum((x - mean) ** 2 for x in w) / (n - 1)
    moved = np.array(logs) + shift
    assert weights.log_evidence(moved) == pytest.approx(math.log(mean) + shift, abs=1e-9)
    assert weights.ess(moved) == pytest.approx(total**2 / math.fsum(x * x for x in w), rel=1e-9)
    assert weights.log_evidence_se(moved) == pytest.approx(
        math.sqrt(variance / n) / mean, rel=1e-6, abs=1e-12
    )
    np.testing.assert_allclose(weights.normalize(moved), np.array(w) / total, rtol=1e-9, atol=1e-300)
    assert weights.normalize(moved).sum() == pytest.approx(1, abs=1e-12)
    assert 1 - 1e-9 <= weights.ess(moved) <= n + 1e-9


def test_equal_weights() -> None:
    logs = np.full(50, -3.0)
    assert weights.ess(logs) == pytest.approx(50)
    assert weights.log_evidence(logs) == pytest.approx(-3)
    assert weights.log_evidence_se(logs) == pytest.approx(0, abs=1e-12)
    assert weights.khat(logs) is None


def test_zeros_count_in_the_mean() -> None:
    logs = np.array([0.0, -np.inf, -np.inf, -np.inf])
    assert weights.log_evidence(logs) == pytest.approx(math.log(0.25))
    assert weights.ess(logs) == pytest.approx(1)
    assert weights.log_evidence_se(logs) == pytest.approx(1.0)


def test_nothing() -> None:
    assert weights.logsumexp(np.array([])) == -math.inf
    assert weights.logsumexp(np.full(3, -np.inf)) == -math.inf
    assert weights.log_evidence_se(np.array([0.0])) == math.inf
    with pytest.raises(ValueError):
        weights.normalize(np.full(3, -np.inf))


def test_large_logs_do_not_overflow() -> None:
    assert weights.logsumexp(np.array([1000.0, 1000.0])) == pytest.approx(1000 + math.log(2))
    assert weights.log_evidence(np.array([-4000.0, -4000.0])) == pytest.approx(-4000)


@pytest.mark.parametrize("shape", (0.2, 0.5, 0.9))
def test_khat_is_the_shape_of_a_pareto_tail(shape: float) -> None:
    """log w = k E with E exponential has exp(log w) Pareto with shape k."""
    logs = shape * np.random.default_rng(3).exponential(size=20_000)
    found = weights.khat(logs)
    assert found == pytest.approx(shape, abs=0.12)
    assert weights.khat(logs[::-1] - 77) == pytest.approx(found, abs=1e-6)


def test_khat_with_zero_weights_is_that_of_the_tail() -> None:
    rng = np.random.default_rng(4)
    logs = np.where(rng.random(20_000) < 0.5, -np.inf, 0.7 * rng.exponential(size=20_000))
    assert weights.khat(logs) == pytest.approx(0.7, abs=0.15)


def test_khat_needs_a_tail() -> None:
    rng = np.random.default_rng(5)
    assert weights.khat(rng.normal(size=10)) is None
    few = np.where(rng.random(1000) < 0.01, -1.0, -np.inf)
    assert weights.khat(few) is None


def draws(logs: np.ndarray, certificate: EnumerationBound | None = None) -> Draws:
    return Draws({}, logs, logs, "test", certificate=certificate)


def test_listed_values_are_summed_and_drawn_ones_averaged() -> None:
    logs = np.log([0.2, 0.3, 0.1])
    assert draws(logs).log_evidence == pytest.approx(math.log(0.2))
    complete = EnumerationBound(math.log(0.6), -math.inf, True, 3)
    listed = draws(logs, complete)
    assert listed.log_evidence == pytest.approx(math.log(0.6))
    assert listed.log_evidence_se == 0 and listed.ess is None and listed.khat is None
    partly = draws(logs, EnumerationBound(math.log(0.6), math.log(0.2), False, 3))
    assert partly.log_evidence_se is None
    assert partly.certificate is not None and partly.certificate.missing_share == pytest.approx(0.25)


def test_missing_shares() -> None:
    assert EnumerationBound(0.0, math.inf, False, 1).missing_share == 1
    assert EnumerationBound(-math.inf, 0.0, False, 1).missing_share == 1
    assert EnumerationBound(0.0, -math.inf, False, 1).missing_share == 0
    estimated = EnumerationBound(0.0, math.log(9), False, 1, estimate=0.2, estimate_se=0.05)
    assert estimated.missing_share == pytest.approx(0.9)
    assert estimated.likely_missing_share == pytest.approx(0.3 / 1.3)
    assert EnumerationBound(0.0, math.log(0.1), False, 1, 5.0, 1.0).likely_missing_share == pytest.approx(
        0.1 / 1.1
    )
