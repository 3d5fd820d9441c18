"""Diagnostics as data, as people and programs read them, and the exceptions that carry them.

A diagnostic is a code, a severity, one short sentence, a primary label with the
exact span, secondary labels that point at the other half of a conflict, notes,
and a help line that proposes an edit. It prints as full text, one line or JSON.
What messages say of a user's own words stands here too: the name that was probably
meant, and long values cut short.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from unicodedata import combining, east_asian_width

from attrs import evolve, field, frozen

from posterior_lm.lang.source import NOWHERE, Source, Span

Severity = Literal["error", "warning"]
Text = TypeVar("Text", str, None)

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

    @classmethod
    def of(cls, code: str, message: str, span: Span | None = None, label: str = "", **more: Any) -> Self:
        """Of one error, with the arguments of `error`."""
        return cls(error(code, message, span, label, **more))

    def __str__(self) -> str:
        return "\n\n".join(render_full(d) for d in self.diagnostics)

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback: the diagnostics, in colour unless NO_COLOR is set."""
        return ["\n\n".join(render_full(d, color="NO_COLOR" not in os.environ) for d in self.diagnostics)]


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


# ---------------------------------------------------------------- of a user's words


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The closest of `known` by edit distance, if close enough to be meant; ties go to the first.

    At most 3 edits, and at most a third of the longer word (one edit is allowed
    in words of two letters); swapping neighbours is one edit.
    """
    best: tuple[int, str] | None = None
    for name in known:
        longer = max(len(word), len(name))
        limit = min(3, max(1, (longer + 1) // 3)) if longer > 1 else 0
        if abs(len(word) - len(name)) > limit or name == word or longer > 60:
            continue
        distance = _distance(word.lower(), name.lower())
        if distance <= limit and (best is None or distance < best[0]):
            best = (distance, name)
    return best[1] if best else None


def readable(path: str | Path, reason: str) -> str:
    """What to do about a file that cannot be read for this reason, in lower case."""
    if "permission" in reason:
        return f"allow reading it: chmod +r {path}"
    if "directory" in reason and "no such" not in reason:
        return "name a file, not a folder"
    try:
        beside = [other.name for other in Path(path).parent.iterdir()]
        close = nearest(Path(path).name, sorted(beside))
    except (OSError, ValueError):
        close = None
    if close:
        return f"did you mean `{Path(path).with_name(close)}`?"
    return "a relative path starts at the folder that the command runs in"


def shortened(text: str, most: int = 60) -> str:
    """A text of a user's for a message: itself, or its beginning with "..." where it is longer than `most`."""
    return text if len(text) <= most else text[: most - 3] + "..."


def shown(value: object, most: int = 60) -> str:
    """A value of a user's for a message: its `repr`, shortened, so that spaces and quotes can be seen."""
    if isinstance(value, str):
        return repr(shortened(value, most))
    try:
        return shortened(repr(value), most)
    except Exception:  # an int of more than 4300 digits, lists nested too deeply, a class of one's own
        return f"a value of type {type(value).__name__}"


def meant(word: str, known: Iterable[str], otherwise: Text, quote: str = "`") -> str | Text:
    """The help for a word that is not known: the one that was meant, or where none is close, `otherwise`."""
    close = nearest(word, known)
    return f"did you mean {quote}{close}{quote}?" if close else otherwise


def refuse_unknown(
    owner: str, names: Iterable[str], known: Sequence[str], what: str, wrong: type[PlmError], code: str
) -> None:
    """Raises an error of this code for the names that are none of those which the owner has."""
    listed = ", ".join(f"`{one}`" for one in known) or "none"
    found = [
        error(
            code,
            f"`{owner}` has no {what} `{one}`",
            where=one,
            help=meant(one, known, f"its {what}s are {listed}"),
        )
        for one in names
        if one not in known
    ]
    if found:
        raise wrong(found)


def _distance(a: str, b: str) -> int:
    """Edits that turn `a` into `b`: insert, delete, replace, swap neighbours (Damerau 1964)."""
    rows = [list(range(len(b) + 1))]
    for i, left in enumerate(a, 1):
        row = [i]
        for j, right in enumerate(b, 1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (left != right))
            if i > 1 and j > 1 and left == b[j - 2] and a[i - 2] == right:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


def either(names: Iterable[str]) -> str:
    """The names as one reads them: `a, b or c`."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
