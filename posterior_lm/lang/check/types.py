"""The kinds of expressions and distributions, each found once and kept.

Expressions hold distributions (log_prob) and distributions expressions, so both stand here.
What has to fit together in them stands in `fits`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from attrs import evolve

from posterior_lm.lang import ast
from posterior_lm.lang.ast import nodes
from posterior_lm.lang.check.fits import (
    as_distribution,
    bare_name,
    comparison,
    count,
    filled,
    fits_part,
    fits_value,
    is_called,
    of_rows,
    operand,
    pattern,
    previous,
    probabilities,
    role_outside,
    within,
    within_list,
)
from posterior_lm.lang.check.scope import Scope
from posterior_lm.lang.diagnostics import nearest
from posterior_lm.lang.signatures import BEFORE, DISTRIBUTIONS, FUNCTIONS, ROLES, Distribution, Function
from posterior_lm.lang.typed import SPELLED, UNKNOWN, Binding, Constant, Dist, Value, joined

_WANTED = {"text": "text", "number": "a number", "int": "an int", "pattern": "a pattern (text)",
           "some": "a number or a list of numbers", "test": "a truth value"}  # fmt: skip

# ---------------------------------------------------------------- expressions


def value(scope: Scope, expr: ast.Expr | ast.Range) -> Value:
    """The kind of an expression that stands for a value; reports what is wrong in it."""
    found = scope.findings.values[id(expr)] = _OF[type(expr)](scope, expr)
    return found


def written(scope: Scope, expr: ast.Expr | ast.Range) -> Constant | None:
    """The value of an expression of literals alone; of any other None, and it is not looked at."""
    match expr:
        case ast.Literal() | ast.Unary(op="-") | ast.Binary(op="+" | "-" | "*"):
            if all(isinstance(n, (ast.Literal, ast.Unary, ast.Binary)) for n in nodes(expr)):
                return value(scope, expr).constant
    return None


def segments(scope: Scope, expr: ast.Expr) -> Value:
    """A value that can stand in a context or be scored by a language model."""
    return _segment(scope, expr, value(scope, expr))


def scored(scope: Scope, expr: ast.Expr, found: Value, dist: Dist) -> Value:
    """A value that a distribution scores: a truth value only where no model spells it."""
    asks_model = any(leaf.lm is not None or leaf.sort == "unknown" for leaf in dist.leaves)
    return found if found.kind == "bool" and not asks_model else _segment(scope, expr, found)


def _segment(scope: Scope, expr: ast.Expr, result: Value) -> Value:
    if not result.is_segment:
        scope.error(
            "PLM306",
            f"{result.shown} cannot be part of a text",
            expr.span,
            f"this is {result.shown}",
            help={
                "bool": "write if … then … else … to spell it",
                "table": "use plate to go through its rows",
                "row": f"name a column: {expr.id if isinstance(expr, ast.Name) else 'row'}.column",
            }.get(result.kind),
        )
        return Value("unknown", result.depends)
    return result


def _literal(scope: Scope, expr: ast.Literal) -> Value:
    kinds = {bool: "bool", int: "int", float: "real", str: "text"}
    return Value(kinds[type(expr.value)], constant=expr.value)


def _name(scope: Scope, expr: ast.Name) -> Value:
    binding = scope.resolve(expr)
    if binding is None:
        return UNKNOWN
    if binding.value.kind in ("lm", "masked", "tool"):
        scope.error(
            "PLM305",
            f"'{expr.id}' is {binding.value.shown}, not a value",
            expr.span,
            "not a value",
            help=f"a distribution is written {expr.id}(…), after '~' or in log_prob"
            if binding.sort == "lm"
            else "name it in tools= of a latent's type",
        )
        return UNKNOWN
    return binding.read


def _list(scope: Scope, expr: ast.ListExpr) -> Value:
    items = [segments(scope, item) for item in expr.items]
    numeric = bool(items) and all(item.is_number for item in items)
    special = any(item.special for item in items)
    return Value("list", joined(*items), numeric=numeric, special=special)


def _unary(scope: Scope, expr: ast.Unary) -> Value:
    found = value(scope, expr.operand)
    if expr.op == "not":
        if not found.is_bool:
            operand(scope, "not", "a truth value", expr.operand, found)
        return Value("bool", found.depends)
    if not found.is_number:
        operand(scope, "-", "a number", expr.operand, found)
        return Value("unknown", found.depends)
    number: Any = found.constant
    return Value(
        found.kind, found.depends, constant=None if number is None else -number, written=found.written
    )


def _binary(scope: Scope, expr: ast.Binary) -> Value:
    left, right = value(scope, expr.left), value(scope, expr.right)
    depends = left.depends | right.depends
    if expr.op in ("and", "or"):
        for side, found in ((expr.left, left), (expr.right, right)):
            if not found.is_bool:
                operand(scope, expr.op, "truth values", side, found)
        return Value("bool", depends)
    if expr.op in ("+", "-", "*", "/"):
        for side, found in ((expr.left, left), (expr.right, right)):
            if not found.is_number:
                operand(scope, expr.op, "numbers", side, found)
                return Value("unknown", depends)
        if "unknown" in (left.kind, right.kind):
            return Value("unknown", depends)
        kind = "int" if left.kind == right.kind == "int" and expr.op != "/" else "real"
        return Value(
            kind, depends, constant=_sum(expr.op, left, right), written=left.written and right.written
        )
    comparison(scope, expr, left, right)
    return Value("bool", depends)


def _sum(op: str, left: Value, right: Value) -> Constant | None:
    a, b = left.constant, right.constant
    if a is None or b is None or op == "/":
        return None
    return a + b if op == "+" else a - b if op == "-" else a * b  # type: ignore[operator, return-value]


def truth(scope: Scope, expr: ast.Expr) -> Value:
    found = value(scope, expr)
    if not found.is_bool:
        scope.error("PLM303", "the test of an 'if' is true or false", expr.span, f"this is {found.shown}")
    return found


def _if(scope: Scope, expr: ast.IfExpr) -> Value:
    test, then, orelse = truth(scope, expr.test), value(scope, expr.then), value(scope, expr.orelse)
    depends = joined(test, then, orelse)
    special = then.special or orelse.special
    if test.latents and special:
        # A marker inside log_prob(…) is no part of the branch's text; one in a let is.
        for branch in (b for b, found in ((expr.then, then), (expr.orelse, orelse)) if found.special):
            marker = next((n for n in nodes(branch) if isinstance(n, ast.Marker)), None)
            scope.error("PLM306", f"{marker.kind if marker else 'a special token'} cannot stand in a branch that a latent decides",
                        marker.span if marker else branch.span, "a token, not text",
                        help="decide with a parameter, or write two programs")  # fmt: skip
        special = False  # reported
    kinds = {then.kind, orelse.kind} - {"unknown"}
    if len(kinds) < 2:
        return Value(then.kind if orelse.kind == "unknown" else orelse.kind, depends, special=special)
    if kinds == {"int", "real"}:
        return Value("real", depends)
    if kinds <= SPELLED:
        return Value("list", depends, special=special)
    scope.error(
        "PLM319",
        "the two branches of an 'if' differ in kind",
        expr.span,
        secondary=[(expr.then.span, then.shown), (expr.orelse.span, orelse.shown)],
    )
    return Value("unknown", depends)


def _call(scope: Scope, expr: ast.Call) -> Value:
    """A function's result; a distribution here is a mistake."""
    name = expr.function.id
    if name in FUNCTIONS and scope.get(name) is None:
        return _function(scope, FUNCTIONS[name], expr)
    if (tool := scope.get(name)) is not None and tool.sort == "tool":
        scope.resolve(expr.function)
        return _function(scope, Function(name, (("text", "text"),), "text", ""), expr)
    if name in DISTRIBUTIONS and scope.get(name) is None:
        kind: str | None = "distribution"
    elif name in ROLES and scope.get(name) is None:
        role_outside(scope, name, expr.span)
        kind = None
    else:
        binding = scope.call(expr.function, dist=False)
        kind = binding.value.kind if binding else None
    made = kind == "distribution" and "dist" in dict(DISTRIBUTIONS[name].arguments).values()
    depends = distribution(scope, expr).depends if made else arguments_of(scope, expr)
    if kind in ("distribution", "lm", "masked"):
        scope.error("PLM305", f"{name}(…) is a distribution, not a value", expr.span, "not a value",
                    help="a distribution stands after '~' or in log_prob(value, …)")  # fmt: skip
    return Value("unknown", depends)


