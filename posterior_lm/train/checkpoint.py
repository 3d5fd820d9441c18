"""A training state on disk, whole or not at all, and going on from it.

A checkpoint is a folder `checkpoints/step-000123` with `tensors.safetensors`, `arrays.npz` and
`state.json`. It is written under another name, forced to the disk, renamed, and only then are older
ones removed, each renamed first too. So whatever kills a save, every folder of the first name is
complete; what it left under the other name `clean` removes. `state.json` holds the digests of all
three files, so that one damaged later is found out.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
import safetensors.torch
import torch
from attrs import frozen
from safetensors import SafetensorError

from posterior_lm import storage
from posterior_lm.lang.diagnostics import DataError
from posterior_lm.storage import read_bytes, refusing, remove_asides, sync_folder, writing_into
from posterior_lm.train.settings import FORMER

FORMAT = "plm-checkpoint-1"
ROOM = "checkpoints"
METRICS = "metrics.jsonl"
"""Beside the checkpoints: a line of measurements for each step."""
TENSORS, ARRAYS, STATE = "tensors.safetensors", "arrays.npz", "state.json"
_NAME = re.compile(r"step-(\d{6,})(?:\.(\d+))?")
_ADAM = ("exp_avg", "exp_avg_sq", "step")
_GENERATORS = {kind.__name__: kind for kind in (np.random.PCG64, np.random.PCG64DXSM)}


@frozen(eq=False)
class Checkpoint:
    """What `save` was given, read again; `path` is the folder it lies in."""

    step: int
    tensors: Mapping[str, torch.Tensor]
    arrays: Mapping[str, np.ndarray]
    state: Mapping[str, object]
    path: Path


# ------------------------------------------------------------------------------- writing


def save(
    folder: Path,
    *,
    step: int,
    tensors: Mapping[str, torch.Tensor],
    arrays: Mapping[str, np.ndarray],
    state: Mapping[str, object],
    keep: int = 2,
) -> Path:
    """Write a checkpoint and remove all but the newest `keep`; returns its folder.

    A step saved again becomes `step-000123.1`, which is newer. Raises DataError PLM612 where nothing
    can be written; earlier checkpoints are then as they were. ValueError for a step before that of a
    checkpoint in the folder, which `load` would prefer; ValueError or TypeError for a state that is
    not JSON.
    """
    if keep < 1 or step < 0:
        raise ValueError(f"cannot keep {keep} checkpoints of step {step}")
    files = {TENSORS: _tensor_bytes(tensors), ARRAYS: _array_bytes(arrays)}
    whole = {"format": FORMAT, "step": step, "sha256": {name: _digest(files[name]) for name in files}}
    files[STATE] = _sealed(whole | {"state": dict(state)})
    room = folder / ROOM
    with writing_into(folder):
        room.mkdir(parents=True, exist_ok=True)
        sync_folder(folder)
        found = _found(room)
        if found and found[-1][0] > step:
            raise ValueError(f"{found[-1][2]} is of a later step than {step}")
        again = [number for earlier, number, _ in found if earlier == step]
        name = f"step-{step:06d}" + (f".{again[-1] + 1}" if again else "")
        temporary = room / f"{name}.tmp-{secrets.token_hex(4)}"
        try:
            temporary.mkdir()
            for file, content in files.items():
                storage.write_new(temporary / file, content)
            sync_folder(temporary)
            os.rename(temporary, room / name)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(room)
        for _, _, old in found[: max(0, len(found) + 1 - keep)]:
            # Renamed first: a folder half removed must not pass for a checkpoint.
            going = room / f"{old.name}.tmp-{secrets.token_hex(4)}"
            os.rename(old, going)
            shutil.rmtree(going, ignore_errors=True)
    return room / name


def clean(folder: Path) -> None:
    """Remove what killed saves left in the folder; for whoever holds its lock."""
    remove_asides(folder)
    with writing_into(folder):
        for left in folder.glob(f"{ROOM}/step-*.tmp-*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    with suppress(OSError):  # a first save that was killed leaves nothing to go on from
        (folder / ROOM).rmdir()


def check_unused(folder: Path, resume: bool, kinds: Mapping[str, str]) -> None:
    """Raises DataError PLM621 for a folder that holds one of these, what it is by its name, unless that is resumed.

    What was killed before it kept anything leaves only measurements, which are removed.
    """
    if resume:
        return
    if held := [what for name, what in kinds.items() if (folder / name).exists()]:
        more = ", or go on with --resume" if (folder / ROOM).exists() else ""
        raise DataError.of(
            "PLM621",
            f"the folder {folder} already holds {held[0]}",
            where=str(folder),
            help="give another folder with --out" + more,
        )
    (folder / METRICS).unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Remove every checkpoint: a fit that is finished has nothing to go on from."""
    # Renamed first, as above: a kill must leave all of them or none.
    going = folder / f".{ROOM}.tmp-{secrets.token_hex(4)}"
    with writing_into(folder), suppress(FileNotFoundError):
        os.rename(folder / ROOM, going)
        shutil.rmtree(going, ignore_errors=True)


