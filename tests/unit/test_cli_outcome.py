"""How commands end: exit codes, standard error, speed, and what is never imported."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys

import pytest

from posterior_lm.cli import commands
from posterior_lm.cli.main import COMMANDS
from posterior_lm.cli.output import has_color, json_text, quoted
from posterior_lm.lang.diagnostics import InternalError
from tests.cli import ROOT, ROWS, WALK, plm, process

STORY = str(ROOT / "programs" / "story_infilling.plm")
GIVEN = ("--given", "start=a", "--given", "end=a")


# ------------------------------------------------------------- in this process


@pytest.mark.parametrize(
    "problem", [InternalError("a total is missing"), RuntimeError("a total is missing\nmore")]
)
def test_our_mistakes_apologise_in_one_line(problem: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr("posterior_lm.cli.check.compile_source", fail)
    result = plm("check", WALK)
    assert result.exit_code == 70 and result.stdout == ""
    assert (
        result.stderr.count("\n") == 1
        and "a total is missing" in result.stderr
        and commands.REPORT in result.stderr
    )
    assert "Traceback" in plm("check", WALK, PLM_DEBUG="1").stderr


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("posterior_lm.cli.run.draw", interrupt)
    result = plm("run", WALK, *GIVEN)
    assert result.exit_code == 130 and "interrupted" in result.stderr and "Traceback" not in result.stderr


def test_with_format_json_diagnostics_are_json_on_standard_error() -> None:
    result = plm("run", WALK, "--given", "start=a", "--format", "json")
    (found,) = json.loads(result.stderr)
    assert result.stdout == "" and found["code"] == "PLM601" and found["file"] == WALK


def test_json_has_no_nan_and_no_infinity() -> None:
    assert json.loads(json_text({"a": [float("nan"), float("-inf"), 1.5], "b": {"c": float("inf")}})) == {
        "a": [None, None, 1.5],
        "b": {"c": None},
    }


def test_quoted_text_cannot_move_the_cursor() -> None:
    assert quoted(" a\n\x1b[31m\x9b\u202eé ") == '" a\\n\\u001b[31m\\u009b\\u202eé "'


def test_no_color_and_dumb_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    for name, value, color in (("TERM", "xterm", True), ("TERM", "dumb", False), ("NO_COLOR", "1", False)):
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv(name, value)
        assert has_color(Terminal()) is color
    assert not has_color(object())


# ------------------------------------------------------------- processes


IMPORTS = """
import os, sys
os.environ.pop("OMP_WAIT_POLICY", None)
from posterior_lm.cli.main import main
banned = sys.argv.pop(1).split(",")
try:
    main()
except SystemExit as leaving:
    found = [m for m in banned if m in sys.modules]
    print(f"exit {leaving.code} imported {found} policy {os.environ.get('OMP_WAIT_POLICY')}", file=sys.stderr)
"""


@pytest.mark.parametrize(("args", "banned"), [
    (("--help",), "torch,transformers,numpy,networkx,rich,lark,attrs"),
    (("check", STORY, "--lint"), "torch,transformers,numpy,networkx,rich,tokenizers"),
    (("check", ROOT / "programs"), "torch,transformers,networkx,rich"),
    (("fmt", "--check", ROOT / "programs"), "torch,transformers,numpy,networkx,rich"),
    (("graph", STORY), "torch,transformers,rich"),
    (("run", WALK, "--data", ROWS), "torch,transformers,rich"),
    *(((name, "--help"), "torch,transformers,rich") for name in COMMANDS),
])  # fmt: skip
def test_what_is_never_imported(args: tuple[object, ...], banned: str) -> None:
    result = process(banned, *args, code=IMPORTS)
    said = result.stderr.strip().splitlines()  # on a busy machine that it starts, too
    assert said[-1] == "exit 0 imported [] policy passive"


@pytest.mark.parametrize(
    ("args", "most"),
    [(("--help",), 0.4), (("check", STORY), 0.75), (("check", "programs"), 0.75), (("run", "--help"), 1.5)],
)
def test_answers_in_time(args: tuple[str, ...], most: float) -> None:
    """Processor time of the whole process, as the wall clock of a busy machine says little; that of cores which
    others share is up to twice what it is on idle ones."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert process(*args).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < most


def test_exit_codes_of_processes() -> None:
    assert process("check", STORY).returncode == 0
    assert process("check", "none.plm").returncode == 1
    assert process("run").returncode == 2
    assert process("run", WALK, "--row", "1").returncode == 2


@pytest.mark.parametrize("args", [("explain",), ("--help",), ("check", "--help"), ("graph", STORY)])
def test_a_closed_pipe_is_quiet(args: tuple[str, ...]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "posterior_lm", *args],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b"" and running.wait(60) == 0


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    ("args", "closed", "code", "said"),
    [
        (("run", WALK, *GIVEN), ">&-", 0, ""),
        (("run", WALK, *GIVEN, "--format", "json"), ">&-", 0, ""),
        (("--help",), ">&-", 0, ""),
        (("run", WALK), ">&-", 1, "error[PLM601]"),
        (("run", WALK, *GIVEN), "2>&-", 0, "log evidence"),
        (("run", WALK), "2>&-", 1, ""),
        (("run",), "2>&-", 2, ""),
        (("run", "-"), "<&-", 1, "error[PLM115]"),
        (("run", WALK, "--data", "-"), "<&-", 1, "error[PLM604]"),
        (("run", WALK, *GIVEN), "<&- >&- 2>&-", 0, ""),
        (("check", "-"), "<&- >&- 2>&-", 1, ""),
    ],
)
def test_closed_streams_are_like_dev_null(args: tuple[str, ...], closed: str, code: int, said: str) -> None:
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "posterior_lm", *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    # On a busy machine it may say what it waits for.
    shown = done.stdout + re.sub(r"^.*, \d+ s\n", "", done.stderr, flags=re.M)
    assert done.returncode == code and (said in shown if said else shown == ""), shown


def test_characters_that_standard_output_cannot_spell_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1:strict")
    done = process("explain", "PLM104")
    assert done.returncode == 0 and r'r"\u2026"' in done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_an_error_of_its_own() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "posterior_lm", "explain"]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.startswith("error[PLM805]") and "Traceback" not in done.stderr


def test_what_libraries_log_and_warn_of_is_not_shown() -> None:
    code = (
        "import click, logging, warnings; from posterior_lm.cli.main import main\n"
        "from posterior_lm.lm.notices import notice\n"
        "@click.command()\ndef run():\n"
        "    logging.getLogger('torchao').warning('no kernel'); warnings.warn('old'); notice('it is slow')\n"
        "main(run)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "note: it is slow\n")


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or os.name == "nt", reason="needs POSIX signals")
def test_control_c_while_waiting_for_input() -> None:
    code = (
        "import os, signal, threading; from posterior_lm.cli.main import main\n"
        "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start(); main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, "check", "-"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        assert running.wait(60) == 130 and running.stderr is not None
        assert running.stderr.read().strip() == "interrupted"
