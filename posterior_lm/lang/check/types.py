"""The kinds of expressions, and what does not fit together in them."""

from __future__ import annotations

from attrs import evolve

from posterior_lm.lang import ast
from posterior_lm.lang.check.scope import Scope
from posterior_lm.lang.check.values import UNKNOWN, Value, constant
from posterior_lm.lang.near import nearest
from posterior_lm.lang.regex import PatternError, automaton
from posterior_lm.lang.regex.report import wrong_pattern
from posterior_lm.lang.signatures import DISTRIBUTIONS, FUNCTIONS, Function
from posterior_lm.lang.walk import nodes

_WANTED = {"text": "text", "number": "a number", "int": "an int", "pattern": "a pattern (text)"}


def value(scope: Scope, expr: ast.Expr | ast.Range) -> Value:
    """The kind of an expression that stands for a value; reports what is wrong in it."""
    match expr:
        case ast.Literal():
            kinds = {bool: "bool", int: "int", float: "real", str: "text"}
            return Value(kinds[type(expr.value)], constant=expr.value)
        case ast.Name():
            return _name(scope, expr)
        case ast.Field():
            return scope.field(expr)
        case ast.Marker():
            return Value("marker", special=True)
        case ast.ListExpr():
            return _list(scope, expr)
        case ast.Call():
            return _call(scope, expr)
        case ast.PowerExpr():
            base = value(scope, expr.base)
            exponent = value(scope, expr.exponent)
            scope.error("PLM318", "'^' raises a distribution, not a number", expr.span, "not a distribution",
                        help="for a power of a number write x * x, or exp(b * log(x))")  # fmt: skip
            return Value("unknown", base.depends | exponent.depends)
        case ast.Unary():
            return _unary(scope, expr)
        case ast.Binary():
            return _binary(scope, expr)
        case ast.IfExpr():
            return _if(scope, expr)
    low, high = value(scope, expr.low), value(scope, expr.high)
    scope.error("PLM318", "a range stands only in a type or an option", expr.span, "not a value")
    return Value("unknown", low.depends | high.depends)


def segments(scope: Scope, expr: ast.Expr) -> Value:
    """A value that can stand in a context or be scored by a language model."""
    result = value(scope, expr)
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
        return evolve(UNKNOWN, depends=result.depends)
    return result


def _name(scope: Scope, expr: ast.Name) -> Value:
    binding = scope.resolve(expr)
    if binding is None:
        return UNKNOWN
    if binding.value.kind in ("lm", "tool"):
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
    return binding.value


def _list(scope: Scope, expr: ast.ListExpr) -> Value:
    items = [segments(scope, item) for item in expr.items]
    depends = frozenset().union(*(item.depends for item in items))
    numeric = bool(items) and all(item.is_number for item in items)
    special = any(item.special for item in items)
    return Value("list", depends, numeric=numeric, length=len(items), special=special)


def _unary(scope: Scope, expr: ast.Unary) -> Value:
    operand = value(scope, expr.operand)
    if expr.op == "not":
        if not operand.is_bool:
            _operand(scope, "not", "a truth value", expr.operand, operand)
        return Value("bool", operand.depends)
    if not operand.is_number:
        _operand(scope, "-", "a number", expr.operand, operand)
        return evolve(UNKNOWN, depends=operand.depends)
    return Value(operand.kind, operand.depends, constant=constant(expr))


def _operand(scope: Scope, op: str, wanted: str, expr: ast.Expr, found: Value) -> None:
    help = None
    if op == "+" and found.kind in ("text", "list"):
        help = "texts are joined in a list: [a, b]"
    scope.error("PLM318", f"'{op}' needs {wanted}", expr.span, f"this is {found.shown}", help=help)


def _binary(scope: Scope, expr: ast.Binary) -> Value:
    left, right = value(scope, expr.left), value(scope, expr.right)
    depends = left.depends | right.depends
    if expr.op in ("and", "or"):
        for side, found in ((expr.left, left), (expr.right, right)):
            if not found.is_bool:
                _operand(scope, expr.op, "truth values", side, found)
        return Value("bool", depends)
    if expr.op in ("+", "-", "*", "/"):
        fits = True
        for side, found in ((expr.left, left), (expr.right, right)):
            if not found.is_number and fits:
                _operand(scope, expr.op, "numbers", side, found)
                fits = False
        if not fits or "unknown" in (left.kind, right.kind):
            return Value("unknown", depends)
        whole = left.kind == right.kind == "int" and expr.op != "/"
        return Value("int" if whole else "real", depends, constant=constant(expr))
    _comparison(scope, expr, left, right)
    return Value("bool", depends)


