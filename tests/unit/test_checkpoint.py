"""Checkpoints: exact, complete whatever kills the save, and never read when they are damaged."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from posterior_lm import storage
from posterior_lm.lang.diagnostics import DataError
from posterior_lm.train.checkpoint import (
    clean,
    load,
    load_same,
    optimizer_tensors,
    remove,
    restore_optimizer,
    restore_rng,
    rng_state,
    save,
)
from tests.conftest import ROOT


def put(folder: Path, step: int, *, keep: int = 2, size: int = 3) -> Path:
    """A checkpoint that says in each of its files which step it is of."""
    return save(
        folder,
        step=step,
        tensors={"w": torch.full((size,), float(step))},
        arrays={"a": np.full(size, step)},
        state={"step": step},
        keep=keep,
    )


def holds(folder: Path) -> int:
    """The step that every part of the newest checkpoint says."""
    found = load(folder)
    assert found is not None
    said = {found.step, int(found.tensors["w"][0]), int(found.arrays["a"][0]), found.state["step"]}
    assert said == {found.step}
    return found.step


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def refused(folder: Path, code: str) -> DataError:
    with pytest.raises(DataError) as caught:
        load(folder)
    assert [d.code for d in caught.value.diagnostics] == [code]
    return caught.value


# ------------------------------------------------------------------------------- what comes back


def test_everything_comes_back_exactly(tmp_path: Path) -> None:
    odd = torch.tensor([1 / 3, -0.0, float("inf"), 5e-324], dtype=torch.float64)
    base = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    tensors = {
        "odd": odd,
        "half": torch.tensor([1.1, -2.7]).bfloat16(),
        "turned": base.T,
        "again": base,
        "part": base[1],
        "one": torch.tensor(7, dtype=torch.int64),
        "none": torch.zeros(0, 4),
        "leaf": torch.nn.Parameter(torch.ones(2)),
    }
    arrays = {"file": np.array([0.1, -np.inf]), "b/c": np.arange(6, dtype=np.uint8).reshape(2, 3)[:, ::2],
              "flag": np.array(True)}  # fmt: skip
    state = {"seed": 2**100, "rate": 0.1, "name": "é\ud800", "list": [1, None, True, {"x": -0.0}]}
    path = save(tmp_path / "out", step=123, tensors=tensors, arrays=arrays, state=state)
    assert path == tmp_path / "out" / "checkpoints" / "step-000123"
    assert sorted(p.name for p in path.iterdir()) == ["arrays.npz", "state.json", "tensors.safetensors"]
    found = load(tmp_path / "out")
    assert found is not None and (found.step, found.path, found.state) == (123, path, state)
    assert repr(found.state) == repr(state)
    assert set(found.tensors) == set(tensors) and set(found.arrays) == set(arrays)
    for name, tensor in tensors.items():
        back = found.tensors[name]
        assert back.dtype == tensor.dtype and back.shape == tensor.shape and not back.requires_grad
        assert (
            back.numpy(force=True).tobytes() == tensor.detach().contiguous().numpy(force=True).tobytes()
            if (tensor.dtype != torch.bfloat16)
            else torch.equal(back, tensor)
        )
    for name, array in arrays.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array)
    written = json.loads((path / "state.json").read_text())
    assert written["format"] == "plm-checkpoint-1"
    for name, digest in written["sha256"].items():
        assert hashlib.sha256((path / name).read_bytes()).hexdigest() == digest


def test_a_state_of_old_names_is_of_the_same_work(tmp_path: Path) -> None:
    then = {"settings.compile": 0.5, "settings.fit.rate": 1e-3, "settings.columns": 64, "compile": 1}
    save(tmp_path, step=1, tensors={}, arrays={}, state={"fit": then})
    now = {
        "settings.sleep": 0.5,
        "settings.fit.learning_rate": 1e-3,
        "settings.max_batch_tokens": 64,
        "compile": 1,
    }
    assert load_same(tmp_path, "fit", "fit", now).state == {"fit": then}
    with pytest.raises(DataError, match=r"differs in settings\.sleep \(0\.5, now 0\.25\)"):
        load_same(tmp_path, "fit", "fit", {**now, "settings.sleep": 0.25})


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load(tmp_path / "absent") is None and load(tmp_path) is None
    (tmp_path / "checkpoints" / "step-000005.tmp-0a").mkdir(parents=True)
    (tmp_path / "checkpoints" / "notes").write_text("mine")
    assert load(tmp_path) is None


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (8, 9, 10, 999_999, 1_000_000):
        put(tmp_path, step)
        assert holds(tmp_path) == step
    assert names(tmp_path) == ["step-1000000", "step-999999"]
    put(tmp_path, 1_000_001, keep=1)
    assert names(tmp_path) == ["step-1000001"]
    put(tmp_path, 1_000_002, keep=3)
    assert len(names(tmp_path)) == 2


def test_a_step_saved_again_is_newer(tmp_path: Path) -> None:
    for value in range(12):
        save(tmp_path, step=7, tensors={}, arrays={}, state={"value": value})
        found = load(tmp_path)
        assert found is not None and (found.step, found.state["value"]) == (7, value)
    assert names(tmp_path) == ["step-000007.10", "step-000007.11"]
    put(tmp_path, 8)
    assert holds(tmp_path) == 8


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    put(tmp_path, 5)
    with pytest.raises(ValueError, match="later step"):
        put(tmp_path, 4)
    with pytest.raises(ValueError):
        put(tmp_path, 6, keep=0)
    with pytest.raises(ValueError):
        put(tmp_path, -1)
    with pytest.raises(ValueError):
        save(tmp_path, step=6, tensors={}, arrays={}, state={"loss": float("nan")})
    with pytest.raises(TypeError):
        save(tmp_path, step=6, tensors={}, arrays={}, state={"path": tmp_path})
    with pytest.raises(ValueError):
        save(tmp_path, step=6, tensors={}, arrays={"a": np.array([{}])}, state={})
    assert names(tmp_path) == ["step-000005"]


# ------------------------------------------------------------------------------- kills and full disks

EVERY_LINE = """
import os, signal, sys
from pathlib import Path
from tests.unit.test_checkpoint import clean, holds, names, put

