"""Resampling: N ancestors drawn by weight, so that the expected number of offspring of i is N · w_i.

Every scheme takes normalised weights (N,) and a source of uniform numbers, called with how
many are wanted (`rng.random`), and returns (N,) ancestors in rising order. Chance only
enters through these numbers, so a test can walk over all of them. Systematic resampling
(Kitagawa 1996) adds the least noise; Douc, Cappé and Moulines (2005) compare the four.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Uniform = Callable[[int], np.ndarray]


def systematic(weights: np.ndarray, uniform: Uniform) -> np.ndarray:
    """One number for all: the offspring of i are N w_i, rounded up or down."""
    n = len(weights)
    return _at(weights, (uniform(1) + np.arange(n)) / n)


def stratified(weights: np.ndarray, uniform: Uniform) -> np.ndarray:
    """One number in each of N equal parts of the unit interval."""
    n = len(weights)
    return _at(weights, (uniform(n) + np.arange(n)) / n)


def residual(weights: np.ndarray, uniform: Uniform) -> np.ndarray:
    """⌊N w_i⌋ offspring for certain, the rest by `multinomial` from what is left of each weight."""
    n = len(weights)
    # A weight that is a whole number of N-ths may lie below it by rounding.
    sure = np.floor(n * weights + 1e-9).astype(np.int64)
    left = n - int(sure.sum())
    rest = np.maximum(n * weights - sure, 0.0)
    certain = np.repeat(np.arange(n), sure)
    if left <= 0 or rest.sum() == 0:
        return certain[:n]
    return np.sort(np.r_[certain, _at(rest / rest.sum(), np.sort(uniform(left)))])


def multinomial(weights: np.ndarray, uniform: Uniform) -> np.ndarray:
    """N independent draws."""
    return _at(weights, np.sort(uniform(len(weights))))


SCHEMES: Mapping[str, Callable[[np.ndarray, Uniform], np.ndarray]] = {
    "systematic": systematic,
    "stratified": stratified,
    "residual": residual,
    "multinomial": multinomial,
}
"""By the name that `infer smc(resample=…)` gives them."""


def _at(weights: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The index whose cumulative weight first exceeds each place; never one of weight zero."""
    cumulative = np.cumsum(weights)
    last = int(np.flatnonzero(weights)[-1])
    return np.minimum(np.searchsorted(cumulative, places * cumulative[-1], side="right"), last)
