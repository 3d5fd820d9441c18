"""Nodes that need no language model: functions of values, powers, sums, and distributions (log probability mass, nats)."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial

from posterior_lm.graph.nodes import Apply, DistScore
from posterior_lm.graph.ops import OPS
from posterior_lm.lang.diagnostics import InferenceError, InternalError
from posterior_lm.lang.regex import mend
from posterior_lm.lang.source import Span
from posterior_lm.lang.values import FiniteSpec, GridSpec, IntSpec, finite_spec
from posterior_lm.target.densities import Beta, Normal, Real, log_mass
from posterior_lm.tools.answers import answer

Column = list
"""N values of one node: floats, integers, booleans or texts."""


def apply(node: Apply, inputs: Sequence[Column], n: int, uses: Mapping[str, Callable[..., object]]) -> Column:
    """A function of its inputs, draw by draw; what raises an arithmetic error is NaN."""
    user = node.op.startswith("use ")
    if node.tool is not None:
        call: Callable[..., object] = partial(answer, node.tool)
    else:
        call = uses[node.op[4:]] if user else OPS[node.op]
    if not inputs:
        return [_call(node, call, (), user=user)] * n
    if user:
        return [_call(node, call, args, user=True) for args in zip(*inputs, strict=True)]
    if node.op in ("+", "-", "*") and all({*map(type, column)} <= {int, float} for column in inputs):
        with suppress(ArithmeticError):  # a NaN stays one, and so nothing else is to be looked at
            return list(map(call, *inputs))
    # Where every value of a latent is scored, what does not read it comes in long runs.
    out: Column = []
    last: tuple = ()
    for args in zip(*inputs, strict=True):
        same = out and all(map(operator.is_, args, last))
        out.append(out[-1] if same else _call(node, call, args, user=False))
        last = args
    return out


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
    except InferenceError:  # of a tool
        raise
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


def share(value: object, span: Span) -> float:
    """The share of a mixture's first part, true being 1. Raises InferenceError PLM705 outside 0..1."""
    number = float(value) if isinstance(value, int | float) else math.nan
    if not 0 <= number <= 1:
        raise InferenceError.of(
            "PLM705", f"the share of a mixture is {number:g}, not between 0 and 1", span, "this mixture"
        )
    return number


def mixed(w: object, a: float, b: float, span: Span) -> float:
    """log(w exp a + (1 - w) exp b); a part of share 0 is not looked at."""
    first = share(w, span)
    if first in (0, 1):
        return a if first else b
    x, y = math.log(first) + a, math.log1p(-first) + b
    top = max(x, y)
    if math.isnan(x) or math.isnan(y) or math.isinf(top):
        return x + y if math.isnan(x) or math.isnan(y) else top
    return top + math.log(math.exp(x - top) + math.exp(y - top))


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
    if type(value) is int:
        return value
    number = _number(value, name)
    if number != int(number):
        raise ParameterError(f"{name} must be a whole number, not {value!r}")
    return int(number)


LogPmf = Callable[[object], float]
"""Log probability of a value, or its log density, nats."""


def uniform(args: Sequence[object], finite: FiniteSpec | None) -> LogPmf:
    """−log n over the n whole numbers low..high, or over a finite declared type."""
    if args:
        low, high = _integer(args[0], "low"), _integer(args[1], "high")
        if low > high:
            raise ParameterError(f"uniform({low}, {high}) has low above high")
        finite = IntSpec(low, high)
    if finite is None:
        raise ParameterError("uniform() needs a value of a finite type")
    number, each = finite.number, -math.log(finite.size)
    return lambda value: each if number(value) is not None else -math.inf


def categorical(args: Sequence[object], finite: FiniteSpec | None) -> LogPmf:
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
    number = finite.number

    def log_pmf(value: object) -> float:
        place = number(value)
        return math.log(probs[place]) if place is not None and probs[place] > 0 else -math.inf

    return log_pmf


def poisson(args: Sequence[object], finite: FiniteSpec | None) -> LogPmf:
    """k log λ − λ − log k!, for k = 0, 1, 2, …"""
    rate = _number(args[0], "the rate")
    if rate < 0:
        raise ParameterError(f"the rate of poisson is {rate:g}, below 0")
    log_rate = math.log(rate) if rate else 0.0

    def log_pmf(value: object) -> float:
        k = _integer(value, "the value")
        if k < 0 or (rate == 0 and k > 0):
            return -math.inf
        return k * log_rate - rate - math.lgamma(k + 1)

    return log_pmf


