"""What an algorithm draws: weighted values, with what is known of how good they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import numpy as np
from attrs import frozen

from posterior_lm.infer import weights
from posterior_lm.storage import Stored
from posterior_lm.target.values import Datum, Value, distinct

Count = Annotated[int, Stored(low=0)]
Share = Annotated[float, Stored(low=0.0, high=1.0)]
Spread = Annotated[float, Stored(low=0.0, infinite=("inf",))]
Nats = Annotated[float, Stored(infinite=("-inf",))]
AnyNats = Annotated[float, Stored(infinite=("-inf", "inf"))]


@frozen
class EnumerationBound:
    """What exact enumeration knows of what it did not list.

    `covered` is Σ exp(log reward) over the listed values, as a log; `rest` an upper
    bound of the same sum over all others, as a log (+inf where there is none);
    `complete` where nothing is left. All in nats. The bound is safe and often far
    too large; `estimate` is an unbiased estimate of exp(rest) from draws below what
    was opened, relative to exp(covered), with its standard error `estimate_se`.
    """

    covered: Nats
    rest: AnyNats
    complete: bool
    listed: Count
    estimate: Spread | None = None
    estimate_se: Spread | None = None

    @property
    def missing_share(self) -> float:
        """At most this share of the posterior is not listed; 1 where the bound says nothing."""
        if self.complete or self.rest == -math.inf:
            return 0.0
        if self.rest == math.inf or self.covered == -math.inf:
            return 1.0
        return float(np.exp(self.rest - np.logaddexp(self.covered, self.rest)))

    @property
    def likely_missing_share(self) -> float:
        """The share not listed, by the estimate plus twice its standard error; never above the bound."""
        if self.estimate is None or self.estimate_se is None:
            return self.missing_share
        most = self.estimate + 2 * self.estimate_se
        return min(self.missing_share, most / (1 + most))


@frozen(eq=False)
class SmcReport:
    """What sequential Monte Carlo did to get its draws.

    `least_ess` is the smallest effective sample size that the particles had at any
    time, the end included; `ancestors` how many of the particles of the beginning
    have a descendant among the draws with a positive weight; `resampled` how often.
    `variance` estimates that of the evidence, relative to its square, without bias and so sometimes below 0
    (Lee and Whiteley 2018).
    `origin` (N,) is the particle of the beginning that each draw comes from.
    """

    least_ess: float
    ancestors: int
    resampled: int
    variance: float = 0.0
    origin: np.ndarray | None = None


@frozen
class MixtureReport:
    """What a mixture proposed with: guides by `names` with `shares` that sum to 1, after `pilot` draws with equal ones."""

    names: tuple[str, ...]
    shares: tuple[Share, ...]
    pilot: Count


SURE = 3.0
"""Standard errors by which two evidences differ by more than chance."""
PART, FAR = 0.1, 0.3
"""A share of the evidence that is missed and does not matter: where second draws estimate it, and where a list says it,
of which chance alone leaves out more."""


@frozen
class SecondLook:
    """What a second look at draws found (`infer/second_look.py`): by `draws` from flatter proposals, or by a list.

    `log_ratio` is its log evidence less that of the draws, nats, with its standard error `se`; `heavy` the share of the
    evidence on values that the draws make too seldom. `listed` values are all there are, where they were listed;
    `listable` are as many as `exact` would list in seconds, where it would. Each is 0 where it is not so.
    """

    draws: Count
    log_ratio: AnyNats
    se: Spread
    heavy: Share
    listed: Count = 0
    listable: Count = 0

    def missed(self, se: float | None) -> float:
        """The share of the evidence that the draws, with the standard error `se` of their own, have missed; 0 for a small one."""
        above = self.log_ratio > SURE * math.hypot(self.se, se or 0.0)
        share = max(self.heavy, 1.0 - math.exp(-self.log_ratio) if above else 0.0)
        return share if share > (FAR if self.listed else PART) else 0.0


@frozen
class Respelled:
    """A text that the draws spell, but not as the tokenizer itself does, though that spelling has mass (`infer/second_look.py`).

    `datum` of each latent; `log_reward` is log Σ exp over the spellings drawn and that one, nats, `share` what all of them have
    of the posterior as far as it is known (None where the evidence is not), `left_out` the part of them that was not drawn.
    """

    datum: tuple[Datum, ...]
    log_reward: Nats
    left_out: Share
    share: Share | None


@frozen(eq=False)
class Chains:
    """Which Markov chain each draw is from, and how far the chains agree.

    Shapes: `of_draw` (N,) from 0 to number − 1. `rhat` is the worst and `bulk_ess` the least
    (Vehtari et al. 2021) over the log reward, the length of every text and the value of every
    int, the ESS at most the number of draws; None where they cannot be computed. `acceptance` is the share of moves that were accepted.
    """

    number: int
    of_draw: np.ndarray
    rhat: float | None
    bulk_ess: float | None
    acceptance: float


LIGHT = 0.01
"""Values with less than this are compared together with their neighbours: a thousand draws of a wide posterior hit
none of its values as often as they should, and a distance value by value would be chance alone."""


def cells(shares: Mapping[tuple, float]) -> tuple[dict[tuple, int], list[float]]:
    """The cell of each value, and the share of each: heavy values alone, light neighbours in order together."""
    places: dict[tuple, int] = {}
    sums: list[float] = []
    for value, share in sorted(shares.items(), key=lambda item: [(x is not None, x) for x in item[0]]):
        if not sums or max(sums[-1], share) >= LIGHT:
            sums.append(0.0)
        places[value] = len(sums) - 1
        sums[-1] += share
    return places, sums


@frozen(eq=False)
class Draws:
    """Weighted values: N draws with log weights, and where they came from.

    Shapes: each column of `values` N, `log_weights` (N,), `log_reward` (N,),
    `log_prob` (N,) of the proposal (None where draws are listed, not proposed).
    `particles` is there for sequential Monte Carlo, `second_look` where one was taken. `chains` is there for Markov
    chains, whose draws have equal weights and say nothing of the evidence. `decoded` draws
    are what a decoder says: they have equal weights too, and are no draws from the posterior. `left` draws have
    left their supports, hold another's values and weigh nothing (`infer/server_draws.py`). Of `parts` above 0 they are
    draws of the posterior itself, joined of so many lists (`infer/parts.py`).
    """

    values: Mapping[str, tuple[Value, ...]]
    log_weights: np.ndarray
    log_reward: np.ndarray
    method: str
    log_prob: np.ndarray | None = None
    certificate: EnumerationBound | None = None
    reason: str = ""
    seconds: float = 0.0
    particles: SmcReport | None = None
    chains: Chains | None = None
    mixture: MixtureReport | None = None
    decoded: bool = False
    second_look: SecondLook | None = None
    respelled: tuple[Respelled, ...] = ()
    left: int = 0
    parts: int = 0

    def __len__(self) -> int:
        return len(self.log_weights)

    @property
    def exact(self) -> bool:
        """Whether the draws are listed values, each once, rather than samples."""
        return self.certificate is not None

    @property
    def distinct(self) -> int:
        """How many different values there are among the draws with a positive weight."""
        return len(distinct(self.values, np.flatnonzero(np.isfinite(self.log_weights)))[0])

    @property
    def normalized_weights(self) -> np.ndarray:
        """(N,) weights that sum to 1."""
        return weights.normalize(self.log_weights)

    @property
    def log_evidence(self) -> float | None:
        """Nats: log of the mean weight, or of the sum where values are listed; None for Markov chains and decoders."""
        if self.chains is not None or self.decoded:
            return None
        if self.exact:
            return weights.logsumexp(self.log_weights)
        return weights.log_evidence(self.log_weights)

    @property
    def log_evidence_se(self) -> float | None:
        """Standard error in nats; 0 for a complete list, None where it is not known.

        That is so for a list with a rest, for Markov chains and for decoders. The last weights of particles
        show the spread since the last resampling only, so theirs comes from their ancestors.
        """
        if self.certificate is not None:
            return 0.0 if self.certificate.complete else None
        if self.chains is not None or self.decoded:
            return None
        if self.particles is not None and self.particles.resampled:
            return math.sqrt(max(0.0, self.particles.variance))
        return weights.log_evidence_se(self.log_weights)

    @property
    def ess(self) -> float | None:
        """How many independent draws would be as good; that of the chains where there are some; None for decoders."""
        if self.exact or self.decoded:
            return None
        return weights.ess(self.log_weights) if self.chains is None else self.chains.bulk_ess

    @property
    def independent(self) -> float | None:
        """How many independent draws averages rest on: draws of one ancestor, or of one chain, are not.

        Of particles that were resampled, 1 / Σ (share of an ancestor)²; else the ESS.
        """
        if self.particles is None or self.particles.origin is None or not self.particles.resampled:
            return self.ess
        shares = np.bincount(self.particles.origin, weights=self.normalized_weights)
        return float(1.0 / np.sum(shares**2))

    @property
    def shares(self) -> dict[tuple[Datum, ...], float]:
        """The weight of each value: what expressions see of it, one entry for each latent."""
        found: dict[tuple[Datum, ...], float] = {}
        columns = [[value.datum for value in column] for column in self.values.values()]
        for value, weight in zip(zip(*columns, strict=True), self.normalized_weights.tolist(), strict=True):
            found[value] = found.get(value, 0.0) + weight
        return found

    @property
    def noise(self) -> float:
        """The total variation from the posterior that is to be expected by chance alone, light values taken together.

        ½ Σ √(2 p (1 − p) / (π m)) over cells with probabilities p, of m independent draws: the mean deviation of a normal.
        """
        p = np.array(cells(self.shares)[1])
        m = self.independent or 1.0
        return float(0.5 * np.sum(np.sqrt(2 * p * (1 - p).clip(0) / (math.pi * m))))

    @property
    def missing(self) -> float:
        """The share of the posterior that a list leaves out, or that a second look says the draws have missed."""
        if self.certificate is not None:
            return self.certificate.likely_missing_share
        missed = 0.0 if self.second_look is None else self.second_look.missed(self.log_evidence_se)
        return max(missed, self.unspelled if self.unspelled > FAR else 0.0)

    @property
    def unspelled(self) -> float:
        """The share of the posterior on spellings of the heaviest texts that no draw has, and the tokenizer makes."""
        return min(1.0, sum(one.left_out * (one.share or 0.0) for one in self.respelled))

    @property
    def unseen(self) -> float:
        """The share of draws whose value was drawn once: about how many more draws would be new ones (Good 1953)."""
        where = distinct(self.values, range(len(self)))[1]
        return float(np.mean(np.bincount(where)[where] == 1)) if len(self) else 0.0

    @property
    def khat(self) -> float | None:
        """Of the weights; None for listed values, and for Markov chains and decoders, whose weights are equal."""
        equal = self.chains is not None or self.decoded
        return None if self.exact or equal else weights.khat(self.log_weights)
