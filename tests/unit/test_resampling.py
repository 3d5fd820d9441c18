"""Resampling: expected offspring are exactly N w, by walking over the uniform numbers; and how much noise each adds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from posterior_lm.infer.particles import SCHEMES, multinomial, residual, stratified, systematic

WEIGHTS = [
    np.array([0.5, 0.2, 0.3]),
    np.array([0.05, 0.0, 0.62, 0.33]),
    np.array([0.0, 0.9, 0.1]),
    np.array([0.25, 0.5, 0.25, 0.0]),  # whole numbers of N-ths
    np.array([0.0, 0.0, 1.0]),
]
weights = pytest.mark.parametrize("weights", WEIGHTS, ids=str)


def pieces(edges: np.ndarray) -> list[tuple[float, float]]:
    """Middle and width of the intervals between the edges inside 0..1."""
    ends = np.unique(np.r_[0.0, edges[(edges > 0) & (edges < 1)], 1.0])
    return [((a + b) / 2, b - a) for a, b in itertools.pairwise(ends) if b - a > 1e-12]


def outcomes(name: str, weights: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Every outcome with its probability."""
    n, edges = len(weights), np.cumsum(weights)
    if name == "systematic":
        cells = [pieces(np.mod(edges * n, 1))]
    elif name == "stratified":
        cells = [pieces(edges * n - j) for j in range(n)]
    elif name == "multinomial":
        cells = [pieces(edges)] * n
    else:
        sure = np.floor(n * weights + 1e-9)
        left = n * weights - sure
        cells = [pieces(np.cumsum(left / left.sum()))] * round(n - sure.sum()) if left.sum() > 1e-9 else []
    for way in itertools.product(*cells):

        def uniform(k: int, way: tuple[tuple[float, float], ...] = way) -> np.ndarray:
            assert k == len(way)
            return np.array([middle for middle, _ in way])

        probability = float(np.prod([width for _, width in way]))
        yield probability, np.bincount(SCHEMES[name](weights, uniform), minlength=n)


@weights
@pytest.mark.parametrize("name", SCHEMES)
def test_expected_offspring_are_n_times_the_weight(name: str, weights: np.ndarray) -> None:
    mean, total = np.zeros(len(weights)), 0.0
    for probability, counts in outcomes(name, weights):
        assert counts.sum() == len(weights) and (counts[weights == 0] == 0).all()
        mean, total = mean + probability * counts, total + probability
    assert total == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(mean, len(weights) * weights, atol=1e-9)


def variance(name: str, weights: np.ndarray) -> float:
    """The summed variance of the offspring."""
    wanted = len(weights) * weights
    return sum(p * float(np.sum((counts - wanted) ** 2)) for p, counts in outcomes(name, weights))


def test_systematic_adds_the_least_noise_and_multinomial_the_most() -> None:
    """Douc, Cappe and Moulines (2005): residual and stratified are never worse than multinomial."""
    for w in WEIGHTS[:3]:
        assert variance("multinomial", w) == pytest.approx(len(w) * float(np.sum(w * (1 - w))), rel=1e-9)
        assert variance("stratified", w) < variance("multinomial", w) - 1e-6
        assert variance("residual", w) < variance("multinomial", w) - 1e-6
        assert variance("systematic", w) <= variance("stratified", w) + 1e-9
    assert variance("systematic", WEIGHTS[1]) < variance("stratified", WEIGHTS[1]) - 1e-3


def test_systematic_rounds_up_or_down() -> None:
    w = np.array([0.43, 0.11, 0.31, 0.15])
    for _, counts in outcomes("systematic", w):
        assert (counts >= np.floor(4 * w)).all() and (counts <= np.ceil(4 * w)).all()


def test_residual_keeps_what_is_certain() -> None:
    w = np.array([0.55, 0.15, 0.3])
    assert all((counts >= [1, 0, 0]).all() for _, counts in outcomes("residual", w))
    assert any(counts[0] == 3 for _, counts in outcomes("multinomial", w))
    assert (residual(np.full(5, 0.2), lambda k: np.full(k, 0.99)) == np.arange(5)).all()


@pytest.mark.parametrize("scheme", [systematic, stratified, residual, multinomial])
def test_the_far_ends_are_never_a_weight_of_zero(scheme: object) -> None:
    for w in (np.array([0.0, 0.7, 0.3, 0.0]), np.array([0.0, 0.1 + 0.2, 0.7, 0.0])):
        for u in (0.0, np.nextafter(1.0, 0.0)):
            found = scheme(w, lambda k, u=u: np.full(k, u))  # type: ignore[operator]
            assert len(found) == 4 and set(found) <= {1, 2} and (np.diff(found) >= 0).all()


@pytest.mark.parametrize("scheme", [systematic, stratified, residual, multinomial])
def test_ancestors_are_in_rising_order(scheme: object) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        w = rng.dirichlet(np.full(9, 0.3))
        found = scheme(w, rng.random)  # type: ignore[operator]
        assert found.shape == (9,) and (np.diff(found) >= 0).all() and len(set(found)) > 1


def test_a_whole_number_of_nths_that_rounding_made_smaller_is_certain() -> None:
    w = np.full(49, 1 / 49)
    assert 49 * w[0] < 1
    assert (residual(w, lambda k: np.full(k, 0.01)) == np.arange(49)).all()
