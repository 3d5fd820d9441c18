"""Particles: draws on their way, with the weights that they have so far, and their resampling.

With γ the unnormalised density that the particles follow so far and q what they were
drawn with, the log weight of particle i is

    log w_i = log Ẑ + (log γ(x_i) − log q(x_i)) − paid_i

where Ẑ is the product of the mean weights at the resamplings so far and `paid` what the
bracket was for the ancestor at the last of them. Whatever γ is on the way, E[mean of w]
is the sum of the last γ (Del Moral 2004, section 7.4.2), since paid telescopes.

Resampling draws N ancestors by weight, so that the expected number of offspring of i is
N · w_i. Every scheme takes normalised weights (N,) and a source of uniform numbers, called
with how many are wanted (`rng.random`), and returns (N,) ancestors in rising order. Chance
only enters through these numbers, so a test can walk over all of them. Systematic resampling
(Kitagawa 1996) adds the least noise; Douc, Cappé and Moulines (2005) compare the four.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from attrs import define, evolve, field, frozen

from posterior_lm.infer.choosers import Chooser, Sample
from posterior_lm.infer.draws import SmcReport
from posterior_lm.infer.weights import ess, logsumexp, normalize
from posterior_lm.target.values import Value


class Chance(Chooser, Protocol):
    """Every random choice that is made: tokens, values of finite types, ancestors."""

    def ancestors(self, weights: np.ndarray) -> np.ndarray:
        """(N,) for normalised weights (N,); E[offspring of i] = N · weights[i]."""
        ...


@frozen
class Dice(Sample):
    """Choices from a generator; ancestors by a scheme of `resampling`."""

    scheme: str = "systematic"

    def ancestors(self, weights: np.ndarray) -> np.ndarray:
        return SCHEMES[self.scheme](weights, self.rng.random)


@define(eq=False)
class Retained(Chooser):
    """Chance for all particles but the first, which follows given tokens and is its own ancestor.

    The ancestors of the others are drawn independently, for which keeping one is right as
    it stands; other schemes need a form of their own (Chopin & Singh 2015).
    """

    others: Sample
    ids: Sequence[tuple[int, ...]]
    """Of each latent that it has, in turn."""
    latent: int = -1

    def ancestors(self, weights: np.ndarray) -> np.ndarray:
        found = self.others.rng.choice(len(weights), size=len(weights), p=weights)
        found[0] = 0
        return found

    def tokens(self, draws: np.ndarray, point: np.ndarray, step: int, probs: np.ndarray) -> np.ndarray:
        picked = np.array(self.others.tokens(draws, point, step, probs))
        place = np.flatnonzero(draws == 0)
        if len(place):
            self.latent += step == 0
            own = self.ids[self.latent]
            picked[place] = own[step] if step < len(own) else probs.shape[1] - 1
        return picked

    def values(self, draws: np.ndarray, probs: np.ndarray, ids: Sequence[tuple[int, ...]]) -> np.ndarray:
        picked = np.array(self.others.values(draws, probs, ids))
        place = np.flatnonzero(draws == 0)
        if len(place):
            self.latent += 1
            picked[place] = list(ids).index(self.ids[self.latent])
        return picked

    def lengths(self, draws: np.ndarray, probs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        picked = np.array(self.others.lengths(draws, probs, lengths))
        place = np.flatnonzero(draws == 0)
        if len(place):
            picked[place] = list(lengths).index(len(self.ids[self.latent + 1]))
        return picked


@frozen(eq=False)
class Particles:
    """N particles. Arrays (N,), float64, nats; what belongs to one moves with it when it is resampled."""

    log_ratio: np.ndarray
    """log γ − log q without the twist; −inf for the dead."""
    twist: np.ndarray
    """What a twist adds to log γ until the latent is finished."""
    log_q: np.ndarray
    """Of the finished latents."""
    paid: np.ndarray
    origin: np.ndarray
    """The particle of the beginning that each comes from."""
    least_ess: float
    """The smallest effective sample size at any time so far."""
    values: Mapping[str, Sequence[Value]] = field(factory=dict)
    """N values of every latent that is finished."""
    scores: Mapping[int, np.ndarray] = field(factory=dict)
    """Scores of the finished latents that the log reward will ask for again, by node."""
    log_evidence: float = 0.0
    resampled: int = 0
    """How often."""

    @classmethod
    def begin(cls, n: int) -> Particles:
        """N particles that hold nothing."""
        log_ratio, twist, log_q, paid = (np.zeros(n) for _ in range(4))
        return cls(log_ratio, twist, log_q, paid, np.arange(n), float(n))

    @property
    def n(self) -> int:
        return len(self.origin)

    @property
    def alive(self) -> np.ndarray:
        return np.isfinite(self.log_ratio)

    @property
    def log_weights(self) -> np.ndarray:
        """So far; the mean of their exponentials estimates the mass of γ."""
        return self.log_evidence + self.log_ratio + self.twist - self.paid

    def weighed(self, log_weights: np.ndarray) -> Particles:
        """With (N,) nats that each has gained."""
        return evolve(self, log_ratio=self.log_ratio + log_weights)

    def twisted(self, log_psi: np.ndarray) -> Particles:
        """With another twist (N,), nats; −inf kills."""
        dead = np.isneginf(log_psi)
        return evolve(
            self,
            log_ratio=np.where(dead, -np.inf, self.log_ratio),
            twist=np.where(dead, self.twist, log_psi),
        )

    def resample(self, chance: Chance, threshold: float) -> tuple[Particles, np.ndarray | None]:
        """N particles of equal weight, and their ancestors (N,), where the ESS was below `threshold` N.

        Else themselves and None. Only called before a choice.
        """
        log_weights = self.log_weights
        if logsumexp(log_weights) == -np.inf:
            return self, None
        size = ess(log_weights)
        least = min(self.least_ess, size)
        # Equal weights have ESS N but for rounding.
        if size >= threshold * self.n - 1e-6:
            return evolve(self, least_ess=least), None
        ancestors = chance.ancestors(normalize(log_weights))
        log_ratio, twist = self.log_ratio[ancestors], self.twist[ancestors]
        moved = Particles(
            log_ratio,
            twist,
            self.log_q[ancestors],
            log_ratio + twist,
            self.origin[ancestors],
            least,
            {name: [column[a] for a in ancestors] for name, column in self.values.items()},
            {node: column[ancestors] for node, column in self.scores.items()},
            logsumexp(log_weights) - float(np.log(self.n)),
            self.resampled + 1,
        )
        return moved, ancestors

    def report(self, log_weights: np.ndarray) -> SmcReport:
        """What the last log weights (N,) say, with what was seen on the way."""
        weights = normalize(log_weights)
        shares = np.bincount(self.origin, weights=weights, minlength=self.n)
        # Lee and Whiteley 2018, eq. 6: pairs from different ancestors, which is the usual
        # estimate where nothing was resampled.
        pairs = (self.n / max(1, self.n - 1)) ** (self.resampled + 1) * (1.0 - float(np.sum(shares**2)))
        return SmcReport(
            least_ess=min(self.least_ess, ess(log_weights)),
            ancestors=int(np.sum(shares > 0)),
            resampled=self.resampled,
            variance=1.0 - pairs,
            origin=self.origin,
        )


def together(reports: Sequence[SmcReport], masses: np.ndarray) -> SmcReport:
    """Independent swarms as one; `masses` (K,) are the log sums of their weights."""
    shares = normalize(masses)
    found = [np.zeros(0, dtype=np.int64) if r.origin is None else r.origin for r in reports]
    begin = np.cumsum([0, *(len(one) for one in found[:-1])])
    variance = float(sum(s**2 * r.variance for s, r in zip(shares, reports, strict=True)))
    return SmcReport(
        least_ess=sum(r.least_ess for r in reports),
        ancestors=sum(r.ancestors for r in reports),
        resampled=sum(r.resampled for r in reports),
        variance=variance,
        origin=np.concatenate([one + at for one, at in zip(found, begin, strict=True)]),
    )


# ---------------------------------------------------------------- resampling

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
