"""Metrics of numbers: many as a few, and how far a distribution over listed values is from a target.

Likelihood, accuracy, share of valid outputs, mean over seeds; divergences from draws and exactly.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from attrs import frozen

from posterior_lm.lang.diagnostics import DataError
from posterior_lm.metrics.inputs import numbers_of, wrong

LEVEL = 0.95
"""Coverage of the interval of an accuracy."""


@frozen
class Summary:
    """Mean of n values and their standard deviation, with n − 1 below; None for a single one."""

    mean: float
    sd: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.4g}" + ("" if self.sd is None else f" ± {self.sd:.2g}")


def summarise(values: Sequence[float]) -> Summary:
    """Mean and standard deviation over N seeds: the spread of one run, not the error of the mean.

    Raises DataError PLM780 for no values and for what is not finite.
    """
    found = numbers_of(values, "values", metric="a summary")
    sd = float(np.std(found, ddof=1)) if len(found) > 1 else None
    return Summary(float(np.mean(found)), sd, len(found))


@frozen
class Likelihood:
    """Log-likelihoods of n texts, nats: higher is better.

    `mean` is over the texts that are possible, and None where none is; `impossible`
    counts the others. `best` is −∞ where none is possible.
    """

    mean: float | None
    best: float
    impossible: int
    n: int


def likelihood(log_probs: Sequence[float]) -> Likelihood:
    """Mean and best of (N,) log-probabilities under the frozen model, nats.

    Compare methods only where all were scored by one frozen model, on texts that were
    cleaned alike: what a policy thinks of its own draws says nothing here. A log-probability
    falls with length, so that short texts look good; look at lengths too. −∞ counts as
    impossible; it would make any mean −∞. Raises DataError PLM780 for none, NaN or ∞.
    """
    found = numbers_of(log_probs, "log_probs", metric="a likelihood", infinite=True)
    possible = found[found > -np.inf]
    mean = float(np.mean(possible)) if len(possible) else None
    return Likelihood(mean, float(np.max(found)), len(found) - len(possible), len(found))


def share_valid(log_rewards: Sequence[float]) -> float:
    """Share of N draws whose log reward is above −∞: inside the support, no condition false.

    Between 0 and 1, 1 is best. Draws count as often as they occur. Raises DataError PLM780.
    """
    found = numbers_of(log_rewards, "log_rewards", metric="the share of valid draws", infinite=True)
    return float(np.mean(found > -np.inf))


@frozen
class Accuracy:
    """Share of right answers, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float
    correct: int
    n: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"


def accuracy(answers: Sequence[Any], truth: Sequence[Any]) -> Accuracy:
    """Share of answers (N,) that equal the truth (N,), with Wilson's interval.

    None is an answer that could not be read: it is wrong, never left out. Answers and truth
    are compared as they are, so "3" against 3 is refused. The interval is about which
    questions were asked, not about seeds, and holds for independent questions:
    (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n) (Wilson 1927, eq. for z = 1.96).
    Raises DataError PLM780.
    """
    given, right = [_plain(a) for a in answers], [_plain(a) for a in truth]
    if len(given) != len(right):
        raise wrong(
            f"there are {len(given)} answers and {len(right)} true ones",
            where="answers",
            help="give one answer per question, None where it could not be read",
        )
    if not given:
        raise wrong("accuracy of no answers is not defined", where="answers", help="give at least one")
    for place, (answer, true) in enumerate(zip(given, right, strict=True)):
        if true is None:
            raise wrong("the true answer is missing", where=f"truth[{place}]", help="leave this question out")
        if answer is not None and type(answer) is not type(true):
            raise wrong(
                f"the answer {answer!r} and the truth {true!r} are of different types",
                where=f"answers[{place}]",
                help="convert both alike, such as with str()",
            )
    correct, n = sum(a == t for a, t in zip(given, right, strict=True)), len(given)
    low, high = wilson(correct, n)
    return Accuracy(correct / n, low, high, correct, n)


def wilson(correct: float, n: int) -> tuple[float, float]:
    """The ends of Wilson's interval at `LEVEL` for `correct` of n."""
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    p, grown = correct / n, 1 + z * z / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / grown
    middle = (p + z * z / (2 * n)) / grown
    # At 0 and n the end is 0 and 1 exactly, but for rounding.
    return max(0.0, middle - half), min(1.0, middle + half)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


# ---- distances to a target

ROUNDING = 1e-4
"""How far probabilities may be from a sum of 1: float32 adds up a vocabulary no better."""

LogProbs = Mapping[Any, float]


@frozen
class Divergence:
    """KL(model ‖ target) of the valid part, nats, 0 is best; None where nothing was valid.

    `share_valid` is the model's mass on values that the target gives mass to. `corrected`
    is the value less its bias of first order; None where `kl` is exact. `n` counts the
    draws, valid or not; None where there were none.
    """

    kl: float | None
    corrected: float | None
    share_valid: float
    n: int | None


