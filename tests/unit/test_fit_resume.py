"""Fits that are killed or interrupted, and go on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from posterior_lm.lang.diagnostics import DataError
from posterior_lm.train import beginning, checkpoint
from posterior_lm.train import progress as metrics
from posterior_lm.train.adapter import WEIGHTS
from posterior_lm.train.certificate import PolicyReport
from posterior_lm.train.checkpoint import METRICS
from posterior_lm.train.policy import MANIFEST, read_manifest
from posterior_lm.train.progress import Interrupt
from tests.cli import plm
from tests.conftest import ROOT
from tests.unit.test_fit import DIGIT, DIGITS, PLATE, RULE, RULES, SMALL, TABLES, WORD, WORDS, codes, fitted

KILLER = r"""
# Fits in children of this process, each killed after it has measured some more steps, until one ends.
import json, os, random, signal, sys, time, traceback
from pathlib import Path
import torch
import accelerate, arviz_stats, peft
from posterior_lm.train.checkpoint import METRICS
from posterior_lm.train.fit import fit
from posterior_lm.train.settings import settings_of
from posterior_lm.api.query import loads

torch.set_num_threads(1)

def child(task, folder):
    resume = any(".tmp-" not in p.name for p in folder.glob("checkpoints/step-*"))
    fit(loads(task["program"]).prepared, task["rows"], folder, settings_of(task["settings"]), resume=resume)

def lines(folder):
    path = folder / METRICS
    return path.read_bytes().count(b"\n") if path.exists() else 0

def run(task, folder, times, chance):
    kills, most = [], 0
    for attempt in range(times + 1):
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            try:
                child(task, folder)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(9)
        # How far it comes is chance: up to two steps more, and then any moment of the next.
        most = max(most, lines(folder))
        goal, wait = max(1, most + chance.choice((0, 1, 2))), chance.random() * 0.1
        status = None
        while attempt < times and status is None:
            done, found = os.waitpid(pid, os.WNOHANG)
            if done:
                status = found
            elif lines(folder) >= goal:
                time.sleep(wait)
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                kills.append(lines(folder))
            else:
                time.sleep(0.002)
        if status is None:
            _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            break
    return {"kills": kills, "status": status}

tasks, found = json.loads(sys.argv[1]), {}
for name, task in tasks.items():
    loads(task["program"]).prepared.models  # once, for every child
    for kind, times in (("whole", 0), ("torn", task["kills"])):
        found[f"{name}.{kind}"] = run(task, Path(sys.argv[2]) / f"{name}.{kind}", times, random.Random(task["seed"]))
print(json.dumps(found))
"""
CASES = {
    "vargrad": (DIGIT, DIGITS, {"objective": "vargrad", "replayed": 0.5, "sleep": 0.25}),
    "tb": (DIGIT, DIGITS, {"objective": "tb", "sleep": 0.0}),
    "simulated": (WORD, WORDS, {"objective": "vargrad", "sleep": 0.5, "certify_draws": 10}),
    "listed": (RULE, RULES, {"objective": "vargrad", "sleep": 0.5, "certify_draws": 10, "listed": 0.5}),
    "cells": (PLATE, TABLES, {"objective": "vargrad", "sleep": 0.75, "certify_draws": 10, "listed": 1.0}),
}


SEED = 11


@pytest.fixture(scope="module")
def killed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The folder with a whole and a torn fit of each of some cases, and what became of their processes."""
    folder = tmp_path_factory.mktemp("killed")
    tasks = {
        name: {
            "program": program, "rows": rows, "kills": 3, "seed": SEED + k,
            "settings": {**SMALL, **more, "steps": 8, "checkpoint_every": 2},
        }
        for k, (name, (program, rows, more)) in enumerate(CASES.items())
        if name in request.param
    }  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLER, json.dumps(tasks), str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, env=env, timeout=280)
    assert ran.returncode == 0, ran.stderr
    return folder, {**json.loads(ran.stdout.splitlines()[-1]), "errors": ran.stderr[-3000:]}


