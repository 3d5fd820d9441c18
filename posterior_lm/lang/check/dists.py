"""Distributions: what stands after `~`, in log_prob and in choice."""

from __future__ import annotations

from attrs import frozen

from posterior_lm.lang import ast
from posterior_lm.lang.check.scope import Scope
from posterior_lm.lang.check.types import argument, count, segments, value
from posterior_lm.lang.check.values import UNKNOWN, Value, constant, finite_size, is_finite
from posterior_lm.lang.near import nearest
from posterior_lm.lang.signatures import DISTRIBUTIONS, FUNCTIONS, Distribution
from posterior_lm.lang.source import Span


@frozen
class Found:
    """What a distribution turned out to be.

    `sort` is "lm", the name of a built-in, or "unknown"; `value.depends` says
    which latents its arguments read; `tempered` whether it is raised to a power.
    """

    sort: str
    value: Value
    tempered: bool = False


def distribution(scope: Scope, expr: ast.Expr) -> Found:
    """Checks an expression that has to be a distribution."""
    if isinstance(expr, ast.PowerExpr):
        base = distribution(scope, expr.base)
        depends = exponent(scope, expr.exponent)
        return Found(base.sort, Value("unknown", base.value.depends | depends), tempered=True)
    if isinstance(expr, ast.Call):
        return _call(scope, expr)
    if isinstance(expr, ast.Name):
        return _bare_name(scope, expr)
    depends = value(scope, expr).depends
    scope.error(
        "PLM312",
        "a distribution has to stand here",
        expr.span,
        "not a distribution",
        help=_as_distribution(scope),
    )
    return Found("unknown", Value("unknown", depends))


def exponent(scope: Scope, expr: ast.Expr) -> frozenset[str]:
    """Checks the b of `d ^ b` and `temper b`; returns the latents that it reads."""
    found = value(scope, expr)
    if not found.is_number:
        scope.error("PLM314", "an inverse temperature is a number", expr.span, f"this is {found.shown}")
    elif found.depends:
        names = ", ".join(f"'{name}'" for name in sorted(found.depends))
        scope.error(
            "PLM314",
            f"an inverse temperature cannot depend on a latent, and this depends on {names}",
            expr.span,
            "must be known before anything is drawn",
            help="multiply inside a factor: factor b * log_prob(value, distribution)",
        )
    return found.depends


def _as_distribution(scope: Scope) -> str:
    names = [b.name for b in scope.levels[0].values() if b.sort == "lm"]
    if names:
        return f"a language model is called: {names[0]}(…)"
    return 'declare a language model, lm base = "tiny", and call it: base(…)'


def _bare_name(scope: Scope, expr: ast.Name) -> Found:
    name = expr.id
    binding = scope.get(name)
    if binding is None and (name in DISTRIBUTIONS or name in FUNCTIONS):
        if name in DISTRIBUTIONS:
            scope.error("PLM312", f"'{name}' needs its arguments", expr.span, "not called",
                        help=f"write {name}(…)")  # fmt: skip
        else:
            scope.error(
                "PLM312",
                f"'{name}' is a function, not a distribution",
                expr.span,
                "not a distribution",
                help=_as_distribution(scope),
            )
        return Found("unknown", UNKNOWN)
    if binding is None:
        scope.resolve(expr)
        return Found("unknown", UNKNOWN)
    scope.used.add(name)
    if binding.value.kind != "unknown" or binding.sort == "lm":
        help = f"write {name}(…)" if binding.sort == "lm" else _as_distribution(scope)
        scope.error(
            "PLM312",
            f"'{name}' is {binding.value.shown}, and a distribution has to stand here",
            expr.span,
            "not called" if binding.sort == "lm" else "not a distribution",
            help=help,
        )
    return Found("unknown", UNKNOWN)


