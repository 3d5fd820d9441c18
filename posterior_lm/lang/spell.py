"""Expressions, types and heads of statements as pieces of text, with the fewest parentheses."""

from __future__ import annotations

from posterior_lm.lang import ast
from posterior_lm.lang.layout import BREAK, Group, Pieces
from posterior_lm.lang.literals import encode_number, encode_string

_IF, _OR, _AND, _NOT, _COMPARE, _SUM, _PRODUCT, _SIGN, _POWER, _ATOM = range(10)
_LEVEL = {"or": _OR, "and": _AND, "+": _SUM, "-": _SUM, "*": _PRODUCT, "/": _PRODUCT}


def _level(expr: ast.Expr) -> int:
    match expr:
        case ast.IfExpr():
            return _IF
        case ast.Binary():
            return _LEVEL.get(expr.op, _COMPARE)
        case ast.Unary():
            return _NOT if expr.op == "not" else _SIGN
        case ast.PowerExpr():
            return _POWER
        case ast.Literal(value=value) if isinstance(value, (int, float)) and value < 0:
            return _SIGN
    return _ATOM


def expression(expr: ast.Expr | ast.Range, at_least: int = _IF) -> Pieces:
    """The pieces of an expression, in parentheses where it binds more loosely than `at_least`."""
    if isinstance(expr, ast.Range):
        return (*expression(expr.low), "..", *expression(expr.high))
    if _level(expr) < at_least:
        return (Group("(", (_bare(expr),), ")", comma=False),)
    return _bare(expr)


def _bare(expr: ast.Expr) -> Pieces:
    match expr:
        case ast.Literal():
            return (literal(expr),)
        case ast.Name():
            return (expr.id,)
        case ast.Field():
            return (f"{expr.row.id}.{expr.column}",)
        case ast.Marker():
            return (expr.kind,)
        case ast.ListExpr():
            return (Group("[", tuple(expression(item) for item in expr.items), "]"),)
        case ast.Call():
            return call(expr)
        case ast.PowerExpr():
            return (*expression(expr.base, _POWER), " ^ ", *_exponent(expr.exponent))
        case ast.Unary(op="not"):
            return ("not ", *expression(expr.operand, _NOT))
        case ast.Unary():
            return ("-", *expression(expr.operand, _SIGN))
        case ast.IfExpr():
            test, then = expression(expr.test, _OR), expression(expr.then, _OR)
            return ("if ", *test, BREAK, "then ", *then, BREAK, "else ", *expression(expr.orelse))
        case ast.Binary():
            level = _level(expr)
            left = level + 1 if level == _COMPARE else level
            middle = (BREAK, f"{expr.op} ") if level in (_OR, _AND) else (f" {expr.op} ",)
            return (*expression(expr.left, left), *middle, *expression(expr.right, level + 1))
    raise TypeError(f"not an expression: {expr!r}")


def _exponent(expr: ast.Expr) -> Pieces:
    """What may follow `^` bare: an atom, or minus signs and an atom."""
    inner = expr
    while isinstance(inner, ast.Unary) and inner.op == "-":
        inner = inner.operand
    return expression(expr, _SIGN if _level(inner) == _ATOM else _ATOM)


def literal(expr: ast.Literal) -> str:
    value = expr.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return encode_string(value, raw=expr.raw)
    return encode_number(value)


def call(expr: ast.Call) -> Pieces:
    return (expr.function.id, _arguments(expr.args, expr.options))


def _arguments(
    args: tuple[ast.Expr | ast.Range, ...], options: tuple[ast.Option, ...], extra: tuple[Pieces, ...] = ()
) -> Group:
    named = tuple((f"{option.name}=", *expression(option.value)) for option in options)
    return Group("(", (*(expression(arg) for arg in args), *extra, *named), ")")


def type_(expr: ast.TypeExpr) -> Pieces:
    columns = tuple((f"{c.name.id}: ", *type_(c.type)) for c in expr.columns)
    group = _arguments(expr.args, expr.options, columns)
    return (expr.name, group) if group.items else (expr.name,)


def parameter(param: ast.Param) -> Pieces:
    default = () if param.default is None else (" = ", *expression(param.default))
    return (f"{param.name.id}: ", *type_(param.type), *default)


def head(item: ast.Statement | ast.Declaration) -> Pieces:
    """A declaration or statement, up to the `{` of its block where it has one."""
    match item:
        case ast.LmDecl():
            return (f"lm {item.name.id} = ", *expression(item.model))
        case ast.ToolDecl():
            return (f"tool {item.name.id} = ", *expression(item.tool))
        case ast.UseDecl():
            return (f"use {item.name.id} from {literal(item.target)}",)
        case ast.Latent():
            return (f"latent {item.name.id}: ", *type_(item.type), BREAK, "~ ", *expression(item.dist))
        case ast.Observe():
            return ("observe ", *expression(item.value), BREAK, "~ ", *expression(item.dist))
        case ast.Factor():
            return ("factor ", *expression(item.value))
        case ast.Condition():
            return ("condition ", *expression(item.value))
        case ast.Temper():
            return ("temper ", *expression(item.exponent), " {")
        case ast.Plate():
            return (f"plate {item.row.id} in ", *expression(item.table), " {")
        case ast.Let():
            return (f"let {item.name.id} = ", *expression(item.value))
        case ast.Guide():
            return (f"guide {item.name.id}", BREAK, "~ ", *expression(item.dist))
        case ast.Infer():
            bare = not item.method.args and not item.method.options
            return ("infer ", item.method.function.id) if bare else ("infer ", *call(item.method))
    raise TypeError(f"not a statement: {item!r}")
