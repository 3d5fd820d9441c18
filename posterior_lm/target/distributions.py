"""Distributions that are not language models: log probability mass, in nats."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from posterior_lm.graph.nodes import DistScore
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lang.values import FiniteSpec, IntSpec, finite_spec


class ParameterError(ValueError):
    """A parameter out of its range; the evaluator turns it into PLM705."""


def _number(value: object, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ParameterError(f"{name} must be a finite number, not {value!r}")
    return float(value)


def _integer(value: object, name: str) -> int:
    number = _number(value, name)
    if number != int(number):
        raise ParameterError(f"{name} must be a whole number, not {value!r}")
    return int(number)


def uniform(value: object, args: Sequence[object], finite: FiniteSpec | None) -> float:
    """−log n over the n whole numbers low..high, or over a finite declared type."""
    if args:
        low, high = _integer(args[0], "low"), _integer(args[1], "high")
        if low > high:
            raise ParameterError(f"uniform({low}, {high}) has low above high")
        finite = IntSpec(low, high)
    if finite is None:
        raise ParameterError("uniform() needs a value of a finite type")
    return -math.log(finite.size) if finite.number(value) is not None else -math.inf


def categorical(value: object, args: Sequence[object], finite: FiniteSpec | None) -> float:
    """log p_i for the value at place i of its type; the p must sum to 1 within 1e-6."""
    weights = args[0] if args and isinstance(args[0], tuple) else tuple(args)
    probs = [_number(p, "a probability") for p in weights]
    if any(p < 0 for p in probs):
        raise ParameterError("a probability of categorical is negative")
    if abs(math.fsum(probs) - 1) > 1e-6:
        raise ParameterError(f"the probabilities of categorical sum to {math.fsum(probs):g}, not 1")
    if finite is None:
        finite = IntSpec(0, len(probs) - 1)
    if finite.size != len(probs):
        raise ParameterError(f"categorical has {len(probs)} probabilities for {finite.size} values")
    place = finite.number(value)
    return math.log(probs[place]) if place is not None and probs[place] > 0 else -math.inf


def poisson(value: object, args: Sequence[object], finite: FiniteSpec | None) -> float:
    """k log λ − λ − log k!, for k = 0, 1, 2, …"""
    rate = _number(args[0], "the rate")
    if rate < 0:
        raise ParameterError(f"the rate of poisson is {rate:g}, below 0")
    k = _integer(value, "the value")
    if k < 0:
        return -math.inf
    if rate == 0:
        return 0.0 if k == 0 else -math.inf
    return k * math.log(rate) - rate - math.lgamma(k + 1)


def geometric(value: object, args: Sequence[object], finite: FiniteSpec | None) -> float:
    """log p + k log(1 − p): k failures before the first success, k = 0, 1, 2, …"""
    p = _number(args[0], "p")
    if not 0 < p <= 1:
        raise ParameterError(f"the p of geometric is {p:g}, outside (0, 1]")
    k = _integer(value, "the value")
    if k < 0:
        return -math.inf
    if p == 1:
        return 0.0 if k == 0 else -math.inf
    return math.log(p) + k * math.log1p(-p)


def binomial(value: object, args: Sequence[object], finite: FiniteSpec | None) -> float:
    """log C(n, k) + k log p + (n − k) log(1 − p), for k = 0 … n."""
    n, p = _integer(args[0], "n"), _number(args[1], "p")
    if n < 0 or not 0 <= p <= 1:
        raise ParameterError(f"binomial({n}, {p:g}) needs n of at least 0 and p in [0, 1]")
    k = _integer(value, "the value")
    if not 0 <= k <= n:
        return -math.inf
    if p in (0, 1):
        return 0.0 if k == n * p else -math.inf
    choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return choose + k * math.log(p) + (n - k) * math.log1p(-p)


LogPmf = Callable[[object, Sequence[object], FiniteSpec | None], float]
DISTS: dict[str, LogPmf] = {
    "uniform": uniform,
    "categorical": categorical,
    "poisson": poisson,
    "geometric": geometric,
    "binomial": binomial,
}


def dist(node: DistScore, inputs: Sequence[list], n: int) -> list:
    """Log pmf of each draw's value. Raises InferenceError PLM705 for a bad parameter."""
    value, *args = inputs
    bounds: Sequence[list] = ()
    if node.bounded:
        args, bounds = args[:-2], args[-2:]
    log_pmf = DISTS[node.dist]
    listed = finite_spec(node.choices)
    ranges: dict[tuple[int, ...], FiniteSpec | None] = {}
    out = []
    for d in range(n):
        finite = listed
        if bounds:
            ends = tuple(int(b[d]) for b in bounds)
            if ends not in ranges:
                ranges[ends] = finite_spec((), *ends)
            finite = ranges[ends]
        try:
            out.append(log_pmf(value[d], [a[d] for a in args] if args else (), finite))
        except ParameterError as problem:
            raise InferenceError.of("PLM705", str(problem), node.span) from None
    return out
