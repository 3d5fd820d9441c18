"""CSV rows: the first row names the columns, every other row has a field for each."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from posterior_lm.lang.diagnostics import DataError, Diagnostic, error
from posterior_lm.lang.source import Source, Span

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
