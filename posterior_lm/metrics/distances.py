"""How far a distribution over listed values is from a target, from its draws and exactly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from posterior_lm.lang.diagnostics import DataError
from posterior_lm.metrics.inputs import numbers_of, wrong

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
