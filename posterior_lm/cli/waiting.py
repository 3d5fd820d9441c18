"""What is said on standard error while one waits; `plm --help` loads this and click alone."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from threading import Event, Thread
from typing import Any

import click

FIRST, EVERY = 1.0, 5.0
"""Seconds after which whoever waits is told what for, and between two such lines."""


@contextlib.contextmanager
def waiting(line: Callable[[], str]) -> Iterator[None]:
    """Writes a line and the seconds on standard error where it takes long, also while nothing moves: an import, a model
    that loads, a server that does not answer. A terminal keeps one line, which goes in the end; a stream that is no file gets none."""
    if not _is_file(sys.stderr):
        yield
        return
    began, ended, shown = time.monotonic(), Event(), False
    before, after = ("\r", "\x1b[K") if sys.stderr.isatty() else ("", "\n")

    def tell() -> None:
        nonlocal shown
        wait = FIRST
        while not ended.wait(wait):
            wait, shown = EVERY, True
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                text = f"{before}{line()}, {time.monotonic() - began:.0f} s{after}"
                click.echo(text, err=True, nl=False, color=True)

    thread = Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if shown and before:
            click.echo(f"{before}{after}", err=True, nl=False, color=True)


def _is_file(stream: Any) -> bool:
    """Whether it is a terminal, pipe or file of the process; a closed one is not, nor one in memory."""
    try:
        return stream.fileno() >= 0
    except (OSError, ValueError, AttributeError):
        return False