def _function(scope: Scope, function: Function, expr: ast.Call) -> Value:
    for option in expr.options:
        value(scope, option.value)
        scope.error("PLM206", f"{function.name} takes no option '{option.name}'", option.span, "drop it")
    if function.name in BEFORE and len(expr.args) == 2:
        return previous(scope, expr, *(value(scope, arg) for arg in expr.args))
    arguments = function.arguments * (max(1, len(expr.args)) if function.many else 1)
    right_number = count(scope, expr, arguments, (len(arguments),))
    each = expr.args[:1] if function.pools and not function.many else expr.args  # what is read for every row
    plate = scope.pools(each) if function.pools else None
    kinds = [kind for _, kind in arguments] if right_number else ["any"] * len(expr.args)
    with nullcontext(()) if plate is None else scope.over(plate) as rows:
        found = _arguments(scope, function, each, kinds[: len(each)])
    found += _arguments(scope, function, expr.args[len(each) :], kinds[len(each) :])
    if plate is not None:
        scope.findings.pools[id(expr)] = rows
    depends = joined(*found) - {*rows}
    if function.pools and not function.many and right_number:
        return of_rows(scope, expr, function.name, rows, evolve(found[0], depends=depends), found[1])
    result = function.result
    if function.name == "item" and right_number:
        result = within_list(scope, expr)
    if result == "number":
        kinds = [f.kind for f in found if isinstance(f, Value)]
        result = "unknown" if "unknown" in kinds else "int" if {*kinds} == {"int"} else "real"
    return Value(result, depends)


