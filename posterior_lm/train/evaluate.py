"""What is measured of a policy, and what that allows to say about it.

The effective sample size is measured with the policy's own draws, so it cannot see a
mode that the policy never draws. Exact posterior draws can: the program simulates
them, and a policy that gives one of them a tiny probability has a large forward KL.
With z* an exact posterior draw, z a draw of the policy q, and w = exp(log reward) / q,

    E_p[log w(z*)] = log Z + KL(p‖q),    E_q[log w(z)] = log Z − KL(q‖p),

so the gap of the two is the Jeffreys divergence, whatever log Z is (Grosse, Ghahramani &
Adams 2015, bidirectional Monte Carlo; Grosse, Ancha & Roy 2016). log Z itself is held
between two importance estimates (Zhao et al. 2024, bidirectional bounds):

    E log 1/N Σ w(z_i)  ≤  log Z  ≤  E log 1/(N+1) [w(z*) + Σ w(z_i)].
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import torch
from attrs import asdict, frozen

from posterior_lm.infer.guide import Guide, PriorGuide, Proposal
from posterior_lm.infer.importance import log_weights
from posterior_lm.infer.verdict import KHAT_NONE
from posterior_lm.infer.weights import ess, khat, log_evidence, logsumexp
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.storage import Stored, plain, structured
from posterior_lm.target.prepared import Data, PreparedProgram
from posterior_lm.target.target import Target
from posterior_lm.train.simulate import Pair, Simulator, equally_weighted

T = TypeVar("T")
Level = Literal["good", "usable", "poor", "uncertified"]
Share = Annotated[float, Stored(low=0.0, high=1.0 + 1e-9)]
Count = Annotated[int, Stored(low=1)]
LowerBound = Annotated[float, Stored(null=-math.inf)]
Divergence = Annotated[float, Stored(null=math.inf)]

GOOD_ESS, GOOD_WORST_ESS = 0.5, 0.2
"""Of every draw half is kept on average: correcting costs no more than drawing twice as often, and on
the worst row five times."""
POOR_WORST_ESS = 0.02
"""Of a thousand draws twenty are left, whose averages are off by a fifth of their spread."""
KHAT_BAD = 0.7
"""Above it averages hardly improve with more draws (Vehtari et al. 2024)."""
GOOD_KL, POOR_KL = 0.5, 2.0
"""Nats. A mode of share p that is never drawn adds about p times tens of nats; half a nat leaves room for
p of a few per cent. Two nats waste seven of eight draws even where no mode is missed: exp(−2) = 0.14."""
MISCALIBRATED = 0.001
"""A p-value that one good policy in a thousand has: certificates are many, alarms must be rare."""
WORSE = 0.9
"""Below this part of the prior's ESS the policy is worse, above it the difference may be sampling noise."""
FEWEST = 16
"""Simulated rows below which nothing is said: a mode of a sixth would show in 95 % of the cases."""


@frozen
class RowCheck:
    """One held-out row: N draws of the policy against N of the prior. Nats.

    `elbo` = E_q[log w] is a lower bound of the log evidence, −∞ where a draw is dead;
    `log_evidence` is the log of the mean weight, whose expectation is one too and tighter
    (Burda et al. 2016). `khat` is None where it cannot be fitted; `dead` is the share of
    draws with weight zero.
    """

    row: Annotated[int, Stored(low=0)]
    ess: Share
    khat: float | None
    elbo: LowerBound
    log_evidence: LowerBound
    dead: Share
    prior_ess: Share


@frozen
class Simulated:
    """What exact draws show, averaged over `rows` simulated rows; nats.

    `forward` and `reverse` are (low, high) of KL(posterior‖policy) and KL(policy‖posterior):
    each uses one of the two bounds of a row's log evidence. `jeffreys` is their sum, which
    needs no log evidence. +∞ where an exact draw has policy probability zero (`unreachable`
    counts them) or a policy draw is dead. `p_value` is of the chi-square test that the exact
    draws' ranks are uniform; None where there are too few.
    """

    rows: Count
    forward: tuple[Divergence, Divergence]
    reverse: tuple[Divergence, Divergence]
    jeffreys: Divergence
    unreachable: Annotated[int, Stored(low=0)]
    p_value: float | None

    @property
    def seen(self) -> float:
        """A missed mode with at least this share of the posterior would have shown, at 95 %.

        3/n, the rule of three (Hanley & Lippman-Hand 1983).
        """
        return min(1.0, 3.0 / self.rows)


@frozen
class Verdict:
    """The level, and one or two sentences that give its reasons."""

    level: Level
    words: str


