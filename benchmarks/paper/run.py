"""Running a bench: every cell of every task once, each result kept as soon as it is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from benchmarks.paper.cells import Cell, Result, Store
from benchmarks.paper.plans import Plan
from benchmarks.paper.presets import fitting
from benchmarks.paper.stories import read
from benchmarks.paper.sums_data import PAPER_FILES, paper_rows
from benchmarks.paper.task import Bench, Task
from benchmarks.paper.tasks import TASKS
from benchmarks.paper.tasks.subjectivity import subj_rows
from posterior_lm.lang.diagnostics import DataError, PlmError, error, nearest
from posterior_lm.lm.resolve import Asked

if TYPE_CHECKING:
    from posterior_lm.metrics.judge import Judge


@frozen
class Progress:
    """How far a bench is: the cell at hand, how many are done of all, how many failed."""

    cell: Cell
    done: int
    of: int
    failed: int
    note: str = ""
    ended: bool = False
    """Whether the cell at hand is there now."""

    @property
    def words(self) -> str:
        return f"{self.cell.task}, {self.cell.setting}: {self.cell.method}, seed {self.cell.seed}"


def chosen(names: Sequence[str], known: Sequence[str], what: str) -> tuple[str, ...]:
    """The names in the order of `known`, all where none is given. Raises DataError PLM820 for an unknown one."""
    for name in names:
        if name not in known:
            close = nearest(name, known)
            hint = f"did you mean `{close}`?" if close else f"the {what}s are {', '.join(known)}"
            raise DataError(error("PLM820", f"the bench has no {what} `{name}`", where=name, help=hint))
    return tuple(name for name in known if not names or name in names)


def cells_of(
    bench: Bench, tasks: Sequence[Task], seeds: int, methods: Sequence[str] = (), settings: Sequence[str] = ()
) -> list[Cell]:
    """Every cell, seed by seed: one seed of everything is a whole table. Raises DataError PLM820."""
    every_setting = dict.fromkeys(setting for task in tasks for setting in task.settings(bench))
    kept_settings = chosen(settings, tuple(every_setting), "setting")
    every = [
        (task.name, setting, method)
        for task in tasks
        for setting in task.settings(bench)
        if setting in kept_settings
        for method in task.methods(bench, setting)
    ]
    known = tuple(dict.fromkeys(method for _, _, method in every))
    kept = chosen(methods, known, "method")
    found = [Cell(t, s, m, seed) for seed in range(seeds) for t, s, m in every if m in kept]
    assert len({cell.file for cell in found}) == len(found), "two cells share a file"
    return found


def open_bench(
    out: Path, plan: Plan, *, models: Mapping[str, str | Asked], data: Mapping[str, Path],
    settings: Mapping[str, Mapping[str, object]] | None = None, say: Callable[[str], None] | None = None,
    judge: Judge | None = None,
) -> Bench:  # fmt: skip
    """A bench in a folder.

    Raises ModelError where a model cannot be loaded, DataError as `check_data` and `Store.open`,
    InferenceError for a judge without its key.
    """
    tell = say or (lambda text: None)
    bench = Bench(plan, Store(out), models, data, settings or {}, tell, judge)
    if judge is not None:
        judge.check()
    query = bench.query("random_integer")
    if set(models) - {"base"}:
        _ = query.lm(**models).prepared.models  # refuses an alias that no program declares
    base = query.prepared.models["base"]
    identity, own = base.identity, fitting(base, settings or {})
    check_data(data)
    asked = models.get("base")
    options = dict(asked.options) if isinstance(asked, Asked) else {}
    store = Store.open(
        out,
        {
            "plan": plan.to_json(),
            "model": {"name": identity.name, "digest": identity.digest, **options},
            "settings": own,
            "data": {name: str(path) for name, path in data.items()},
            **({} if judge is None else {"judge": {"url": judge.url, "model": judge.model}}),
        },
    )
    return evolve(bench, store=store, settings=own)


def check_data(data: Mapping[str, Path]) -> None:
    """Raises DataError PLM822 where a folder or file of data does not hold what its task reads."""
    if "subj" in data:
        for name in ("train.jsonl", "test.jsonl"):
            subj_rows(data["subj"] / name)
    if "arithmetic" in data:
        for setting in PAPER_FILES:
            paper_rows(data["arithmetic"], setting, 1)
    if "stories" in data:
        read(data["stories"])
    if "bert" in data and not (data["bert"] / "config.json").is_file():
        help = "--bert takes a folder that holds an encoder, with its config.json"
        raise DataError(error("PLM822", f"{data['bert']} holds no model", where=str(data["bert"]), help=help))


def run(
    bench: Bench, cells: Sequence[Cell], watch: Callable[[Progress], None] | None = None
) -> Iterator[Cell]:
    """Runs what is not done yet and gives each cell when it is there; failed ones are tried again.

    Raises KeyboardInterrupt where a fit was interrupted; the cells so far stay.
    """
    results = {cell: bench.store.read(cell) for cell in cells}
    done = sum(r is not None and r.state == "done" for r in results.values())
    failed = 0
    for cell in cells:
        found = results[cell]
        if found is None or found.state != "done":
            if watch is not None:
                watch(Progress(cell, done, len(cells), failed))
            made = result_of(bench, cell)
            bench.store.write(cell, made)
            done += made.state == "done"
            failed += made.state == "failed"
            if watch is not None:
                watch(Progress(cell, done, len(cells), failed, made.note, True))
        yield cell


def result_of(bench: Bench, cell: Cell) -> Result:
    """The cell's result. What is the data's, the model's or a missing package's fault makes it a failed one."""
    began = time.monotonic()
    try:
        outcome = TASKS[cell.task].run(bench, cell)
    except (PlmError, ImportError) as problem:
        return Result("failed", seconds=time.monotonic() - began, note=_said(problem))
    return Result(
        "done",
        dict(outcome.metrics),
        outcome.rows,
        time.monotonic() - began,
        outcome.note,
        dict(outcome.shown),
    )


def _said(problem: PlmError | ImportError) -> str:
    if isinstance(problem, ImportError):
        return str(problem)
    return "; ".join(f"{d.code}: {d.message}" for d in problem.diagnostics)
