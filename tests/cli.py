"""Running `plm` in this process, and as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

from posterior_lm.cli.main import cli

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests" / "golden" / "cli"
WALK = str(FOLDER / "walk.plm")
ROWS = str(FOLDER / "rows.jsonl")


def plm(*args: object, input: str | bytes | None = None, **env: str) -> Result:
    """The result of one command line; `stdout`, `stderr` and `exit_code` are what a shell would see."""
    return CliRunner().invoke(cli, [str(a) for a in args], input=input, env=env, prog_name="plm")


def process(*args: object, code: str | None = None, **more: object) -> subprocess.CompletedProcess[str]:
    """`python -m posterior_lm ARGS`, or `python -c CODE ARGS`, from the root of the checkout."""
    start = ["-m", "posterior_lm"] if code is None else ["-c", code]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, *start, *(str(a) for a in args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=120, **more)  # type: ignore[call-overload]
