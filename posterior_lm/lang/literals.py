"""Strings and numbers: from source text to values and back."""

from __future__ import annotations

import math
import re

from posterior_lm.lang.diagnostics import Diagnostic, error
from posterior_lm.lang.source import Span

_ESCAPE = re.compile(r"\\(?:u\{([0-9A-Fa-f]{1,6})\}|(.))", re.DOTALL)
_SIMPLE = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}
_LARGEST_INT = 2**53  # every integer up to here is exact as a float64 too


def decode_string(text: str, span: Span) -> tuple[str, list[Diagnostic]]:
    r"""The value of a `"…"` token and a diagnostic for each wrong escape."""
    wrong: list[Diagnostic] = []

    def replace(match: re.Match[str]) -> str:
        number, simple = match.groups()
        if number is not None:
            point = int(number, 16)
            if 0 < point <= 0x10FFFF and not 0xD800 <= point <= 0xDFFF:
                return chr(point)
        elif simple in _SIMPLE:
            return _SIMPLE[simple]
        start = span.start + match.start()
        wrong.append(
            error(
                "PLM111",
                f"unknown escape '{match.group()}'",
                Span(span.source, start, start + len(match.group())),
                "not a character" if number is not None else "not an escape",
                help='the escapes are \\n \\t \\" \\\\ and \\u{1F600}; write r"…" for a pattern',
            )
        )
        return match.group()

    if "\\" not in text:
        return text[1:-1], wrong
    return _ESCAPE.sub(replace, text[1:-1]), wrong


def decode_number(text: str, span: Span) -> tuple[int | float, list[Diagnostic]]:
    """The value of an INT or REAL token; 0 and a diagnostic where it is out of range."""
    if text.isdigit():
        if len(text) <= 20 and int(text) <= _LARGEST_INT:
            return int(text), []
        limit = f"integers go up to {_LARGEST_INT}"
    else:
        value = float(text)
        if math.isfinite(value):
            return value, []
        limit = "reals go up to 1.7e308"
    return 0, [error("PLM113", "the number is too large", span, limit)]


def encode_string(value: str, *, raw: bool = False) -> str:
    r"""A string as the source spells it; `raw` asks for r"…" and is dropped where that cannot spell it."""
    if raw and '"' not in value and "\n" not in value and "\r" not in value and value.isprintable():
        return f'r"{value}"'
    return '"' + "".join(map(_encode_character, value)) + '"'


def _encode_character(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char == "\n":
        return "\\n"
    if char == "\t":
        return "\\t"
    if char == " " or char.isprintable():
        return char
    return f"\\u{{{ord(char):X}}}"


def encode_number(value: int | float) -> str:
    """A number as the source spells it, so that it reads back as the same value and kind."""
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        raise ValueError(f"{value!r} has no spelling in a program")
    text = repr(value)
    if "e" in text and "." not in text.split("e")[0]:
        return text.replace("e", ".0e")
    return text
