"""Data files as rows: JSON lines, a JSON list of objects, or CSV.

A row is a dict from parameter to value. What is wrong with a file is reported at its line, with a
caret, before anything is bound to a program. Of CSV the first row names the columns, and every other
row has a field for each.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from posterior_lm.graph.graph import ParamSpec
from posterior_lm.lang.diagnostics import DataError, Diagnostic, error, meant, readable
from posterior_lm.lang.signatures import VALUE_TYPES
from posterior_lm.lang.source import Source, Span
from posterior_lm.storage import read_most
from posterior_lm.target.rows_json import json_lines, json_list, parse

Row = dict[str, object]

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
        raise DataError.of("PLM801", f"cannot read {name}: it is a folder", where=name, help=help)
    if suffix not in READERS:
        raise DataError(_unknown_kind(name, suffix))
    source = Source(name, decode(read_bytes(path), name))
    rows = READERS[suffix](source)
    if not rows:
        what = "a header but no rows" if suffix == ".csv" and source.text.strip() else "no rows"
        raise DataError.of("PLM604", f"the data file {name} holds {what}", where=name)
    return typed_csv(rows, params) if suffix == ".csv" else rows


def read_bytes(path: str | Path) -> bytes:
    """What stands in a file, or on standard input for `-`. Raises DataError PLM801."""
    try:
        if str(path) == "-":
            return read_most(sys.stdin.buffer)
        with open(path, "rb") as file:  # which may be a pipe, since the caller named it
            return read_most(file)
    except (OSError, ValueError) as problem:  # ValueError: a null byte in the name, or too many in the file
        reason = (getattr(problem, "strerror", None) or str(problem)).lower()
        message = f"cannot read {path}: {reason}"
        raise DataError.of("PLM801", message, where=str(path), help=readable(path, reason)) from None


def decode(data: bytes, name: str) -> str:
    """UTF-8 text, without a byte-order mark. Raises DataError PLM605 naming the first wrong byte."""
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        byte = f"byte {problem.start} is 0x{data[problem.start]:02X},"
        raise DataError.of(
            "PLM605",
            f"{name} is not UTF-8 text: {byte} on line {line}",
            where=f"{name}:{line}",
            help="save it as UTF-8, for example with `iconv -t UTF-8`",
        ) from None


def typed_csv(rows: Iterable[Row], params: Sequence[ParamSpec]) -> list[Row]:
    """CSV rows with their fields read by the declared types; what cannot be read stays a string.

    An empty field of a parameter that is no text and has a default is left out.
    Columns that no parameter declares stay as they are: binding reports both.
    """
    declared = {p.name: p for p in params}
    return [
        {
            name: read_field(declared[name], field) if name in declared else field
            for name, field in row.items()
            if not (name in declared and _is_left_out(declared[name], field))
        }
        for row in rows
    ]


def _is_left_out(param: ParamSpec, field: object) -> bool:
    return field == "" and not param.required and VALUE_TYPES[param.type].kind != "text"


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
    help = meant(suffix, READERS, f"data files end in {known}")
    return error("PLM609", f"{name} is no known kind of data file", where=name, help=help)


# ------------------------------------------------------------------------------------------ CSV

_LONGEST = 2**31 - 1
"""Characters of one field: the default of the csv module, 128 KiB, is less than a long document."""


def csv_rows(source: Source) -> list[dict[str, object]]:
    """The rows, every field a string; empty lines are skipped. Raises DataError PLM607."""
    rows: list[dict[str, object]] = []
    names: list[str] | None = None
    for first, last, fields in _records(source):
        if names is None:
            names = _header(source, first, fields)
            continue
        if len(fields) != len(names):
            raise DataError(_ragged(source, first, last, fields, names))
        rows.append(dict(zip(names, fields, strict=True)))
    return rows


def _records(source: Source) -> Iterator[tuple[int, int, list[str]]]:
    """Every record with its first and last line, one-based."""
    limit = csv.field_size_limit(_LONGEST)
    reader = csv.reader(io.StringIO(source.text, newline="\n"), strict=True)
    before = 0
    try:
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as problem:
                open_quote = "unexpected end of data" in str(problem)
                label = _said(str(problem))
                line = before + 1 if open_quote else reader.line_num
                message = f"line {line} of {source.name} is not CSV"
                raise DataError(_wrong(source, message, line, line, label)) from None
            if fields:
                yield before + 1, reader.line_num, fields
            before = reader.line_num
    finally:
        csv.field_size_limit(limit)


def _said(problem: str) -> str:
    """A label for what the csv module complains about."""
    if "unexpected end of data" in problem:
        return "a quoted field that is never closed"
    if "new-line character" in problem:
        return "a carriage return outside quotes"
    return "expected a comma after the closing quote" if "expected after" in problem else problem


def _header(source: Source, line: int, fields: list[str]) -> list[str]:
    names = [field.strip() for field in fields]
    if len(names) == 1 and (sign := next((s for s in (";", "\t") if s in fields[0]), None)):
        shown = "semicolons" if sign == ";" else "tabs"
        message, help = f"{source.name} has one column", "separate columns by commas"
        raise DataError(_wrong(source, message, line, line, f"separated by {shown}", help))
    for number, name in enumerate(names):
        if not name:
            message = f"column {number + 1} of {source.name} has no name"
            raise DataError(
                _wrong(source, message, line, line, "an empty name", "the first row names every column")
            )
        if name in names[:number]:
            message = f"the column `{name}` stands twice in {source.name}"
            raise DataError(
                _wrong(source, message, line, line, "every name once", "rename or drop one of them")
            )
    return names


def _ragged(source: Source, first: int, last: int, fields: list[str], names: list[str]) -> Diagnostic:
    more = len(fields) > len(names)
    message = f"line {first} of {source.name} has {len(fields)} fields, the header has {len(names)}"
    help = "put quotes around a field that holds a comma" if more else f"the columns are {', '.join(names)}"
    return _wrong(source, message, first, last, f"{len(fields)} fields", help)


def _wrong(
    source: Source, message: str, first: int, last: int, label: str, help: str | None = None
) -> Diagnostic:
    start = _start(source, first)
    end = _start(source, last) + len(source.line(min(last, source.line_count)))
    return error("PLM607", message, Span(source, start, max(start, end)), label, help=help)


def _start(source: Source, line: int) -> int:
    """The offset at which a one-based line begins."""
    at = 0
    for _ in range(min(line, source.line_count) - 1):
        at = source.text.index("\n", at) + 1
    return at


READERS = {".jsonl": json_lines, ".ndjson": json_lines, ".json": json_list, ".csv": csv_rows}
