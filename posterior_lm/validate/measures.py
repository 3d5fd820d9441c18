"""What is measured of a method: where an exact draw ranks among its draws, and bounds of the log evidence.

Test quantities of the latents alone cannot tell the posterior from the prior; those that
read the data can (Modrák et al. 2023, §3), so the log reward and what the
observations add to it stand first.

With F the weighted distribution of a quantity f over N draws, z* the exact draw and
v a weight for the exact draw itself, its rank is

    u = (Σ_i W_i [f(z_i) < f(z*)] + U (Σ_i W_i [f(z_i) = f(z*)] + v)) / (1 + v),   U ~ uniform(0, 1)

with Σ W = 1. It is uniform for equal weights and v = 1/N (Talts et al. 2018, theorem 1,
with ties as in Modrák et al. 2023), and for v = w(z*) / Σ w whatever the proposal: z* is
then one of N + 1 values, chosen among them by weight (Andrieu, Lee & Vihola 2018). Particles depend on
one another: there the ranks are among N particles of which z* was one from the beginning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from attrs import field, frozen

from posterior_lm.api.engine import policy_offer
from posterior_lm.infer import auto
from posterior_lm.infer.base import run
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.guide import Guide, PriorGuide
from posterior_lm.infer.importance import Importance
from posterior_lm.infer.methods import AUTO, METHODS
from posterior_lm.infer.parts import listed_parts
from posterior_lm.infer.request import Request
from posterior_lm.lang.value_types import VALUE_TYPES
from posterior_lm.target.prepared import PreparedProgram
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.values import ABSENT, Value, Values

# ------------------------------------------------------------------------------- test quantities

MOST = 8
"""Quantities of one program at most: each one more weakens the test of the others."""


def quantities(target: Target, values: Values) -> dict[str, np.ndarray]:
    """By name, (N,) numbers of N draws: log rewards in nats, lengths in tokens, numbers of finite latents.

    Log rewards are the target's own, not those that a method reports. Latents of a
    plate are added up over its rows. The names are the same for every row of a program.
    """
    # Equal draws get equal numbers, since the target scores them once.
    terms = target.terms(values)
    prior = np.array([info.keyword == "latent" for info in target.statements], dtype=bool)
    found = {"log reward": terms.sum(axis=1)}
    if prior.any() and not prior.all():
        found |= {"log prior": terms[:, prior].sum(axis=1), "other terms": terms[:, ~prior].sum(axis=1)}
    for info in target.latents:
        base = info.name.split("[", 1)[0]
        name = f"tokens of {base}" if info.type == "text" else base
        here = _numbers(info, values[info.name])
        found[name] = found[name] + here if name in found else here
    return dict(list(found.items())[:MOST])


def _numbers(info: LatentInfo, column: object) -> np.ndarray:
    values: list[Value] = list(column)  # type: ignore[call-overload]
    # What a draw does not have, and the end of a list of numbers, is told from every value of most types.
    out, here = np.full(len(values), -1.0), [d for d, v in enumerate(values) if v != ABSENT]
    if info.type == "text":
        out[here] = [len(values[d].ids) for d in here]
    elif VALUE_TYPES[info.type].kind in ("int", "real"):
        out[here] = [-1.0 if values[d].datum is None else float(str(values[d].datum)) for d in here]
    else:
        places = {tuple(ids): k for k, ids in enumerate(info.support.values())}  # type: ignore[attr-defined]
        out[here] = [places[values[d].ids] for d in here]
    return out


# ------------------------------------------------------------------------------- ranks

PLACES = 20
"""Places of the distribution function at which ranks are compared with the uniform; bins of the plot too."""
SAMPLES = 9_999
"""Uniform samples that give the test its p-values, to 1 in 10,000."""
INTERVAL = 0.9


def rank(
    weights: np.ndarray, others: np.ndarray, own: float, share: float, rng: np.random.Generator
) -> float:
    """u of an exact draw with quantity `own` among draws with weights (N,), which sum to 1, and quantities (N,).

    `share` is v above, relative to all draws together; +∞ where the method cannot draw it.
    """
    below = float(weights[others < own].sum())
    tied = float(weights[others == own].sum())
    if share == np.inf:
        return float(rng.random())
    return (below + float(rng.random()) * (tied + share)) / (1.0 + share)


def coverage(ranks: Sequence[np.ndarray]) -> float:
    """Share of all ranks that lie in the central 90 % interval; 0.9 where the method is right."""
    u = np.concatenate(list(ranks))
    return float(np.mean(np.abs(u - 0.5) <= INTERVAL / 2))


def p_value(u: np.ndarray) -> float:
    """p of the test that n numbers (n,) are uniform on 0..1.

    The distribution function is looked at in `PLACES` − 1 places; the statistic is the
    smallest of the two-sided binomial tail probabilities there, and its distribution
    is that of uniform samples (Säilynoja, Bürkner & Vehtari 2022, §2).
    """
    statistics, tails = _null(len(u))
    counts = np.array([int(np.sum(u <= k / PLACES)) for k in range(1, PLACES)])
    own = tails[np.arange(PLACES - 1), counts].min()
    return float((1 + np.sum(statistics <= own * (1 + 1e-9))) / (1 + len(statistics)))


def band(n: int, level: float = 0.99) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest share (PLACES − 1,) of n ranks at or below k/PLACES that p ≥ 1 − level allows."""
    statistics, tails = _null(n)
    least = float(np.quantile(statistics, 1 - level))
    inside = tails >= least
    return inside.argmax(axis=1) / n, (n - inside[:, ::-1].argmax(axis=1)) / n


