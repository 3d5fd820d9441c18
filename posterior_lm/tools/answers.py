"""What tools answer, remembered, and the processes that the user's own tools run in.

A tool is asked once for each text, so a value that is looked at again, scored or trained on
holds the outputs that it was drawn with.

A tool of the user's own has a process of its own that can be killed. A thread cannot be stopped
and a signal reaches only the main thread, and not code that never returns to Python; a process
can always be ended, with all that it started: they are a process group. It is started afresh rather than forked, since forking a program with running
threads may leave locks held for ever. Texts go to it and come back as lines of JSON, so nothing
that it sends is ever run here.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import signal
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from threading import RLock, Thread

from attrs import define, field

from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.tools import ToolSpec, shown_end
from posterior_lm.tools.calculator import Calculator
from posterior_lm.tools.list_functions import ListFunctions
from posterior_lm.tools.lookup import Lookup

KEPT = 1 << 18
"""Answers of one tool that are remembered; at some 100 characters each they take 60 MB."""

MOST_TOKENS = 32
"""Tokens that one call may write; more is PLM764."""


@define(eq=False)
class Answers:
    """One tool and its answers so far. The only state; safe to ask from several threads."""

    spec: ToolSpec
    _tool: Callable[[str], object]
    _kept: OrderedDict[str, str | None] = field(init=False, factory=OrderedDict, repr=False)
    _lock: RLock = field(init=False, factory=RLock, repr=False)

    def __call__(self, text: str) -> str | None:
        """What the tool writes after a text; None where it declines or writes nothing.

        Raises InferenceError: PLM760 where it raises, PLM761 where it takes too long, PLM762
        where it answers something that is no text, PLM765 where its process ends.
        """
        with self._lock:
            if text in self._kept:
                self._kept.move_to_end(text)
                return self._kept[text]
            found = self._tool(text)
            if found is not None and not isinstance(found, str):
                raise InferenceError.of(
                    "PLM762",
                    f"the tool `{self.spec.name}` answered {type(found).__name__} to {shown_end(text)}",
                    help="a tool returns a text, or None where it has nothing to write",
                )
            while len(self._kept) >= KEPT:
                self._kept.popitem(last=False)
            self._kept[text] = found or None
            return found or None


_answers: dict[ToolSpec, Answers] = {}
_lock = RLock()


def answers_of(spec: ToolSpec) -> Answers:
    """The answers of a declared tool: equal declarations share theirs."""
    with _lock:
        if spec not in _answers:
            _answers[spec] = Answers(spec, _made(spec))
        return _answers[spec]


def answer(spec: ToolSpec, text: str) -> str:
    """What a tool says of a text that it does not write into, its trigger put behind it; empty where it declines."""
    return answers_of(spec)(text if text.endswith(spec.trigger) else text + spec.trigger) or ""


def _made(spec: ToolSpec) -> Callable[[str], object]:
    match spec.kind:
        case "calculator":
            return Calculator(spec.trigger, spec.operands)
        case "list_functions":
            return ListFunctions(spec.trigger)
        case "lookup":
            return Lookup(spec.trigger, spec.table)
    return Process(spec.name, spec.where, spec.seconds)


START_SECONDS = 60.0
"""Seconds that importing the user's module may take."""


@define(eq=False)
class Process:
    """Calls `where` ("module:function") with texts; a call takes at most `seconds`."""

    name: str
    where: str
    seconds: float
    _child: subprocess.Popen[str] | None = field(init=False, default=None, repr=False)
    _lines: queue.SimpleQueue[str] = field(init=False, factory=queue.SimpleQueue, repr=False)

    def __call__(self, text: str) -> object:
        """The answer as a JSON value. Raises InferenceError PLM760, PLM761 or PLM765."""
        if self._child is None:
            self._start()
        answer = self._ask(json.dumps(text), self.seconds, text)
        if "raised" in answer:
            raise InferenceError.of(
                "PLM760",
                f"the tool `{self.name}` raised {str(answer['raised']).rstrip('.')} on {shown_end(text)}",
                help="let it return None for a text that it cannot answer",
            )
        if "characters" in answer:
            raise InferenceError.of(
                "PLM764",
                f"the tool `{self.name}` answered {answer['characters']:,} characters to {shown_end(text)}",
                help=f"a call writes {MOST_TOKENS} tokens at most",
            )
        if "kind" in answer:
            raise InferenceError.of(
                "PLM762",
                f"the tool `{self.name}` answered {answer['kind']} to {shown_end(text)}",
                help="a tool returns a text, or None where it has nothing to write",
            )
        return answer.get("answer")

    def close(self) -> None:
        """End the process and what it started, whatever they are doing."""
        child, self._child = self._child, None
        if child is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        for pipe in (child.stdin, child.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:  # what was still to be written has nobody to read it
                pass
        child.wait()
        atexit.unregister(self.close)

    def _start(self) -> None:
        path = os.pathsep.join(p or os.getcwd() for p in sys.path)
        self._lines = queue.SimpleQueue()
        self._child = subprocess.Popen(
            [sys.executable, "-m", "posterior_lm.tools.worker", self.where],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        atexit.register(self.close)
        Thread(target=_read, args=(self._child.stdout, self._lines), daemon=True).start()
        ready = self._receive(START_SECONDS)
        if ready is None or "ready" not in ready:
            self.close()
            why = "it ended at once" if ready is None else str(ready.get("failed", "it does not answer"))
            raise InferenceError.of(
                "PLM765",
                f"the process of the tool `{self.name}` cannot be started: {why}".rstrip("."),
                help="a tool is imported again, by its module's name, in a process of its own",
            )

    def _ask(self, line: str, seconds: float, text: str) -> dict[str, object]:
        assert self._child is not None and self._child.stdin is not None
        try:
            self._child.stdin.write(line + "\n")
            self._child.stdin.flush()
            answer = self._receive(seconds)
        except OSError:
            answer = None
        if answer is None:
            self.close()
            raise InferenceError.of(
                "PLM765",
                f"the process of the tool `{self.name}` ended on {shown_end(text)}",
                help="let it return None for a text that it cannot answer",
            )
        if "late" in answer:
            self.close()
            raise InferenceError.of(
                "PLM761",
                f"the tool `{self.name}` took more than {seconds:g} s on {shown_end(text)}",
                help="give it longer with seconds=, or let it return None",
            )
        return answer

    def _receive(self, seconds: float) -> dict[str, object] | None:
        """The next line, {"late": true} where there is none in time, or None where the process has ended."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            return {"late": True}
        try:
            found = json.loads(line) if line else None
        except ValueError:
            return None
        return found if isinstance(found, dict) else None


_LONGEST_LINE = 1 << 21
"""Characters of a line, above any that the worker sends; what is longer is cut, and is then no JSON."""


def _read(pipe, lines: queue.SimpleQueue[str]) -> None:
    """Hands lines on; an empty one says that the process has ended."""
    try:
        while line := pipe.readline(_LONGEST_LINE):
            lines.put(line)
    except (OSError, ValueError):  # closed while it was read
        pass
    lines.put("")
