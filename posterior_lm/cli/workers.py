"""Workers that answer rows: what one is told and says, and processes of this machine that are such workers.

A worker opens the program once and says `ready` with what it found, then answers shards of rows one after
another: a `row` for each, or an `odd` one with diagnostics in place of a result, and `end`. It says `wrong`
with diagnostics where none of its rows can be answered, and `failed` where it is at its own end. What comes of a
row does not depend on which worker answers it: shards begin with models that remember nothing, and a worker
computes with as many threads as every other.
"""

from __future__ import annotations

import hashlib
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from attrs import asdict, define, field, frozen

from posterior_lm.api.engine import draw, score
from posterior_lm.cli.given import Case, case_of, known_answer, open_query, uncounted_answer
from posterior_lm.cli.main import prepare_libraries
from posterior_lm.lang.diagnostics import PlmError, to_json
from posterior_lm.lang.source import is_text
from posterior_lm.storage import plain
from posterior_lm.target.prepared import in_row

OF_A_ROW = (
    "PLM33",
    "PLM34",
    "PLM520",
    "PLM531",
    "PLM552",
    "PLM553",
    "PLM554",
    "PLM6",
    "PLM70",
    "PLM710",
    "PLM76",
)
"""Beginnings of codes that say something of a row; any other would be said of the next row too."""

Said = tuple[str, bytes]
"""A word, as above, and JSON or a text."""


@frozen
class Task:
    """What a worker is told once. Plain values: they are sent as JSON.

    `opening` are arguments of `open_query`, `given` parameters of every row, `asking` the options of the command.
    """

    command: str
    opening: Mapping[str, Any]
    given: Mapping[str, Any]
    asking: Mapping[str, Any]
    folder: str = field(factory=os.getcwd)
    """Where relative names start."""


@define(eq=False)
class Shard:
    """Rows that are answered together, of which `first` is the number of the first, and what came of them."""

    number: int
    first: int
    rows: Sequence[Mapping[str, Any]]
    lines: list[bytes] = field(factory=list)
    odd: int = 0
    lost: str = ""
    """Why the worker ended that had it before."""


# ------------------------------------------------------------------------------- a worker's own end


class Worker:
    """Answers rows; `open` comes first."""

    def open(self, task: Task) -> Iterator[Said]:
        """Open the program and load its models; says what it is then."""
        os.chdir(task.folder)
        self.task = task
        with_what: dict[str, Any] = {}
        try:
            self.query = open_query(**task.opening)
            program = self.query.prepared
            with_what = {
                "opened": hashlib.sha256(program.text.encode()).hexdigest(),
                "fingerprint": program.graph.fingerprint,
                "models": {alias: asdict(identity) for alias, identity in program.identities.items()},
            }
        except PlmError as wrong:
            yield "wrong", _diagnostics(wrong)
        except Exception as problem:
            yield "failed", _one_line(problem)
        else:
            yield "ready", json.dumps(plain(with_what)).encode()

    def answer(self, first: int, rows: Sequence[Mapping[str, Any]]) -> Iterator[Said]:
        """Answer rows, of which `first` is the number of the first."""
        self.query.prepared.forget()
        for number, row in enumerate(rows, start=first):
            try:
                yield self._answer(number, row)
            except PlmError as wrong:
                yield "wrong", _diagnostics(wrong)
                return
            except Exception as problem:  # out of memory, for one
                yield "failed", _one_line(problem)
                return
        yield "end", b""

    def _answer(self, number: int, row: Mapping[str, Any]) -> Said:
        predicted = self.task.asking.get("name")
        try:
            with in_row(number):
                case = case_of(self.query.graph, number, row, self.task.given, predicted=predicted)
                found = ANSWERS[self.task.command](self, case, row)
        except PlmError as wrong:
            if not all(d.code.startswith(OF_A_ROW) for d in wrong.diagnostics):
                raise
            return "odd", _line({"row": number, "diagnostics": [to_json(d) for d in wrong.diagnostics]})
        return "row", _line({"row": number, **found})

    def run(self, case: Case, row: Mapping[str, Any]) -> dict[str, Any]:
        program, asked = self.query.prepared, self.task.asking
        target = program.bind_valid(case.valid)
        drawn = draw(
            program,
            target,
            self.query.request,
            asked["n"],
            seed=case.seed(asked["seed"]),
            budget=asked["budget"],
        )
        return drawn.to_json()

    def predict(self, case: Case, row: Mapping[str, Any]) -> dict[str, Any]:
        asked = self.task.asking
        found = self.query.given(case.data).predict(
            asked["name"],
            n=asked["n"],
            seed=case.seed(asked["seed"]),
            budget=asked["budget"],
            vote=asked["vote"],
            abstain=asked["abstain"],
        )
        of = (self.query.graph, asked["name"], row)
        return {**found.to_json(), "answer": known_answer(*of), "uncounted": uncounted_answer(*of)}

    def score(self, case: Case, row: Mapping[str, Any]) -> dict[str, Any]:
        return score(self.query.prepared.bind_valid(case.valid), self.task.asking["values"]).to_json()


