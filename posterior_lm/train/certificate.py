"""What was measured of a policy, and what that allows to say about it: numbers, a verdict, what it was worth.

The effective sample size is measured with the policy's own draws, so it cannot see a
mode that the policy never draws. Draws from elsewhere can. With p the posterior, q the policy and
w = exp(log reward) / q,

    E_q[log w] = log Z − KL(q‖p)  ≤  log Z  ≤  E_p[log w] = log Z + KL(p‖q):

the reverse and the forward bound of the log evidence (Blessing et al. 2024, "Beyond ELBOs"). Of simulated
rows an exact draw of p is known, so that their gap is seen without any log Z (`Simulated`). Of other rows p is what
the draws of the policy and of the prior say of it together (`Bounds`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from attrs import asdict, field, frozen

from posterior_lm.infer.verdict import KHAT_NONE
from posterior_lm.infer.weights import Z90, t90
from posterior_lm.storage import Stored, plain, structured

Level = Literal["good", "usable", "poor", "uncertified"]
Share = Annotated[float, Stored(low=0.0, high=1.0 + 1e-9)]
Count = Annotated[int, Stored(low=1)]
LowerBound = Annotated[float, Stored(null=-math.inf)]
Divergence = Annotated[float, Stored(null=math.inf)]
Spread = Annotated[float, Stored(low=0.0, null=math.inf)]
Seconds = Annotated[float, Stored(low=0.0)]

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
ENOUGH = 100
"""The ESS of a row's answer whose cost is compared: averages are then off by a tenth of their spread."""


@frozen
class Bounds:
    """One row's log evidence between its bounds, by N draws of the policy and N of the prior; nats, with standard errors.

    Both sets together are draws of the mixture m of both, stratified, so that u = exp(log reward) / m has the
    evidence as its mean (Owen & Zhou 2000) and weights draws towards the posterior: `evidence` = log mean u, and
    `forward` = Σ ū log w with ū = u / Σ u, an estimate of E_p[log w] that sees what either of the two drew. It is +∞ where
    the policy cannot draw what the prior did. The reverse bound is the row's `elbo`, a plain mean. `gain` =
    Σ ū (log policy − log prior) is what KL(posterior‖·) has fallen by from the prior to the policy, −∞ in the same case.

    Standard errors are by the delta method within the two strata (Owen 2013, §9.2), of `evidence` that of ū, of
    `forward` that of ū (log w − forward), of `divergence` that of ū (log w − forward − 1); that of a share
    ESS/N = mean(w)² / mean(w²) is by its relative change, 2w / mean(w) − w² / mean(w²), draw by draw. Like
    all that is measured by draws, they know nothing of a value that none of the draws is. `seconds` are what N
    draws took, of the policy and of the prior, weighed.
    """

    evidence: LowerBound
    evidence_se: Spread
    forward: Divergence
    forward_se: Spread
    divergence_se: Spread
    elbo_se: Spread
    ess_se: Spread
    prior_ess_se: Spread
    seconds: tuple[Seconds, Seconds] = field(default=(0.0, 0.0), eq=False)
    gain: LowerBound = 0.0
    """0 in certificates of before it was measured."""

    @property
    def divergence(self) -> float:
        """KL(posterior‖policy), nats, by the draws of both; +∞ where the policy cannot draw all of it."""
        return self.forward - self.evidence if self.forward < math.inf else math.inf