def geometric(args: Sequence[object], finite: FiniteSpec | None) -> LogPmf:
    """log p + k log(1 − p): k failures before the first success, k = 0, 1, 2, …"""
    p = _number(args[0], "p")
    if not 0 < p <= 1:
        raise ParameterError(f"the p of geometric is {p:g}, outside (0, 1]")

    def log_pmf(value: object) -> float:
        k = _integer(value, "the value")
        if k < 0:
            return -math.inf
        if p == 1:
            return 0.0 if k == 0 else -math.inf
        return math.log(p) + k * math.log1p(-p)

    return log_pmf


def binomial(args: Sequence[object], finite: FiniteSpec | None) -> LogPmf:
    """log C(n, k) + k log p + (n − k) log(1 − p), for k = 0 … n."""
    n, p = _integer(args[0], "n"), _number(args[1], "p")
    if n < 0 or not 0 <= p <= 1:
        raise ParameterError(f"binomial({n}, {p:g}) needs n of at least 0 and p in [0, 1]")
    whole = math.lgamma(n + 1)
    log_p, log_rest = (math.log(p), math.log1p(-p)) if 0 < p < 1 else (0.0, 0.0)

    def log_pmf(value: object) -> float:
        k = _integer(value, "the value")
        if not 0 <= k <= n:
            return -math.inf
        if p in (0, 1):
            return 0.0 if k == n * p else -math.inf
        return whole - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log_p + (n - k) * log_rest

    return log_pmf


def normal(args: Sequence[object], finite: FiniteSpec | None) -> LogPmf:
    """log density, or of a cell of a grid its log mass."""
    mean, sd = _number(args[0], "the mean"), _number(args[1], "the standard deviation")
    if sd <= 0:
        raise ParameterError(f"the standard deviation of normal is {sd:g}, not above 0")
    return _of_reals(Normal(mean, sd), finite)


def beta(args: Sequence[object], finite: FiniteSpec | None) -> LogPmf:
    """log density, or of a cell of a grid its log mass."""
    a, b = _number(args[0], "a"), _number(args[1], "b")
    if a <= 0 or b <= 0:
        raise ParameterError(f"beta({a:g}, {b:g}) needs numbers above 0")
    return _of_reals(Beta(a, b), finite)


def _of_reals(of: Real, finite: FiniteSpec | None) -> LogPmf:
    if not isinstance(finite, GridSpec):
        return lambda value: of.log_density(_number(value, "the value"))

    def log_pmf(value: object) -> float:
        place = finite.number(value)
        return -math.inf if place is None else log_mass(of, *finite.cell(place))

    return log_pmf


def bernoulli(args: Sequence[object], finite: FiniteSpec | None) -> LogPmf:
    """log p of true and of 1, log(1 − p) of false and of 0."""
    p = _number(args[0], "p")
    if not 0 <= p <= 1:
        raise ParameterError(f"the p of bernoulli is {p:g}, outside [0, 1]")
    logs = (math.log1p(-p) if p < 1 else -math.inf, math.log(p) if p > 0 else -math.inf)
    return lambda value: logs[int(value)] if value in (0, 1) else -math.inf  # type: ignore[call-overload]


DISTS: dict[str, Callable[[Sequence[object], FiniteSpec | None], LogPmf]] = {
    "uniform": uniform,
    "categorical": categorical,
    "poisson": poisson,
    "geometric": geometric,
    "binomial": binomial,
    "normal": normal,
    "beta": beta,
    "bernoulli": bernoulli,
}


@lru_cache(maxsize=1 << 14, typed=True)
def _made(given: Callable[..., LogPmf], finite: FiniteSpec | None, *args: object) -> LogPmf:
    """A distribution with its parameters: rows of a plate, and rows of data, often ask for the same ones."""
    return given(args, finite)


def dist(node: DistScore, inputs: Sequence[list], n: int) -> list:
    """Log pmf of each draw's value. Raises InferenceError PLM705 for a bad parameter."""
    value, *args = inputs
    bounds: Sequence[list] = ()
    if node.bounded:
        args, bounds = args[:-2], args[-2:]
    given = DISTS[node.dist]
    listed = finite_spec(node.choices)
    ranges: dict[tuple[float, ...], FiniteSpec | None] = {}
    log_pmf: LogPmf | None = None
    last: tuple = ()
    out = []
    try:
        for d, of in enumerate(zip(*args, *bounds, strict=True) if args or bounds else [()] * n):
            # Where every value is scored, parameters come in long runs.
            if log_pmf is None or not all(map(operator.is_, of, last)):
                finite = listed
                if bounds:
                    ends = low, high = of[-2:]
                    if ends not in ranges:
                        ranges[ends] = finite_spec((), low, high, grid=node.grid or None)
                    finite = ranges[ends]
                log_pmf, last = _made(given, finite, *of[: len(args)]), of
            out.append(log_pmf(value[d]))
    except ParameterError as problem:
        raise InferenceError.of("PLM705", str(problem), node.span) from None
    return out
