"""Data meets a program: typed values for its parameters, every mistake with its path.

All mistakes of one binding are collected and raised together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from posterior_lm.graph.graph import ParamSpec, RewardGraph
from posterior_lm.lang.diagnostics import DataError, Diagnostic, error
from posterior_lm.lang.json_reader import is_number
from posterior_lm.lang.near import nearest, shown
from posterior_lm.lang.source import is_text

NAMES = {
    "text": "a text",
    "int": "a whole number",
    "real": "a number",
    "bool": "true or false",
    "one_of": "one of the declared choices",
    "table": "a list of rows",
}


def bind_data(
    graph: RewardGraph, given: Mapping[str, object], *, path: str = "", missing: Sequence[str] = ()
) -> dict[str, object]:
    """A value for every parameter. Raises DataError PLM601–603, PLM608.

    `path` is put before the names in messages (`rows[3].`); the parameters in
    `missing` may be left out and get no value.
    """
    found: list[Diagnostic] = []
    names = [p.name for p in graph.params]
    for name in given:
        if name not in names:
            close = nearest(name, names)
            found.append(
                error(
                    "PLM602",
                    f"`{graph.name}` has no parameter `{name}`",
                    where=path + name,
                    help=f"did you mean `{close}`?" if close else f"its parameters are {_listed(names)}",
                )
            )
    data: dict[str, object] = {}
    for param in graph.params:
        where = path + param.name
        if param.name in given:
            data[param.name] = _typed(param, given[param.name], where, found)
        elif not param.required:
            data[param.name] = param.default
        elif param.name not in missing:
            found.append(
                error(
                    "PLM601",
                    f"the parameter `{param.name}` has no value",
                    param.span,
                    "declared here",
                    where=where,
                    help=f"give it with `--given {param.name}=VALUE`, a data row, or a default in the program",
                )
            )
    if found:
        raise DataError(found)
    return data


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{n}`" for n in names) if names else "none"


def _mistyped(param: ParamSpec, value: object, where: str, *, help: str | None = None) -> Diagnostic:
    return error(
        "PLM603",
        f"`{param.name}` must be {NAMES[param.type]}, not {shown(value)}",
        param.span,
        where=where,
        help=help or _PLAIN.get(param.type) or f"choose from {_quoted(param.choices)}",
    )


_PLAIN = {
    "text": "put the value in quotes",
    "int": "give a whole number, such as 3, without quotes",
    "real": "give a number, such as 0.5, without quotes",
    "bool": "write true or false, without quotes",
    "table": "a table is a list of objects, one per row",
}
"""What a value of each type looks like; of `one_of` the declaration says it."""


def _quoted(choices: Sequence[str]) -> str:
    return ", ".join(map(repr, choices))


def _outside(param: ParamSpec, message: str, where: str, help: str) -> Diagnostic:
    return error("PLM608", message, param.span, where=where, help=help)


def _typed(param: ParamSpec, value: object, where: str, found: list[Diagnostic]) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    match param.type:
        case "text":
            return _text(param, value, where, found)
        case "int":
            return _int(param, value, where, found)
        case "real":
            if isinstance(value, bool) or not isinstance(value, int | float):
                found.append(_mistyped(param, value, where))
            elif not is_number(value):
                message = f"`{param.name}` must be finite, not {shown(value)}"
                found.append(_outside(param, message, where, "give a finite number, such as 1e9"))
        case "bool":
            if not isinstance(value, bool):
                found.append(_mistyped(param, value, where))
        case "one_of":
            return _choice(param, value, where, found)
        case "table":
            return _table(param, value, where, found)
    return value


def _text(param: ParamSpec, value: object, where: str, found: list[Diagnostic]) -> object:
    if not isinstance(value, str):
        found.append(_mistyped(param, value, where))
        return value
    chars = dict(param.options).get("chars")
    stop = dict(param.options).get("stop")
    body = value.removesuffix(stop) if isinstance(stop, str) else value
    if isinstance(chars, str) and (bad := next((c for c in body if c not in chars), None)) is not None:
        message = f"`{param.name}` holds {bad!r}, which is not among its `chars`"
        found.append(_outside(param, message, where, "take it out of the text, or add it to `chars`"))
    if not is_text(value):
        found.append(
            _outside(
                param,
                f"`{param.name}` holds half of a surrogate pair, which is no text",
                where,
                "write the whole character, or U+FFFD where it is lost",
            )
        )
    return value


def _int(param: ParamSpec, value: object, where: str, found: list[Diagnostic]) -> object:
    if isinstance(value, bool) or not isinstance(value, int):
        found.append(_mistyped(param, value, where))
    elif not is_number(value):
        message = f"`{param.name}` is {shown(value)}, beyond every number that can be computed with"
        found.append(_outside(param, message, where, "give a number below 1e308"))
    elif (param.low is not None and value < param.low) or (param.high is not None and value > param.high):
        message = f"`{param.name}` is {shown(value)}, outside {param.low}..{param.high}"
        found.append(
            _outside(param, message, where, "give a number in that range, or widen it in the program")
        )
    return value


def _choice(param: ParamSpec, value: object, where: str, found: list[Diagnostic]) -> object:
    if not isinstance(value, str):
        found.append(_mistyped(param, value, where))
    elif value not in param.choices:
        close = nearest(value, param.choices)
        found.append(
            _outside(
                param,
                f"`{param.name}` is {shown(value)}, which is not one of its choices",
                where,
                f"did you mean {close!r}?" if close else f"choose from {_quoted(param.choices)}",
            )
        )
    return value


def _table(param: ParamSpec, value: object, where: str, found: list[Diagnostic]) -> object:
    if not isinstance(value, list | tuple):
        found.append(_mistyped(param, value, where))
        return ()
    rows: list[dict[str, object]] = []
    names = [c.name for c in param.columns]
    for number, row in enumerate(value):
        at = f"{where}[{number}]"
        if not isinstance(row, Mapping):
            found.append(_mistyped(param, row, at, help=f"a row is an object with {_listed(names)}"))
            continue
        for name in row:
            if name not in names:
                close = nearest(str(name), names)
                found.append(
                    error(
                        "PLM602",
                        f"`{param.name}` has no column `{name}`",
                        where=f"{at}.{name}",
                        help=f"did you mean `{close}`?" if close else f"its columns are {_listed(names)}",
                    )
                )
        bound: dict[str, object] = {}
        for column in param.columns:
            if column.name in row:
                bound[column.name] = _typed(column, row[column.name], f"{at}.{column.name}", found)
            else:
                message, help = f"the column `{column.name}` has no value", f"add `{column.name}` to this row"
                found.append(error("PLM601", message, where=f"{at}.{column.name}", help=help))
        rows.append(bound)
    return tuple(rows)
