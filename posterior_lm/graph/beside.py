"""Files that a program names, of grammars and schemas: their text becomes a part of the graph."""

from __future__ import annotations

from pathlib import Path

from posterior_lm.lang import ast
from posterior_lm.lang.diagnostics import CompileError, Diagnostic, error

FILE_OPTIONS = ("grammar", "json")
"""Options of a text latent whose value is the path of a file."""

LARGEST = 2**20
"""Bytes of such a file."""


def text_beside(path: ast.Literal, base: Path | None = None) -> ast.Literal:
    """The text of the file that a literal names, as a literal in the same place.

    A relative path starts at the folder of the file that the literal stands in, so that
    programs from several folders can be put together; where there is no such file at
    `base`, else at the working directory. Raises CompileError (PLM336).
    """
    name = str(path.value)
    file = _home(path, base) / Path(name).expanduser()
    try:
        if file.stat().st_size > LARGEST:
            raise CompileError(
                _cannot(path, name, f"it has more than {LARGEST:,} bytes", "name a smaller file")
            )
        text = file.read_text(encoding="utf-8")
    except OSError as problem:
        looked = f"looked for {file}; a path starts at the folder of the program"
        raise CompileError(_cannot(path, name, (problem.strerror or str(problem)).lower(), looked)) from None
    except UnicodeDecodeError as problem:
        raise CompileError(
            _cannot(path, name, f"byte {problem.start} is not UTF-8", "save it as UTF-8")
        ) from None
    return ast.Literal(text, span=path.span)


def _home(path: ast.Literal, base: Path | None) -> Path:
    source = Path(path.span.source.name)
    try:
        if source.is_file():
            return source.parent
    except (OSError, ValueError):  # a name that no file can have
        pass
    return base or Path()


def _cannot(path: ast.Literal, name: str, reason: str, help: str) -> Diagnostic:
    return error(
        "PLM336",
        f"cannot read {name!r}: {reason}",
        path.span,
        "this file",
        help=help,
    )
