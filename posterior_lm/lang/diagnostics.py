"""Diagnostics as data, as people and programs read them, and the exceptions that carry them.

A diagnostic is a code, a severity, one short sentence, a primary label with the
exact span, secondary labels that point at the other half of a conflict, notes,
and a help line that proposes an edit. It prints as full text, one line or JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal
from unicodedata import combining, east_asian_width

from attrs import evolve, field, frozen

from posterior_lm.lang.source import NOWHERE, Source, Span

Severity = Literal["error", "warning"]

WIDEST = 160
"""Characters of a source line that are shown; longer lines are cut around the caret."""
_BEFORE = 60
_COLOURS = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m", "second": "\x1b[1;34m", "bold": "\x1b[1m"}
_PLAIN = "\x1b[0m"


@frozen
class Label:
    """A span and what was found or expected there."""

    span: Span
    text: str = ""


@frozen
class Diagnostic:
    """One finding: `code` is a key of `posterior_lm.lang.codes.CODES`, `message` a sentence without a full stop.

    `where` names the place in data, such as `rows[3].label`, where there is no
    program text to point at.
    """

    code: str
    message: str
    primary: Label | None = None
    severity: Severity = "error"
    secondary: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    help: str | None = None
    where: str | None = None


def error(
    code: str,
    message: str,
    span: Span | None = None,
    label: str = "",
    *,
    secondary: Sequence[tuple[Span, str]] = (),
    notes: Sequence[str] = (),
    help: str | None = None,
    where: str | None = None,
) -> Diagnostic:
    """An error diagnostic; `span` and `label` make the primary label."""
    return Diagnostic(
        code=code,
        message=message,
        primary=None if span is None else Label(span, label),
        secondary=tuple(Label(s, t) for s, t in secondary),
        notes=tuple(notes),
        help=help,
        where=where,
    )


def warning(code: str, message: str, span: Span, label: str = "", **more: object) -> Diagnostic:
    """A warning diagnostic with the same arguments as `error`."""
    return evolve(error(code, message, span, label, **more), severity="warning")  # type: ignore[arg-type]


def in_order(found: Iterable[Diagnostic]) -> list[Diagnostic]:
    """Diagnostics by position."""

    def place(diagnostic: Diagnostic) -> tuple[int, int]:
        span = diagnostic.primary.span if diagnostic.primary else NOWHERE
        return span.start, span.end

    return sorted(found, key=place)


# ---------------------------------------------------------------- exceptions


class PlmError(Exception):
    """The root of every error that is the user's to mend; carries diagnostics."""

    diagnostics: tuple[Diagnostic, ...] = field(factory=tuple)

    def __init__(self, diagnostics: Diagnostic | Iterable[Diagnostic]) -> None:
        if isinstance(diagnostics, Diagnostic):
            diagnostics = (diagnostics,)
        self.diagnostics = tuple(diagnostics)
        super().__init__(self.diagnostics)

    def __str__(self) -> str:
        return "\n\n".join(render_full(d) for d in self.diagnostics)


class CompileError(PlmError):
    """The program is wrong: syntax, names, types, structure or supports."""


class DataError(PlmError):
    """A parameter, a row or a file of data is wrong; `where` holds its path."""


class ModelError(PlmError):
    """A language model cannot be loaded or cannot do what was asked."""


class InferenceError(PlmError):
    """Numbers went wrong: NaN, no surviving draws, a backend that cannot do this."""


@contextmanager
def at(span: Span, label: str = "") -> Iterator[None]:
    """Gives the diagnostics of a PlmError that is raised inside this place, where they have none."""
    try:
        yield
    except PlmError as problem:
        placed = [d if d.primary else evolve(d, primary=Label(span, label)) for d in problem.diagnostics]
        raise type(problem)(placed) from problem


class InternalError(Exception):
    """A mistake of posterior_lm itself; please report it."""


# ---------------------------------------------------------------- as text


def render_full(diagnostic: Diagnostic, *, color: bool = False) -> str:
    """The diagnostic with its lines of source, carets, notes and help; no newline at the end."""
    paint = _painter(color)
    head = paint(f"{diagnostic.severity}[{diagnostic.code}]", diagnostic.severity)
    lines = [f"{head}: {paint(diagnostic.message, 'bold')}"]
    labels = _placed(diagnostic)
    numbers = [_rows(label.span)[-1] for label, _ in labels]
    margin = " " * len(str(max(numbers))) if numbers else ""
    for source in {id(label.span.source): label.span.source for label, _ in labels}.values():
        lines += _excerpt(source, [item for item in labels if item[0].span.source is source],
                          margin, paint, diagnostic.severity)  # fmt: skip
    if labels and diagnostic.where:
        lines[1] += f" ({diagnostic.where})"
    if not labels:
        where = _where(diagnostic)
        if where:
            lines.append(f" {paint('-->', 'second')} {where}")
    endings = [f"= note: {note}" for note in diagnostic.notes]
    if diagnostic.help:
        endings.append(f"= help: {diagnostic.help}")
    if endings and labels:
        lines.append(f"{margin} {paint('|', 'second')}")
    for ending in endings:
        lines += [f"{margin} {line}" for line in ending.split("\n")]
    return "\n".join(lines)


def render_concise(diagnostic: Diagnostic) -> str:
    """`file:line:column: error[PLM101] message`, with the place in data where there is no text."""
    place = _where(diagnostic)
    message = f"{diagnostic.severity}[{diagnostic.code}] {diagnostic.message}"
    return f"{place}: {message}" if place else message


