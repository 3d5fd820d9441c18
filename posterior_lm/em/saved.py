"""EM on disk: the result, and the checkpoint of each round while it trains.

A result is `model/`, the adapter of the trained terms; `guide/`, a policy; and `em.json`, of both.
`em.json` is written last and holds the digest of every other file, so that a folder whose parts are
of two runs, or damaged, is refused. The adapted model has an identity of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from attrs import evolve, frozen
from torch import Tensor

from posterior_lm.em.rounds import Round
from posterior_lm.em.split_model import SplitModel, split_model
from posterior_lm.lang.ast import Module
from posterior_lm.lang.diagnostics import DataError
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.protocol import LanguageModel
from posterior_lm.storage import plain, read_object, refusing, structured, together, write_whole
from posterior_lm.target.prepared import PreparedProgram
from posterior_lm.train import checkpoint, progress
from posterior_lm.train.adapter import CONFIG, WEIGHTS, Adapter, check_model
from posterior_lm.train.checkpoint import METRICS, load_same
from posterior_lm.train.policy import MANIFEST, Manifest, digest_of, save_policy

FORMAT = "plm-em-1"
RECORD, MODEL, GUIDE = "em.json", "model", "guide"
_FILES = (
    f"{MODEL}/{CONFIG}",
    f"{MODEL}/{WEIGHTS}",
    f"{GUIDE}/{CONFIG}",
    f"{GUIDE}/{WEIGHTS}",
    f"{GUIDE}/{MANIFEST}",
)


@frozen
class Record:
    """What `em.json` says: the program as it was given, which alias was trained, the rounds, the settings."""

    program: str
    name: str
    fingerprint: str
    alias: str
    train_prior: bool
    base: str
    """Digest of the model that the adapter belongs to."""
    rounds: tuple[Round, ...]
    best: int
    settings: Mapping[str, Any]
    files: Mapping[str, str]
    note: str = ""


# ------------------------------------------------------------------------------- writing


def save(folder: Path, model: Adapter, guide: Adapter, manifest: Manifest, record: Record) -> Record:
    """Write both adapters and the record, each file whole or not at all. Raises DataError PLM612."""
    with together(folder / MODEL, CONFIG, WEIGHTS) as aside:
        model.save(aside)
    save_policy(folder / GUIDE, guide, manifest)
    record = attrs.evolve(record, files={name: digest_of(folder / name) for name in _FILES})
    whole = {"format": FORMAT, **plain(record)}
    text = json.dumps(whole, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    write_whole(folder / RECORD, text.encode())
    return record


# ------------------------------------------------------------------------------- reading


def read_record(folder: Path) -> Record:
    """The record of a folder whose files are all there. Raises DataError PLM795."""
    with refusing(partial(_unreadable, folder)):
        if gone := [name for name in (RECORD, *_FILES) if not (folder / name).exists()]:
            raise ValueError(f"there is no {Path(gone[0]).name}")
        whole = read_object(folder / RECORD)
        if whole.pop("format", None) != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        found: Record = structured(Record, {**whole, "rounds": _rounds(whole.get("rounds"))})
        if set(found.files) != set(_FILES):
            raise ValueError("it does not list the files of a result")
        for name in _FILES:
            if digest_of(folder / name) != found.files[name]:
                raise ValueError(f"{name} is not the file that {RECORD} is of: damaged, or of another run")
    return found


def _rounds(stored: object) -> object:
    """Rounds as they were stored, with what those of before lack."""
    if not isinstance(stored, list):
        return stored
    return [
        {**one, "raised": {"steps": 0, **one["raised"]}}
        if isinstance(one, Mapping) and isinstance(one.get("raised"), Mapping)
        else one
        for one in stored
    ]


@frozen(eq=False)
class Restored:
    """The module with the alias of its trained terms, the models of that alias and of its base, and the guide's folder."""

    module: Module
    models: Mapping[str, LanguageModel]
    guide: Path


