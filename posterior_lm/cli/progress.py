"""A progress bar on standard error, where that is a terminal; nothing anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from posterior_lm.infer.base import Info


@contextmanager
def progress(what: str) -> Iterator[Callable[[Info], None] | None]:
    """The callback that `Query.draw` takes, or None where nobody is watching."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=None)

        def update(info: Info) -> None:
            total = None if info.fraction is None else 1.0
            shown.update(task, description=info.note or what, total=total, completed=info.fraction or 0.0)

        yield update
