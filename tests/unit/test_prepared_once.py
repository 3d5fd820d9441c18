"""A program is prepared once and each of its rows bound once, however many rows there are."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import posterior_lm.api.engine  # what is counted has to be there
import posterior_lm.cli.given
import posterior_lm.cli.many  # noqa: F401
from posterior_lm.graph.lower import lower
from posterior_lm.lang.driver import check
from posterior_lm.target.prepared import bind_program
from posterior_lm.target.validate import validate_data
from tests.cli import plm
from tests.unit.test_cli_fit import FLAGS
from tests.unit.test_fit import DIGIT, DIGITS

CHEAP = """program cheap(k: int) {
  latent x: int(0..9) ~ uniform()
  factor if x == k then 1.0 else 0.0
}
"""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each of the four was called, by name, and how often each row was bound; `validate` is `validate_data`."""
    found: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: object, **more: object) -> object:
            found[name] += 1
            if name == "bind":
                found[f"row {args[1]}"] += 1
            return function(*args, **more)

        return call

    for name, function in {
        "check": check,
        "lower": lower,
        "bind": bind_program,
        "validate": validate_data,
    }.items():
        call = counted(name, function)
        for module in [m for n, m in sys.modules.items() if n.startswith("posterior_lm")]:
            for attribute, value in list(vars(module).items()):
                if value is function:
                    monkeypatch.setattr(module, attribute, call)
    return found


@pytest.mark.parametrize("n", [1, 7])
def test_a_run_of_rows(n: int, tmp_path: Path, calls: Counter[str]) -> None:
    (tmp_path / "cheap.plm").write_text(CHEAP)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"k": k}) + "\n" for k in range(n)))
    result = plm(
        "run",
        tmp_path / "cheap.plm",
        "--data",
        tmp_path / "rows.jsonl",
        "--method",
        "exact",
        "--format",
        "json",
    )
    assert result.exit_code == 0, result.stderr
    # What `--given` says is validated by itself, once.
    rows = {f"row {{'k': {k}}}": 1 for k in range(n)}
    assert calls == {"check": 1, "lower": 1, "bind": n, "validate": n + 1, **rows}


def test_a_fit(tmp_path: Path, calls: Counter[str]) -> None:
    (tmp_path / "digit.plm").write_text(DIGIT)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in DIGITS))
    result = plm(
        "fit",
        tmp_path / "digit.plm",
        "--data",
        tmp_path / "rows.jsonl",
        "--out",
        tmp_path / "p",
        "--steps",
        4,
        *FLAGS,
    )
    assert result.exit_code == 0, result.stderr
    assert calls["check"] == calls["lower"] == 1
    # The command validates the whole file before it loads a model, and the fit what it was given.
    assert calls["validate"] == 2 * len(DIGITS) + 1
    bound = {row: count for row, count in calls.items() if row.startswith("row ")}
    # Once each to be read, simulated, weighed as simulated, trained on, and certified with.
    assert len(bound) == len(DIGITS) and max(bound.values()) <= 5