folder, kills, seen = Path(sys.argv[1]), 0, set()
os.fsync = lambda handle: None  # a kill loses nothing that was written, and a disk is slow
put(folder, 1)
while True:
    before = holds(folder)
    child = os.fork()
    if not child:
        left = kills + 1

        def trace(frame, event, argument):
            global left
            if not frame.f_code.co_filename.endswith(("checkpoint.py", "storage.py", "shutil.py")):
                return None
            if event == "line":
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        put(folder, before + 1)
        sys.settrace(None)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    after = holds(folder)
    assert after in (before, before + 1), (before, after)
    assert len([n for n in names(folder) if ".tmp-" not in n]) <= 3
    if not os.WIFSIGNALED(status):
        assert status == 0 and after == before + 1
        break
    kills += 1
    seen.add((after - before, any(".tmp-" in n for n in names(folder))))
    if kills % 7 == 0:
        clean(folder)
        assert not any(".tmp-" in n for n in names(folder))
    put(folder, after + 1)
print(kills, sorted(seen))
"""

ANY_TIME = """
import os, random, signal, sys, time
from pathlib import Path
from tests.unit.test_checkpoint import clean, holds, put
from posterior_lm.storage import Lock

folder, chance = Path(sys.argv[1]), random.Random(7)
put(folder, 1, size=1)
first = last = holds(folder)
for _ in range(40):
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        with Lock(folder):
            clean(folder)
            for step in range(last + 1, last + 1000):
                put(folder, step, size=chance.choice([1, 60_000]))
                os.write(tell, b".")
        os._exit(1)
    start = time.monotonic()
    os.read(ready, 1)
    # Somewhere in the next two saves or so, however slow the machine is.
    time.sleep(chance.uniform(0, 2) * (time.monotonic() - start))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ready), os.close(tell)
    step = holds(folder)
    assert step > last, "one was complete before the kill"
    last = step
with Lock(folder):
    clean(folder)
print(last - first, sorted(p.name.split("-")[0] for p in (folder / "checkpoints").iterdir()))
"""


def drive(script: str, folder: Path) -> str:
    """In a process of its own, that may fork: torch is imported once for many kills."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_killed_at_any_line_the_newest_complete_one_loads(tmp_path: Path) -> None:
    kills, seen = drive(EVERY_LINE, tmp_path).split(" ", 1)
    assert int(kills) > 100
    # Before and after the rename, with and without something left for `clean`.
    assert seen.strip() == str([(0, False), (0, True), (1, False), (1, True)])


