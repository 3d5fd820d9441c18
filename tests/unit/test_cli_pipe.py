"""What stands on standard error where it is a pipe: a line where it takes long, and nothing where it does not."""

from __future__ import annotations

import builtins
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest

from posterior_lm.api.query import loads
from posterior_lm.cli import commands, em, output, waiting
from posterior_lm.cli.main import cli
from posterior_lm.infer.base import Info
from tests.strategies import table


@contextmanager
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The end of standard error that is read."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        patch.setattr(waiting, "FIRST", 0.05)
        patch.setattr(waiting, "EVERY", 0.05)
        yield reading
    os.close(reading)


def read(end: int) -> str:
    sys.stderr.flush()
    os.set_blocking(end, False)
    found = b""
    for _ in range(3):  # a terminal passes on what was written a part at a time
        with contextlib.suppress(BlockingIOError):
            found += os.read(end, 1 << 16)
        time.sleep(0.02)
    return found.decode()


def test_a_pipe_is_told_what_is_waited_for_while_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    with piped(monkeypatch) as pipe:
        with output.progress("drawing") as watch:
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


def test_a_pipe_is_told_of_the_steps_of_em(monkeypatch: pytest.MonkeyPatch) -> None:
    with piped(monkeypatch) as pipe, em._watching() as (_, tick, say):
        time.sleep(0.12)
        assert "starting, 0 s\n" in read(pipe)
        tick(2, "M-step", 0.25)
        time.sleep(0.12)
        assert "round 2, M-step 25%, 0 s\n" in read(pipe)
        say("a remark")
        assert "a remark\n" in read(pipe)


def test_run_says_that_it_starts_while_what_trains_is_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program, rows = tmp_path / "p.plm", tmp_path / "rows.jsonl"
    program.write_text('lm base = "tiny"\nprogram p(m: int) { latent n: int(0..m) ~ uniform(0, m) }')
    rows.write_text('{"m": 2}\n{"m": 3}\n')
    real, told = builtins.__import__, []

    def slow(name: str, *args: Any, **more: Any) -> object:
        if name == "posterior_lm.train.fit" and not told:
            read(pipe)
            time.sleep(0.12)
            told.append(read(pipe))
        return real(name, *args, **more)

    with piped(monkeypatch) as pipe, monkeypatch.context() as patch, pytest.raises(SystemExit) as left:
        patch.setattr(builtins, "__import__", slow)
        cli.main(["run", str(program), "--data", str(rows), "--budget", "2"])
    assert left.value.code == 0 and "starting, 0 s\n" in told[0]


def test_what_is_quick_says_nothing_and_lines_of_json_stay_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with piped(monkeypatch) as pipe:
        with output.progress("drawing") as watch:
            assert watch is not None
            watch(Info(False, "7 draws", 0.5))
        with output.progress("drawing", piped=False) as watch:
            time.sleep(0.12)
        assert watch is None and read(pipe) == ""


def test_a_large_command_says_that_it_starts_unless_it_is_quick_or_told_in_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = commands.import_module

    def slow(name: str) -> object:
        time.sleep(0.12)
        return real(name)

    monkeypatch.setattr(commands, "import_module", slow)
    for arguments, said in ((["run"], True), (["run", "--format", "jsonl"], False), (["check"], False)):
        with piped(monkeypatch) as pipe:
            assert cli.resolve_command(click.Context(cli), arguments)[0] == arguments[0]
            assert ("starting, 0 s\n" in read(pipe)) == said


def test_a_terminal_keeps_no_line_of_what_was_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.openpty()
    with os.fdopen(writing, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        patch.setattr(waiting, "FIRST", 0.02)
        with waiting.waiting(lambda: "starting"):
            time.sleep(0.1)
        shown = read(reading)
        assert shown.startswith("\rstarting, 0 s\x1b[K") and shown.endswith("\r\x1b[K")
        with waiting.waiting(lambda: "starting"):
            pass
        assert read(reading) == ""
    os.close(reading)


def test_a_slow_model_that_is_asked_is_not_being_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    model = table(("a", "b"), seed=1, order=1, max_tokens=3)
    query = loads('lm base = "b"\nprogram p() { latent z: text(tokens=1..2) ~ base() }').lm(base=model)
    with piped(monkeypatch) as pipe:
        asked = type(model).open

        def slow(self: object, *args: object, **more: object) -> object:
            time.sleep(0.12)
            shown.append(read(pipe))
            return asked(self, *args, **more)

        shown: list[str] = []
        monkeypatch.setattr(type(model), "open", slow)
        with output.progress("drawing") as watch:
            query.draw(3, progress=watch)
    assert shown and all("opening" not in text for text in shown[1:]) and "drawing" in "".join(shown)


def test_a_reader_that_has_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with piped(monkeypatch), output.progress("drawing"):
        sys.stderr.close()
        time.sleep(0.12)