@frozen
class PolicyReport:
    """The rows of a check, with `draws` draws each; `simulated` is None where there are no exact draws.

    `note` says why there are none.
    """

    draws: Count
    rows: tuple[RowCheck, ...]
    simulated: Simulated | None = None
    note: str = ""

    @property
    def ess(self) -> float:
        """Mean ESS/N over the rows."""
        return float(np.mean([r.ess for r in self.rows]))

    @property
    def worst_ess(self) -> float:
        return min(r.ess for r in self.rows)

    @property
    def prior_ess(self) -> float:
        """Mean ESS/N of the prior with as many draws."""
        return float(np.mean([r.prior_ess for r in self.rows]))

    @property
    def khat(self) -> float | None:
        """The largest fitted k-hat."""
        return max((r.khat for r in self.rows if r.khat is not None), default=None)

    @property
    def beats_prior(self) -> bool:
        return self.ess > self.prior_ess

    @property
    def verdict(self) -> Verdict:
        """How far to trust the policy; the reasons of the lowest level that applies."""
        poor = self._poor()
        if poor:
            return Verdict("poor", f"Poor: {_and(poor)}.")
        short = self._short_of_good()
        if self.simulated is None:
            unseen = "a mode that the policy never draws would not show"
            reasons = [*short, f"there are no exact draws to compare with ({self.note})"]
            return Verdict("usable", f"Usable: {_and(reasons)}. Without them {unseen}.")
        share = f"A mode with less than {self.simulated.seen:.0%} of the posterior could still be missed."
        if short:
            return Verdict("usable", f"Usable: {_and(short)}. {share}")
        fine = f"ESS/N is {self.ess:.2f}, against {self.prior_ess:.2f} of the prior"
        high = f"KL(posterior‖policy) is at most {self.simulated.forward[1]:.2f} nats on simulated rows"
        return Verdict("good", f"Good: {fine}, and {high}. {share}")

    def _poor(self) -> list[str]:
        found = []
        if self.ess < WORSE * self.prior_ess:
            found.append(f"ESS/N is {self.ess:.2f}, less than the prior's {self.prior_ess:.2f}")
        if self.worst_ess < POOR_WORST_ESS:
            worst = min(self.rows, key=lambda r: r.ess)
            found.append(f"ESS/N on row {worst.row} is {worst.ess:.3f}, below {POOR_WORST_ESS}")
        if self.khat is not None and self.khat > KHAT_NONE:
            found.append(
                f"the largest k-hat is {self.khat:.2f}, above {KHAT_NONE:g}, so its weights have no mean"
            )
        if self.simulated is None:
            return found
        # The high end: the low one rests on a bound that one exact draw of great weight makes loose.
        if self.simulated.forward[1] > POOR_KL:
            found.append(
                f"KL(posterior‖policy) may be {_nats(self.simulated.forward[1])} on simulated rows, "
                "so it misses a part of the posterior"
            )
        if self.simulated.p_value is not None and self.simulated.p_value < MISCALIBRATED:
            found.append(f"the ranks of exact draws are not uniform (p = {self.simulated.p_value:.1g})")
        return found

    def _short_of_good(self) -> list[str]:
        found = []
        if self.ess < GOOD_ESS:
            found.append(f"ESS/N is {self.ess:.2f}, below {GOOD_ESS}")
        if self.worst_ess < GOOD_WORST_ESS:
            found.append(f"ESS/N on the worst row is {self.worst_ess:.2f}, below {GOOD_WORST_ESS}")
        if self.khat is not None and self.khat > KHAT_BAD:
            found.append(f"the largest k-hat is {self.khat:.2f}, above {KHAT_BAD}")
        if not self.beats_prior:
            found.append(f"the prior is as good a proposal (ESS/N {self.prior_ess:.2f})")
        if self.simulated is not None and not self.simulated.forward[1] <= GOOD_KL:
            high = _nats(self.simulated.forward[1])
            found.append(f"KL(posterior‖policy) may be {high} on simulated rows, above {GOOD_KL}")
        return found

    # ------------------------------------------------------------- for people

    def lines(self) -> list[str]:
        """The table of the certificate, as plain text."""
        worst = ("worst", f"{self.worst_ess:.2f}", f"{min(r.prior_ess for r in self.rows):.2f}")
        fitted = sum(r.khat is not None for r in self.rows)
        khat = "not fitted" if self.khat is None else f"at most {self.khat:.2f}, fitted on {fitted}"
        table = [("", "policy", "prior"), ("ESS/N mean", f"{self.ess:.2f}", f"{self.prior_ess:.2f}")]
        table.append(("ESS/N worst", *worst[1:]))
        named = [
            ("k-hat", khat),
            ("log evidence, mean", f"at least {_mean_text(r.log_evidence for r in self.rows)} nats"),
            ("E_q[log w], mean", f"{_mean_text(r.elbo for r in self.rows)} nats"),
            ("dead draws", f"{float(np.mean([r.dead for r in self.rows])):.1%}"),
        ]
        out = [f"{_count(len(self.rows), 'held-out row')}, {_count(self.draws, 'draw')} each"]
        out += [f"  {a:<24}{b:>8}{c:>8}".rstrip() for a, b, c in table]
        out += [f"  {a:<24}{b:>8}" for a, b in named]
        if self.simulated is None:
            out.append(f"no simulated rows: {self.note}")
        else:
            s = self.simulated
            p = "too few rows" if s.p_value is None else f"p = {s.p_value:.2g}"
            out.append(f"{_count(s.rows, 'simulated row')} with an exact draw each")
            for name, text in (
                ("KL(posterior‖policy)", _range(s.forward)),
                ("KL(policy‖posterior)", _range(s.reverse)),
                ("their sum", _nats(s.jeffreys)),
                ("never drawn", f"{s.unreachable} of {s.rows} exact draws"),
                ("uniform ranks", p),
            ):
                out.append(f"  {name:<24}{text:>8}")
        return [*out, self.verdict.words]

    # ------------------------------------------------------------- as JSON

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a number that is not finite is None. The verdict stands in it for readers."""
        found: dict[str, Any] = plain({**asdict(self), "verdict": self.verdict})
        return found

    @classmethod
    def from_json(cls, whole: Mapping[str, Any], where: str = "") -> PolicyReport:
        """What `to_json` gave. Raises ValueError for anything else, naming what is below `where`.

        The verdict is found again from the numbers, so an edited one changes nothing.
        """
        found: PolicyReport = structured(cls, {k: v for k, v in whole.items() if k != "verdict"}, where)
        if not found.rows:
            raise ValueError("a certificate has at least one row")
        return found


def _and(reasons: list[str]) -> str:
    return reasons[0] if len(reasons) == 1 else f"{', '.join(reasons[:-1])}, and {reasons[-1]}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _nats(x: float) -> str:
    return "infinite" if x == math.inf else f"{x:.2f} nats"


def _range(low_high: tuple[float, float]) -> str:
    low, high = low_high
    return _nats(high) if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {_nats(high)}"


def _mean_text(numbers: Any) -> str:
    mean = float(np.mean(list(numbers)))
    return "−infinity" if mean == -math.inf else f"{mean:.2f}"


# ------------------------------------------------------------------------------- measuring

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
) -> PolicyReport:
    """What can be said of the guides that `guide_of` gives, as proposals for the rows with these `numbers`.

    `rows` are validated; `numbers` should not have been trained on. `simulator`
    is one over the same rows, None where none should be simulated, for which `note` gives the reason. Each row has its own
    random numbers, from `seed` and its number. `move` is told the share that is done. No row but the
    first is begun that would take longer than `left` says there is time for, in seconds, by the rows
    before it. ValueError where there is no row or no draw.
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
    if simulator is None:
        return PolicyReport(
            draws, tuple(checks), note=note or "the program's observations cannot be simulated"
        )
    if not simulator.exact:
        return PolicyReport(draws, tuple(checks), note="simulated draws of this program need weights")
    if simulated < FEWEST:
        note = f"{simulated} were asked for, and fewer than {FEWEST} say little"
        return PolicyReport(draws, tuple(checks), note=note)
    pairs, _ = equally_weighted(simulator, numbers, simulated, seed, 3, ROUNDS)
    if len(pairs) < FEWEST:
        note = f"{len(pairs)} could be simulated, and fewer than {FEWEST} say little"
        return PolicyReport(draws, tuple(checks), note=note)
    found: list[_Compared] = []
    for k, pair in enumerate(_in_time(pairs, left)):
        target = program.bind_valid(pair.data)
        found.append(_compare(target, guide_of(target), pair, draws, np.random.default_rng([seed, 2, k])))
        if move is not None:
            move((len(numbers) + len(found) / 2) / whole)
    if len(found) < FEWEST:
        note = f"there was time for {len(found)}, and fewer than {FEWEST} say little"
        return PolicyReport(draws, tuple(checks), note=note)
    return PolicyReport(draws, tuple(checks), _summary(found, draws))


def _in_time(items: Sequence[T], left: Callable[[], float] | None) -> Iterator[T]:
    """The first, and the others as long as there is time for one that takes as long as the longest before it."""
    longest = 0.0
    for k, item in enumerate(items):
        if k and left is not None and left() < longest:
            return
        began = time.monotonic()
        yield item
        longest = max(longest, time.monotonic() - began)


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
