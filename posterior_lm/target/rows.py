"""Data as rows: JSON lines, a JSON list of objects, CSV, Parquet, and frames of pandas.

A row is a dict from parameter to value, and rows are read as they are asked for: a file may be larger than
memory, but for a JSON list. What is wrong with a file is reported at its line, with a caret, before anything
is bound to a program. Of CSV the first row names the columns, and every other row has a field for each.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from posterior_lm.graph.graph import ParamSpec
from posterior_lm.installed import need
from posterior_lm.lang.diagnostics import DataError, Diagnostic, error, meant, readable
from posterior_lm.lang.source import Source, Span
from posterior_lm.lang.value_types import VALUE_TYPES
from posterior_lm.storage import LARGEST, read_most
from posterior_lm.target.rows_json import json_lines, json_list, parse

Row = dict[str, object]

STDIN = "<stdin>"


def read_rows(path: str | Path, params: Sequence[ParamSpec] = ()) -> list[Row]:
    """The rows of a data file, in order, as `stream_rows` reads them."""
    return list(stream_rows(path, params))


def stream_rows(path: str | Path, params: Sequence[ParamSpec] = ()) -> Iterator[Row]:
    """The rows of a data file, in order and one by one; `-` reads JSON lines from standard input.

    Fields of CSV are read by the types of the `params`; what those do not declare stays a string.

    Raises DataError: PLM801 for a file that cannot be read, PLM609 for an unknown
    extension, PLM605 where it is not UTF-8, PLM606, PLM607 or PLM613 where it is not what its
    extension says, PLM604 where it holds no row, PLM810 where Parquet cannot be read here.
    """
    name = STDIN if str(path) == "-" else str(path)
    suffix = ".jsonl" if name == STDIN else Path(name).suffix.lower()
    if os.path.isdir(name):
        help = "name one file, such as rows.jsonl in it"
        raise DataError.of("PLM801", f"cannot read {name}: it is a folder", where=name, help=help)
    empty = True
    for row in _rows_in(path, name, suffix, params):
        empty = False
        yield row
    if empty:
        header = (
            suffix == ".csv" and os.path.getsize(name) and any(line.strip() for line in _lines(path, name))
        )
        what = "a header but no rows" if header else "no rows"
        raise DataError.of("PLM604", f"the data file {name} holds {what}", where=name)


def _rows_in(path: str | Path, name: str, suffix: str, params: Sequence[ParamSpec]) -> Iterator[Row]:
    if suffix in (".jsonl", ".ndjson"):
        return json_lines(name, _lines(path, name))
    if suffix == ".json":
        return iter(json_list(Source(name, decode(read_bytes(path), name))))
    if suffix == ".csv":
        return typed_csv(csv_rows(name, _lines(path, name)), params)
    if suffix == ".parquet":
        return parquet_rows(name)
    raise DataError(_unknown_kind(name, suffix))


def _lines(path: str | Path, name: str) -> Iterator[str]:
    """The lines of a text file with their line breaks, without a byte-order mark. Raises DataError PLM801, PLM605."""
    try:
        at = 0
        standard = contextlib.nullcontext(sys.stdin.buffer)
        with standard if str(path) == "-" else open(path, "rb") as file:
            for number in itertools.count(1):
                data = file.readline(LARGEST + 1)
                if len(data) > LARGEST:
                    raise ValueError(f"line {number} has more than {LARGEST:,} bytes")
                if not data:
                    return
                try:
                    line = data.decode("utf-8")
                except UnicodeDecodeError as problem:
                    raise DataError(_not_utf8(name, at, data, problem.start, number)) from None
                yield line.removeprefix("\ufeff") if at == 0 else line
                at += len(data)
    except (OSError, ValueError) as problem:  # ValueError: a null byte in the name, or too long a line
        raise DataError(_unreadable(path, problem)) from None


def read_bytes(path: str | Path) -> bytes:
    """What stands in a file, or on standard input for `-`. Raises DataError PLM801."""
    try:
        if str(path) == "-":
            return read_most(sys.stdin.buffer)
        with open(path, "rb") as file:  # which may be a pipe, since the caller named it
            return read_most(file)
    except (OSError, ValueError) as problem:  # ValueError: a null byte in the name, or too many in the file
        raise DataError(_unreadable(path, problem)) from None


def _unreadable(path: str | Path, problem: Exception) -> Diagnostic:
    reason = (getattr(problem, "strerror", None) or str(problem)).lower()
    help = readable(path, reason)
    return error("PLM801", f"cannot read {path}: {reason}", where=str(path), help=help)


def decode(data: bytes, name: str) -> str:
    """UTF-8 text, without a byte-order mark. Raises DataError PLM605 naming the first wrong byte."""
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise DataError(_not_utf8(name, 0, data, problem.start, line)) from None


def _not_utf8(name: str, before: int, data: bytes, start: int, line: int) -> Diagnostic:
    byte = f"byte {before + start} is 0x{data[start]:02X},"
    help = "save it as UTF-8, for example with `iconv -t UTF-8`"
    return error(
        "PLM605", f"{name} is not UTF-8 text: {byte} on line {line}", where=f"{name}:{line}", help=help
    )


def typed_csv(rows: Iterable[Row], params: Sequence[ParamSpec]) -> Iterator[Row]:
    """CSV rows with their fields read by the declared types; what cannot be read stays a string.

    An empty field of a parameter that is no text and has a default is left out.
    Columns that no parameter declares stay as they are: binding reports both.
    """
    declared = {p.name: p for p in params}
    for row in rows:
        yield {
            name: read_field(declared[name], field) if name in declared else field
            for name, field in row.items()
            if not (name in declared and _is_left_out(declared[name], field))
        }


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
    help = meant(suffix, KINDS, f"data files end in {', '.join(KINDS)}")
    return error("PLM609", f"{name} is no known kind of data file", where=name, help=help)


# ------------------------------------------------------------------------------------------ CSV

_LONGEST = 2**31 - 1
"""Characters of one field: the default of the csv module, 128 KiB, is less than a long document."""


def csv_rows(name: str, lines: Iterable[str]) -> Iterator[Row]:
    """The rows, every field a string; empty lines are skipped. Raises DataError PLM607."""
    names: list[str] | None = None
    for source, first, last, fields in _records(name, lines):
        if names is None:
            names = _header(source(), first, fields)
        elif len(fields) != len(names):
            raise DataError(_ragged(source(), first, last, fields, names))
        else:
            yield dict(zip(names, fields, strict=True))


def _records(name: str, lines: Iterable[str]) -> Iterator[tuple[Callable[[], Source], int, int, list[str]]]:
    """Every record with its first and last line, one-based, and what makes a source that shows them at their place."""
    kept: list[str] = []
    before = 0

    def fed() -> Iterator[str]:
        for line in lines:
            kept.append(line)
            yield line

    def source() -> Source:
        return Source(name, "\n" * before + "".join(kept))

    limit = csv.field_size_limit(_LONGEST)
    reader = csv.reader(fed(), strict=True)
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
                message = f"line {line} of {name} is not CSV"
                raise DataError(_wrong(source(), message, line, line, label)) from None
            if fields:
                yield source, before + 1, reader.line_num, fields
            before = reader.line_num
            kept.clear()
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


# -------------------------------------------------------------------------- Parquet and frames


def parquet_rows(name: str) -> Iterator[Row]:
    """The rows, a row group of the file in memory at a time; what is null is left out. Raises DataError PLM613, PLM810."""
    try:
        parquet = need("pyarrow.parquet", "parquet")
    except ImportError:
        help = "pip install 'posterior_lm[parquet]', or save the rows as JSON lines"
        raise DataError.of(
            "PLM810", f"reading {name} needs pyarrow, which is not installed", help=help
        ) from None
    try:
        with parquet.ParquetFile(name, pre_buffer=False) as file:
            names = file.schema_arrow.names
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"the column {min(twice)!r} stands twice in it")
            for batch in file.iter_batches(batch_size=_AT_ONCE):
                for row in batch.to_pylist():
                    yield {name: cell for name, cell in row.items() if cell is not None}
    except FileNotFoundError as problem:
        raise DataError(_unreadable(name, problem)) from None
    except (OSError, ValueError, NotImplementedError) as problem:  # which those of pyarrow are kinds of
        why = " ".join(str(problem).split()).rstrip(".")
        raise DataError.of(
            "PLM613", f"{name} is no Parquet file that can be read: {why}", where=name
        ) from None


_AT_ONCE = 256
"""Rows that are turned into Python's values together."""


def frame_rows(frame: Any) -> Iterator[Row]:
    """The rows of a pandas DataFrame, some at a time."""
    for start in range(0, len(frame), _AT_ONCE):
        part = frame.iloc[start : start + _AT_ONCE].astype(object)
        yield from map(present, part.where(part.notna(), None).to_dict("records"))


def present(row: Mapping[str, Any]) -> Row:
    """What is not None of a row, with lists in place of arrays."""
    return {
        name: cell.tolist() if hasattr(cell, "tolist") else cell
        for name, cell in row.items()
        if cell is not None
    }


KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
"""Extensions of data files."""