def _arguments(
    scope: Scope, function: Function, args: Sequence[ast.Expr], kinds: Sequence[str]
) -> list[Any]:  # fmt: skip
    """What the arguments are, values or distributions; of a wrong number of them nobody knows which is which."""
    found: list[Any] = []
    for arg, kind in zip(args, kinds, strict=True):
        if kind == "dist":
            dist = distribution(scope, arg)
            fits_value(scope, args[0], scored(scope, args[0], found[0], dist), dist)
            found.append(dist)
        elif kind == "segments":
            found.append(value(scope, arg) if function.name == "log_prob" else segments(scope, arg))
        else:
            found.append(argument(scope, arg, kind, function.name))
    return found


def argument(scope: Scope, expr: ast.Expr, kind: str, owner: str) -> Value:
    """A plain argument checked against the kind that a signature wants."""
    of_items = isinstance(expr, ast.Field) and kind == "items"
    found = scope.field(expr, items=True) if of_items else value(scope, expr)  # type: ignore[arg-type]
    if kind in ("items", "place") and found.kind != "unknown":
        fits_part(scope, owner, expr, kind, found)
    if kind in ("any", "items", "place") or found.kind == "unknown":
        return found
    fits = {
        "text": found.kind in SPELLED and not found.special,
        "pattern": found.kind == "text",
        "number": found.is_number,
        "int": found.kind == "int",
        "numbers": found.kind == "list" and found.numeric,
        "test": found.is_bool,
        "some": found.is_number or (found.kind == "list" and found.numeric),
    }[kind]
    if not fits:
        wanted = "a list of numbers" if kind == "numbers" else _WANTED[kind]
        shown = "it holds a special token" if found.special else f"this is {found.shown}"
        scope.error("PLM301", f"{owner} needs {wanted} here", expr.span, shown)
    elif kind == "pattern":
        pattern(scope, expr)
    return found


def _power(scope: Scope, expr: ast.PowerExpr) -> Value:
    depends = joined(value(scope, expr.base), value(scope, expr.exponent))
    scope.error("PLM318", "'^' raises a distribution, not a number", expr.span, "not a distribution",
                help="for a power of a number write x * x, or exp(b * log(x))")  # fmt: skip
    return Value("unknown", depends)


def _range(scope: Scope, expr: ast.Range) -> Value:
    depends = joined(value(scope, expr.low), value(scope, expr.high))
    scope.error("PLM318", "a range stands only in a type or an option", expr.span, "not a value")
    return Value("unknown", depends)


def _column(scope: Scope, expr: ast.Column) -> Value:
    scope.error("PLM318", "a name with its type stands only in a type", expr.span, "not a value")
    return UNKNOWN


