"""The other end of `answers.Process`: imports one function, and answers lines of JSON with it."""

from __future__ import annotations

import importlib
import json
import os
import queue
import resource
import signal
import sys
from threading import Thread

MOST_MEMORY = 2 << 30
"""Bytes of data that the process, and each that it starts, may hold: far more than a tool needs to write 32 tokens."""

LONGEST = 100_000
"""Characters of an answer; of a longer one only its length is sent."""


def main(where: str) -> None:
    """Answer until nobody asks any more."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = MOST_MEMORY if hard == resource.RLIM_INFINITY else min(hard, MOST_MEMORY)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the user's code prints is no answer
    questions: queue.SimpleQueue[str] = queue.SimpleQueue()

    def send(answer: dict[str, object]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    def read() -> None:
        for line in sys.stdin:
            questions.put(line)
        # Whoever asked has gone, the function may be in a loop, and so may what it started.
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(0)

    module, _, name = where.partition(":")
    try:
        function = importlib.import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
    except BaseException as problem:
        send({"failed": _said(problem)})
        return
    send({"ready": True})
    Thread(target=read, daemon=True).start()
    while True:
        text = json.loads(questions.get())
        try:
            found = function(text)  # type: ignore[operator]
        except BaseException as problem:
            send({"raised": _said(problem)})
            continue
        if isinstance(found, str) and len(found) > LONGEST:
            send({"characters": len(found)})
        else:
            good = found is None or isinstance(found, str)
            send({"answer": found} if good else {"kind": type(found).__name__})


def _said(problem: BaseException) -> str:
    """The error in one line of bounded length."""
    text = " ".join(f"{type(problem).__name__}: {problem}".split())
    return (text if len(text) <= 200 else text[:199] + "…").rstrip(":")


if __name__ == "__main__":
    main(sys.argv[1])