ANSWERS = {"run": Worker.run, "predict": Worker.predict, "score": Worker.score}
"""By command, what it makes of a row."""


def _line(value: object) -> bytes:
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False)
    return (text if is_text(text) else json.dumps(plain(value), allow_nan=False)).encode()


def _diagnostics(wrong: PlmError) -> bytes:
    return json.dumps([to_json(d) for d in wrong.diagnostics]).encode()


def _one_line(problem: Exception) -> bytes:
    return " ".join(f"{type(problem).__name__}: {problem}".split())[:300].encode(errors="replace")


def main() -> None:
    """A process that is a worker: tasks and rows are lines of JSON on standard input, what it says lines on its output."""
    prepare_libraries()
    said = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    worker, opened = Worker(), False
    try:
        for line in sys.stdin.buffer:
            message = json.loads(line)
            for word, content in worker.answer(**message) if opened else worker.open(Task(**message)):
                said.write(word.encode() + b" " + content + b"\n")
                said.flush()
                if word == "failed":
                    return
            opened = True
    except BrokenPipeError:  # whoever asked has gone
        os._exit(1)


# ------------------------------------------------------------------------------- whoever has them


class Crew(Protocol):
    """Workers by number, which are started, given shards, and listened to."""

    def start(self) -> int:
        """Start one more; its number."""
        ...

    def give(self, worker: int, shard: Shard) -> None:
        """Give a shard to a worker that has none."""
        ...

    def wait(self) -> tuple[int, str, bytes]:
        """The next thing that one of them says; `gone` and why where a worker has ended."""
        ...

    def close(self) -> None:
        """End all of them."""
        ...


def settings_of_threads() -> dict[str, str]:
    """What every worker has in its environment: one thread, unless --threads or the caller's environment says otherwise."""
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or "1", "OMP_WAIT_POLICY": "passive"}


class Processes:
    """Workers that are processes of this machine."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.all: list[subprocess.Popen[bytes]] = []
        self.rest: dict[int, bytes] = {}
        """Of each worker the beginning of a line that is not whole yet."""
        self.said: list[tuple[int, str, bytes]] = []
        self.selector = selectors.DefaultSelector()

    def start(self) -> int:
        number = len(self.all)
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "posterior_lm.cli.workers"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if number else None,  # what is noted of a model is the same in all
            env={**os.environ, **settings_of_threads(), "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for whoever started them
        )  # fmt: skip
        self.all.append(process)
        self.rest[number] = b""
        assert process.stdout is not None
        self.selector.register(process.stdout, selectors.EVENT_READ, number)
        self._tell(number, asdict(self.task))
        return number

    def give(self, worker: int, shard: Shard) -> None:
        self._tell(worker, {"first": shard.first, "rows": shard.rows})

    def _tell(self, worker: int, message: object) -> None:
        to = self.all[worker].stdin
        assert to is not None
        with suppress(BrokenPipeError):  # it has ended, which `wait` will say
            to.write(json.dumps(message).encode() + b"\n")
            to.flush()

    def wait(self) -> tuple[int, str, bytes]:
        while not self.said:
            for key, _ in self.selector.select():
                self._read(key.data)
        return self.said.pop(0)

    def _read(self, worker: int) -> None:
        process = self.all[worker]
        assert process.stdout is not None
        data = os.read(process.stdout.fileno(), 1 << 20)
        if not data:
            self.selector.unregister(process.stdout)
            self.said.append((worker, "gone", _ended(process.wait()).encode()))
            return
        *lines, self.rest[worker] = (self.rest[worker] + data).split(b"\n")
        for line in lines:
            word, _, content = line.partition(b" ")
            self.said.append((worker, word.decode(), content))

    def close(self) -> None:
        for process in self.all:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                with suppress(BrokenPipeError):
                    stream.close()
        self.selector.close()


def _ended(code: int) -> str:
    if code >= 0:
        return f"it ended with exit code {code}"
    return f"it was killed by {signal.Signals(-code).name}"


if __name__ == "__main__":
    main()