_OF: dict[type[ast.Node], Callable[[Scope, Any], Value]] = {
    ast.Literal: _literal,
    ast.Name: _name,
    ast.Field: Scope.field,
    ast.Marker: lambda scope, expr: Value("marker", special=True),
    ast.ListExpr: _list,
    ast.Call: _call,
    ast.PowerExpr: _power,
    ast.Unary: _unary,
    ast.Binary: _binary,
    ast.IfExpr: _if,
    ast.Range: _range,
    ast.Column: _column,
    ast.Role: lambda scope, expr: _role(scope, expr),
}

# ---------------------------------------------------------------- distributions


def distribution(scope: Scope, expr: ast.Expr) -> Dist:
    """What an expression is that has to be a distribution; reports what is wrong in it."""
    found = scope.findings.dists[id(expr)] = _distribution(scope, expr)
    return found


def _distribution(scope: Scope, expr: ast.Expr) -> Dist:
    if isinstance(expr, ast.PowerExpr):
        base = distribution(scope, expr.base)
        return evolve(base, depends=joined(base, exponent(scope, expr.exponent)), tempered=True)
    match expr:
        case ast.Call():
            return _called(scope, expr)
        case ast.Name():
            bare_name(scope, expr)
            return Dist("unknown")
        case ast.IfExpr(test=test, then=then, orelse=orelse):
            return put_together("branch", (truth(scope, test),), scope, (then, orelse))
        case ast.Binary(op="*", left=left, right=right):
            return put_together("product", (), scope, (left, right))
        case ast.Binary(op="+" | "-" | "/", left=left, right=right) if is_called(scope, left, right):
            scope.error("PLM312", f"'{expr.op}' makes no distribution of two", expr.span, "not a distribution",
                        help="write mix(w, d1, d2) for a mixture, d1 * d2 ^ b for a product")  # fmt: skip
            return Dist("unknown", put_together("product", (), scope, (left, right)).depends)
    depends = value(scope, expr).depends
    scope.error(
        "PLM312",
        "a distribution has to stand here",
        expr.span,
        "not a distribution",
        help=as_distribution(scope),
    )
    return Dist("unknown", depends)


def put_together(sort: str, read: tuple[Value, ...], scope: Scope, exprs: tuple[ast.Expr, ...]) -> Dist:
    """A distribution that is made of others, and reads some values besides."""
    parts = tuple(distribution(scope, expr) for expr in exprs)
    lm = next((part.lm for part in parts if part.lm is not None), None)
    return Dist(sort, joined(*read, *parts), lm=lm, parts=parts)


def exponent(scope: Scope, expr: ast.Expr) -> Value:
    """The b of `d ^ b` and `temper b`, which reads no latent."""
    found = value(scope, expr)
    if not found.is_number:
        scope.error("PLM314", "an inverse temperature is a number", expr.span, f"this is {found.shown}")
    elif found.latents:
        names = ", ".join(f"'{name}'" for name in found.latents)
        scope.error(
            "PLM314",
            f"an inverse temperature cannot depend on a latent, and this depends on {names}",
            expr.span,
            "must be known before anything is drawn",
            help="multiply inside a factor: factor b * log_prob(value, distribution)",
        )
    return found


def _called(scope: Scope, expr: ast.Call) -> Dist:
    name = expr.function.id
    if scope.get(name) is None and name in DISTRIBUTIONS:
        return _built_in(scope, DISTRIBUTIONS[name], expr)
    if scope.get(name) is None and name in FUNCTIONS:
        depends = arguments_of(scope, expr)
        scope.error("PLM312", f"'{name}' is a function, not a distribution", expr.function.span,
                    "not a distribution", help=as_distribution(scope))  # fmt: skip
        return Dist("unknown", depends)
    if name in ROLES and scope.get(name) is None:
        role_outside(scope, name, expr.span)
        return Dist("unknown", arguments_of(scope, expr))
    binding = scope.call(expr.function, dist=True)
    depends = context_of(scope, expr)
    if binding is None or binding.sort not in ("lm", "use"):
        return Dist("unknown", depends)
    if binding.sort == "use":
        return Dist("unknown", depends, call=expr, lm=expr)
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
    if binding.value.kind == "masked":
        return filled(scope, expr, depends)
    return Dist("lm", depends, call=expr, lm=expr)


