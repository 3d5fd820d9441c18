"""Distributions over reals: log densities, and log masses of the cells that a latent's range is cut into, in nats.

The mass of a cell is a difference of distribution functions, taken on the side of the middle on which
both are small and in logarithms, so that cells far out keep their digits and are never −∞ by underflow.
"""

from __future__ import annotations

import math
from typing import Protocol

from attrs import frozen

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Real(Protocol):
    """A continuous distribution."""

    @property
    def middle(self) -> float:
        """Where `below` and `above` are both far from 1."""
        ...

    def log_density(self, x: float) -> float: ...

    def below(self, x: float) -> float:
        """log P(X < x), for x up to the middle."""
        ...

    def above(self, x: float) -> float:
        """log P(X > x), for x from the middle on."""
        ...


def log_mass(of: Real, low: float, high: float) -> float:
    """log P(low < X < high); −inf where the whole cell lies outside the distribution's own range."""
    if high <= of.middle:
        return _minus(of.below(high), of.below(low))
    if low >= of.middle:
        return _minus(of.above(low), of.above(high))
    return math.log1p(-min(1.0 - 1e-16, math.exp(of.below(low)) + math.exp(of.above(high))))


def _minus(more: float, less: float) -> float:
    """log(exp more − exp less)."""
    if less == -math.inf or more == -math.inf:
        return more
    apart = more - less
    return more + math.log(-math.expm1(-apart)) if apart > 0 else -math.inf


@frozen
class Normal:
    """`normal(mean, sd)`."""

    middle: float
    sd: float

    def log_density(self, x: float) -> float:
        z = (x - self.middle) / self.sd
        return -0.5 * z * z - math.log(self.sd) - _HALF_LOG_2PI

    def below(self, x: float) -> float:
        return _log_tail((self.middle - x) / self.sd)

    def above(self, x: float) -> float:
        return _log_tail((x - self.middle) / self.sd)


def _log_tail(z: float) -> float:
    """log P(Z > z) of the standard normal for z ≥ 0; far out by its asymptotic series (Abramowitz and Stegun 26.2.12)."""
    if z < 30:
        return math.log(0.5 * math.erfc(z / math.sqrt(2)))
    v = 1 / (z * z)
    return -0.5 * z * z - _HALF_LOG_2PI - math.log(z) + math.log1p(v * (-1 + v * (3 - 15 * v)))


@frozen
class Beta:
    """`beta(a, b)`."""

    a: float
    b: float

    @property
    def middle(self) -> float:
        return (self.a + 1) / (self.a + self.b + 2)

    @property
    def _log_whole(self) -> float:
        return math.lgamma(self.a) + math.lgamma(self.b) - math.lgamma(self.a + self.b)

    def log_density(self, x: float) -> float:
        if not 0 <= x <= 1:
            return -math.inf
        return _times_log(self.a - 1, x) + _times_log(self.b - 1, 1 - x) - self._log_whole

    def below(self, x: float) -> float:
        return self._log_part(self.a, self.b, x)

    def above(self, x: float) -> float:
        return self._log_part(self.b, self.a, 1 - x)

    def _log_part(self, a: float, b: float, x: float) -> float:
        """log of the regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
        if x <= 0:
            return -math.inf
        front = a * math.log(x) + b * math.log1p(-x) - self._log_whole - math.log(a)
        return front - math.log(_fraction(a, b, x))


def _fraction(a: float, b: float, x: float) -> float:
    """1 + d₁/(1 + d₂/(1 + …)) from the end of as many terms as move it, for x below (a + 1)/(a + b + 2)."""
    terms, last = 16, math.inf
    while True:
        value = 1.0
        for k in range(terms, 0, -1):
            m = k // 2
            d = (
                -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
                if k % 2
                else m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
            )
            value = 1.0 + d / value
        if abs(value - last) <= 1e-14 * abs(value) or terms > 1 << 14:
            return value
        terms, last = 2 * terms, value


def _times_log(power: float, x: float) -> float:
    """power · log x, with 0 · log 0 = 0."""
    if power == 0:
        return 0.0
    return power * math.log(x) if x > 0 else -math.copysign(math.inf, power)