def kl_to_target(values: Sequence[Hashable], log_probs_by_value: LogProbs) -> Divergence:
    """KL(model ‖ target) = Σ p̂ log(p̂ / target) with p̂ the frequencies of N draws of the model.

    Draws of values without a place, or with probability 0, under the target are invalid:
    they are counted in `share_valid` and p̂ is that of the others, since with them the
    divergence is infinite, and says nothing of the rest.

    p̂ of exact draws is off by chance: with m values seen among n valid draws the plug-in
    value is too high by about (m − 1) / 2n, which `corrected` subtracts (Miller 1955; the
    term of log target has no bias). It can then be slightly below 0. Both are too low
    where n is not well above the number of values. Raises DataError PLM780 for no values
    and PLM782 for a target that does not sum to 1.
    """
    target = _normalised(log_probs_by_value, "log_probs_by_value")
    if isinstance(values, str) or not len(values):
        raise wrong("a divergence takes a list of drawn values, at least one", where="values",
                    help="draw some, such as [draw.values['n'] for draw in posterior]")  # fmt: skip
    counts = Counter(values)
    valid = {v: c for v, c in counts.items() if target.get(v, -math.inf) > -math.inf}
    n = sum(valid.values())
    if not n:
        return Divergence(None, None, 0.0, len(values))
    kl = math.fsum(c / n * (math.log(c / n) - target[v]) for v, c in valid.items())
    return Divergence(kl, kl - (len(valid) - 1) / (2 * n), n / len(values), len(values))


def kl_to_target_exact(log_probs: LogProbs, log_probs_by_value: LogProbs) -> Divergence:
    """KL(model ‖ target) from the model's own log-probabilities (nats) of the values.

    What they leave short of a sum of 1, and values that the target gives no mass to, are
    invalid, as in `kl_to_target`. Raises DataError PLM782 for sums above 1, NaN, or a
    target that does not sum to 1.
    """
    model = {v: x for v, x in _checked(log_probs, "log_probs").items() if x > -math.inf}
    target = _normalised(log_probs_by_value, "log_probs_by_value")
    valid = {v: x for v, x in model.items() if target.get(v, -math.inf) > -math.inf}
    if not valid:
        return Divergence(None, None, 0.0, None)
    total = _log_sum(valid.values())
    kl = math.fsum(math.exp(x - total) * (x - total - target[v]) for v, x in valid.items())
    return Divergence(max(kl, 0.0), None, min(1.0, math.exp(total)), None)


def frequencies(values: Sequence[Hashable]) -> dict[Any, float]:
    """Log of the frequency of each of N drawn values, for `total_variation`."""
    if isinstance(values, str) or not len(values):
        raise wrong("frequencies take a list of drawn values, at least one", where="values", help="draw some")
    return {value: math.log(count / len(values)) for value, count in Counter(values).items()}


def total_variation(log_p: LogProbs, log_q: LogProbs) -> float:
    """½ Σ |p − q| over values by their log-probabilities; between 0 and 1, 0 is best.

    A value that one of them does not list has probability 0 there. What either leaves short
    of a sum of 1 is one more cell, so that the result is a lower bound where both do. With
    `frequencies` of n draws it is positive by chance, by about √(values / 2πn). Raises
    DataError PLM782 for sums above 1 and for NaN.
    """
    p, q = _checked(log_p, "log_p"), _checked(log_q, "log_q")
    gaps = [math.exp(p.get(v, -math.inf)) - math.exp(q.get(v, -math.inf)) for v in p.keys() | q.keys()]
    return 0.5 * (math.fsum(map(abs, gaps)) + abs(math.fsum(gaps)))


@frozen
class EvidenceError:
    """Errors of n estimates of a log evidence, nats, 0 is best: mean with its sign, root mean square, worst."""

    bias: float
    rmse: float
    worst: float
    n: int


def log_evidence_error(estimates: Sequence[float], exact: float) -> EvidenceError:
    """How far N estimates are from the exact log evidence, nats.

    An estimate that is unbiased for the evidence is too low on average for its logarithm
    (Jensen), so a small negative bias is no mistake. Raises DataError PLM780 for what is
    not finite: a method without an estimate has no error.
    """
    found = numbers_of(estimates, "estimates", metric="an error of log evidence")
    errors = found - numbers_of([exact], "exact", metric="an error of log evidence")[0]
    rmse = math.sqrt(float(np.mean(errors**2)))
    return EvidenceError(float(np.mean(errors)), rmse, float(np.max(np.abs(errors))), len(errors))


def _normalised(log_probs: LogProbs, where: str) -> dict[Any, float]:
    checked = _checked(log_probs, where)
    total = _log_sum(checked.values())
    if abs(total) > ROUNDING:
        raise _no_distribution(
            f"the target's probabilities sum to {math.exp(total):.6g} instead of 1",
            where,
            "subtract their log-sum-exp from each",
        )
    return {v: x - total for v, x in checked.items()}


def _checked(log_probs: LogProbs, where: str) -> dict[Any, float]:
    if not isinstance(log_probs, Mapping):
        raise _no_distribution(
            "log-probabilities are given by value, as a dict", where, "pass {value: log_prob}"
        )
    for value, x in log_probs.items():
        if not isinstance(x, int | float | np.number) or math.isnan(x):
            raise _no_distribution(f"the log-probability is {x!r}", f"{where}[{value!r}]", "compute it anew")
    found = {v: float(x) for v, x in log_probs.items()}
    if (total := _log_sum(found.values())) > ROUNDING:
        raise _no_distribution(
            f"the probabilities sum to {math.exp(min(total, 700.0)):.6g}, more than 1",
            where,
            "pass log-probabilities in nats, not probabilities",
        )
    return found


def _log_sum(log_probs: Any) -> float:
    """Log-sum-exp in float64; −∞ for none."""
    found = list(log_probs)
    top = max(found, default=-math.inf)
    return top if math.isinf(top) else top + math.log(math.fsum(math.exp(x - top) for x in found))


def _no_distribution(message: str, where: str, help: str) -> DataError:
    return DataError.of("PLM782", message, where=where, help=help)