def to_json(diagnostic: Diagnostic) -> dict[str, Any]:
    """The stable JSON shape; columns are one-based and `end_column` is exclusive.

    Without program text, `file` is the place in the data and the numbers are null.
    """
    base = {"code": diagnostic.code, "severity": diagnostic.severity, "message": diagnostic.message}
    span = diagnostic.primary.span if diagnostic.primary else NOWHERE
    if span.source is NOWHERE.source:
        at: dict[str, Any] = {"file": diagnostic.where, "line": None, "column": None,
                              "end_line": None, "end_column": None}  # fmt: skip
    else:
        line, column = span.source.position(span.start)
        end_line, end_column = span.source.position(span.end)
        at = {"file": span.source.name, "line": line, "column": column,
              "end_line": end_line, "end_column": end_column}  # fmt: skip
    return {**base, **at, "help": diagnostic.help}


def _painter(color: bool) -> Any:
    def paint(text: str, role: str) -> str:
        return f"{_COLOURS[role]}{text}{_PLAIN}" if color and text else text

    return paint


def _where(diagnostic: Diagnostic) -> str:
    span = diagnostic.primary.span if diagnostic.primary else NOWHERE
    if span.source is not NOWHERE.source:
        line, column = span.source.position(span.start)
        at = f"{span.source.name}:{line}:{column}"
        return f"{at} ({diagnostic.where})" if diagnostic.where else at
    return diagnostic.where or ""


def _placed(diagnostic: Diagnostic) -> list[tuple[Label, str]]:
    """The labels that point into a source, with their role; the primary one first."""
    labels = [(label, "second") for label in diagnostic.secondary]
    if diagnostic.primary:
        labels.insert(0, (diagnostic.primary, diagnostic.severity))
    return [(label, role) for label, role in labels if label.span.source is not NOWHERE.source]


def _rows(span: Span) -> tuple[int, ...]:
    """The lines whose text a label shows: the first and, of a longer one, the last."""
    first = span.source.position(span.start)[0]
    last = span.source.position(max(span.start, span.end - 1))[0]
    return (first,) if first == last else (first, last)


def _excerpt(
    source: Source, labels: list[tuple[Label, str]], margin: str, paint: Any, severity: str
) -> list[str]:
    first = labels[0][0].span
    line, column = source.position(first.start)
    bar = paint("|", "second")
    out = [f"{margin}{paint('-->', 'second')} {source.name}:{line}:{column}", f"{margin} {bar}"]
    rows = sorted({row for label, _ in labels for row in _rows(label.span)})
    before: int | None = None
    for row in rows:
        if before is not None and row > before + 1:
            if row == before + 2:
                out += [_numbered(row - 1, source.line(row - 1), margin, paint)]
            else:
                out.append(paint("...", "second"))
        before = row
        out += _row(source, row, labels, margin, paint)
    return out


def _numbered(row: int, text: str, margin: str, paint: Any) -> str:
    shown = "".join(_visible(char) for char in text[:WIDEST])
    return f"{paint(str(row).rjust(len(margin)), 'second')} {paint('|', 'second')} {shown}".rstrip()


def _row(source: Source, row: int, labels: list[tuple[Label, str]], margin: str, paint: Any) -> list[str]:
    """A line of source and one line of carets for each label in it."""
    text = source.line(row)
    marks = []
    for label, role in labels:
        rows = _rows(label.span)
        if row not in rows:
            continue
        start = source.position(label.span.start)[1] - 1 if row == rows[0] else len(text) - len(text.lstrip())
        end = source.position(label.span.end)[1] - 1 if row == rows[-1] else len(text)
        if row == rows[-1] and end == 0 and label.span.end > label.span.start:
            end = len(text)  # the span ends with this line's line break
        end = max(min(end, len(text)), start + 1)
        marks.append((start, end, label.text if row == rows[-1] else "", role))
    cut = 0
    if len(text) > WIDEST:
        cut = max(0, min(mark[0] for mark in marks) - _BEFORE)
    shown = text[cut : cut + WIDEST]
    left, right = ("... " if cut else ""), (" ..." if cut + WIDEST < len(text) else "")
    number = paint(str(row).rjust(len(margin)), "second")
    bar = paint("|", "second")
    out = [f"{number} {bar} {left}{''.join(_visible(c) for c in shown)}{right}".rstrip()]
    for start, end, words, role in sorted(marks, key=lambda m: (m[0], m[3] == "second")):
        start, end = start - cut, min(end - cut, WIDEST)
        if not 0 <= start <= WIDEST:
            continue
        padding = " " * len(left) + "".join("\t" if c == "\t" else " " * _width(c) for c in shown[:start])
        padding += " " * max(0, start - len(shown))
        sign = "-" if role == "second" else "^"
        carets = sign * max(1, sum(_width(c) for c in shown[start:end]))
        out.append(f"{margin} {bar} {padding}{paint(f'{carets} {words}'.rstrip(), role)}")
    return out


def _visible(char: str) -> str:
    """Control characters would move the cursor, so a stand-in of one column is shown."""
    if char == "\t" or char.isprintable():
        return char
    return "\ufffd" if not ("\ud800" <= char <= "\udfff") else "?"


def _width(char: str) -> int:
    """Columns that a character takes on a terminal."""
    if combining(char) or char in "\u200b\u200d\ufe0f":
        return 0
    return 2 if east_asian_width(char) in "WF" else 1