@frozen
class RowCheck:
    """One row: N draws of the policy against N of the prior. Nats.

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
    bounds: Bounds | None = None
    """None in certificates of before they had any."""


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

    `note` says why there are none. Rows that are not `held_out` are those that the policy was trained on, with fresh
    draws. `training` are the seconds that its training took, None where nobody says. Seconds do not count in a comparison.
    """

    draws: Count
    rows: tuple[RowCheck, ...]
    simulated: Simulated | None = None
    note: str = ""
    held_out: bool = True
    training: float | None = field(default=None, eq=False)

    @property
    def measured(self) -> tuple[RowCheck, ...]:
        """The rows on which some draw has a reward; all of them where there is no such row."""
        return tuple(r for r in self.rows if r.dead < 1 or r.prior_ess > 0) or self.rows

    @property
    def lost(self) -> tuple[int, ...]:
        """The rows on which no draw has a reward, of the policy or of the prior; no mean counts them."""
        return tuple(r.row for r in self.rows if r.dead == 1 and r.prior_ess == 0)

    @property
    def ess(self) -> float:
        """Mean ESS/N over the rows."""
        return float(np.mean([r.ess for r in self.measured]))

    @property
    def worst_ess(self) -> float:
        return min(r.ess for r in self.measured)

    @property
    def prior_ess(self) -> float:
        """Mean ESS/N of the prior with as many draws."""
        return float(np.mean([r.prior_ess for r in self.measured]))

    @property
    def khat(self) -> float | None:
        """The largest fitted k-hat."""
        return max((r.khat for r in self.measured if r.khat is not None), default=None)

    @property
    def beats_prior(self) -> bool:
        return self.ess > self.prior_ess

    @property
    def bounds(self) -> tuple[Bounds, ...]:
        """Those of the measured rows; none where one lacks them."""
        found = tuple(r.bounds for r in self.measured if r.bounds is not None)
        return found if len(found) == len(self.measured) else ()

    @property
    def divergence(self) -> tuple[float, float] | None:
        """The 90 % interval of KL(posterior‖policy), nats, averaged over the rows, by the draws of both."""
        if not self.bounds:
            return None
        mean = float(np.mean([b.divergence for b in self.bounds]))
        if mean == math.inf:
            return math.inf, math.inf
        half = Z90 * _of_mean([b.divergence_se for b in self.bounds])
        return max(0.0, mean - half), max(0.0, mean + half)

    @property
    def gain(self) -> float:
        """Nats by which the policy is nearer to the posterior than the prior is, averaged over the rows; 0 where nobody measured."""
        return float(np.mean([b.gain for b in self.bounds])) if self.bounds else 0.0

    @property
    def is_worse(self) -> bool:
        """Whether the prior is the better proposal: by the ESS, which does not see what the policy never draws, and by the gain, which does.

        Not where it is by less than a tenth of the ESS, as of a policy that has learnt to emit what the prior is.
        """
        return self.ess < WORSE * self.prior_ess and self.gain < 0

    @property
    def alone(self) -> str:
        """What to say of a policy that is nearer to the posterior than the prior is, and whose own draws are worth less; else ""."""
        if self.ess >= self.prior_ess or self.gain <= 0:
            return ""
        return (
            f"KL(posterior‖policy) is {_nats(self.gain)} below the prior's all the same, so mix the two, as `auto` does: "
            "by itself (`--method gflownet`) a draw of the policy is worth less than one of the prior."
        )

    @property
    def replaced(self) -> tuple[float, float, float] | None:
        """How many draws of the prior one of the policy is worth, and the 90 % interval of that.

        The ratio of the two mean ESS/N. Its logarithm is taken to be normal: of held-out rows, which stand for others, with
        the standard error of a ratio of means over rows and Student's t (Cochran 1977, §2.11), of rows that the policy is for
        with what the delta method says of their draws. None where the prior has no ESS, or nothing says how sure it is.
        """
        if not self.bounds or not self.prior_ess > 0:
            return None
        ratio, count = self.ess / self.prior_ess, len(self.measured)
        if ratio == 0:
            return 0.0, 0.0, 0.0
        if self.held_out and count > 1:
            rest = [r.ess - ratio * r.prior_ess for r in self.measured]
            half = t90(count - 1) * math.sqrt(float(np.sum(np.square(rest))) / (count * (count - 1)))
        else:
            errors = [math.hypot(b.ess_se, ratio * b.prior_ess_se) for b in self.bounds]
            half = Z90 * _of_mean(errors)
        half /= ratio * self.prior_ess
        return ratio, ratio * math.exp(-half), ratio * math.exp(min(half, 700.0))

    @property
    def saved(self) -> float | None:
        """Seconds by which the policy reaches an ESS of `ENOUGH` on a row sooner than the prior, on average over the rows.

        By what a draw of each took, weighed, and the mean ESS/N. None where that was not measured, −∞ for
        a policy without an ESS.
        """
        if not self.bounds or not self.prior_ess > 0:
            return None
        own, prior = (float(np.mean([b.seconds[k] for b in self.bounds])) / self.draws for k in (0, 1))
        if not own > 0 or not prior > 0:
            return None
        return ENOUGH * (prior / self.prior_ess - own / self.ess) if self.ess > 0 else -math.inf

    @property
    def worth(self) -> str:
        """One sentence: the draws of the prior that a draw of the policy replaces, and the rows that pay for its training.

        Empty where neither was measured.
        """
        if not self.bounds:
            return ""
        if self.replaced is None:
            return (
                "What a draw of the policy is worth in draws of the prior is not known: "
                f"none of the prior's {self.draws} draws is alive."
            )
        ratio, low, high = map(_few_digits, self.replaced)
        begin = f"One draw of the policy replaces {ratio} of the prior ({low} to {high}, 90 %)"
        saved = self.saved
        if self.training is None or saved is None:
            return f"{begin}."
        cost, rows = f"its {self.training:.0f} s of training", len(self.measured)
        if saved <= 0:
            return f"{begin}; {cost} never pay, since the prior is no slower to the same ESS."
        paid = math.ceil(self.training / saved)
        if self.held_out or paid <= rows:
            return f"{begin}; {cost} have paid for themselves from {_count(paid, 'row')} on, at an ESS of {ENOUGH} each."
        least = math.ceil(ENOUGH * self.training / (saved * rows))
        these = "this row" if rows == 1 else f"these {rows} rows"
        return (
            f"{begin}; {cost} have paid for themselves from {_count(paid, 'row')} on, at an ESS of {ENOUGH} each, "
            f"or with {these} from an ESS of {least:,} on."
        )

    @property
    def verdict(self) -> Verdict:
        """How far to trust the policy; the reasons of the lowest level that applies."""
        poor = self._poor()
        if poor:
            return Verdict("poor", f"Poor: {_and(poor)}.")
        short = self._short_of_good()
        if self.simulated is None:
            drew = "neither the policy nor the prior drew" if self.bounds else "the policy never draws"
            unseen = f"a mode that {drew} would not show"
            reasons = [*short, f"there are no exact draws to compare with ({self.note})"]
            return Verdict("usable", f"Usable: {_and(reasons)}. Without them {unseen}.")
        share = f"A mode with less than {self.simulated.seen:.0%} of the posterior could still be missed."
        if short:
            return Verdict("usable", f"Usable: {_and(short)}. {share}")
        fine = f"ESS/N is {self.ess:.2f}, against {self.prior_ess:.2f} of the prior"
        high = f"KL(posterior‖policy) is at most {self.simulated.forward[1]:.2f} nats on simulated rows"
        return Verdict("good", f"Good: {fine}, and {high}. {share}")

    def _poor(self) -> list[str]:
        if len(self.lost) == len(self.rows):
            return ["no draw of the policy or of the prior has a reward"]
        found = []
        if self.ess < WORSE * self.prior_ess:
            found.append(f"ESS/N is {self.ess:.2f}, less than the prior's {self.prior_ess:.2f}")
        if self.is_worse:
            found.append(f"KL(posterior‖policy) is {_nats(-self.gain)} above the prior's")
        if self.worst_ess < POOR_WORST_ESS:
            worst = min(self.measured, key=lambda r: r.ess)
            found.append(f"ESS/N on row {worst.row} is {worst.ess:.3f}, below {POOR_WORST_ESS}")
        if self.khat is not None and self.khat > KHAT_NONE:
            found.append(
                f"the largest k-hat is {self.khat:.2f}, above {KHAT_NONE:g}, so its weights have no mean"
            )
        if self.simulated is None:
            # The low end: what is rare in the prior makes the high one large by itself.
            if self.divergence is not None and self.divergence[0] > POOR_KL:
                found.append(
                    f"KL(posterior‖policy) is {_range(self.divergence)} by draws of the prior, "
                    "so it misses a part of the posterior"
                )
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
        found = [f"no draw has a reward on {_rows(self.lost)}"] if self.lost else []
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
        if self.simulated is None and self.divergence is not None and not self.divergence[1] <= GOOD_KL:
            high = _nats(self.divergence[1])
            found.append(f"KL(posterior‖policy) may be {high} by draws of the prior, above {GOOD_KL}")
        return found

    # ------------------------------------------------------------- for people

    def lines(self) -> list[str]:
        """The table of the certificate, as plain text."""
        worst = ("worst", f"{self.worst_ess:.2f}", f"{min(r.prior_ess for r in self.measured):.2f}")
        fitted = sum(r.khat is not None for r in self.measured)
        khat = "not fitted" if self.khat is None else f"at most {self.khat:.2f}, fitted on {fitted}"
        table = [("", "policy", "prior"), ("ESS/N mean", f"{self.ess:.2f}", f"{self.prior_ess:.2f}")]
        table.append(("ESS/N worst", *worst[1:]))
        named = [("k-hat", khat)]
        if self.bounds:
            pairs = [(r, r.bounds) for r in self.measured if r.bounds is not None]
            named += [
                ("log evidence, mean", _interval((b.evidence, b.evidence_se) for _, b in pairs)),
                ("E_q[log w], below it", _interval((r.elbo, b.elbo_se) for r, b in pairs)),
                ("E_p[log w], above it", _interval((b.forward, b.forward_se) for _, b in pairs)),
            ]
        else:
            named += [
                ("log evidence, mean", f"at least {_mean_text(r.log_evidence for r in self.measured)} nats"),
                ("E_q[log w], mean", f"{_mean_text(r.elbo for r in self.measured)} nats"),
            ]
        named.append(("dead draws", f"{float(np.mean([r.dead for r in self.measured])):.1%}"))
        if self.lost:
            named.append(("without a reward", f"{_rows(self.lost)}, not counted"))
        out = [f"{_count(len(self.rows), 'held-out row')}, {_count(self.draws, 'draw')} each"]
        if not self.held_out:
            out = [
                f"{_count(len(self.rows), 'row')} of the training, {_count(self.draws, 'fresh draw')} each"
            ]
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
        return [*out, *filter(None, [self.worth]), self.verdict.words, *filter(None, [self.alone])]

    # ------------------------------------------------------------- as JSON

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a number that is not finite is None. Verdict and worth stand in it for readers."""
        found: dict[str, Any] = plain({**asdict(self), "worth": self.worth, "verdict": self.verdict})
        return found

    @classmethod
    def from_json(cls, whole: Mapping[str, Any], where: str = "") -> PolicyReport:
        """What `to_json` gave. Raises ValueError for anything else, naming what is below `where`.

        The verdict is found again from the numbers, so an edited one changes nothing.
        """
        told = {k: v for k, v in whole.items() if k not in ("worth", "verdict")}
        if isinstance(rows := whole.get("rows"), list):
            told["rows"] = [_whole(row) for row in rows]
        found: PolicyReport = structured(cls, {**LATER, **told}, where)
        if not found.rows:
            raise ValueError("a certificate has at least one row")
        return found


LATER: Mapping[str, object] = {"held_out": True, "training": None}
"""What earlier certificates lack, beside the bounds of their rows."""


def _whole(row: Any) -> Any:
    """A row of a certificate with what earlier ones lack."""
    if not isinstance(row, Mapping):
        return row
    bounds = row.get("bounds")
    return {**row, "bounds": {"gain": 0.0, **bounds} if isinstance(bounds, Mapping) else bounds}


def _and(reasons: list[str]) -> str:
    return reasons[0] if len(reasons) == 1 else f"{', '.join(reasons[:-1])}, and {reasons[-1]}"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def _rows(numbers: Sequence[int]) -> str:
    shown = [str(n) for n in numbers[:5]] + [f"{len(numbers) - 5} more"] * (len(numbers) > 5)
    return f"row {shown[0]}" if len(numbers) == 1 else f"rows {_and(shown)}"


def _few_digits(x: float) -> str:
    """A number that is known to a tenth or so."""
    return f"{x:,.0f}" if x >= 10 else f"{x:.1f}" if x >= 1 else f"{x:.2f}"


def _nats(x: float) -> str:
    return "infinite" if x == math.inf else f"{x:.2f} nats"


def _range(low_high: tuple[float, float]) -> str:
    low, high = low_high
    return _nats(high) if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {_nats(high)}"


def _mean_text(numbers: Iterable[float]) -> str:
    mean = float(np.mean(list(numbers)))
    return "−infinity" if mean == -math.inf else f"{mean:.2f}"


def _of_mean(errors: Sequence[float]) -> float:
    """The standard error of the mean of independent estimates that have these."""
    return math.sqrt(math.fsum(e * e for e in errors)) / len(errors)


def _interval(estimates: Iterable[tuple[float, float]]) -> str:
    """The mean of estimates with their standard errors, nats, and its 90 % interval, which takes it to be normal."""
    values, errors = zip(*estimates, strict=True)
    mean, half = float(np.mean(values)), Z90 * _of_mean(errors)
    if not math.isfinite(mean):
        return "infinite" if mean > 0 else "−infinity"
    return f"{mean:.2f} nats, {mean - half:.2f} to {mean + half:.2f} at 90 %"
