"""Declared types as the graph keeps them: parameter specs and latent options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from posterior_lm.graph.beside import FILE_OPTIONS, text_beside
from posterior_lm.graph.graph import ParamSpec
from posterior_lm.graph.ops import OPS
from posterior_lm.lang import ast
from posterior_lm.lang.diagnostics import InternalError


def constant_value(expr: ast.Expr | ast.Range) -> Any:
    """The value of an expression that names nothing: literals, signs, lists, ranges."""
    match expr:
        case ast.Literal(value=value):
            return value
        case ast.Unary(op="-", operand=operand):
            value = constant_value(operand)
            if isinstance(value, int | float):
                return -value
        case ast.Binary(op=op, left=left, right=right) if op in ("+", "-", "*"):
            return OPS[op](constant_value(left), constant_value(right))
        case ast.ListExpr(items=items):
            return tuple(constant_value(i) for i in items)
        case ast.Range(low=low, high=high):
            return (constant_value(low), constant_value(high))
        case ast.Name(id=name):
            return name
    raise InternalError(f"not a constant: {type(expr).__name__}")


def latent_options(
    declared: ast.TypeExpr, value: Callable[[ast.Expr], int], base: Path | None = None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and input nodes of a latent's options, ranges split into their two ends, files read.

    Raises CompileError (PLM336) for a file of a grammar or schema that cannot be read.
    """
    names: list[str] = []
    inputs: list[int] = []

    def put(name: str, expr: ast.Expr) -> None:
        names.append(name)
        inputs.append(value(expr))

    for arg in declared.args:
        if isinstance(arg, ast.Range):
            put("low", arg.low)
            put("high", arg.high)
    for option in sorted(declared.options, key=lambda o: o.name):
        if isinstance(option.value, ast.Range):
            put(f"{option.name}_low", option.value.low)
            put(f"{option.name}_high", option.value.high)
        elif option.name in FILE_OPTIONS and isinstance(option.value, ast.Literal):
            put(option.name, text_beside(option.value, base))
        elif option.name != "tools":
            put(option.name, option.value)
    return tuple(names), tuple(inputs)


def param_spec(param: ast.Param) -> ParamSpec:
    """The parameter as the data binder sees it."""
    default = None if param.default is None else constant_value(param.default)
    return _spec(param.name.id, param.type, default, param.default is None, param)


def _spec(name: str, declared: ast.TypeExpr, default: object, required: bool, at: ast.Node) -> ParamSpec:
    low = high = None
    choices: tuple[str, ...] = ()
    options: dict[str, object] = {}
    if declared.name == "one_of":
        choices = tuple(str(constant_value(a)) for a in declared.args)
    for arg in declared.args:
        if isinstance(arg, ast.Range):
            low, high = (int(str(v)) for v in constant_value(arg))  # type: ignore[attr-defined]
    for option in declared.options:
        options[option.name] = constant_value(option.value)
    columns = tuple(_spec(c.name.id, c.type, None, True, c) for c in declared.columns)
    return ParamSpec(
        name=name,
        type=declared.name,
        choices=choices,
        low=low,
        high=high,
        lead=str(options.pop("lead", "")),
        options=tuple(sorted(options.items())),
        columns=columns,
        default=default,
        required=required,
        span=at.span,
    )
