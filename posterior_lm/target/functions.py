"""Functions of values, powers and sums: nodes that need no language model and are no distribution."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from posterior_lm.graph.nodes import Apply
from posterior_lm.graph.ops import OPS
from posterior_lm.lang.diagnostics import InferenceError, InternalError
from posterior_lm.lang.regex import mend
from posterior_lm.lang.source import Span

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
