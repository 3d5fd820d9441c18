"""Files that a program names: where they may lie, and how they are read.

A program may come from anywhere, so a path in it stays below the folder that it starts at, links followed,
unless the caller allows another folder. Models lie where there is room for them, so of a model's folder or table
that is not asked; but nothing that stands in one elsewhere is shown.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from posterior_lm.lang.diagnostics import CompileError
from posterior_lm.lang.source import NOWHERE, Span
from posterior_lm.storage import read_bytes


def allowed_file(
    name: str, home: Path | None = None, allowed: Iterable[Path] = (), span: Span = NOWHERE
) -> Path:
    """The file that a program names; a relative path starts at `home`, else at the working directory.

    Raises CompileError PLM347 where it lies neither below `home` nor below one of the `allowed` folders.
    """
    file = (home or Path()) / Path(name).expanduser()
    if not below(file, home, allowed):
        message = f"the file {name!r} lies outside the program's folder"
        help = "pass --allow-path FOLDER, or call `.allow_path(…)`, if you trust the program with that folder"
        raise CompileError.of("PLM347", message, span, "this path", help=help)
    return file


def below(file: Path, home: Path | None, allowed: Iterable[Path]) -> bool:
    """Whether a file lies below `home`, where its path starts, or below one of the `allowed` folders."""
    home = home or Path()
    try:
        real = Path(os.path.realpath(home / file.expanduser()))
        return any(real.is_relative_to(os.path.realpath(folder.expanduser())) for folder in (home, *allowed))
    except ValueError:  # a name that no file can have, which reading it says
        return True


def read_named(file: Path, most: int) -> str:
    """The text of a regular file of at most so many bytes, without a byte order mark.

    Raises OSError, UnicodeDecodeError, and ValueError for a device, a pipe, or more bytes.
    """
    return read_bytes(file, most).decode("utf-8").removeprefix("\ufeff")
