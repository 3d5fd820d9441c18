"""How far a fit is, on standard error: a bar on a terminal, lines in a pipe; from the first second, and never silent for long.

A thread of its own asks the course where it stands, so a line comes also while one call of a model
takes minutes. It only prints.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from posterior_lm.cli.output import live_bar
from posterior_lm.train.course import Course, Stand

EVERY = 4.0
"""Seconds between two lines where nobody watches a bar."""

FIRST = 0.5
"""Seconds before the first line: a command that is wrong has ended by then."""

LOOKED = 0.25
"""Seconds between two looks at the course."""


def told(stand: Stand) -> str:
    """The phase, its share, what it last said, and the time."""
    share = "" if stand.share is None else f" {stand.share:.0%}"
    note = f": {stand.note}" if stand.note else ""
    left = "" if stand.left is None else f", {math.ceil(stand.left)} s left"
    return f"{stand.phase}{share}{note}, {stand.seconds:.0f} s{left}"


@contextmanager
def showing(course: Course) -> Iterator[Callable[[str], None]]:
    """Show the course until the block ends; gives what writes a remark. Of several processes the first one shows it."""
    if os.environ.get("RANK", "0") != "0":
        yield lambda text: None
        return
    if sys.stderr.isatty():
        with live_bar(course.phase) as (move, say):

            def show(stand: Stand) -> None:
                move(stand.done, told(stand))

            with _asking(course, show):
                yield say
        return
    lines = _Lines()
    with _asking(course, lines.show):
        yield lambda text: click.echo(text, err=True)
    lines.end()


@contextmanager
def _asking(course: Course, show: Callable[[Stand], None]) -> Iterator[None]:
    done = threading.Event()

    def ask() -> None:
        while not done.wait(LOOKED):
            show(course.stand())

    show(course.stand())
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    before, course.tick = course.tick, show
    try:
        yield
    finally:
        course.tick = before
        done.set()
        thread.join()


class _Lines:
    """A line where a phase begins, one where it ends if it had something to say, and one from time to time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: Stand | None = None
        self._shown: Stand | None = None

    def show(self, stand: Stand) -> None:
        with self._lock:
            last, shown = self._last, self._shown
            self._last = stand
            if shown is None or last is None:
                if stand.seconds >= FIRST or (last is not None and last.phase != stand.phase):
                    self._write(stand)
            elif stand.phase != last.phase:
                if last.note and last.note != shown.note:
                    self._write(last)
                self._write(stand)
            elif stand.seconds - shown.seconds >= EVERY:
                self._write(stand)

    def end(self) -> None:
        """The last thing that was said, where nobody saw it."""
        with self._lock:
            if self._last is not None and self._shown is not None and self._last.note != self._shown.note:
                self._write(self._last)

    def _write(self, stand: Stand) -> None:
        self._shown = stand
        done = "" if stand.done is None else f"{stand.done:.0%}"
        click.echo(f"{done:>4}  {told(stand)}", err=True)
