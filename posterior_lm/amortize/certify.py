"""Measuring a policy: on held-out rows by its own weights, on simulated rows by exact draws.

With z* an exact posterior draw, z a draw of the policy q, and w = exp(log reward) / q,

    E_p[log w(z*)] = log Z + KL(p‖q),    E_q[log w(z)] = log Z − KL(q‖p),

so the gap of the two is the Jeffreys divergence, whatever log Z is (Grosse, Ghahramani &
Adams 2015, bidirectional Monte Carlo; Grosse, Ancha & Roy 2016). log Z itself is held
between two importance estimates (Zhao et al. 2024, bidirectional bounds):

    E log 1/N Σ w(z_i)  ≤  log Z  ≤  E log 1/(N+1) [w(z*) + Σ w(z_i)].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from attrs import frozen

from posterior_lm.amortize.certificate import FEWEST, Certificate, RowCheck, Simulated
from posterior_lm.amortize.simulate import Pair, Simulator
from posterior_lm.infer.guide import Guide, PriorGuide, Proposal
from posterior_lm.infer.importance import log_weights
from posterior_lm.infer.weights import ess, khat, log_evidence, logsumexp
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.target.prepared import Data, PreparedProgram
from posterior_lm.target.target import Target

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
) -> Certificate:
    """What can be said of the guides that `guide_of` gives, as proposals for the rows with these `numbers`.

    `rows` are validated; `numbers` should not have been trained on. `simulator`
    is one over the same rows, None where the program cannot be simulated. Each row has its own
    random numbers, from `seed` and its number. ValueError where there is no row or no draw.
    """
    if not len(numbers) or draws < 1:
        raise ValueError("a certificate needs at least one row and one draw")
    checks = []
    for number in numbers:
        target = program.bind_valid(rows[number])
        rng = np.random.default_rng([seed, 1, number])
        checks.append(_check(target, guide_of(target), number, draws, rng))
    if simulator is None:
        return Certificate(draws, tuple(checks), note="the program's observations cannot be simulated")
    if not simulator.exact:
        return Certificate(draws, tuple(checks), note="simulated draws of this program need weights")
    if simulated < FEWEST:
        note = f"{simulated} were asked for, and fewer than {FEWEST} say little"
        return Certificate(draws, tuple(checks), note=note)
    pairs = _exact_pairs(simulator, numbers, simulated, seed)
    if len(pairs) < FEWEST:
        note = f"{len(pairs)} could be simulated, and fewer than {FEWEST} say little"
        return Certificate(draws, tuple(checks), note=note)
    found = []
    for k, pair in enumerate(pairs):
        target = program.bind_valid(pair.data)
        found.append(_compare(target, guide_of(target), pair, draws, np.random.default_rng([seed, 2, k])))
    return Certificate(draws, tuple(checks), _summary(found, draws))


# ------------------------------------------------------------------------------- held-out rows


def weigh(target: Target, guide: Guide, n: int, rng: np.random.Generator) -> tuple[np.ndarray, Proposal]:
    """(N,) log weights of N draws of the guide, nats, and the draws. All −∞ where all are dead."""
    proposal = guide.sample(rng, n)
    try:
        found, _ = log_weights(target, proposal.values, proposal.log_prob)
    except InferenceError as problem:
        if any(d.code != "PLM702" for d in problem.diagnostics):
            raise
        found = np.full(n, -np.inf)
    return found, proposal


def _check(target: Target, guide: Guide, number: int, n: int, rng: np.random.Generator) -> RowCheck:
    own, _ = weigh(target, guide, n, rng)
    prior, _ = weigh(target, PriorGuide(target), n, rng)
    return RowCheck(
        row=number,
        ess=_share(own),
        khat=khat(own) if np.isfinite(own).any() else None,
        elbo=_mean(own),
        log_evidence=log_evidence(own),
        dead=float(np.mean(np.isneginf(own))),
        prior_ess=_share(prior),
    )


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


def _exact_pairs(simulator: Simulator, numbers: Sequence[int], wanted: int, seed: int) -> list[Pair]:
    """Exact joint draws, by rejection.

    A simulated pair's weight is the mass of what its supports allow, at most 1. Accepting each with
    its weight over the largest seen leaves equal weights, which ranks need.
    """
    pool: list[Pair] = []
    uniform: list[float] = []
    kept: list[Pair] = []
    for part in range(ROUNDS):
        rows = [int(numbers[(part * wanted + k) % len(numbers)]) for k in range(wanted)]
        rngs = [np.random.default_rng([seed, 3, part, k]) for k in range(wanted)]
        drawn = [p for p in simulator.draw(rngs, rows) if p.log_weight > -math.inf]
        pool += drawn
        uniform += np.random.default_rng([seed, 4, part]).random(len(drawn)).tolist()
        top = max((p.log_weight for p in pool), default=0.0)
        kept = [p for p, u in zip(pool, uniform, strict=True) if u < math.exp(p.log_weight - top)]
        if len(kept) >= wanted:
            break
    return kept[:wanted]


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