def restored(program: PreparedProgram, folder: Path, record: Record) -> Restored:
    """What a record of the program holds. Raises DataError PLM796 for one of another program or model."""
    graph = program.graph
    assert program.checked is not None
    if graph.fingerprint != record.fingerprint:
        raise _foreign(
            folder,
            f"the program `{record.name}`, fingerprint {record.fingerprint[:12]}",
            f"`{graph.name}`, fingerprint {graph.fingerprint[:12]}",
        )
    split = split_model(program.checked, record.alias, train_prior=record.train_prior)
    base = check_model(program.models[record.alias])
    if base.identity.digest != record.base:
        raise _foreign(
            folder, f"the model {record.base[:12]}", f"{base.identity.name}, {base.identity.digest[:12]}"
        )
    return on(split, base, Adapter.load(base, folder / MODEL), folder)


def on(split: SplitModel, base: LanguageModel, adapter: Adapter, folder: Path) -> Restored:
    """The trained terms under the adapted model; both aliases share one copy of the weights."""
    return Restored(split.module, {split.alias: base, split.trained: adapted(adapter)}, folder / GUIDE)


def _unreadable(folder: Path, why: str) -> DataError:
    return DataError.of(
        "PLM795",
        f"{folder} is no result of EM that can be read: {why}",
        where=str(folder),
        help="give the folder that `plm em --out` wrote",
    )


def _foreign(folder: Path, own: str, here: str) -> DataError:
    return DataError.of(
        "PLM796",
        f"the result in {folder} is of {own}; here is {here}",
        where=str(folder),
        help="run `plm em` again, or ask with the program and model that it was run on",
    )


# ------------------------------------------------------------------------------- while it trains

Weights = Mapping[str, Tensor]


def save_round(
    folder: Path, rounds: tuple[Round, ...], weights: Mapping[str, Weights], identity: Mapping[str, object],
    seconds: float, draws: int | None,
) -> None:  # fmt: skip
    """Keep the state after a round: `weights` by what they are of ("model", "guide", and both of the best round).

    `draws` are those of a row in its bounds.
    """
    checkpoint.save(
        folder,
        step=rounds[-1].number,
        tensors={f"{of}/{name}": t for of, tensors in weights.items() for name, t in tensors.items()},
        arrays={},
        state={
            "rounds": plain(rounds),
            "em": plain(identity),
            "seconds": seconds,
            "draws": draws,
        },
    )


def resume_from(
    folder: Path, identity: Mapping[str, object]
) -> tuple[tuple[Round, ...], dict[str, dict[str, Tensor]], float, int | None]:
    """The rounds, weights, seconds and draws of a row of the newest checkpoint, and cuts the measurements back to it.

    Raises DataError PLM622 where there is none or it is damaged, PLM625 where it is of another run.
    """
    found = load_same(folder, "em", "run of EM", plain(identity))
    weights: dict[str, dict[str, Tensor]] = {}
    try:
        rounds = structured(tuple[Round, ...], _rounds(found.state["rounds"]))
        for key, tensor in found.tensors.items():
            of, _, name = key.partition("/")
            weights.setdefault(of, {})[name] = tensor
        seconds = float(str(found.state["seconds"]))
        draws = found.state.get("draws")
        if not (draws is None or (type(draws) is int and draws > 0)):
            raise ValueError("its draws are no number of draws")
        if not rounds or {"model", "guide", "best model", "best guide"} - set(weights):
            raise ValueError("a part of it is missing")
    except (KeyError, ValueError, TypeError) as problem:
        raise DataError.of(
            "PLM622", f"{found.path} is no checkpoint of EM ({problem})", where=str(found.path)
        ) from None
    progress.cut_metrics(folder / METRICS, rounds[-1].number)
    return rounds, weights, seconds, draws


# ------------------------------------------------------------------------------- the adapted model


def adapted(adapter: Adapter) -> TransformersModel:
    """The adapted model as it stands, sharing every weight of its base: ask again after a step.

    Its digest is that of the base model and of the adapter's weights, so that whatever was
    made with other weights can be told.
    """
    model = adapter.model()
    digest = adapter_digest(adapter)
    name = f"{adapter.base.identity.name} + em {digest[:8]}"
    model.identity = evolve(adapter.base.identity, name=name, digest=digest)
    return model


def adapter_digest(adapter: Adapter) -> str:
    """SHA-256 of the base model's digest and of the adapter's weights, by name."""
    whole = hashlib.sha256(adapter.base.identity.digest.encode())
    for name, tensor in adapter.tensors().items():
        whole.update(name.encode() + b"\0")
        whole.update(tensor.numpy().tobytes())
    return whole.hexdigest()
