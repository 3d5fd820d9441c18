"""Data meets a program: typed values for its parameters, every mistake with its path.

All mistakes of one binding are collected and raised together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from posterior_lm.graph.graph import ParamSpec, RewardGraph
from posterior_lm.lang.diagnostics import DataError, Diagnostic, error, meant
from posterior_lm.lang.value_types import VALUE_TYPES, mistyped


def validate_data(
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
            found.append(_unknown(f"`{graph.name}` has no parameter", str(name), names, f"{path}{name}"))
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


def _unknown(what: str, name: str, names: Sequence[str], where: str) -> Diagnostic:
    help = meant(name, names, f"its {what.rpartition(' ')[2]}s are {_listed(names)}")
    return error("PLM602", f"{what} `{name}`", where=where, help=help)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{n}`" for n in names) if names else "none"


def _typed(param: ParamSpec, value: object, where: str, found: list[Diagnostic]) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    if param.type == "table":
        return _table(param, value, where, found)
    found += VALUE_TYPES[param.type].check(param, value, where)
    return value


def _table(param: ParamSpec, value: object, where: str, found: list[Diagnostic]) -> object:
    if not isinstance(value, list | tuple):
        found.append(mistyped(param, value, where))
        return ()
    rows: list[dict[str, object]] = []
    names = [c.name for c in param.columns]
    for number, row in enumerate(value):
        at = f"{where}[{number}]"
        if not isinstance(row, Mapping):
            found.append(mistyped(param, row, at, help=f"a row is an object with {_listed(names)}"))
            continue
        for name in row:
            if name not in names:
                found.append(_unknown(f"`{param.name}` has no column", str(name), names, f"{at}.{name}"))
        bound: dict[str, object] = {}
        for column in param.columns:
            if column.name in row:
                bound[column.name] = _typed(column, row[column.name], f"{at}.{column.name}", found)
            else:
                message, help = f"the column `{column.name}` has no value", f"add `{column.name}` to this row"
                found.append(error("PLM601", message, where=f"{at}.{column.name}", help=help))
        rows.append(bound)
    return tuple(rows)
