"""A bar below a notebook's cell that takes its time: shown after a second, gone when the work is done.

IPython is not imported: where it runs already, its shell is asked, and publishes plain HTML under one display id.
"""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    from posterior_lm.infer.base import Info

PATIENCE, OFTEN = 1.0, 0.2
"""Seconds before a bar is shown, and between two looks of it."""
STYLE = "font: 13px system-ui, sans-serif; display: flex; gap: 10px; align-items: center"
Move = Callable[[float | None, str], None]
"""Says what share of the work is done, None where it is not known, and what is done now."""


def shell() -> Any:
    """The shell of IPython that this runs in; None outside."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


@contextmanager
def watching(progress: Callable[[Info], None] | None, what: str) -> Iterator[Callable[[Info], None] | None]:
    """The caller's own callback, or one that moves a bar; None where nobody looks."""
    with bar(progress is None) as move:
        yield progress if move is None else lambda info: move(info.fraction, info.note or what)


@contextmanager
def bar(wanted: bool = True) -> Iterator[Move | None]:
    """What moves a bar below the cell; None outside a notebook, or where none is wanted."""
    here: Any = shell() if wanted else None
    if getattr(here, "kernel", None) is None:  # a terminal
        yield None
        return
    began = last = time.monotonic()
    name, seen = f"plm-{uuid4().hex}", False

    def publish(markup: str) -> None:
        data = {"text/html": markup, "text/plain": ""}
        here.display_pub.publish(data, transient={"display_id": name}, update=seen)

    def move(share: float | None, note: str) -> None:
        nonlocal last, seen
        now = time.monotonic()
        if now - began < PATIENCE or (seen and now - last < OFTEN):
            return
        last = now
        value, done = ("", "") if share is None else (f' value="{share:.3f}"', f" {share:.0%}")
        words = html.escape(f"{note}{done}, {now - began:.0f} s")
        publish(f'<div style="{STYLE}"><progress{value} max="1"></progress><span>{words}</span></div>')
        seen = True

    try:
        yield move
    finally:
        if seen:
            publish("")
