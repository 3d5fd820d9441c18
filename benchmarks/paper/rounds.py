"""Variational EM on a task's rows: the trained model and the guide that belongs to it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.paper.cells import Cell, slug
from benchmarks.paper.policies import CHECKPOINTS, ROOM
from benchmarks.paper.task import Bench, Row

if TYPE_CHECKING:
    from pathlib import Path

    from posterior_lm.api.query import Query


def after_em(bench: Bench, cell: Cell, query: Query, rows: Sequence[Row]) -> tuple[Query, Path]:
    """The query with the model of the best round, and the folder of its guide; made once, gone on with after a kill.

    The E-steps together get as many steps as a policy without EM.
    """
    from benchmarks.paper.rates import best_rate
    from posterior_lm.em.saved import GUIDE, RECORD
    from posterior_lm.train.policy import MANIFEST

    size = bench.size(cell.task)
    folder = (
        bench.store.folder / ROOM / "--".join((slug(cell.task), slug(cell.setting), "em", str(cell.seed)))
    )
    rounds = int(size.more["rounds"])
    settings: dict[str, object] = {**size.fit, **bench.settings.get(cell.task, {}), "seed": cell.seed}
    rate = best_rate(bench, cell, "gflownet", query, rows, {**settings, "steps": size.steps})
    if rate is not None:
        settings |= {"learning_rate": rate, "balance_learning_rate": rate / 4}
    settings.pop("steps", None)
    # As with a policy: what was interrupted leaves a result too, and a checkpoint beside it.
    begun = (folder / CHECKPOINTS).exists()
    if begun or not (folder / RECORD).exists():
        if folder.exists() and not begun:
            shutil.rmtree(folder)
        steps = max(1, size.steps // (rounds + 1))
        made = query.em(rows, folder, resume=begun, rounds=rounds, e_steps=steps, **settings)  # type: ignore[arg-type]
        made.close()
        if made.interrupted:
            raise KeyboardInterrupt
    assert (folder / GUIDE / MANIFEST).exists()
    return query.with_em(folder), folder / GUIDE
