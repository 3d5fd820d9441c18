"""Diagnostics as data, and the exceptions that carry them.

A diagnostic is a code, a severity, one short sentence, a primary label with the
exact span, secondary labels that point at the other half of a conflict, notes,
and a help line that proposes an edit. Wording of layout lives in `render`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from attrs import evolve, field, frozen

from posterior_lm.lang.source import Span

Severity = Literal["error", "warning"]


@frozen
class Label:
    """A span and what was found or expected there."""

    span: Span
    text: str = ""


@frozen
class Diagnostic:
    """One finding: `code` is a key of `posterior_lm.lang.codes.CODES`.

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

    def __attrs_post_init__(self) -> None:
        if self.message.endswith("."):
            raise ValueError(f"a message is one sentence without a full stop: {self.message!r}")


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


class PlmError(Exception):
    """The root of every error that is the user's to mend; carries diagnostics."""

    diagnostics: tuple[Diagnostic, ...] = field(factory=tuple)

    def __init__(self, diagnostics: Diagnostic | Iterable[Diagnostic]) -> None:
        if isinstance(diagnostics, Diagnostic):
            diagnostics = (diagnostics,)
        self.diagnostics = tuple(diagnostics)
        super().__init__(self.diagnostics)

    def __str__(self) -> str:
        from posterior_lm.lang.render import render_full

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