def binomial_tail(k: int, n: int) -> float:
    """The probability that at least k of n fair coins show heads."""
    return math.fsum(math.comb(n, j) for j in range(k, n + 1)) / 2**n


@lru_cache(maxsize=8)
def _null(n: int) -> tuple[np.ndarray, np.ndarray]:
    """(SAMPLES,) statistics of uniform samples of n, and (PLACES − 1, n + 1) two-sided tails of counts."""
    at = np.arange(1, PLACES)[:, None] / PLACES
    k = np.arange(n + 1)[None, :]
    log_choose = np.concatenate([[0.0], np.cumsum(np.log(np.arange(n, 0, -1)) - np.log(np.arange(1, n + 1)))])
    pmf = np.exp(log_choose[None, :] + k * np.log(at) + (n - k) * np.log1p(-at))
    below = np.cumsum(pmf, axis=1)
    above = np.cumsum(pmf[:, ::-1], axis=1)[:, ::-1]
    tails = np.minimum(1.0, 2 * np.minimum(below, above))
    rng = np.random.default_rng(0)  # a table of the distribution, not a part of any run
    counts = np.cumsum(rng.multinomial(n, np.full(PLACES, 1 / PLACES), size=SAMPLES), axis=1)[:, :-1]
    return tails[np.arange(PLACES - 1), counts].min(axis=1), tails


# ------------------------------------------------------------------------------- a method under test


@frozen(eq=False)
class MethodUnderTest:
    """A method by name, `draw(target, n, rng)`, and the guide that a result's draws were proposed with.

    `options` are those of the method.
    """

    name: str
    draw: Callable[[Target, int, np.random.Generator], Draws]
    guide: Callable[[Target, Draws], Guide]
    options: Mapping[str, object] = field(factory=dict)


def method_under_test(program: PreparedProgram, request: Request) -> MethodUnderTest:
    """The requested method with its options and its policy, as `Query.draw` runs it."""
    method, options = request.of(program)

    def draw(target: Target, n: int, rng: np.random.Generator) -> Draws:
        return auto.infer(
            target,
            method=method,
            options=options,
            n=n,
            rng=rng,
            policy=policy_offer(program, request, target),
            look=False,
        )

    def guide(target: Target, draws: Draws) -> Guide:
        # Under auto the policy may have been refused on this row; the draws say so by their method.
        if request.policy is not None and (METHODS[draws.method].needs_policy or method != AUTO):
            offer = policy_offer(program, request, target)
            assert offer is not None
            return offer.guide()
        if draws.parts and (parts := listed_parts(target, len(draws))) is not None:
            return parts
        return PriorGuide(target, reads="guide" if options.get("proposal") == "guide" else "prior")

    return MethodUnderTest(method, draw, guide, options)


def guided(guide_of: Callable[[Target], Guide], name: str = Importance().name) -> MethodUnderTest:
    """Importance sampling that proposes with the guide that `guide_of` gives for each target."""

    def draw(target: Target, n: int, rng: np.random.Generator) -> Draws:
        return run(Importance(), target, n=n, rng=rng, guide=guide_of(target))

    return MethodUnderTest(name, draw, lambda target, draws: guide_of(target))


# ------------------------------------------------------------------------------- bounds of the log evidence


@frozen
class Bounds:
    """Of one row's log evidence, nats; None for a method that gives none.

    `share` is the exact draw's weight relative to the sum of the draws' weights, None
    where it has none; +∞ where the method cannot draw it. `beside` are draws that were made beside the
    exact one, which is the first of them.
    """

    lower: float | None
    upper: float | None
    share: float | None
    beside: Draws | None = None


def bounds(
    method: MethodUnderTest,
    target: Target,
    draws: Draws,
    exact: Mapping[str, Value],
    rng: np.random.Generator,
) -> Bounds:
    """From N draws, and the same N with an exact posterior draw z* among them.

    E log 1/N Σ w(z_i) ≤ log Z ≤ E log 1/(N+1) [w(z*) + Σ w(z_i)] (Burda et al. 2016; Zhao
    et al. 2024). With N values on both sides the gap is the symmetrised KL divergence of
    choosing one of N draws by weight from the same with the chosen one drawn exactly, and
    so at least that of the chosen draw from the posterior (Grosse, Ancha & Roy 2016);
    here it lies between those of N and of N + 1.
    Listed values are held between their sum and the sure bound of the certificate.
    """
    lower = draws.log_evidence
    if lower is None:  # of chains and decoders
        return Bounds(None, None, None)
    if draws.certificate is not None:
        whole = draws.certificate.complete
        return Bounds(lower, lower if whole else float(np.logaddexp(lower, draws.certificate.rest)), None)
    guide = method.guide(target, draws)
    backend = auto.backend_of(draws.method)
    beside = backend.beside(target, method.options, guide, exact, len(draws), rng)
    if beside is not None:
        assert beside.log_prob is not None
        if beside.log_prob[0] == -np.inf:
            return Bounds(lower, np.inf, None)
        return Bounds(lower, beside.log_evidence, None, beside)
    return Bounds(lower, *backend.upper_bound(target, method.options, draws, guide, exact, rng))
