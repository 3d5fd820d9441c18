"""Tools of the user's own: answers, errors, loops and processes that end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from posterior_lm.api.query import loads
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.tools import ToolSpec
from posterior_lm.tools.answers import Answers, Process, answers_of
from tests.strategies import table

HERE = "tests.unit.test_tools_process"


def behave(text: str) -> object:
    """What the text asks for; it runs in the process of the tool."""
    match text:
        case "raise":
            raise ValueError("no such number.")
        case "loop":
            while True:
                pass
        case "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)  # nothing but a kill gets through
        case "number":
            return 7
        case "exit":
            sys.exit(3)
        case "die":
            os._exit(3)
        case "decline":
            return None
        case "print":
            print('{"answer": "wrong"}')
            return "right\nin two lines ∑"
        case "large":
            return "x" * 50_000_000
        case "memory":
            return str(len(bytearray(3 << 30)))
        case "child" | "child and loop":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            Path(os.environ["CHILD"]).write_text(str(child.pid))
            while text.endswith("loop"):
                pass
            return "started"
        case "time":
            return str(time.time_ns())
    return f"{os.getpid()} {text}"


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    found = Process("t", f"{HERE}:behave", 5.0)
    yield found
    found.close()


def test_answers_come_from_another_process_that_stays(process: Process) -> None:
    first, second = process("a"), process("b")
    assert first == f"{str(first).split()[0]} a" and second == f"{str(first).split()[0]} b"
    assert int(str(first).split()[0]) != os.getpid()
    assert process("decline") is None
    assert process("print") == "right\nin two lines ∑"


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("raise", "PLM760", "`t` raised ValueError: no such number on 'raise'"),
        ("exit", "PLM760", "raised SystemExit: 3"),
        ("number", "PLM762", "`t` answered int to 'number'"),
        ("die", "PLM765", "`t` ended on 'die'"),
    ],
)
def test_what_goes_wrong_names_the_tool_and_the_text(
    process: Process, text: str, code: str, says: str
) -> None:
    with pytest.raises(InferenceError) as caught:
        process(text)
    (found,) = caught.value.diagnostics
    assert found.code == code and says in found.message
    assert str(process("again")).endswith(" again"), "it can be asked again"


@pytest.mark.parametrize("text", ["loop", "freeze"])
def test_what_does_not_answer_is_ended(text: str) -> None:
    looping = Process("t", f"{HERE}:behave", 0.3)
    assert looping("decline") is None
    child = looping._child
    with pytest.raises(InferenceError) as caught:
        looping(text)
    assert [d.code for d in caught.value.diagnostics] == ["PLM761"]
    assert f"0.3 s on {text!r}" in caught.value.diagnostics[0].message
    assert child is not None and child.returncode is not None, "nothing is left behind"


@pytest.mark.parametrize("where", ["no_such_module:f", f"{HERE}:no_such_function"])
def test_what_cannot_be_imported_is_said(where: str) -> None:
    with pytest.raises(InferenceError) as caught:
        Process("t", where, 5.0)("a")
    assert [d.code for d in caught.value.diagnostics] == ["PLM765"]
    assert "no_such" in caught.value.diagnostics[0].message


def test_a_text_is_asked_once() -> None:
    asked: list[str] = []

    def count(text: str) -> str | None:
        asked.append(text)
        return None if text == "b" else f"{len(asked)}"

    spec = ToolSpec(name="t", kind="use", trigger="=", where="m:f", seconds=1.0)
    answers = Answers(spec, count)
    assert [answers(text) for text in ("a", "b", "a", "c", "b")] == ["1", None, "1", "3", None]
    assert asked == ["a", "b", "c"]
    assert answers_of(spec) is answers_of(
        ToolSpec(name="t", kind="use", trigger="=", where="m:f", seconds=1.0)
    )


def test_an_empty_answer_is_none() -> None:
    spec = ToolSpec(name="t", kind="use", trigger="=", where="m:g", seconds=1.0)
    assert Answers(spec, lambda text: "")("a") is None


@pytest.mark.parametrize(
    ("trigger", "text", "code"),
    [("e", "raise", "PLM760"), ("p", "loop", "PLM761"), ("r", "number", "PLM762")],
)
def test_a_program_whose_tool_fails_says_so(trigger: str, text: str, code: str) -> None:
    query = loads(f"""lm base = "b"
    use behave from "{HERE}:behave"
    tool t = behave(trigger="{trigger}", seconds=0.3)
    program p() {{ latent z: text(tokens=1..3, stop=".", tools=t) ~ base() }}""")
    query = query.lm(base=table((text, "."), seed=1)).allow_use()
    with pytest.raises(InferenceError) as caught:
        query.using("importance").draw(50, seed=0)
    (found,) = caught.value.diagnostics
    assert found.code == code and "`t`" in found.message and repr(text) in found.message
    assert found.help


def gone(pid: int) -> bool:
    """Whether a process ends within some seconds; a dead one that nobody waits for has ended too."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("how", ["closed", "killed for its time", "left alone"])
def test_what_a_tool_started_ends_with_it(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHILD", str(tmp_path / "pid"))
    tool = Process("t", f"{HERE}:behave", 3.0)
    if how == "killed for its time":
        with pytest.raises(InferenceError, match="PLM761"):
            tool("child and loop")
    else:
        assert tool("child") == "started"
    pid = int((tmp_path / "pid").read_text())
    if how == "left alone":  # as where whoever asked is killed: nobody writes to it any more
        assert tool._child is not None and tool._child.stdin is not None
        tool._child.stdin.close()
        tool._child.wait(timeout=10)
    tool.close()
    assert gone(pid)


def test_memory_and_answers_have_limits() -> None:
    tool = Process("t", f"{HERE}:behave", 20.0)
    try:
        with pytest.raises(InferenceError, match=r"PLM760.*MemoryError"):
            tool("memory")
        began = time.monotonic()
        with pytest.raises(InferenceError, match=r"PLM764.*50,000,000 characters"):
            tool("large")
        assert time.monotonic() - began < 15
        assert str(tool("b")).endswith(" b")  # neither ends it
    finally:
        tool.close()