OFTEN = ["vargrad"]
SELDOM = [name for name in CASES if name not in OFTEN]


@pytest.mark.parametrize("killed", [OFTEN], indirect=True, scope="module")
@pytest.mark.parametrize("name", OFTEN)
def test_kills_at_random_points_change_no_bit(name: str, killed: tuple[Path, dict[str, Any]]) -> None:
    same_bits(name, killed)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [SELDOM], indirect=True, scope="module")
@pytest.mark.parametrize("name", SELDOM)
def test_kills_at_random_points_change_no_bit_of_others(
    name: str, killed: tuple[Path, dict[str, Any]]
) -> None:
    same_bits(name, killed)


def same_bits(name: str, killed: tuple[Path, dict[str, Any]]) -> None:
    folder, found = killed
    whole, torn = folder / f"{name}.whole", folder / f"{name}.torn"
    print(f"seed {SEED}: killed after the steps {found[torn.name]['kills']}", found["errors"])
    assert found[whole.name] == {"kills": [], "status": 0}
    assert found[torn.name]["status"] == 0 and len(found[torn.name]["kills"]) >= 2
    assert (torn / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    lines, expected = metrics.read_metrics(torn / METRICS), metrics.read_metrics(whole / METRICS)
    assert [line["step"] for line in lines] == list(range(1, 9))
    for line, other in zip(lines, expected, strict=True):
        for key in ("loss", "ess", "log_evidence_upper", "gradient_norm", "rate", "stage"):
            assert line[key] == other[key], (line["step"], key)
    one, two = read_manifest(torn), read_manifest(whole)
    first, second = (PolicyReport.from_json(m.certificate) for m in (one, two))  # but for what took how long
    assert first == second and first.rows and one.files == two.files
    assert not (torn / "checkpoints").exists()
    assert not [p for p in torn.iterdir() if p.name.startswith(".")]


def test_a_fit_that_died_before_its_first_checkpoint_begins_again(tmp_path: Path) -> None:
    """Its measurements are of another run, and do not stay in the file of this one."""

    def die(progress: Any) -> None:
        if progress.step == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fitted(tmp_path / "p", watch=die)
    assert len(metrics.read_metrics(tmp_path / "p" / METRICS)) == 2
    fitted(tmp_path / "p", steps=3)
    assert [line["step"] for line in metrics.read_metrics(tmp_path / "p" / METRICS)] == [1, 2, 3]


@pytest.mark.parametrize("left", ["", "step-000002.tmp-0123abcd"])
def test_a_fit_that_died_in_its_first_checkpoint_begins_again(left: str, tmp_path: Path) -> None:
    """There is nothing to resume then, so nothing may ask for it."""
    (tmp_path / "p" / "checkpoints" / left).mkdir(parents=True)
    assert fitted(tmp_path / "p", steps=2).manifest.steps == 2
    assert not (tmp_path / "p" / "checkpoints").exists()


# ------------------------------------------------------------------------------- Ctrl-C


def interrupting(at: int) -> Any:
    def watch(progress: Any) -> None:
        if progress.step == at:
            os.kill(os.getpid(), signal.SIGINT)

    return watch


def test_an_interrupt_leaves_a_checkpoint_and_an_uncertified_policy(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    done = fitted(tmp_path / "p", watch=interrupting(3), checkpoint_every=100)
    assert signal.getsignal(signal.SIGINT) is before
    assert done.interrupted and done.manifest.steps == 3
    kept = read_manifest(tmp_path / "p")
    assert kept.certificate is None and "interrupted at step 3" in kept.note
    assert checkpoint.load(tmp_path / "p").step == 3  # type: ignore[union-attr]
    whole = fitted(tmp_path / "p", resume=True, checkpoint_every=100)
    assert not whole.interrupted and whole.manifest.steps == 6 and whole.manifest.checked is not None
    assert "interrupted" not in whole.manifest.note
    assert not (tmp_path / "p" / "checkpoints").exists()
    assert [line["step"] for line in metrics.read_metrics(tmp_path / "p" / METRICS)] == [1, 2, 3, 4, 5, 6]


def test_what_a_policy_began_as_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which power is nearer may be told otherwise by the draws that there is time for when a fit goes on."""
    flat = """lm base = "tiny"
    program flat(opening: text) { latent z: text(tokens=1..2, end="free") ~ base(opening) ^ 0.5 observe " a" ~ base(opening, z) }"""
    rows, stops = [{"opening": "Tom was"}], []
    more: dict[str, Any] = {"program": flat, "data": rows, "scope": "rows", "checkpoint_every": 100}
    for nearer, powered in ((-1e9, True), (1e9, False)):
        monkeypatch.setattr(beginning, "NEARER", nearer)
        begun = fitted(tmp_path / str(powered), watch=interrupting(2), **more)
        assert begun.interrupted and begun.manifest.powered is powered
        stops.append(begun.manifest.stop)
    assert stops[0] != stops[1]
    for powered, stop in zip((True, False), stops, strict=True):
        monkeypatch.setattr(beginning, "NEARER", 1e9 if powered else -1e9)
        whole = fitted(tmp_path / str(powered), resume=True, **more)
        assert not whole.interrupted and whole.manifest.powered is powered and whole.manifest.stop == stop


def test_an_interrupt_in_the_last_step_is_no_interrupt(tmp_path: Path) -> None:
    done = fitted(tmp_path / "p", watch=interrupting(6))
    assert not done.interrupted and done.manifest.checked is not None


def test_the_second_interrupt_is_pythons_own() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupt() as interrupt:
        assert not interrupt.wanted
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert interrupt.wanted
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    found: list[object] = []

    def inside() -> None:
        with Interrupt() as interrupt:
            found.append(interrupt.wanted)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [False] and signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_on_the_command_line(tmp_path: Path) -> None:
    """Exit code 130, and words of what is saved; `plm run` and `--resume` take it from there."""
    program, data, out = tmp_path / "digit.plm", tmp_path / "rows.jsonl", tmp_path / "p"
    program.write_text(DIGIT)
    data.write_text("".join(json.dumps(r) + "\n" for r in DIGITS))
    flags = [x for k, v in SMALL.items() if k != "steps" for x in ("--set", f"{k}={v}")]
    command = ["fit", program, "--data", data, "--out", out, *flags, "--seed", 2]
    start = [sys.executable, "-m", "posterior_lm", *map(str, command), "--steps", "300"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(start, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        began = time.monotonic()
        while not (out / METRICS).exists() or len(metrics.read_metrics(out / METRICS)) < 4:
            assert child.poll() is None and time.monotonic() - began < 120, child.stderr.read()  # type: ignore[union-attr]
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        shown, errors = child.communicate(timeout=60)
    finally:
        child.kill()
    steps = read_manifest(out).steps
    assert child.returncode == 130, errors
    assert f"Interrupted at step {steps}." in shown and "uncertified" in shown and "--resume" in shown
    assert "Traceback" not in errors
    assert 4 <= steps < 300 and len(metrics.read_metrics(out / METRICS)) == steps
    ran = plm("run", program, "--given", "x=2", "--policy", out, "--method", "gflownet", "-n", 50)
    assert ran.exit_code == 0, ran.stderr
    # The same fit, and no other, goes on: it would take 300 steps, so it is interrupted once more.
    other = plm(*command, "--steps", 301, "--resume")
    assert other.exit_code == 1 and "PLM625" in other.stderr and "settings.steps" in other.stderr
    plain = plm(*command, "--steps", 300)
    assert plain.exit_code == 1 and "PLM621" in plain.stderr and "--resume" in plain.stderr
    assert read_manifest(out).steps == steps


# ------------------------------------------------------------------------------- what cannot be resumed


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fit") / "p"
    assert fitted(folder, watch=interrupting(2)).interrupted
    return folder


@pytest.fixture
def half(interrupted: Path, tmp_path: Path) -> Path:
    """A copy of a fit that was interrupted at step 2."""
    import shutil

    shutil.copytree(interrupted, tmp_path / "p")
    return tmp_path / "p"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"rank": 3}, "settings.rank (2, now 3)"),
        ({"seed": 9}, "settings.seed"),
        ({"objective": "tb"}, "settings.objective"),
        ({"data": DIGITS[:7]}, "rows"),
        ({"data": [*DIGITS[:7], {"x": 0}]}, "rows"),
        ({"data": [{**DIGITS[0], "n": 1}, *DIGITS[1:]]}, "known latents"),
        ({"program": DIGIT.replace("0.7", "0.8")}, "program"),
        ({"program": DIGIT.replace("Seen: ", "Saw: ")}, "guide"),
    ],
)
def test_another_fit_is_not_resumed(what: dict[str, Any], said: str, half: Path) -> None:
    before = contents(half)
    with pytest.raises(DataError) as caught:
        fitted(half, resume=True, **what)
    assert codes(caught.value) == ["PLM625"] and said in str(caught.value)
    assert not re.search("[0-9a-f]{13}", str(caught.value)), "digests are shown by their beginning"
    assert contents(half) == before


def test_a_loop_that_resumes_begins_and_ends(tmp_path: Path) -> None:
    """Where nothing was kept it begins; where all is done it ends at once, and changes nothing."""
    said: list[str] = []
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / METRICS).write_text('{"step": 1}\n')  # killed before its first checkpoint
    whole = fitted(tmp_path / "p", resume=True, steps=2)
    assert whole.manifest.steps == 2 and len(metrics.read_metrics(tmp_path / "p" / METRICS)) == 2
    before = contents(tmp_path / "p")
    again = fitted(tmp_path / "p", resume=True, steps=2, say=said.append)
    assert again.manifest == whole.manifest and not again.interrupted and contents(tmp_path / "p") == before
    assert "nothing is left to do" in said[-1]
    with pytest.raises(DataError) as caught:
        fitted(tmp_path / "p", resume=True, steps=2, program=DIGIT.replace("0.7", "0.8"))
    assert codes(caught.value) == ["PLM625"]


@pytest.mark.parametrize("name", ["tensors.safetensors", "arrays.npz", "state.json"])
@pytest.mark.parametrize("how", ["cut", "absent", "flipped"])
def test_a_damaged_checkpoint_is_refused_and_left(name: str, how: str, half: Path) -> None:
    (path,) = half.glob(f"checkpoints/*/{name}")
    whole = path.read_bytes()
    if how == "absent":
        path.unlink()
    else:
        middle = len(whole) // 2
        path.write_bytes(
            whole[:middle]
            if how == "cut"
            else whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        )
    before = contents(half)
    with pytest.raises(DataError) as caught:
        fitted(half, resume=True)
    assert codes(caught.value) == ["PLM622"]
    assert contents(half) == before and (half / MANIFEST).exists()


def test_a_foreign_checkpoint_is_refused(half: Path) -> None:
    """One that is whole, but of something else: no adapter of ours in it."""
    import numpy as np
    import torch

    mine = checkpoint.load(half)
    assert mine is not None
    checkpoint.save(
        half,
        step=9,
        tensors={"w": torch.zeros(3)},
        arrays={"a": np.zeros(2)},
        state={"fit": mine.state["fit"]},
    )
    with pytest.raises(DataError) as caught:
        fitted(half, resume=True)
    assert codes(caught.value) == ["PLM622"], str(caught.value)
    checkpoint.save(half, step=10, tensors={}, arrays={}, state={})
    with pytest.raises(DataError) as caught:
        fitted(half, resume=True)
    assert codes(caught.value) == ["PLM625"]
