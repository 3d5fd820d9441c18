"""Two processes on one fit, against one process with the same batch."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from posterior_lm.train import progress
from posterior_lm.train.adapter import WEIGHTS
from posterior_lm.train.checkpoint import METRICS
from posterior_lm.train.judge import Looks
from posterior_lm.train.parallel import World, join_world
from posterior_lm.train.policy import read_manifest
from posterior_lm.train.trainer import Trainer
from tests.conftest import ROOT
from tests.unit.test_balancing import COUNTED
from tests.unit.test_fit import DIGIT, DIGITS, PLATE, RULE, RULES, SMALL, TABLES, WORD, WORDS, fitted

TOGETHER = r"""
# Every fit of the task, in each of the processes that the launcher has started.
import json, os, sys, time
from pathlib import Path
import torch
import posterior_lm.train.fit as module
from posterior_lm.train import checkpoint, policy
from posterior_lm.train.judge import Looks
from posterior_lm.train.settings import settings_of
from posterior_lm.api.query import loads

torch.set_num_threads(1)
module.Trainer.settle = lambda self: ""  # the weights of the last step: which are the best hangs on a buffer of each process's own
Looks.due = lambda self, *given: False
rank = int(os.environ["RANK"])
if rank != 0:
    def refuse(*_, **__):
        raise AssertionError("only the main process writes")
    module.save_policy = module.checkpoint.save = module.append_metrics = module.cut_metrics = refuse
for name, task in json.loads(Path(sys.argv[1]).read_text()).items():
    shown = []
    done = module.fit(
        loads(task["program"]).prepared, task["rows"], Path(sys.argv[2]) / name, settings_of(task["settings"]),
        watch=lambda p: shown.append(p.step),
    )
    (Path(sys.argv[2]) / f"{name}.{rank}.json").write_text(
        json.dumps({"shown": shown, "steps": done.manifest.steps, "size": int(os.environ["WORLD_SIZE"])})
    )
torch.distributed.destroy_process_group()
"""
TASKS: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "sleep": (DIGIT, DIGITS, {"sleep": 1.0, "pairs": 96, "steps": 4, "replayed": 0.0}),
    "balance": (
        DIGIT,
        DIGITS,
        {"sleep": 0.0, "steps": 4, "replayed": 0.0, "rows": 5, "checkpoint_every": 2},
    ),
    "learned": (
        DIGIT,
        DIGITS,
        {"scope": "program", "sleep": 0.0, "steps": 6, "replayed": 0.0, "rows": 3, "objective": "tb"},
    ),
    "simulated": (WORD, WORDS, {"sleep": 0.5, "steps": 4, "replayed": 0.0, "certify_draws": 10}),
    "listed": (
        RULE,
        RULES,
        {"sleep": 1.0, "steps": 4, "replayed": 0.0, "listed": 1.0, "certify_draws": 10},
    ),
    "cells": (
        PLATE,
        TABLES,
        {"sleep": 1.0, "steps": 4, "replayed": 0.0, "listed": 1.0, "certify_draws": 10},
    ),
    "sft": (
        DIGIT,
        [{"x": k, "n": (3 * k + 1) % 8} for k in range(8)],
        {"objective": "sft", "steps": 4, "held_out": 1},
    ),
    "ppo": (DIGIT, DIGITS, {"objective": "ppo", "steps": 3, "rows": 5}),
    "one_row": (COUNTED, DIGITS[2:3], {"sleep": 0.0, "steps": 2, "replayed": 0.5}),
}


SELDOM = ["learned", "listed", "cells", "sft"]
OFTEN = [name for name in TASKS if name not in SELDOM]


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the fits of some tasks, by two processes that torchrun started."""
    folder = tmp_path_factory.mktemp("together")
    tasks = {
        name: {"program": program, "rows": rows, "settings": {**SMALL, "warmup": 0, **more}}
        for name, (program, rows, more) in TASKS.items()
        if name in request.param
    }
    (folder / "script.py").write_text(TOGETHER)
    (folder / "tasks.json").write_text(json.dumps(tasks))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ran = subprocess.run(
        [*start, str(folder / "script.py"), str(folder / "tasks.json"), str(folder)],
        capture_output=True, text=True, env=env, timeout=240,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-6000:]
    return folder


@pytest.mark.parametrize("together", [OFTEN], indirect=True, ids=["often"], scope="module")
@pytest.mark.parametrize("name", [n for n in OFTEN if n != "one_row"])
def test_two_processes_train_as_one(
    name: str, together: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same_training(name, together, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("together", [SELDOM], indirect=True, ids=["seldom"], scope="module")
@pytest.mark.parametrize("name", SELDOM)
def test_two_processes_train_others_as_one(
    name: str, together: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same_training(name, together, tmp_path, monkeypatch)
    leads_alone(name, together)


def same_training(name: str, together: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "settle", lambda self: "")
    monkeypatch.setattr(Looks, "due", lambda self, *given: False)
    program, rows, more = TASKS[name]
    alone = fitted(tmp_path / "p", program, rows, warmup=0, **more)
    one, two = load_file(tmp_path / "p" / WEIGHTS), load_file(together / name / WEIGHTS)
    assert set(one) == set(two)
    worst = max(float((one[k] - two[k]).abs().max()) for k in one)
    largest = max(float(t.abs().max()) for k, t in one.items() if "lora_B" in k)
    assert largest > 1e-3, "nothing was learned, so there is nothing to compare"
    # Adam divides by the size of a gradient, so where one is all but zero its rounding shows.
    assert worst < 3e-5 and worst < 0.02 * largest, (worst, largest)
    lines, expected = (progress.read_metrics(f / METRICS) for f in (together / name, tmp_path / "p"))
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    for line, other in zip(lines, expected, strict=True):
        for key in ("loss", "ess", "dead", "log_evidence_lower", "gradient_norm", "rate"):
            a, b = (math.nan if x[key] is None else x[key] for x in (line, other))
            assert a == pytest.approx(b, rel=1e-3, abs=1e-4, nan_ok=True), (line["step"], key)
    assert read_manifest(together / name).steps == alone.manifest.steps


@pytest.mark.parametrize("together", [OFTEN], indirect=True, ids=["often"], scope="module")
@pytest.mark.parametrize("name", OFTEN)
def test_only_the_process_that_leads_speaks(name: str, together: Path) -> None:
    leads_alone(name, together)


def leads_alone(name: str, together: Path) -> None:
    leader, other = (json.loads((together / f"{name}.{rank}.json").read_text()) for rank in (0, 1))
    steps = TASKS[name][2]["steps"]
    assert leader == {"shown": list(range(1, steps + 1)), "steps": steps, "size": 2}
    assert other == {"shown": [], "steps": steps, "size": 2}
    assert not (together / name / ".lock").exists() and not (together / name / "checkpoints").exists()


def test_alone_nothing_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world = join_world()
    assert world == World(0, 1) and world.is_main
    assert world.all_reduce([1, 2.5]) == [1.0, 2.5] and world.gather({"a": 1}) == [{"a": 1}]
    tensor = torch.tensor([1.0, 2.0])
    world.sum_([tensor])
    assert tensor.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(("count", "size"), [(7, 2), (8, 3), (1, 4)])
def test_shares_are_a_partition(count: int, size: int) -> None:
    shares = [list(World(rank, size).share(count)) for rank in range(size)]
    assert sorted(k for share in shares for k in share) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
