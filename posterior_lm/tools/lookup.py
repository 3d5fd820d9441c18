"""A lookup table: it writes the text that a file gives for the last words before its trigger."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from functools import cached_property

from attrs import frozen

from posterior_lm.lang.values import read_json

MOST_ROWS = 100_000
"""Rows of a table; its file has at most a megabyte."""

Rows = tuple[tuple[str, str], ...]


@frozen
class Lookup:
    """Writes the text of the longest key that stands right before the trigger.

    Spaces between key and trigger do not count, and a key that begins with a letter or a digit
    matches whole words only. Where no key stands there, the tool declines.
    """

    trigger: str
    rows: Rows

    @cached_property
    def _texts(self) -> dict[str, str]:
        return dict(self.rows)

    @cached_property
    def _lengths(self) -> tuple[int, ...]:
        return tuple(sorted({len(key) for key, _ in self.rows}, reverse=True))

    def __call__(self, text: str) -> str | None:
        """The text of the longest key before the trigger, or None."""
        body = text[: len(text) - len(self.trigger)].rstrip()
        for length in self._lengths:
            key = body[-length:]
            if key in self._texts and len(key) == length:
                before = body[-length - 1 : -length]
                if not (before.isalnum() and key[0].isalnum()):
                    return self._texts[key]
        return None


def read_table(text: str, name: str) -> Rows:
    """The rows of a table, sorted by key. Raises ValueError, which says what is wrong with it.

    `name` ends with .csv (two columns, the first row names them), .json (an object of texts) or
    .jsonl (objects with the two fields "key" and "text").
    """
    suffix = name.rsplit(".", 1)[-1].lower() if "." in name else ""
    if suffix not in ("csv", "json", "jsonl"):
        raise ValueError("its name ends neither with .csv nor with .json nor with .jsonl")
    pairs = {"csv": _csv, "json": _json, "jsonl": _jsonl}[suffix](text)
    found: dict[str, str] = {}
    for row, (key, value) in enumerate(pairs, start=1):
        if not isinstance(key, str) or not isinstance(value, str):
            raise ValueError(f"row {row} holds something that is no text")
        if not key.strip() or not value:
            raise ValueError(f"row {row} has an empty {'key' if not key.strip() else 'text'}")
        if key != key.rstrip():
            raise ValueError(f"the key {key!r} ends with a space, and spaces before the trigger do not count")
        if key in found:
            raise ValueError(f"the key {key!r} stands in it twice")
        found[key] = value
        if row > MOST_ROWS:
            raise ValueError(f"it has more than {MOST_ROWS:,} rows")
    if not found:
        raise ValueError("it has no rows")
    return tuple(sorted(found.items()))


def _csv(text: str) -> list[tuple[object, object]]:
    try:
        rows = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    except csv.Error as wrong:
        raise ValueError(f"it is no CSV: {wrong}") from None
    wrong_row = next((k for k, row in enumerate(rows) if len(row) != 2), None)
    if wrong_row is not None:
        raise ValueError(f"line {wrong_row + 1} of its rows has {len(rows[wrong_row])} columns, not two")
    return [(row[0], row[1]) for row in rows[1:]]


def _json(text: str) -> list[tuple[object, object]]:
    pairs: list[list[tuple[str, object]]] = []

    def keep(found: list[tuple[str, object]]) -> dict[str, object]:
        pairs.append(found)  # the outermost object comes last, with keys that stand twice
        return dict(found)

    if not isinstance(_loaded(text, keep), dict):
        raise ValueError("it is no JSON object of texts")
    return list(pairs[-1])


def _jsonl(text: str) -> list[tuple[object, object]]:
    found: list[tuple[object, object]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        row = _loaded(line)
        if not isinstance(row, dict) or set(row) != {"key", "text"}:
            raise ValueError(f'line {number} is no object with "key" and "text"')
        found.append((row["key"], row["text"]))
    return found


def _loaded(text: str, hook: Callable[[list[tuple[str, object]]], object] | None = None) -> object:
    try:
        return read_json(text, pairs=hook)
    except ValueError as wrong:
        raise ValueError(f"it is no JSON: {wrong}") from None