def _call(scope: Scope, expr: ast.Call) -> Found:
    name = expr.function.id
    if scope.get(name) is None and name in DISTRIBUTIONS:
        return Found(name, _built_in(scope, DISTRIBUTIONS[name], expr))
    if scope.get(name) is None and name in FUNCTIONS:
        depends = arguments_of(scope, expr)
        scope.error("PLM312", f"'{name}' is a function, not a distribution", expr.function.span,
                    "not a distribution", help=_as_distribution(scope))  # fmt: skip
        return Found("unknown", Value("unknown", depends))
    binding = scope.call(expr.function, dist=True)
    depends = arguments_of(scope, expr)
    if binding is None or binding.sort != "lm":
        return Found("unknown", Value("unknown", depends))
    for option in expr.options:
        near = nearest(option.name, ("revision", "dtype", "device"))
        scope.error(
            "PLM206",
            f"a language model takes no option '{option.name}' here",
            option.span,
            "not an option of a distribution",
            help="such options stand in its declaration" if near or option.name == near
            else "write a power as base(…) ^ b" if option.name in ("temperature", "beta", "power")
            else "limits of the text stand in its type",
        )  # fmt: skip
    return Found("lm", Value("unknown", depends))


def arguments_of(scope: Scope, expr: ast.Call) -> frozenset[str]:
    """Checks arguments as segments; returns the latents that they read."""
    found = [segments(scope, arg) for arg in expr.args]
    for option in expr.options:
        if isinstance(option.value, ast.Range):
            found += [value(scope, option.value.low), value(scope, option.value.high)]
        else:
            found.append(value(scope, option.value))
    return frozenset[str]().union(*(f.depends for f in found))


def _built_in(scope: Scope, dist: Distribution, expr: ast.Call) -> Value:
    for option in expr.options:
        if not isinstance(option.value, ast.Range):
            value(scope, option.value)
        names = [name for name, _ in dist.arguments]
        wanted = f"{dist.name}({', '.join(names)})"
        scope.error("PLM206", f"{dist.name} takes no option '{option.name}'", option.span,
                    "not an option", help=f"its arguments are plain: {wanted}")  # fmt: skip
    if expr.options or not count(scope, expr, dist.arguments, dist.arities):
        return Value("unknown", arguments_of(scope, ast.Call(expr.function, expr.args)))
    depends: frozenset[str] = frozenset()
    for index, arg in enumerate(expr.args):
        kind = dist.arguments[index][1]
        if kind == "lm":
            inner = distribution(scope, arg)
            depends |= inner.value.depends
            if inner.sort not in ("lm", "unknown"):
                scope.error("PLM311", f"choice renormalises a language model, not {inner.sort}", arg.span,
                            f"this is {inner.sort}")  # fmt: skip
            continue
        depends |= argument(scope, arg, kind, dist.name).depends
        if index < len(dist.bounds):
            _within(scope, dist, index, arg)
    if dist.name == "uniform" and len(expr.args) == 2:
        low, high = (constant(arg) for arg in expr.args)
        if isinstance(low, int) and isinstance(high, int) and low > high:
            scope.error("PLM302", f"no number lies between {low} and {high}", expr.span, "empty",
                        help=f"write uniform({high}, {low})")  # fmt: skip
    if dist.name == "categorical":
        _probabilities(scope, expr.args[0])
    return Value("unknown", depends)


def _within(scope: Scope, dist: Distribution, index: int, arg: ast.Expr) -> None:
    low, high = dist.bounds[index]
    found = constant(arg)
    if not isinstance(found, (int, float)) or isinstance(found, bool):
        return
    if (low is not None and found < low) or (high is not None and found > high):
        name = dist.arguments[index][0]
        allowed = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
        scope.error("PLM313", f"{name} of {dist.name} has to be {allowed}", arg.span, "out of range")


