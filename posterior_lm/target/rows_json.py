"""JSON rows, strictly: no key twice, no NaN, no number that overflows; mistakes have a caret."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from posterior_lm.lang.diagnostics import DataError, Diagnostic, error, shortened
from posterior_lm.lang.source import Source, Span

_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|-?Infinity|NaN|-?\d[\d.eE+-]*')
_KINDS = {dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number",
          bool: "a truth value", type(None): "null"}  # fmt: skip
_ROW = 'a row is an object such as {"name": "value"}'


def json_lines(name: str, lines: Iterable[str]) -> Iterator[dict[str, object]]:
    """One object per line; blank lines are skipped. Raises DataError PLM606 at the first wrong line."""
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        text = line.removesuffix("\n")
        try:
            row = _row(Source(name, text), 0)
        except DataError:  # once more, at its place in the file
            row = _row(Source(name, "\n" * number + text), number)
        yield row


def json_list(source: Source) -> list[dict[str, object]]:
    """A list of objects. Raises DataError PLM606."""
    text = source.text
    if not text.strip():
        return []
    whole = parse(source, 0, len(text))
    if not isinstance(whole, list):
        message = f"{source.name} holds {_KINDS[type(whole)]}, not a list of objects"
        raise DataError(_wrong(source, message, *_first_line(source), "expected `[`", _ROW))
    for number, row in enumerate(whole):
        if not isinstance(row, dict):
            message = f"rows[{number}] is {_KINDS[type(row)]}, not an object"
            raise DataError.of("PLM606", message, where=f"{source.name}: rows[{number}]", help=_ROW)
    return whole


def parse(source: Source, start: int, end: int) -> Any:
    """The JSON value that stands in a range of the source. Raises DataError PLM606."""
    text = source.text[start:end]
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int
        )
    except json.JSONDecodeError as problem:
        at = start + problem.pos
        raise DataError(_not_json(source, problem.msg, at, end)) from None
    except _Refused as refused:
        at, stop = refused.find(text)
        raise DataError(
            _wrong(source, refused.message(source, start + at), start + at, start + stop, refused.label)
        ) from None
    except RecursionError:
        message = f"{_at(source, start)}: the JSON is nested too deeply"
        raise DataError(_wrong(source, message, start, start + 1, "")) from None


def _row(source: Source, start: int) -> dict[str, object]:
    """The object that stands in the source from there on."""
    value = parse(source, start, len(source.text))
    if isinstance(value, dict):
        return value
    message = f"{_at(source, start)} holds {_KINDS[type(value)]}, not an object"
    raise DataError(_wrong(source, message, start, len(source.text), "one object per line", _ROW))


# ------------------------------------------------------------- what JSON allows and data does not


class _Refused(Exception):
    """A value that Python's reader takes and we do not; `find` says where it stands."""

    def __init__(self, kind: str, word: str) -> None:
        self.kind, self.word = kind, word
        super().__init__(kind)

    @property
    def label(self) -> str:
        return {"key": "again here", "constant": "not a JSON number", "number": "too large"}[self.kind]

    def message(self, source: Source, at: int) -> str:
        shown = shortened(self.word, 40)
        what = {
            "key": f"the key {json.dumps(shown, ensure_ascii=False)} stands twice in one object",
            "constant": f"{shown} is no number that JSON has",
            "number": f"the number {shown} is too large",
        }[self.kind]
        return f"{_at(source, at)}: {what}"

    def find(self, text: str) -> tuple[int, int]:
        if self.kind == "key":
            return _second_key(text, self.word)
        for token in _TOKEN.finditer(text):
            if token.group() == self.word:
                return token.span()
        return 0, len(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Refused("key", key)
        found[key] = value
    return found


def _constant(word: str) -> float:
    raise _Refused("constant", word)


def _float(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise _Refused("number", word)
    return number


def _int(word: str) -> int:
    if len(word) > 400:  # longer than any finite float; int() refuses 4301 digits with a plain ValueError
        raise _Refused("number", word)
    return int(word)


def _keys(text: str) -> Iterator[tuple[int, str, tuple[int, int]]]:
    """Every key with the number of the object it belongs to and where it stands."""
    stack: list[int] = []
    objects = 0
    for token in re.finditer(r'"(?:\\.|[^"\\])*"|[{}]', text):
        match token.group():
            case "{":
                objects += 1
                stack.append(objects)
            case "}":
                stack = stack[:-1]
            case word if stack and re.match(r"\s*:", text[token.end() : token.end() + 80]):
                yield stack[-1], json.loads(word), token.span()


def _second_key(text: str, key: str) -> tuple[int, int]:
    seen: set[int] = set()
    for owner, name, span in _keys(text):
        if name == key:
            if owner in seen:
                return span
            seen.add(owner)
    return 0, len(text)


# ------------------------------------------------------------- messages


def _at(source: Source, offset: int) -> str:
    return f"line {source.position(offset)[0]} of {source.name}"


def _first_line(source: Source) -> tuple[int, int]:
    start = len(source.text) - len(source.text.lstrip())
    return start, start + 1


def _wrong(
    source: Source, message: str, start: int, end: int, label: str, help: str | None = None
) -> Diagnostic:
    return error("PLM606", message, Span(source, start, end), label, help=help)


_SENTENCES = {
    "Expecting value": "a value is missing",
    "Expecting ',' delimiter": "expected `,` or a closing bracket",
    "Expecting ':' delimiter": "expected `:` after a key",
    "Expecting property name enclosed in double quotes": "expected a key in double quotes",
    "Illegal trailing comma before end of object": "a comma before `}`",
    "Illegal trailing comma before end of array": "a comma before `]`",
    "Extra data": "more text after the value",
    "Unterminated string starting at": "this string is never closed",
    "Invalid control character at": "a control character inside a string",
    "Invalid \\escape": "no such escape",
    "Invalid \\uXXXX escape": "four hexadecimal digits follow `\\u`",
}


def _not_json(source: Source, problem: str, at: int, end: int) -> Diagnostic:
    found = source.text[at : at + 1]
    label = _SENTENCES.get(problem.removesuffix(": ").rstrip(":"), problem.lower().rstrip(": "))
    help = None
    if found == "'":
        label, help = "strings stand in double quotes", "write \"…\" instead of '…'"
    elif source.text[at : at + 4] in ("True", "None") or source.text[at : at + 5] == "False":
        help = "JSON spells these true, false and null"
    return _wrong(source, f"{_at(source, at)} is not JSON", at, min(at + 1, end), label, help)
