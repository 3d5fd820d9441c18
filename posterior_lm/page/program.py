"""The program with its words coloured by the language's own lexer, one line a row, and numbers to point at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from posterior_lm.infer.methods import METHODS
from posterior_lm.lang.signatures import DISTRIBUTIONS, FUNCTIONS, LMS, TOOLS
from posterior_lm.lang.source import Source
from posterior_lm.lang.tokens import KEYWORDS, extent, tokenize
from posterior_lm.lang.value_types import VALUE_TYPES
from posterior_lm.page.markup import Html, el, join

if TYPE_CHECKING:
    from posterior_lm.target.prepared import PreparedProgram

_KEYWORD_TYPES = frozenset(word.upper() for word in KEYWORDS)
_KNOWN = frozenset((*FUNCTIONS, *DISTRIBUTIONS, *LMS, *TOOLS))


def source_of(program: PreparedProgram) -> tuple[Source, bool]:
    """The program's text, and whether the lines of its terms are lines of this text.

    That is the file's own text with its comments where there is one, and the canonical
    spelling of a program that was put together in Python.
    """
    from posterior_lm.lang.parse import parse

    name = "<text>"
    if program.checked is not None:
        module = program.checked.module
        source = module.span.source
        if source.text and parse(source)[0] == module:
            return source, True
        name = source.name
    return Source(name, program.text), False


def program_view(source: Source, prefix: str = "L") -> Html:
    """The text as numbered rows; row k has the id `prefix` followed by k."""
    rows = [
        el("span", join(parts), "\n", class_="line", id=f"{prefix}{k}")
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


def pieces(source: Source) -> Iterator[tuple[str | None, str]]:
    """The text in order, cut into pieces with a class each; joined they are the text again."""
    tokens, comments, _ = tokenize(source)
    marks = [(*extent(t), str(t.type), str(t)) for t in tokens]
    marks += [(c.span.start, c.span.end, "COMMENT", c.text) for c in comments]
    marks.sort()
    at = 0
    for k, (start, end, kind, text) in enumerate(marks):
        if start > at:
            yield None, source.text[at:start]
        before = marks[k - 1][2] if k else ""
        after = marks[k + 1][2] if k + 1 < len(marks) else ""
        yield _class(kind, text, before, after), source.text[start:end]
        at = max(at, end)
    if at < len(source.text):
        yield None, source.text[at:]


def _class(kind: str, text: str, before: str, after: str) -> str | None:
    """The colour of a token, from its type and its neighbours' types."""
    if kind == "COMMENT":
        return "comment"
    if kind in _KEYWORD_TYPES:
        return "keyword"
    if kind in ("STRING", "RAW_STRING"):
        return "string"
    if kind in ("INT", "REAL"):
        return "number"
    if kind == "NAME":
        if before == "COLON" and text in VALUE_TYPES:
            return "type"
        if before in ("LATENT", "GUIDE", "LET", "PROGRAM", "LM", "TOOL", "USE"):
            return "name"
        if after == "LPAR":
            return "function" if text in _KNOWN or text in METHODS else "call"
        if after == "EQUAL" and before in ("COMMA", "LPAR"):
            return "option"
    return None
