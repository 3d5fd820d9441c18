"""What stands on standard error where it is a pipe: a line where it takes long, and nothing where it does not."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from posterior_lm.cli import output
from posterior_lm.infer.base import Info


@contextmanager
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The end of standard error that is read."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        patch.setattr(output, "PATIENCE", 0.05)
        yield reading
    os.close(reading)


def read(end: int) -> str:
    sys.stderr.flush()
    os.set_blocking(end, False)
    try:
        return os.read(end, 1 << 16).decode()
    except BlockingIOError:
        return ""


def test_a_pipe_is_told_what_is_waited_for_while_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    with piped(monkeypatch) as pipe:
        with output.progress("drawing", first="opening models") as watch:
            time.sleep(0.12)
            assert "opening models, 0 s\n" in read(pipe)
            assert watch is not None
            watch(Info(False))
            time.sleep(0.12)
            assert "drawing, 0 s\n" in read(pipe)
            watch(Info(False, "7 draws", 0.5))
            time.sleep(0.12)
            assert "50%  7 draws, 0 s\n" in read(pipe)
        read(pipe)
        time.sleep(0.12)
        assert read(pipe) == ""


def test_what_is_quick_says_nothing_and_lines_of_json_stay_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with piped(monkeypatch) as pipe:
        with output.progress("drawing") as watch:
            assert watch is not None
            watch(Info(False, "7 draws", 0.5))
        with output.progress("drawing", piped=False) as watch:
            time.sleep(0.12)
        assert watch is None and read(pipe) == ""


def test_a_reader_that_has_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with piped(monkeypatch), output.progress("drawing"):
        sys.stderr.close()
        time.sleep(0.12)