def context_of(scope: Scope, expr: ast.Call) -> frozenset[Binding]:
    """Checks a model's context: text, or messages and nothing else; returns what it reads."""
    roles = [arg for arg in expr.args if isinstance(arg, ast.Role)]
    if not roles:
        return arguments_of(scope, expr)
    plain = [(arg, segments(scope, arg)) for arg in expr.args if not isinstance(arg, ast.Role)]
    texts = [arg for arg, found in plain if found.kind != "unknown"]
    if texts:
        scope.error("PLM323", "text stands beside the messages of a conversation", texts[0].span,
                    "outside every role", secondary=[(roles[0].span, "a message")],
                    help="put it into a message: system(…), user(…) or assistant(…)")  # fmt: skip
    read = [arguments_of(scope, evolve(expr, args=())), *(found.depends for _, found in plain)]
    for part in (part for role in roles for part in role.args):
        found = segments(scope, part)
        read.append(found.depends)
        if found.special:
            scope.error("PLM325", "a message holds no bos or eos", part.span, "a special token",
                        help="leave it out: the model's chat template writes them where they belong")  # fmt: skip
    return frozenset[Binding]().union(*read)


def _role(scope: Scope, expr: ast.Role) -> Value:
    role_outside(scope, expr.role, expr.span)
    return Value("unknown", joined(*(segments(scope, arg) for arg in expr.args)))


def arguments_of(scope: Scope, expr: ast.Call) -> frozenset[Binding]:
    """Checks arguments as segments; returns what they read."""
    found = [segments(scope, arg) for arg in expr.args]
    for option in expr.options:
        given = option.value
        ends = (given.low, given.high) if isinstance(given, ast.Range) else (given,)
        found += [value(scope, end) for end in ends]
    return joined(*found)


def _built_in(scope: Scope, dist: Distribution, expr: ast.Call) -> Dist:
    dist = dist.of(len(expr.args))
    for option in expr.options:
        if not isinstance(option.value, ast.Range):
            value(scope, option.value)
        wanted = f"{dist.name}({', '.join(name for name, _ in dist.arguments)})"
        scope.error("PLM206", f"{dist.name} takes no option '{option.name}'", option.span,
                    "not an option", help=f"its arguments are plain: {wanted}")  # fmt: skip
    if "dist" in dict(dist.arguments).values():
        right = count(scope, expr, dist.arguments, dist.arities) and not expr.options
        parts = tuple(arg for arg in expr.args if right or is_called(scope, arg))[-2:]
        read = [argument(scope, arg, "number", dist.name) for arg in expr.args[:1] if arg not in parts]
        if right:
            within(scope, dist, 0, expr.args[0])
        made = put_together("mixture", tuple(read), scope, parts)
        return made if right else Dist("unknown", made.depends)
    if expr.options or not count(scope, expr, dist.arguments, dist.arities):
        return Dist(dist.name, joined(*(segments(scope, arg) for arg in expr.args)), call=expr)
    found: list[Value | Dist] = []
    inner: Dist | None = None
    for index, arg in enumerate(expr.args):
        kind = dist.arguments[index][1]
        if kind == "lm":
            inner = distribution(scope, arg)
            found.append(inner)
            if inner.sort not in ("lm", "unknown"):
                scope.error("PLM311", f"choice renormalises a language model, not {'a ' * bool(inner.parts)}{inner.sort}", arg.span,
                            f"this is {'a ' * bool(inner.parts)}{inner.sort}",
                            help="renormalise each part: mix(w, choice(…), choice(…))" if inner.sort == "mixture" else None)  # fmt: skip
            continue
        found.append(argument(scope, arg, kind, dist.name))
        if index < len(dist.bounds):
            within(scope, dist, index, arg)
    if dist.name == "uniform" and len(expr.args) == 2:
        low, high = (scope.written(arg) for arg in expr.args)
        if isinstance(low, int) and isinstance(high, int) and low > high:
            scope.error("PLM302", f"no number lies between {low} and {high}", expr.span, "empty",
                        help=f"write uniform({high}, {low})")  # fmt: skip
    if dist.name == "categorical":
        probabilities(scope, expr.args[0])
    return Dist(dist.name, joined(*found), call=expr, lm=inner.lm if inner else None)