def test_killed_at_any_time_the_newest_complete_one_loads(tmp_path: Path) -> None:
    saved, left = drive(ANY_TIME, tmp_path).split(" ", 1)
    assert int(saved) >= 40
    assert left.strip() in (str(["step"] * 2), str(["step"] * 3))


def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_any_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, 1)
    put(tmp_path, 2)
    events: list[str] = []
    sync, rename = os.fsync, os.rename

    def synced(handle: int) -> None:
        events.append("sync " + Path(os.readlink(f"/proc/self/fd/{handle}")).name.split(".tmp-")[0])
        sync(handle)

    def renamed(old: Path, new: Path) -> None:
        events.append(f"rename {old.name.split('.tmp-')[0]}")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    put(tmp_path, 3)
    start = events.index("sync tensors.safetensors")
    assert events[start:] == [
        "sync tensors.safetensors",
        "sync arrays.npz",
        "sync state.json",
        "sync step-000003",
        "rename step-000003",
        "sync checkpoints",
        "rename step-000001",
    ]


def failing(count: int, number: int) -> tuple[Callable[..., None], list[int]]:
    """A call that fails with this error when it is made for the `count`th time, and how often it was."""
    calls: list[int] = []

    def call(*arguments: object, **more: object) -> None:
        calls.append(1)
        if len(calls) == count:
            raise OSError(number, os.strerror(number))

    return call, calls


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    put(tmp_path, 1)
    step = 2
    for where, name in ((os, "fsync"), (storage, "write_new"), (os, "rename"), (Path, "mkdir")):
        for count in range(1, 20):
            before, kept = holds(tmp_path), set(names(tmp_path))
            call, calls = failing(count, number)
            original = getattr(where, name)

            def first_fail(*arguments: object, call=call, original=original, **more: object) -> object:  # type: ignore[no-untyped-def]
                call()
                return original(*arguments, **more)

            with monkeypatch.context() as patch:
                patch.setattr(where, name, first_fail)
                try:
                    put(tmp_path, step)
                except DataError as problem:
                    (found,) = problem.diagnostics
                    assert found.code == "PLM612" and os.strerror(number) in found.message
                    assert str(tmp_path) in found.message
            assert not any(".tmp-" in n for n in names(tmp_path)), (name, count)
            # Once it has its name it counts, though what came after it failed.
            assert holds(tmp_path) in (before, step) and set(names(tmp_path)) - kept <= {f"step-{step:06d}"}
            assert holds(tmp_path) == step or set(names(tmp_path)) == kept
            step += 1
            if len(calls) < count:
                break
        else:
            raise AssertionError(f"{name} is called without end")
        assert count > 1, f"{name} was never called"


def test_a_write_that_is_cut_short_for_real(tmp_path: Path) -> None:
    put(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(DataError, match=r"PLM612.*cannot write into .*File too large"):
            put(tmp_path, 2, size=100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["step-000001"] and holds(tmp_path) == 1


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "in", Path("/proc/nothing")):
        with pytest.raises(DataError) as caught:
            put(folder, 1)
        assert caught.value.diagnostics[0].code == "PLM612"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoints").write_text("mine")
    with pytest.raises(DataError, match="PLM612"):
        put(tmp_path / "out", 1)
    assert (tmp_path / "file").read_text() == (tmp_path / "out" / "checkpoints").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    put(tmp_path, 1)
    (tmp_path / "checkpoints").chmod(0o555)
    try:
        with pytest.raises(DataError, match="PLM612"):
            put(tmp_path, 2)
    finally:
        (tmp_path / "checkpoints").chmod(0o755)
    assert holds(tmp_path) == 1


def test_clean_takes_what_is_left_and_nothing_else(tmp_path: Path) -> None:
    clean(tmp_path / "absent")
    put(tmp_path, 3)
    for left in ("step-000004.tmp-1a2b", "step-000002.tmp-0"):
        shutil.copytree(tmp_path / "checkpoints" / "step-000003", tmp_path / "checkpoints" / left)
    (tmp_path / ".metrics.jsonl.tmp-77").write_text("half")
    for mine in ("notes.tmp-1", ".hidden", "metrics.jsonl"):
        (tmp_path / mine).write_text("mine")
    clean(tmp_path)
    assert names(tmp_path) == ["step-000003"] and holds(tmp_path) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".hidden", "checkpoints", "metrics.jsonl", "notes.tmp-1"]  # fmt: skip


