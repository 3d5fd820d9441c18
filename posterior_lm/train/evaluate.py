"""Measuring a policy: its draws and the prior's on rows, and exact draws of rows that the program simulates.

log Z of a simulated row is held between two importance estimates (Grosse, Ghahramani & Adams 2015, bidirectional
Monte Carlo; Grosse, Ancha & Roy 2016; Zhao et al. 2024), with z* its exact draw:

    E log 1/N Σ w(z_i)  ≤  log Z  ≤  E log 1/(N+1) [w(z*) + Σ w(z_i)].
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from attrs import frozen

from posterior_lm.infer.guide import Guide, PriorGuide, Proposal
from posterior_lm.infer.mixture import mixed
from posterior_lm.infer.weights import ess, khat, log_evidence, logsumexp, normalize
from posterior_lm.target.prepared import Data, PreparedProgram
from posterior_lm.target.target import Target
from posterior_lm.target.values import Values, distinct, take
from posterior_lm.train.certificate import FEWEST, Bounds, PolicyReport, RowCheck, Simulated
from posterior_lm.train.simulate import Pair, Simulator, equally_weighted

T = TypeVar("T")
ROUNDS = 8
"""Times that pairs are simulated before it counts as too rarely that one can be kept."""
PER_BIN = 8
"""Ranks expected in a bin of the chi-square test: its approximation needs about five (Cochran 1954)."""
MOST_BINS = 20


def certify(
    program: PreparedProgram,
    rows: Sequence[Data],
    numbers: Sequence[int],
    guide_of: Callable[[Target], Guide],
    *,
    simulator: Simulator | None,
    draws: int = 200,
    simulated: int = 32,
    seed: int = 0,
    move: Callable[[float], None] | None = None,
    left: Callable[[], float] | None = None,
    note: str = "",
    held_out: bool = True,
    training: float | None = None,
) -> PolicyReport:
    """What can be said of the guides that `guide_of` gives, as proposals for the rows with these `numbers`.

    `rows` are validated; `numbers` have not been trained on where they are `held_out`, and `training` are the seconds
    that the training took. `simulator` is one over the same rows, None where none should be simulated, for which `note`
    gives the reason. Each row has its own random numbers, from `seed` and its number. `move` is told the share that is
    done. No row but the first is begun that would take longer than `left` says there is time for, in seconds, by the
    rows before it. ValueError where there is no row or no draw.
    """
    if not len(numbers) or draws < 1:
        raise ValueError("a certificate needs at least one row and one draw")
    shown = simulated if simulator is not None and simulator.exact and simulated >= FEWEST else 0
    whole = len(numbers) + shown / 2
    checks: list[RowCheck] = []
    for number in _in_time(numbers, left):
        target = program.bind_valid(rows[number])
        rng = np.random.default_rng([seed, 1, number])
        checks.append(_check(target, guide_of(target), number, draws, rng))
        if move is not None:
            move(len(checks) / whole)

    def report(note: str, exact: Simulated | None = None) -> PolicyReport:
        return PolicyReport(draws, tuple(checks), exact, note, held_out, training)

    if simulator is None:
        return report(note or "the program's observations cannot be simulated")
    if not simulator.exact:
        return report("simulated draws of this program need weights")
    if simulated < FEWEST:
        return report(f"{simulated} were asked for, and fewer than {FEWEST} say little")
    pairs, _ = equally_weighted(simulator, numbers, simulated, seed, 3, ROUNDS)
    if len(pairs) < FEWEST:
        return report(f"{len(pairs)} could be simulated, and fewer than {FEWEST} say little")
    found: list[_Compared] = []
    for k, pair in enumerate(_in_time(pairs, left)):
        target = program.bind_valid(pair.data)
        found.append(_compare(target, guide_of(target), pair, draws, np.random.default_rng([seed, 2, k])))
        if move is not None:
            move((len(numbers) + len(found) / 2) / whole)
    if len(found) < FEWEST:
        return report(f"there was time for {len(found)}, and fewer than {FEWEST} say little")
    return report("", _summary(found, draws))


def _in_time(items: Sequence[T], left: Callable[[], float] | None) -> Iterator[T]:
    """The first, and the others as long as there is time for one that takes as long as the longest before it."""
    longest = 0.0
    for k, item in enumerate(items):
        if k and left is not None and left() < longest:
            return
        began = time.monotonic()
        yield item
        longest = max(longest, time.monotonic() - began)


# ------------------------------------------------------------------------------- rows


def weigh(target: Target, guide: Guide, n: int, rng: np.random.Generator) -> tuple[np.ndarray, Proposal]:
    """(N,) log weights of N draws of the guide, nats, and the draws. All −∞ where all are dead."""
    proposal = guide.sample(rng, n)
    return _log_reward(target, proposal.values, proposal.scores) - proposal.log_prob, proposal


def _log_reward(target: Target, values: Values, scores: Mapping[int, np.ndarray]) -> np.ndarray:
    return np.asarray(target.terms(values, scores).sum(axis=1))


@frozen(eq=False)
class Both:
    """N draws of a guide, then N of the prior: log rewards (2, N) and log probabilities under the two (2, N, 2), nats.

    `seconds` are what each N took, drawn and weighed.
    """

    log_reward: np.ndarray
    log_prob: np.ndarray
    seconds: tuple[float, float]

    @classmethod
    def of(cls, target: Target, guide: Guide, n: int, rng: np.random.Generator) -> Both:
        prior = PriorGuide(target)
        began = time.monotonic()
        own = guide.sample(rng, n)
        first, where = distinct(own.values, range(n))
        traced = prior.retraced(take(own.values, first))  # which finds scores that the reward needs
        rewards = [_log_reward(target, own.values, {k: v[where] for k, v in traced.scores.items()})]
        middle = time.monotonic()
        other = prior.sample(rng, n)
        rewards.append(_log_reward(target, other.values, other.scores))
        seconds = middle - began, time.monotonic() - middle
        first, places = distinct(other.values, range(n))
        log_prob = [
            np.stack([own.log_prob, traced.log_prob[where]], axis=1),
            np.stack([guide.log_prob(take(other.values, first))[places], other.log_prob], axis=1),
        ]
        return cls(np.stack(rewards), np.stack(log_prob), seconds)

    @property
    def log_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) of the guide's draws and (N,) of the prior's, each by its own probability."""
        return self.log_reward[0] - self.log_prob[0, :, 0], self.log_reward[1] - self.log_prob[1, :, 1]


