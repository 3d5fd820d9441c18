"""Data files as rows: JSON lines, a JSON list of objects, or CSV.

A row is a dict from parameter to value. What is wrong with a file is reported at
its line, with a caret, before anything is bound to a program.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from posterior_lm.graph.graph import ParamSpec
from posterior_lm.lang.diagnostics import DataError, Diagnostic, error, nearest, readable
from posterior_lm.lang.signatures import VALUE_TYPES
from posterior_lm.lang.source import Source
from posterior_lm.target.rows_csv import csv_rows
from posterior_lm.target.rows_json import json_lines, json_list, parse

Row = dict[str, object]

READERS = {".jsonl": json_lines, ".ndjson": json_lines, ".json": json_list, ".csv": csv_rows}
STDIN = "<stdin>"


def read_rows(path: str | Path, params: Sequence[ParamSpec] = ()) -> list[Row]:
    """The rows of a data file, in order; `-` reads JSON lines from standard input.

    Fields of CSV are read by the types of the `params`; what those do not declare stays a string.

    Raises DataError: PLM801 for a file that cannot be read, PLM609 for an unknown
    extension, PLM605 where it is not UTF-8, PLM606 or PLM607 where it is not what its
    extension says, PLM604 where it holds no row.
    """
    name = STDIN if str(path) == "-" else str(path)
    suffix = ".jsonl" if name == STDIN else Path(name).suffix.lower()
    if os.path.isdir(name):
        help = "name one file, such as rows.jsonl in it"
        raise DataError(error("PLM801", f"cannot read {name}: it is a folder", where=name, help=help))
    if suffix not in READERS:
        raise DataError(_unknown_kind(name, suffix))
    source = Source(name, decode(read_bytes(path), name))
    rows = READERS[suffix](source)
    if not rows:
        what = "a header but no rows" if suffix == ".csv" and source.text.strip() else "no rows"
        raise DataError(error("PLM604", f"the data file {name} holds {what}", where=name))
    return typed_csv(rows, params) if suffix == ".csv" else rows


def read_bytes(path: str | Path) -> bytes:
    """What stands in a file, or on standard input for `-`. Raises DataError PLM801."""
    try:
        if str(path) == "-":
            return sys.stdin.buffer.read()
        return Path(path).read_bytes()
    except (OSError, ValueError) as problem:  # ValueError: a null byte in the name
        reason = (getattr(problem, "strerror", None) or str(problem)).lower()
        message = f"cannot read {path}: {reason}"
        raise DataError(error("PLM801", message, where=str(path), help=readable(path, reason))) from None


def decode(data: bytes, name: str) -> str:
    """UTF-8 text, without a byte-order mark. Raises DataError PLM605 naming the first wrong byte."""
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        byte = f"byte {problem.start} is 0x{data[problem.start]:02X},"
        raise DataError(
            error(
                "PLM605",
                f"{name} is not UTF-8 text: {byte} on line {line}",
                where=f"{name}:{line}",
                help="save it as UTF-8, for example with `iconv -t UTF-8`",
            )
        ) from None


def typed_csv(rows: Iterable[Row], params: Sequence[ParamSpec]) -> list[Row]:
    """CSV rows with their fields read by the declared types; what cannot be read stays a string.

    Columns that no parameter declares stay as they are: binding reports both.
    """
    declared = {p.name: p for p in params}
    return [
        {
            name: read_field(declared[name], field) if name in declared else field
            for name, field in row.items()
        }
        for row in rows
    ]


def read_field(param: ParamSpec, text: object) -> object:
    """The value that a field spells, a table as JSON; the field itself where it spells none, for the binder to refuse."""
    if not isinstance(text, str):
        return text
    if param.type != "table":
        return VALUE_TYPES[param.type].read(text)
    try:
        return json_value(text.strip())
    except DataError:
        return text


def json_value(text: str, name: str = "the field") -> object:
    """A JSON value under the rules of data files; `name` says where it stands. Raises DataError PLM606."""
    return parse(Source(name, text), 0, len(text))


def _unknown_kind(name: str, suffix: str) -> Diagnostic:
    known = ", ".join(READERS)
    close = nearest(suffix, READERS)
    return error(
        "PLM609",
        f"{name} is no known kind of data file",
        where=name,
        help=f"did you mean `{close}`?" if close else f"data files end in {known}",
    )


__all__ = ["Row", "decode", "json_value", "read_bytes", "read_field", "read_rows", "typed_csv"]
