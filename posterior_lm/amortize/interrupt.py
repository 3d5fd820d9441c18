"""Ctrl-C between two steps: asked once, the step is finished; asked twice, Python's own way."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Interrupt:
    """Inside the block the first SIGINT or SIGTERM sets `wanted`; the second one is what it always was."""

    def __init__(self) -> None:
        self.wanted = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._asked)
        return self

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self.wanted = True
        signal.signal(number, self._before[number])  # type: ignore[arg-type]

    def __exit__(self, *problem: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
