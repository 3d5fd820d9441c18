"""Particles: draws on their way, with the weights that they have so far, and their resampling.

With γ the unnormalised density that the particles follow so far and q what they were
drawn with, the log weight of particle i is

    log w_i = log Ẑ + (log γ(x_i) − log q(x_i)) − paid_i

where Ẑ is the product of the mean weights at the resamplings so far and `paid` what the
bracket was for the ancestor at the last of them. Whatever γ is on the way, E[mean of w]
is the sum of the last γ (Del Moral 2004, section 7.4.2), since paid telescopes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from attrs import define, field, frozen

from posterior_lm.infer.base import Particles
from posterior_lm.infer.choose import Chooser, Sample
from posterior_lm.infer.resampling import SCHEMES
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
class Swarm:
    """N particles. What belongs to one moves with it when it is resampled. Nats, float64."""

    n: int
    chance: Chance
    threshold: float
    """Resample where ESS is below this part of N."""
    values: dict[str, list[Value]] = field(factory=dict)
    """The latents that are finished."""
    scores: dict[int, np.ndarray] = field(factory=dict)
    """Scores of the finished latents that the log reward will ask for again, by node (N,)."""
    log_ratio: np.ndarray = field(init=False)
    """(N,) log γ − log q without the twist; −inf for the dead."""
    twist: np.ndarray = field(init=False)
    """(N,) what a twist adds to log γ until the latent is finished."""
    log_q: np.ndarray = field(init=False)
    """(N,) of the finished latents."""
    mass: np.ndarray = field(init=False)
    """(N,) of the latent being drawn, Σ log of the mass that was allowed."""
    paid: np.ndarray = field(init=False)
    origin: np.ndarray = field(init=False)
    """(N,) the particle of the beginning that each comes from."""
    log_evidence: float = 0.0
    least_ess: float = field(init=False)
    resampled: int = 0

    def __attrs_post_init__(self) -> None:
        self.log_ratio, self.twist, self.log_q, self.mass, self.paid = (np.zeros(self.n) for _ in range(5))
        self.origin = np.arange(self.n)
        self.least_ess = float(self.n)

    @property
    def alive(self) -> np.ndarray:
        return np.isfinite(self.log_ratio)

    @property
    def log_weights(self) -> np.ndarray:
        """(N,) so far; the mean of their exponentials estimates the mass of γ."""
        return self.log_evidence + self.log_ratio + self.twist - self.paid

    def kill(self, draws: np.ndarray) -> None:
        self.log_ratio[draws] = -np.inf

    def resample(self) -> np.ndarray | None:
        """(N,) ancestors where the weights have become too unequal, else None. Only called before a choice."""
        log_weights = self.log_weights
        if logsumexp(log_weights) == -np.inf:
            return None
        size = ess(log_weights)
        self.least_ess = min(self.least_ess, size)
        # Equal weights have ESS N but for rounding.
        if size >= self.threshold * self.n - 1e-6:
            return None
        ancestors = self.chance.ancestors(normalize(log_weights))
        self.log_evidence = logsumexp(log_weights) - float(np.log(self.n))
        for name in ("log_ratio", "twist", "log_q", "mass", "origin"):
            setattr(self, name, getattr(self, name)[ancestors])
        self.paid = self.log_ratio + self.twist
        self.values = {name: [column[a] for a in ancestors] for name, column in self.values.items()}
        self.scores = {node: column[ancestors] for node, column in self.scores.items()}
        self.resampled += 1
        return ancestors

    def report(self, log_weights: np.ndarray) -> Particles:
        """What the last log weights (N,) say, with what was seen on the way."""
        weights = normalize(log_weights)
        shares = np.bincount(self.origin, weights=weights, minlength=self.n)
        # Lee and Whiteley 2018, eq. 6: pairs from different ancestors, which is the usual
        # estimate where nothing was resampled.
        pairs = (self.n / max(1, self.n - 1)) ** (self.resampled + 1) * (1.0 - float(np.sum(shares**2)))
        return Particles(
            least_ess=min(self.least_ess, ess(log_weights)),
            ancestors=int(np.sum(shares > 0)),
            resampled=self.resampled,
            variance=1.0 - pairs,
            origin=self.origin,
        )


def together(reports: Sequence[Particles], masses: np.ndarray) -> Particles:
    """Independent swarms as one; `masses` (K,) are the log sums of their weights."""
    shares = np.exp(masses - logsumexp(masses))
    found = [np.zeros(0, dtype=np.int64) if r.origin is None else r.origin for r in reports]
    begin = np.cumsum([0, *(len(one) for one in found[:-1])])
    variance = float(sum(s**2 * r.variance for s, r in zip(shares, reports, strict=True)))
    return Particles(
        least_ess=sum(r.least_ess for r in reports),
        ancestors=sum(r.ancestors for r in reports),
        resampled=sum(r.resampled for r in reports),
        variance=variance,
        origin=np.concatenate([one + at for one, at in zip(found, begin, strict=True)]),
    )