def _probabilities(scope: Scope, arg: ast.Expr) -> None:
    if not isinstance(arg, ast.ListExpr):
        return
    known = [constant(item) for item in arg.items]
    numbers = [k for k in known if isinstance(k, (int, float)) and not isinstance(k, bool)]
    if len(numbers) < len(known):
        return
    for item, number in zip(arg.items, numbers, strict=True):
        if number < 0:
            scope.error("PLM313", "a probability is at least 0", item.span, "out of range")
            return
    if abs(sum(numbers) - 1) > 1e-6:
        scope.error(
            "PLM313", f"the probabilities add up to {sum(numbers):.6g}", arg.span, "should add up to 1"
        )


def fits_type(scope: Scope, type_: ast.TypeExpr, dist: ast.Expr, found: Found, what: str) -> None:
    """Reports a distribution that is not over a declared type; `what` names the value."""
    if found.sort in ("lm", "unknown") or type_.name not in ("text", "int", "one_of", "real", "bool"):
        return
    call = dist
    while isinstance(call, ast.PowerExpr):
        call = call.base
    over = DISTRIBUTIONS[found.sort].over
    by_numbers = over == "int" or (
        found.sort == "uniform" and isinstance(call, ast.Call) and len(call.args) == 2
    )
    if by_numbers and type_.name != "int":
        scope.error("PLM311", f"{found.sort} is over numbers, and {what} is {_type_name(type_)}", call.span,
                    "wrong distribution for this type", secondary=_at(type_.span, "the type"),
                    help=_instead(type_))  # fmt: skip
    elif over == "finite" and not by_numbers and not is_finite(type_):
        scope.error(
            "PLM311",
            f"{found.sort} needs a type that lists its values, and {what} is {_type_name(type_)}",
            call.span,
            "wrong distribution for this type",
            secondary=_at(type_.span, "the type"),
            help="such types are int(a..b) and one_of(…)",
        )
    elif found.sort == "categorical" and isinstance(call, ast.Call) and call.args:
        size = finite_size(type_)
        items = call.args[0]
        if size is not None and isinstance(items, ast.ListExpr) and len(items.items) != size:
            scope.error("PLM307", f"{len(items.items)} probabilities for {size} values", items.span,
                        f"expected {size}", secondary=_at(type_.span, "the values"))  # fmt: skip


def _instead(type_: ast.TypeExpr) -> str:
    return (
        "a text comes from a language model"
        if type_.name == "text"
        else "write uniform() or categorical([…])"
    )


def _type_name(type_: ast.TypeExpr) -> str:
    names = {"int": "an int", "real": "a real", "bool": "a truth value", "one_of": "a one_of"}
    return names.get(type_.name, type_.name)


def _at(span: Span, text: str) -> list[tuple[Span, str]]:
    return [(span, text)] if span.end > span.start else []


def fits_value(scope: Scope, expr: ast.Expr, found: Value, dist: ast.Expr) -> None:
    """Reports a value that its distribution cannot score, in observe and log_prob."""
    call = dist
    while isinstance(call, ast.PowerExpr):
        call = call.base
    if not isinstance(call, ast.Call) or call.function.id not in DISTRIBUTIONS or scope.get(call.function.id):
        if found.kind == "real":
            scope.error("PLM311", "a language model scores text, and this is a real", expr.span,
                        "not text", help="put it into a list to spell it: [value]")  # fmt: skip
        return
    if found.kind == "unknown":
        return
    name = call.function.id
    binding = scope.get(expr.id) if isinstance(expr, ast.Name) else None
    type_ = binding.type if binding else None
    if isinstance(expr, ast.Field):
        row = scope.get(expr.row.id)
        type_ = row.columns.get(expr.column) if row else None
    if type_ is not None:
        fits_type(scope, type_, dist, Found(name, UNKNOWN), "the value")
    elif found.kind != "int" or name in ("choice", "categorical") or not call.args:
        needs = "a declared value of a type that lists its values" if name != "uniform" else "an int"
        if found.kind != "int" and DISTRIBUTIONS[name].over == "int":
            needs = "an int"
        scope.error("PLM311", f"{name} needs {needs}", expr.span, f"this is {found.shown}")
