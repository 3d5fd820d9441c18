"""What the page is of: the program's text, what was given, and the provenance.

The program's words are coloured by the language's own lexer, one line a row, with numbers to point at.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from posterior_lm.lang.ast import Module
from posterior_lm.lang.colours import pieces
from posterior_lm.lang.parser import parse
from posterior_lm.lang.source import Source
from posterior_lm.report.markup import Html, el, join, table, text_span

if TYPE_CHECKING:
    from posterior_lm.api.posterior import Posterior
    from posterior_lm.target.prepared import PreparedProgram


def source_of(program: PreparedProgram) -> tuple[Source, bool]:
    """The program's text, and whether the lines of its terms are lines of this text.

    That is the file's own text with its comments where there is one, and the canonical
    spelling of a program that was put together in Python.
    """
    if program.checked is None:
        return Source("<text>", program.text), False
    return source_of_module(program.checked.module, program.text)


def source_of_module(module: Module, text: str) -> tuple[Source, bool]:
    """The text that the module was read from, else the `text` that it is written as; whether it is the first."""
    source = module.span.source
    if source.text and parse(source)[0] == module:
        return source, True
    return Source(source.name, text), False


def program_view(source: Source, prefix: str | None = "L") -> Html:
    """The text as numbered rows; row k has the id `prefix` followed by k, where there is one."""
    rows = [
        el("span", join(parts), "\n", class_="line", id=None if prefix is None else f"{prefix}{k}")
        for k, parts in enumerate(_lines(source), start=1)
    ]
    return el("pre", el("code", *rows), class_="program", tabindex="0")


def _lines(source: Source) -> Iterator[list[Html]]:
    line: list[Html] = []
    for kind, text in pieces(source):
        for k, part in enumerate(text.split("\n")):
            if k:
                yield line
                line = []
            part = part.rstrip("\r")
            if part:
                line.append(el("span", part, class_=kind) if kind else join([part]))
    if line:
        yield line


# ---- provenance

MOST_LETTERS = 2000
_ALWAYS = ("posterior-lm", "numpy")
_NEURAL = ("torch", "transformers", "tokenizers")


def provenance_view(posterior: Posterior, command: str | None) -> Html:
    """A table of names and values; nothing in it depends on the clock."""
    pairs = [("program", posterior.program), ("fingerprint", posterior.fingerprint)]
    for alias, m in sorted(posterior.lm.items()):
        revision = f", revision {m.revision}" if m.revision else ""
        pairs.append((f"model {alias}", f"{m.name} ({m.kind}, {m.dtype}{revision})\ndigest {m.digest}"))
    pairs.append(("method", posterior.reason if posterior.reason.startswith(f"{posterior.method}:")
                  else f"{posterior.method}: {posterior.reason}".removesuffix(": ")))  # fmt: skip
    pairs.append(("seed", str(posterior.seed)))
    if command is not None:
        pairs.append(("command", command))
    neural = any(m.kind == "transformers" for m in posterior.lm.values())
    names = [*_ALWAYS, *(_NEURAL if neural else ())]
    pairs.append(
        ("versions", ", ".join([f"Python {platform.python_version()}", *filter(None, map(_version, names))]))
    )
    rows = [[name, el("span", value, class_="mono")] for name, value in pairs]
    return table(None, rows, [False, False], "pairs")


def given_view(given: Mapping[str, object]) -> Html:
    """The value of every parameter."""
    if not given:
        return el("p", "The program has no parameters.", class_="faint")
    rows = [[el("b", name), _value(value)] for name, value in given.items()]
    return table(None, rows, [False, False], "pairs")


def _value(value: object) -> Html:
    if isinstance(value, str):
        return text_span(value, most=MOST_LETTERS)
    if isinstance(value, list | tuple) and value and all(isinstance(row, Mapping) for row in value):
        head = list(dict.fromkeys(str(k) for row in value for k in row))
        rows = [[join([_value(row.get(k, ""))]) for k in head] for row in value[:50]]
        more = (
            el("p", f"\u2026 and {len(value) - 50:,} more rows.", class_="faint") if len(value) > 50 else None
        )
        return join([table(head, rows, [False for _ in head]), more])
    try:
        shown = json.dumps(value, ensure_ascii=False)
    except TypeError:
        shown = str(value)
    return text_span(shown, most=MOST_LETTERS)


def _version(name: str) -> str | None:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return None
