"""Writing the page: whole or not at all, and refused before any work where it cannot be written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from posterior_lm.lang.diagnostics import DataError, error
from posterior_lm.page.facts import Facts, gather
from posterior_lm.page.page import page
from posterior_lm.storage import replace, unnameable

if TYPE_CHECKING:
    from posterior_lm.api.posterior import Posterior
    from posterior_lm.target.target import Target


def report(target: Target, posterior: Posterior, path: str | Path, *, command: str | None = None) -> Path:
    """Writes the page of one posterior of a bound program; returns its path.

    Raises DataError PLM740 where the posterior is not the target's, PLM805 where the
    file cannot be written.
    """
    check_place(path)
    return write(path, page([gather(target, posterior)], command))


def report_rows(facts: Sequence[Facts], path: str | Path, *, command: str | None = None) -> Path:
    """The same for several bindings of one program."""
    return write(path, page(facts, command))


def check_place(path: str | Path) -> None:
    """Raises DataError PLM805 where no file of this name can be written. Call it before any work."""
    if why := unnameable(path):
        raise _cannot(path, why, None)
    target = Path(path)
    folder = Path(os.path.realpath(target)).parent
    if target.is_dir():
        raise _cannot(path, "it is a folder", "name a file in it, such as report.html")
    if not folder.is_dir():
        kind = "a file" if folder.exists() else "missing"
        raise _cannot(
            path, f"its folder is {kind}", None if folder.exists() else f"make it: mkdir -p {folder}"
        )
    if target.exists() and not target.is_file():
        raise _cannot(path, "it is no regular file", None)
    if not os.access(target if target.exists() else folder, os.W_OK) or not os.access(folder, os.W_OK):
        raise _cannot(path, "permission denied", None)


def write(path: str | Path, text: str) -> Path:
    """Replaces the file at once, keeping the permissions that it had. Raises DataError PLM805."""
    try:
        replace(Path(path), text.encode())
    except OSError as problem:
        raise _cannot(path, (problem.strerror or str(problem)).lower(), None) from None
    return Path(path)


def _cannot(path: str | Path, why: str, help: str | None) -> DataError:
    return DataError(error("PLM805", f"cannot write {path}: {why}", where=str(path), help=help))