def _found(room: Path) -> list[tuple[int, int, Path]]:
    """Step, number within the step, and folder of every checkpoint, the newest last."""
    names = [(path, match) for path in room.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted((int(match[1]), int(match[2] or 0), path) for path, match in names)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sealed(whole: Mapping[str, object]) -> bytes:
    """The JSON text of an object that ends with the digest of the rest of it."""
    digest = _digest(json.dumps(whole, allow_nan=False).encode())
    return json.dumps({**whole, "seal": digest}, allow_nan=False).encode()


def _tensor_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    # Cloned, since safetensors refuses tensors that share memory.
    return safetensors.torch.save(
        {k: t.detach().cpu().clone(memory_format=torch.contiguous_format) for k, t in tensors.items()}
    )


def _array_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An .npz archive. `np.savez` would take an array named `file` for its own argument, and pickle."""
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
    return buffer.getvalue()


# ------------------------------------------------------------------------------- reading


def load(folder: Path) -> Checkpoint | None:
    """The newest checkpoint of the folder; None where there is none.

    Raises DataError PLM622 where the newest is damaged or not ours, even if an older one is good: to
    go back is for the user to decide, who is told what to delete.
    """
    path = folder / ROOM
    found: list[tuple[int, int, Path]] = []

    def refuse(why: str) -> DataError:
        then = f"go on from {found[-2][2].name}" if len(found) > 1 else "begin again"
        message = f"{path} is no checkpoint ({why})"
        return DataError.of("PLM622", message, where=str(path), help=f"delete {path} to {then}")

    with refusing(refuse, SafetensorError, BadZipFile):
        if not path.is_dir() or not (found := _found(path)):
            return None
        step, _, path = found[-1]
        return _read(path, step)


def _read(path: Path, step: int) -> Checkpoint:
    sealed = read_bytes(path / STATE)
    whole = json.loads(sealed)  # a state may hold half of a surrogate pair, which other files may not
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        given = whole.get("format") if isinstance(whole, dict) else whole
        raise ValueError(f"its format is {str(given)[:40]!r}, not {FORMAT!r}")
    if sealed != _sealed({key: value for key, value in whole.items() if key != "seal"}):
        raise ValueError(f"{STATE} is damaged")
    if whole["step"] != step:
        raise ValueError(f"it is of step {whole['step']}")
    files = {name: (path / name).read_bytes() for name in (TENSORS, ARRAYS)}
    for name, content in files.items():
        if whole["sha256"][name] != _digest(content):
            raise ValueError(f"{name} is damaged")
    with np.load(io.BytesIO(files[ARRAYS]), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return Checkpoint(step, safetensors.torch.load(files[TENSORS]), arrays, whole["state"], path)


# ------------------------------------------------------------------------------- optimisers, generators


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The state of Adam or AdamW by parameter name; `names` are in the order of its parameters.

    A parameter that had no gradient yet has no state. Rates and betas are the caller's settings.
    ValueError for the state of another optimiser, or of one with amsgrad.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter, _ in _named(optimizer, names):
        state = optimizer.state.get(parameter) or {}
        if state and set(state) != set(_ADAM):
            raise ValueError(f"the optimiser keeps {sorted(state)} of {name}, not {sorted(_ADAM)}")
        tensors |= {f"optimizer.{key}.{name}": state[key].detach().clone() for key in state}
    return tensors


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], names: Sequence[str]
) -> None:
    """Give an optimiser the state that `optimizer_tensors` took; other tensors are left alone.

    ValueError where a part of a parameter's state is missing or has another shape than it.
    """
    for name, parameter, step_device in _named(optimizer, names):
        state = {
            key: tensors[f"optimizer.{key}.{name}"] for key in _ADAM if f"optimizer.{key}.{name}" in tensors
        }
        if state and len(state) < len(_ADAM):
            raise ValueError(f"of the optimiser's state of {name} only {sorted(state)} is there")
        if any(state[key].shape != parameter.shape for key in state if key != "step"):
            raise ValueError(f"{name} has another shape than its state in the optimiser")
        optimizer.state.pop(parameter, None)
        if state:
            optimizer.state[parameter] = {
                key: tensor.detach().clone().to(step_device if key == "step" else parameter.device)
                for key, tensor in state.items()
            }


def _named(
    optimizer: torch.optim.Optimizer, names: Sequence[str]
) -> list[tuple[str, torch.nn.Parameter, torch.device]]:
    """Name and tensor of each parameter, and the device that torch keeps its step count on."""
    found = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    return [
        (name, p, p.device if group.get("fused") or group.get("capturable") else torch.device("cpu"))
        for name, (p, group) in zip(names, found, strict=True)
    ]


def rng_state(rng: np.random.Generator) -> dict[str, object]:
    """The state of a generator as JSON; of PCG64 alone, which `np.random.default_rng` makes."""
    if type(rng.bit_generator).__name__ not in _GENERATORS:
        raise ValueError(f"cannot keep the state of {type(rng.bit_generator).__name__}")
    return dict(rng.bit_generator.state)


def restore_rng(state: Mapping[str, object]) -> np.random.Generator:
    """A generator that goes on where the one of `rng_state` stood."""
    bits = _GENERATORS[str(state["bit_generator"])]()
    bits.state = dict(state)  # type: ignore[assignment]
    return np.random.Generator(bits)


def _now(key: str) -> str:
    """What is called `key` in a checkpoint, by the name that a setting has now."""
    head, dot, name = key.rpartition(".")
    return f"{head}{dot}{FORMER.get(name, name)}" if head.startswith("settings") else key


def _brief(value: object) -> str:
    """A value of an identity as it is shown: of a digest its beginning."""
    return value[:12] if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else repr(value)


def load_same(folder: Path, kind: str, what: str, identity: Mapping[str, object]) -> Checkpoint:
    """The newest checkpoint of the folder, whose state names the same `identity` under `kind`.

    `what` is what is resumed, in words. Raises DataError PLM622 where there is none or it is
    damaged, PLM625 naming what differs.
    """
    found = load(folder)
    if found is None:
        raise DataError.of(
            "PLM622",
            f"{folder} holds no checkpoint to go on from",
            where=str(folder),
            help=f"leave out --resume to begin a new {what}",
        )
    known = found.state.get(kind)
    stored = {_now(k): v for k, v in known.items()} if isinstance(known, Mapping) else {}
    odd = sorted(k for k in {*stored, *identity} if stored.get(k) != identity.get(k))
    if odd:
        said = ", ".join(f"{k} ({_brief(stored.get(k))}, now {_brief(identity.get(k))})" for k in odd[:4])
        raise DataError.of(
            "PLM625",
            f"the checkpoint in {folder} is of another {what}: it differs in {said}",
            where=str(folder),
            help="resume with the same program, rows and settings, or begin anew in another folder",
        )
    return found
