"""Declarations and parameters: `lm`, `tool`, `use`, and the header of the program."""

from __future__ import annotations

import re

from posterior_lm.lang import ast
from posterior_lm.lang.check import declared
from posterior_lm.lang.check.fits import count
from posterior_lm.lang.check.options import options
from posterior_lm.lang.check.scope import Scope
from posterior_lm.lang.check.tools import constructor_of, needs_trigger
from posterior_lm.lang.check.types import written
from posterior_lm.lang.near import nearest
from posterior_lm.lang.signatures import LMS, TOOLS, Constructor
from posterior_lm.lang.typed import UNKNOWN, Binding, Type, Value

_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def declaration(scope: Scope, decl: ast.Declaration) -> None:
    """Checks a declaration and brings its name into scope."""
    name = decl.name
    value = UNKNOWN
    if isinstance(decl, ast.LmDecl):
        if isinstance(decl.model, ast.Call):
            _constructor(scope, decl.model, LMS, "language model")
        elif (
            written(scope, decl.model) == ""
            and decl.model.span.end > decl.model.span.start
            and decl.model.span.text == '""'
        ):
            scope.error("PLM211", "the language model has no name", decl.model.span, "an empty string",
                        help='write "tiny", a folder, a .json file or a name on the hub')  # fmt: skip
        sort, value = "lm", Value("lm")
    elif isinstance(decl, ast.ToolDecl):
        scope.tools.setdefault(name.id, decl)
        constructor = constructor_of(scope, decl.tool)
        known = TOOLS if constructor is None else {**TOOLS, decl.tool.function.id: constructor}
        _constructor(scope, decl.tool, known, "tool")
        if constructor is not None:
            needs_trigger(scope, decl.tool, constructor)
        sort, value = "tool", Value("tool")
    else:
        target = written(scope, decl.target)
        if not isinstance(target, str) or not _TARGET.fullmatch(target):
            scope.error("PLM209", "this does not name a Python object", decl.target.span,
                        "expected module:name", help='write it like "package.module:function"')  # fmt: skip
        sort = "use"
    scope.declare(Binding(name, sort, value))


def _constructor(scope: Scope, call: ast.Call, known: dict[str, Constructor], what: str) -> None:
    name = call.function.id
    if not name:
        return
    if name not in known:
        near = nearest(name, known)
        scope.error(
            "PLM211",
            f"unknown {what} '{name}'",
            call.function.span,
            "not known",
            help=f"did you mean '{near}'?" if near else f"known here: {', '.join(known)}",
        )
        return
    constructor = known[name]
    if count(scope, call, constructor.arguments, (len(constructor.arguments),)):
        for arg in call.args:
            if not isinstance(arg, ast.Literal) or not isinstance(written(scope, arg), str):
                scope.error("PLM301", f"{name} needs a string here", arg.span, "not a string")
    options(scope, call.options, constructor.options, name, call.function.span)


def parameter(scope: Scope, param: ast.Param) -> None:
    """Checks a parameter and brings its name into scope."""
    type_, known = declared.check_type(scope, param.type, place="parameter")
    if known and param.default is not None:
        _default(scope, param.name.id, param.default, type_)
    scope.declare(Binding(param.name, "parameter", type_.value if known else UNKNOWN, type_))


def _default(scope: Scope, name: str, default: ast.Expr, type_: Type) -> None:
    if type_.name == "table":
        scope.error("PLM315", "a table has no default", default.span, "drop it")
        return
    found, wanted = written(scope, default), type_.value
    if found is None:
        scope.error("PLM315", "a default is written out", default.span, f"expected {wanted.shown}")
        return
    kind = {str: "text", bool: "bool", int: "int", float: "real"}[type(found)]
    if kind != wanted.kind and not (wanted.kind == "real" and kind == "int"):
        scope.error("PLM315", f"the default of '{name}' has the wrong type", default.span,
                    f"this is {Value(kind).shown}",
                    secondary=[(type_.span, f"the type is {type_.name}")])  # fmt: skip
    elif wanted.choices and found not in wanted.choices:
        near = nearest(str(found), wanted.choices)
        scope.error(
            "PLM315",
            f'"{found}" is not one of the choices',
            default.span,
            "not a choice",
            secondary=[(type_.span, "the choices")],
            help=f'did you mean "{near}"?' if near else None,
        )
    elif type_.range is not None:
        low, high = type_.range
        if low <= high and not low <= int(str(found)) <= high:
            scope.error("PLM315", f"the default {found} is outside {low}..{high}", default.span,
                        "out of range", secondary=[((type_.at.args or (type_,))[0].span, "the range")])  # fmt: skip
