"""Nodes that need no language model: functions of values, powers, sums, and distributions (log probability mass, nats)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from posterior_lm.graph.nodes import Apply, DistScore
from posterior_lm.graph.ops import OPS
from posterior_lm.lang.diagnostics import InferenceError, InternalError
from posterior_lm.lang.regex import mend
from posterior_lm.lang.source import Span
from posterior_lm.lang.values import FiniteSpec, IntSpec, finite_spec

Column = list
"""N values of one node: floats, integers, booleans or texts."""


def apply(node: Apply, inputs: Sequence[Column], n: int, uses: Mapping[str, Callable[..., object]]) -> Column:
    """A function of its inputs, draw by draw; what raises an arithmetic error is NaN."""
    user = node.op.startswith("use ")
    call = uses[node.op[4:]] if user else OPS[node.op]
    if not inputs:
        return [_call(node, call, (), user=user)] * n
    return [_call(node, call, args, user=user) for args in zip(*inputs, strict=True)]


def _undefined(op: str, args: tuple) -> bool:
    """Whether a NaN among the arguments leaves the result without a value; what is not chosen does not count."""
    known = [a for a in args if not is_nan(a)]
    match op:
        case "if":
            return is_nan(args[0])
        case "and":
            return len(known) < 2 and all(known)
        case "or":
            return len(known) < 2 and not any(known)
    return len(known) < len(args)


def is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _call(node: Apply, call: Callable[..., object], args: tuple, *, user: bool) -> object:
    if not user and node.op != "list" and _undefined(node.op, args):
        return math.nan  # NaN compares false with everything, so it would otherwise pass for an answer
    try:
        result = call(*args)
    except ArithmeticError:
        return math.nan
    except re.error as problem:  # a pattern that came with the data
        message = f"the pattern is not a regular expression: {problem}"
        raise InferenceError.of("PLM317", message, node.span, help=mend(problem.msg)) from None
    except Exception as problem:
        if not user:
            raise InternalError(f"{node.op}: {problem}") from problem
        raise InferenceError.of(
            "PLM542", f"`{node.op[4:]}` raised {type(problem).__name__}: {problem}".rstrip("."), node.span
        ) from problem
    if isinstance(result, str | bool | int | float) or (node.op == "list" and isinstance(result, tuple)):
        return result
    if hasattr(result, "item"):
        return result.item()  # a numpy or torch scalar
    raise InferenceError.of(
        "PLM542", f"`{node.op[4:]}` gave a {type(result).__name__}, not a number, text or boolean", node.span
    )


def power(exponent: float, term: float, span: Span) -> float:
    """exponent × term; a term of −inf stays. Raises InferenceError PLM705 where a number is too large."""
    if not math.isfinite(exponent):
        raise InferenceError.of("PLM705", f"an exponent is {exponent}, not a finite number", span)
    if term == -math.inf:
        return term
    result = exponent * term
    if math.isinf(result) and math.isfinite(term):  # −inf would pass for "outside the support"
        raise InferenceError.of(
            "PLM705", f"the power {exponent:g} of {term:g} nats is too large a number", span
        )
    return result


def add(parts: Sequence[float]) -> float:
    """The sum; −inf where any part is −inf, so that NaN can only come from a statement itself."""
    if all(math.isfinite(p) for p in parts):
        try:
            return math.fsum(parts)
        except OverflowError:  # −inf would pass for "outside the support"
            return math.inf if max(parts, key=abs) > 0 else math.nan
    if any(math.isnan(p) for p in parts):
        return math.nan
    return -math.inf if -math.inf in parts else math.inf


# ------------------------------------------------------------------------------- distributions


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