def _check(target: Target, guide: Guide, number: int, n: int, rng: np.random.Generator) -> RowCheck:
    both = Both.of(target, guide, n, rng)
    own, prior = both.log_weights
    return RowCheck(
        row=number,
        ess=_share(own),
        khat=khat(own) if np.isfinite(own).any() else None,
        elbo=_mean(own),
        log_evidence=log_evidence(own),
        dead=float(np.mean(np.isneginf(own))),
        prior_ess=_share(prior),
        bounds=bounds_of(both),
    )


def bounds_of(both: Both) -> Bounds:
    """The bounds of one row's log evidence, as `Bounds` describes them."""
    n = both.log_reward.shape[1]
    own, prior = both.log_weights
    log_u = both.log_reward - mixed(both.log_prob, np.array([0.5, 0.5]))
    evidence, forward, gain, errors = -math.inf, math.inf, 0.0, [math.inf] * 3
    if np.isfinite(log_u).any():
        evidence = log_evidence(log_u.ravel())
        share = normalize(log_u.ravel()).reshape(log_u.shape)
        alive = share > 0
        log_w = np.where(alive, both.log_reward, 0.0) - np.where(alive, both.log_prob[..., 0], 0.0)
        forward, errors[0] = float(np.sum(share * log_w)), _stratified(share)
        gain = float(np.sum(share[alive] * (both.log_prob[..., 0] - both.log_prob[..., 1])[alive]))
        if forward < math.inf:
            errors[1:] = [_stratified(share * (log_w - forward - one)) for one in (0.0, 1.0)]
    return Bounds(
        evidence=evidence,
        evidence_se=errors[0],
        forward=forward,
        forward_se=errors[1],
        divergence_se=errors[2],
        elbo_se=float(own.std(ddof=1)) / math.sqrt(n) if n > 1 and np.isfinite(own).all() else math.inf,
        ess_se=_share_se(own),
        prior_ess_se=_share_se(prior),
        seconds=both.seconds,
        gain=gain,
    )