def _comparison(scope: Scope, expr: ast.Binary, left: Value, right: Value) -> None:
    ordered = expr.op not in ("==", "!=")
    for side, found in ((expr.left, left), (expr.right, right)):
        if found.kind in ("table", "row", "list", "marker"):
            scope.error("PLM318", f"{found.shown} cannot be compared", side.span, f"this is {found.shown}")
            return
    alike = (
        (left.is_number and right.is_number)
        or (left.is_text and right.is_text)
        or (left.is_bool and right.is_bool)
    )
    if not alike:
        scope.error(
            "PLM318",
            f"{left.shown} and {right.shown} cannot be compared",
            expr.span,
            secondary=[(expr.left.span, left.shown), (expr.right.span, right.shown)],
            help="compare chars(…) or words(…) of a text with a number"
            if "text" in (left.kind, right.kind) and ordered
            else None,
        )
    elif ordered and (left.kind in ("text", "bool") or right.kind in ("text", "bool")):
        kind = left if left.kind != "unknown" else right
        scope.error("PLM318", f"'{expr.op}' needs numbers", expr.span, f"compares {kind.shown}",
                    help="texts and truth values are compared with == and !=")  # fmt: skip
    else:
        for one, other, side in ((left, right, expr.right), (right, left, expr.left)):
            text = other.constant
            if one.choices and isinstance(text, str) and text not in one.choices:
                near = nearest(text, one.choices)
                scope.error("PLM316", f'"{text}" is not one of the choices', side.span, "never equal",
                            help=f'did you mean "{near}"?' if near else None)  # fmt: skip


def _if(scope: Scope, expr: ast.IfExpr) -> Value:
    test, then, orelse = (value(scope, e) for e in (expr.test, expr.then, expr.orelse))
    depends = test.depends | then.depends | orelse.depends
    if not test.is_bool:
        scope.error("PLM303", "the test of an 'if' is true or false", expr.test.span, f"this is {test.shown}")
    special = then.special or orelse.special
    if test.depends and special:
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
    if kinds <= {"text", "list", "marker"}:
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
    from posterior_lm.lang.check.dists import arguments_of

    name = expr.function.id
    if name in FUNCTIONS and scope.get(name) is None:
        return _function(scope, FUNCTIONS[name], expr)
    if name in DISTRIBUTIONS and scope.get(name) is None:
        kind: str | None = "distribution"
    else:
        binding = scope.call(expr.function, dist=False)
        kind = binding.value.kind if binding else None
    depends = arguments_of(scope, expr)
    if kind in ("distribution", "lm"):
        scope.error("PLM305", f"{name}(…) is a distribution, not a value", expr.span, "not a value",
                    help="a distribution stands after '~' or in log_prob(value, …)")  # fmt: skip
    return Value("unknown", depends)


def _function(scope: Scope, function: Function, expr: ast.Call) -> Value:
    from posterior_lm.lang.check.dists import distribution

    for option in expr.options:
        value_of_option = option.value
        value(scope, value_of_option)
        scope.error("PLM206", f"{function.name} takes no option '{option.name}'", option.span, "drop it")
    right_number = count(scope, expr, function.arguments, (len(function.arguments),))
    found: list[Value] = []
    for index, arg in enumerate(expr.args):
        kind = function.arguments[index][1] if right_number else "any"
        if kind == "dist":
            found.append(distribution(scope, arg).value)
        elif kind == "segments":
            found.append(segments(scope, arg))
        else:
            found.append(argument(scope, arg, kind, function.name))
    depends = frozenset[str]().union(*(f.depends for f in found))
    result = function.result
    if result == "number":
        kinds = {f.kind for f in found}
        result = "unknown" if "unknown" in kinds else "int" if kinds == {"int"} else "real"
    if function.name == "log_prob" and right_number:
        from posterior_lm.lang.check.dists import fits_value

        fits_value(scope, expr.args[0], found[0], expr.args[1])
    return Value(result, depends)


def count(
    scope: Scope, expr: ast.Call, arguments: tuple[tuple[str, str], ...], allowed: tuple[int, ...]
) -> bool:
    """Whether a call has one of the allowed numbers of plain arguments; reports if not."""
    found = len(expr.args)
    if found in allowed:
        return True
    wanted = " or ".join(str(n) for n in allowed)
    plural = "" if allowed == (1,) else "s"
    scope.error(
        "PLM307",
        f"{expr.function.id} takes {wanted} argument{plural}, not {found}",
        expr.span,
        f"{found} given",
        help=f"{expr.function.id}({', '.join(name for name, _ in arguments)})" if arguments else None,
    )
    return False


def argument(scope: Scope, expr: ast.Expr, kind: str, owner: str) -> Value:
    """A plain argument checked against the kind that a signature wants."""
    found = value(scope, expr)
    if kind == "any" or found.kind == "unknown":
        return found
    fits = {
        "text": found.kind in ("text", "list") and not found.special,
        "pattern": found.kind == "text",
        "number": found.is_number,
        "int": found.kind == "int",
        "numbers": found.kind == "list" and found.numeric,
    }[kind]
    if not fits:
        wanted = "a list of numbers" if kind == "numbers" else _WANTED[kind]
        shown = "it holds a special token" if found.special else f"this is {found.shown}"
        scope.error("PLM301", f"{owner} needs {wanted} here", expr.span, shown)
    elif kind == "pattern":
        pattern(scope, expr)
    return found


def pattern(scope: Scope, expr: ast.Expr | ast.Range, *, whole: bool = False) -> None:
    """Reports a literal pattern that no automaton can follow; with `whole` also one that needs too large a one."""
    if not isinstance(expr, ast.Literal) or not isinstance(expr.value, str):
        return
    try:
        followed = automaton(expr.value)
        if whole:
            followed.whole()
    except PatternError as wrong:
        scope.found.append(wrong_pattern(expr.value, wrong, expr.span))
