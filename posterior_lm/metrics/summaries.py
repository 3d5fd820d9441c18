"""Many numbers as a few: likelihood, accuracy, share of valid outputs, mean over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from attrs import frozen

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


def wilson(correct: int, n: int) -> tuple[float, float]:
    """The ends of Wilson's interval at `LEVEL` for `correct` of n."""
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    p, grown = correct / n, 1 + z * z / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / grown
    middle = (p + z * z / (2 * n)) / grown
    # At 0 and n the end is 0 and 1 exactly, but for rounding.
    return max(0.0, middle - half), min(1.0, middle + half)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