def test_a_first_save_that_was_killed_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-000004.tmp-1a2b").mkdir(parents=True)
    clean(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_all_are_removed_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove(tmp_path)
    put(tmp_path, 1)
    put(tmp_path, 2)
    (tmp_path / "metrics.jsonl").write_text("mine")

    def killed(path: Path, **more: object) -> None:
        (path / "step-000002" / "state.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove(tmp_path)
    assert load(tmp_path) is None and not (tmp_path / "checkpoints").exists()
    clean(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
    put(tmp_path, 1)
    remove(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


# ------------------------------------------------------------------------------- damaged and foreign


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors", "arrays.npz"])
def test_any_damage_is_found(tmp_path: Path, name: str) -> None:
    path = put(tmp_path, 1) / name
    content = path.read_bytes()
    damaged = [content[:i] + bytes([content[i] ^ 1 << i % 8]) + content[i + 1 :] for i in range(len(content))]
    damaged += [content[: len(content) // 2], b"", content + b"\n", content * 2]
    for wrong in damaged:
        path.write_bytes(wrong)
        refused(tmp_path, "PLM622")
    path.write_bytes(content)
    assert holds(tmp_path) == 1
    path.unlink()
    assert "No such file" in str(refused(tmp_path, "PLM622"))


def test_a_damaged_newest_is_not_passed_over(tmp_path: Path) -> None:
    put(tmp_path, 1)
    newest = put(tmp_path, 2)
    (newest / "arrays.npz").write_bytes(b"")
    shown = str(refused(tmp_path, "PLM622"))
    assert f"{newest} is no checkpoint (arrays.npz is damaged)" in shown
    assert f"help: delete {newest} to go on from step-000001" in shown
    shutil.rmtree(newest)
    assert holds(tmp_path) == 1
    (tmp_path / "checkpoints" / "step-000001" / "state.json").write_text("{}")
    assert "to begin again" in str(refused(tmp_path, "PLM622"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value"),
        ("[]", "its format is '[]'"),
        ("{}", "its format is 'None'"),
        ('{"format": "plm-posterior-1"}', "'plm-posterior-1', not 'plm-checkpoint-1'"),
        ('{"format": "plm-checkpoint-1"}', "state.json is damaged"),
        ('{"format": ' + "[" * 100_000, "recursion"),
        ("\ufffe", "Expecting value"),
    ],
)
def test_foreign_files(tmp_path: Path, text: str, why: str) -> None:
    (put(tmp_path, 1) / "state.json").write_text(text)
    assert why in str(refused(tmp_path, "PLM622"))


def test_foreign_folders(tmp_path: Path) -> None:
    put(tmp_path, 1).rename(tmp_path / "checkpoints" / "step-000002")
    assert "it is of step 1" in str(refused(tmp_path, "PLM622"))
    (tmp_path / "checkpoints" / "step-000003").write_text("a file")
    assert "step-000003 is no checkpoint (Not a directory)" in str(refused(tmp_path, "PLM622"))


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    """With every digest right: an array of objects would run what its pickle says."""
    path = put(tmp_path, 1)
    file = io.BytesIO()
    np.savez(file, a=np.array([print], dtype=object))
    (path / "arrays.npz").write_bytes(file.getvalue())
    whole = json.loads((path / "state.json").read_text())
    whole.pop("seal")
    whole["sha256"]["arrays.npz"] = hashlib.sha256(file.getvalue()).hexdigest()
    seal = hashlib.sha256(json.dumps(whole).encode()).hexdigest()
    (path / "state.json").write_text(json.dumps({**whole, "seal": seal}))
    assert "allow_pickle" in str(refused(tmp_path, "PLM622"))


# ------------------------------------------------------------------------------- optimisers, generators


def trained(kind: type[torch.optim.Optimizer], steps: int, start: int = 0, **options: object):  # type: ignore[no-untyped-def]
    """A small model with two groups and a parameter that never has a gradient, some steps in."""
    generator = torch.Generator().manual_seed(5)
    model = torch.nn.ParameterDict(
        {
            "a": torch.nn.Parameter(torch.randn(3, 2, generator=generator)),
            "idle": torch.nn.Parameter(torch.randn(2, generator=generator)),
            "b": torch.nn.Parameter(torch.randn(2, generator=generator, dtype=torch.float64)),
        }
    )
    optimizer = kind(
        [{"params": [model["a"], model["idle"]]}, {"params": [model["b"]], "lr": 0.3}], lr=0.05, **options
    )  # type: ignore[call-arg]
    go_on(model, optimizer, range(start, start + steps))
    return model, optimizer


def go_on(model: torch.nn.ParameterDict, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        value = (model["a"].sin() @ model["b"].float() - step).square().sum() + model["b"].exp().sum()
        value.backward()
        optimizer.step()


NAMES = ("a", "idle", "b")


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_training_goes_on_bit_for_bit(tmp_path: Path, kind: type[torch.optim.Optimizer]) -> None:
    model, optimizer = trained(kind, 7)
    tensors = {**{k: p.detach() for k, p in model.items()}, **optimizer_tensors(optimizer, NAMES)}
    taken = {name: tensor.clone() for name, tensor in tensors.items()}
    save(tmp_path, step=7, tensors=tensors, arrays={}, state={})
    go_on(model, optimizer, range(7, 12))
    moments = [name for name in taken if name.startswith("optimizer.")]
    assert all(torch.equal(taken[k], tensors[k]) for k in moments), "taken, they do not move on"
    found = load(tmp_path)
    assert found is not None
    # One that has moved already, so that what is not restored shows.
    other, again = trained(kind, 3, start=50)
    with torch.no_grad():
        for name, parameter in other.items():
            parameter.copy_(found.tensors[name])
    restore_optimizer(again, found.tensors, NAMES)
    go_on(other, again, range(7, 12))
    for name, parameter in model.items():
        assert torch.equal(parameter, other[name]), name
    assert all(torch.equal(taken[k], found.tensors[k]) for k in moments), "nor do those restored from"
    assert again.state[other["a"]]["step"].item() == 12 and other["idle"] not in again.state


def test_a_state_from_before_the_first_step() -> None:
    _, fresh = trained(torch.optim.AdamW, 0)
    assert optimizer_tensors(fresh, NAMES) == {}
    model, moved = trained(torch.optim.AdamW, 4)
    restore_optimizer(moved, {}, NAMES)
    assert not moved.state.get(model["a"])


def test_optimisers_that_do_not_fit() -> None:
    _, optimizer = trained(torch.optim.AdamW, 2)
    tensors = optimizer_tensors(optimizer, NAMES)
    assert set(tensors) == {f"optimizer.{k}.{n}" for k in ("exp_avg", "exp_avg_sq", "step") for n in "ab"}
    with pytest.raises(ValueError, match="only"):
        restore_optimizer(optimizer, {k: t for k, t in tensors.items() if k != "optimizer.step.b"}, NAMES)
    with pytest.raises(ValueError, match="shape"):
        restore_optimizer(optimizer, tensors, ("b", "idle", "a"))
    for few in (NAMES[:2], (*NAMES, "c")):
        with pytest.raises(ValueError):
            optimizer_tensors(optimizer, few)
    for kind, options in ((torch.optim.SGD, {"momentum": 0.9}), (torch.optim.Adam, {"amsgrad": True})):
        with pytest.raises(ValueError, match="the optimiser keeps"):
            optimizer_tensors(trained(kind, 2, **options)[1], NAMES)


def test_generators_go_on(tmp_path: Path) -> None:
    rng, draws = np.random.default_rng(3), torch.Generator().manual_seed(4)
    rng.integers(5, dtype=np.int32), rng.normal(size=3), torch.rand(5, generator=draws)
    save(tmp_path, step=1, tensors={"rng": draws.get_state()}, arrays={}, state={"rng": rng_state(rng)})
    expected = rng.integers(2**40, size=4), rng.gumbel(size=3), torch.rand(3, generator=draws)
    found = load(tmp_path)
    assert found is not None
    again, more = restore_rng(found.state["rng"]), torch.Generator()  # type: ignore[arg-type]
    more.set_state(found.tensors["rng"])
    np.testing.assert_array_equal(again.integers(2**40, size=4), expected[0])
    np.testing.assert_array_equal(again.gumbel(size=3), expected[1])
    assert torch.equal(torch.rand(3, generator=more), expected[2])
    with pytest.raises(ValueError, match="MT19937"):
        rng_state(np.random.Generator(np.random.MT19937(1)))
    with pytest.raises(KeyError):
        restore_rng({**rng_state(rng), "bit_generator": "default_rng"})
