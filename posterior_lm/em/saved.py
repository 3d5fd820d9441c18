"""A result of EM on disk: `model/`, the adapter of the trained terms; `guide/`, a policy; `em.json`, of both.

`em.json` is written last and holds the digest of every other file, so that a folder whose parts are
of two runs, or damaged, is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from posterior_lm.amortize.adapter import CONFIG, WEIGHTS, Adapter, check_model
from posterior_lm.amortize.manifest import MANIFEST, Manifest
from posterior_lm.amortize.policy import digest_of, save_policy
from posterior_lm.em.adapted import adapted
from posterior_lm.em.rounds import Round
from posterior_lm.em.split_model import SplitModel, split_model
from posterior_lm.lang.ast import Module
from posterior_lm.lang.diagnostics import DataError, error
from posterior_lm.lm.base import LanguageModel
from posterior_lm.storage import plain, read_object, refusing, structured, together, write_whole
from posterior_lm.target.prepared import PreparedProgram

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

    def to_json(self) -> str:
        whole = {"format": FORMAT, **plain(self)}
        return json.dumps(whole, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


# ------------------------------------------------------------------------------- writing


def save(folder: Path, model: Adapter, guide: Adapter, manifest: Manifest, record: Record) -> Record:
    """Write both adapters and the record, each file whole or not at all. Raises DataError PLM612."""
    with together(folder / MODEL, CONFIG, WEIGHTS) as aside:
        model.save(aside)
    save_policy(folder / GUIDE, guide, manifest)
    record = attrs.evolve(record, files={name: digest_of(folder / name) for name in _FILES})
    write_whole(folder / RECORD, record.to_json().encode())
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
        found: Record = structured(Record, whole)
        if set(found.files) != set(_FILES):
            raise ValueError("it does not list the files of a result")
        for name in _FILES:
            if digest_of(folder / name) != found.files[name]:
                raise ValueError(f"{name} is not the file that {RECORD} is of: damaged, or of another run")
    return found


@frozen(eq=False)
class Restored:
    """The module with the alias of its trained terms, and the models of that alias and of its base."""

    module: Module
    models: Mapping[str, LanguageModel]


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
    return on(split, base, Adapter.load(base, folder / MODEL))


def on(split: SplitModel, base: LanguageModel, adapter: Adapter) -> Restored:
    """The trained terms under the adapted model; both aliases share one copy of the weights."""
    return Restored(split.module, {split.alias: base, split.trained: adapted(adapter)})


def _unreadable(folder: Path, why: str) -> DataError:
    return DataError(
        error(
            "PLM795",
            f"{folder} is no result of EM that can be read: {why}",
            where=str(folder),
            help="give the folder that `plm em --out` wrote",
        )
    )


def _foreign(folder: Path, own: str, here: str) -> DataError:
    return DataError(
        error(
            "PLM796",
            f"the result in {folder} is of {own}; here is {here}",
            where=str(folder),
            help="run `plm em` again, or ask with the program and model that it was run on",
        )
    )