def _stratified(shares: np.ndarray) -> float:
    """The standard error of a sum of (strata, N) numbers, drawn independently within each."""
    n = shares.shape[1]
    return math.sqrt(n * float(shares.var(axis=1, ddof=1).sum())) if n > 1 else math.inf


def _share_se(weights: np.ndarray) -> float:
    """The standard error of ESS/N; 0 where every draw is dead."""
    n = len(weights)
    if not np.isfinite(weights).any():
        return 0.0
    w = normalize(weights) * n  # mean 1
    second = float(np.mean(w * w))
    return float(np.std(2 * w - w * w / second, ddof=1)) / math.sqrt(n) / second if n > 1 else math.inf


def _share(weights: np.ndarray) -> float:
    """ESS/N; 0 where every draw is dead."""
    return ess(weights) / len(weights) if np.isfinite(weights).any() else 0.0


def _mean(weights: np.ndarray) -> float:
    return float(np.mean(weights)) if np.isfinite(weights).all() else -math.inf


# ------------------------------------------------------------------------------- simulated rows


@frozen
class _Compared:
    """One simulated row, nats: log w of the exact draw, E_q[log w], the bounds of log Z, and the rank."""

    exact: float
    elbo: float
    low: float
    high: float
    rank: int


def _compare(target: Target, guide: Guide, pair: Pair, n: int, rng: np.random.Generator) -> _Compared:
    own, proposal = weigh(target, guide, n, rng)
    values = {name: (pair.values[name],) for name in target.names}
    log_q = float(guide.log_prob(values)[0])
    exact = float(target.log_reward(values)[0]) - log_q
    # Texts are discrete, so equal ones get a rank at random among themselves. Rounding tells log q of
    # one text scored from that of the same text drawn, so equality is that of the tokens.
    same = np.array([
        all(proposal.values[k][d].ids == v.ids for k, (v,) in values.items()) for d in range(n)
    ])  # fmt: skip
    tied = same | (proposal.log_prob == log_q)
    below = int(np.sum(~tied & (proposal.log_prob < log_q)))
    return _Compared(
        exact=exact,
        elbo=_mean(own),
        low=log_evidence(own),
        high=logsumexp(np.append(own, exact)) - math.log(n + 1),
        rank=below + int(rng.integers(int(tied.sum()) + 1)),
    )


def _summary(found: Sequence[_Compared], n: int) -> Simulated:
    exact, elbo, low, high = (
        np.array([getattr(c, name) for c in found]) for name in ("exact", "elbo", "low", "high")
    )
    unreachable = int(np.sum(exact == math.inf))
    forward = (math.inf, math.inf)
    if not unreachable:
        forward = (float(np.mean(exact - high)), _infinite_mean(exact - low))
    reverse = (math.inf, math.inf)
    if np.isfinite(elbo).all():
        reverse = (float(np.mean(low - elbo)), float(np.mean(high - elbo)))
    return Simulated(
        rows=len(found),
        forward=forward,
        reverse=reverse,
        jeffreys=forward[0] + reverse[1],
        unreachable=unreachable,
        p_value=uniform_p_value([c.rank for c in found], n + 1),
    )


def _infinite_mean(x: np.ndarray) -> float:
    return float(np.mean(x)) if np.isfinite(x).all() else math.inf


def uniform_p_value(ranks: Sequence[int], size: int) -> float | None:
    """p of the chi-square test that ranks are uniform over 0..size−1; None for too few to tell.

    Simulation-based calibration (Talts et al. 2018, §4): under the right posterior the rank of an
    exact draw's statistic among independent draws is uniform. Here the statistic is log q. A guide
    that ignores the data, as the prior does, passes too, so this rules out and never certifies.
    """
    bins = min(len(ranks) // PER_BIN, MOST_BINS, size)
    if bins < 2:
        return None
    edges = np.arange(1, bins) * size / bins
    places = np.searchsorted(edges, np.arange(size), side="right")  # the bin of each rank
    expected = np.bincount(places, minlength=bins) * (len(ranks) / size)
    seen = np.bincount(places[np.asarray(ranks)], minlength=bins)
    statistic = float(np.sum((seen - expected) ** 2 / expected))
    shape = torch.tensor((bins - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(shape, torch.tensor(statistic / 2, dtype=torch.float64)))
