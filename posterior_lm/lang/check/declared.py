"""Declared types: which may stand where, and what their arguments have to be."""

from __future__ import annotations

from posterior_lm.lang import ast
from posterior_lm.lang.check.options import inner, int_range, name_span, options
from posterior_lm.lang.check.scope import Scope
from posterior_lm.lang.check.tools import tools_of_text
from posterior_lm.lang.check.types import written
from posterior_lm.lang.near import nearest
from posterior_lm.lang.source import Span
from posterior_lm.lang.typed import Type
from posterior_lm.lang.value_types import VALUE_TYPES, value_type


def check_type(scope: Scope, type_: ast.TypeExpr, *, place: str) -> tuple[Type, bool]:
    """Checks a type where it stands: "latent", "parameter" or "column".

    Returns it and whether it says what values there are; where it does not, they are unknown.
    """
    known = _check(scope, type_, place)
    typed = scope.findings.types[id(type_)] = _typed(scope, type_)
    return typed, known


def _typed(scope: Scope, type_: ast.TypeExpr) -> Type:
    constants = [scope.written(arg) for arg in type_.args]
    known = value_type(type_.name)
    return Type(
        type_,
        choices=known.choices(constants),
        range=known.range(constants),
        options={option.name: scope.written(option.value) for option in type_.options},
        columns={
            c.name.id: scope.findings.types.get(id(c.type)) or _typed(scope, c.type) for c in type_.columns
        },
    )


def _check(scope: Scope, type_: ast.TypeExpr, place: str) -> bool:
    name = type_.name
    if name not in VALUE_TYPES:
        for part in (*type_.args, *(o.value for o in type_.options)):
            inner(scope, part)
        near = nearest(name, VALUE_TYPES) or next(
            (t.name for t in VALUE_TYPES.values() if name in t.elsewhere), None
        )
        scope.error(
            "PLM208",
            f"unknown type '{name}'",
            name_span(type_),
            "not a type",
            help=f"did you mean '{near}'?" if near else f"the types are {', '.join(VALUE_TYPES)}",
        )
        return False
    known = VALUE_TYPES[name]
    if place == "latent" and not known.latent:
        *others, last = (t.form for t in VALUE_TYPES.values() if t.latent)
        scope.error("PLM310", f"a latent cannot be a {name}", name_span(type_), "not a type of a latent",
                    help=f"latents are {', '.join(others)} or {last}")  # fmt: skip
        return False
    if place == "column" and name == "table":
        scope.error("PLM322", "a column cannot hold a table", name_span(type_), "a table in a table")
        return True
    _shape(scope, type_, place)
    options(scope, type_.options, known.options, f"the type {name}", name_span(type_))
    if name == "text":
        _text(scope, type_, place)
    return not (known.takes == "range" and place == "latent" and not type_.args)


def _shape(scope: Scope, type_: ast.TypeExpr, place: str) -> None:
    """The plain arguments of a type: none, one range, choices, or columns."""
    name, takes = type_.name, VALUE_TYPES[type_.name].takes
    if type_.columns and takes != "columns":
        scope.error("PLM322", f"{name} has no columns", type_.columns[0].span, "not expected here",
                    help=_like(type_))  # fmt: skip
    if takes == "columns":
        _table(scope, type_)
    elif takes == "choices":
        _choices(scope, type_)
    elif takes == "range":
        _int(scope, type_, place)
    elif type_.args:
        for arg in type_.args:
            inner(scope, arg)
        scope.error("PLM322", f"{name} takes no plain arguments", type_.args[0].span, "not expected here",
                    help="name the option: tokens=1..20" if name == "text" else f"write {name}")  # fmt: skip


def _like(type_: ast.TypeExpr) -> str:
    return f"write it like {VALUE_TYPES[type_.name].example}"


def _table(scope: Scope, type_: ast.TypeExpr) -> None:
    if type_.args:
        scope.error("PLM322", "a table lists columns with their types", type_.args[0].span, "not a column",
                    help=_like(type_))  # fmt: skip
    elif not type_.columns:
        scope.error("PLM322", "a table needs at least one column", type_.span, "no columns",
                    help=_like(type_))  # fmt: skip
    seen: dict[str, Span] = {}
    for column in type_.columns:
        if column.name.id in seen:
            scope.error("PLM202", f"the column '{column.name.id}' is declared twice", column.name.span,
                        "declared again here",
                        secondary=[(seen[column.name.id], "first declared here")])  # fmt: skip
        seen.setdefault(column.name.id, column.name.span)
        check_type(scope, column.type, place="column")


def _choices(scope: Scope, type_: ast.TypeExpr) -> None:
    if not type_.args:
        scope.error("PLM316", "one_of needs at least one choice", type_.span, "no choices",
                    help=_like(type_))  # fmt: skip
    seen: dict[str, Span] = {}
    for arg in type_.args:
        found = written(scope, arg)
        if not isinstance(found, str):
            scope.error("PLM316", "a choice is a string", arg.span, "not a string",
                        help=f'write "{found}"' if found is not None else None)  # fmt: skip
        elif not found:
            scope.error("PLM316", "a choice cannot be empty", arg.span, "no text to score")
        elif found in seen:
            scope.error(
                "PLM316",
                f'the choice "{found}" is listed twice',
                arg.span,
                "again here",
                secondary=[(seen[found], "first listed here")],
                help="drop one of them",
            )
        else:
            seen[found] = arg.span


def _int(scope: Scope, type_: ast.TypeExpr, place: str) -> None:
    args = type_.args
    if not args and place == "latent":
        scope.error("PLM308", "a latent int needs a range", type_.span, "no range",
                    help=_like(type_))  # fmt: skip
    if not args:
        return
    if len(args) > 1 or not isinstance(args[0], ast.Range):
        for arg in args:
            inner(scope, arg)
        scope.error("PLM322", "an int takes one range", args[0].span, "expected low..high",
                    help=_like(type_))  # fmt: skip
        return
    int_range(scope, args[0], constants=place != "latent")


def _text(scope: Scope, type_: ast.TypeExpr, place: str) -> None:
    given = {option.name: option for option in type_.options}
    if place == "latent" and "tokens" not in given:
        scope.error("PLM308", "a latent text needs a limit on its tokens", type_.span, "no limit",
                    help=_like(type_))  # fmt: skip
    tools_of_text(scope, type_, place)
    tokens = given["tokens"].value if "tokens" in given else None
    if tokens is not None and scope.written(tokens) == (0, 0):
        scope.error("PLM302", "no text has between 0 and 0 tokens but the empty one", tokens.span,
                    "nothing to draw", help=_like(type_))  # fmt: skip
    stop, end = given.get("stop"), given.get("end")
    if stop is not None and end is not None and (ending := scope.written(end.value)) in ("free", "eos"):
        scope.error("PLM321", f'stop= and end="{ending}" contradict each other', end.span,
                    "another way to end", secondary=[(stop.span, "ends at the stop")],
                    help="drop one of them")  # fmt: skip
