"""Trained methods: a policy folder for a cell, made once; and the guide in it for a row."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from benchmarks.paper.cells import Cell, slug
from benchmarks.paper.task import Bench, Row
from posterior_lm.train.policy import MANIFEST

if TYPE_CHECKING:
    from posterior_lm.api.query import Query
    from posterior_lm.infer.guide import PriorGuide
    from posterior_lm.target.target import Target

ROOM, CHECKPOINTS = "policies", "checkpoints"


@frozen
class Trained:
    """Where a policy lies, how many seconds and steps its training took, and the rate that was found for it."""

    folder: Path
    seconds: float
    steps: int
    rate: float | None = None

    @property
    def said(self) -> str:
        """The rate, where it is not stated, and the steps, which a budget may have cut short, in words."""
        return ("" if self.rate is None else f"rate {self.rate:g}, ") + f"{self.steps} steps"


def train(
    bench: Bench, cell: Cell, method: str, query: Query, rows: Sequence[Row],
    more: Mapping[str, object] | None = None, *, searched: Sequence[Row] | None = None,
    named: str | None = None,
) -> Trained:  # fmt: skip
    """The policy of this cell by `sft`, `ppo` or `gflownet`, trained unless it lies there already.

    An unfinished fit goes on from its checkpoint where it can, else begins anew. All methods get
    the same number of steps; the learning rate is the best of the list, searched for each alike,
    on the rows `searched` where a setting has too few of its own to hold some out. `named` is what the
    folder is called after, where that is not the method.
    """
    from benchmarks.paper.rates import best_rate
    from posterior_lm.train.policy import read_manifest

    name = "--".join(slug(part) for part in (cell.task, cell.setting, named or method, str(cell.seed)))
    folder = bench.store.folder / ROOM / name
    size = bench.size(cell.task)
    settings: dict[str, object] = {
        **size.fit, "steps": size.steps, **bench.settings.get(cell.task, {}), **(more or {}), "seed": cell.seed,
    }  # fmt: skip
    rate = best_rate(bench, cell, method, query, searched or rows, settings)
    if rate is not None:
        settings["learning_rate"] = rate
    if unfinished(folder):
        if folder.exists() and not _begun(folder):
            shutil.rmtree(folder)  # a training that was killed before its first checkpoint
        _run(method, query, rows, folder, settings)
    manifest = read_manifest(folder)
    return Trained(folder, float(manifest.seconds), manifest.steps, rate)


def unfinished(folder: Path) -> bool:
    """Whether the folder lacks a policy whose training came to its end.

    One that was interrupted leaves a policy too, and a checkpoint beside it, which goes at the end.
    """
    return not (folder / MANIFEST).exists() or _begun(folder)


def _begun(folder: Path) -> bool:
    return (folder / CHECKPOINTS).exists()


def _run(method: str, query: Query, rows: Sequence[Row], folder: Path, settings: dict[str, object]) -> None:
    """Train, going on from a checkpoint where there is one. Raises KeyboardInterrupt where a person stops it."""
    from posterior_lm.train.fit import fit
    from posterior_lm.train.settings import settings_of

    if method != "gflownet":
        settings["objective"] = method
    if method == "ppo":
        settings["balance_learning_rate"] = settings.pop(
            "learning_rate", settings.get("balance_learning_rate")
        )
    elif method == "gflownet" and "learning_rate" in settings:
        # As the defaults of a fit have it.
        settings.setdefault("balance_learning_rate", float(str(settings["learning_rate"])) / 4)
    made = fit(query.prepared, rows, folder, settings_of(settings), given=query.data, resume=_begun(folder))
    if made.interrupted:
        raise KeyboardInterrupt


def guide(query: Query, target: Target, folder: Path) -> PriorGuide:
    """The policy in the folder as a proposal for a bound target, loaded once per process.

    It is what was trained, also where its certificate says that the prior proposes better.
    """
    from posterior_lm.train.guide import PolicyGuide
    from posterior_lm.train.policy import held_policy, read_manifest

    return PolicyGuide.of(target, held_policy(folder, read_manifest(folder), query.prepared).adapter)


@contextmanager
def untrained(query: Query, target: Target) -> Iterator[PriorGuide]:
    """The frozen model as a guide: what every policy begins from."""
    from posterior_lm.train.adapter import Adapter
    from posterior_lm.train.guide import PolicyGuide, readings_of

    lm = next(iter(readings_of(target).values())).lm
    adapter = Adapter.new(query.prepared.models[lm], rank=1)
    try:
        yield PolicyGuide.of(target, adapter)
    finally:
        adapter.close()
