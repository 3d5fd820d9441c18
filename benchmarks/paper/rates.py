"""Learning rates, searched for each trained method alike: the same list, the same steps, one seed.

Each method is judged by the figure that it tries to raise, on rows that it was not trained
on (`TRAINED`). What was found is kept, so a bench searches once per task,
method and program.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.paper.cells import Cell, slug
from benchmarks.paper.task import Bench, Row
from posterior_lm.api.peers import (
    evidence_bound,
    gflownet,
    log_likelihood,
    mean_log_reward,
    ppo,
    search_rate,
    sft,
)
from posterior_lm.storage import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from posterior_lm.api.query import Query

Trained = tuple[Callable[..., Any], Callable[..., float]]
ROOM = "rates"


def best_rate(
    bench: Bench, cell: Cell, method: str, query: Query, rows: Sequence[Row], settings: Mapping[str, object]
) -> float | None:
    """The best rate for a method on a task, searched on its first setting and kept in `rates`.

    A list of one rate is taken as it is; None where the settings state a rate themselves.
    """
    size = bench.size(cell.task)
    if "learning_rate" in settings or not size.rates:
        return None
    if not size.search or len(size.rates) < 2:
        return size.rates[0]
    file = bench.store.folder / ROOM / f"{slug(cell.task)}--{slug(method)}.json"
    kept = _kept(file, size.rates)
    if kept is None:
        bench.say(f"{cell.task}: searching the learning rate of {method}")
        tried: dict[str, Any] = {
            k: v for k, v in settings.items() if k not in ("seed", "certify_draws", "certify_rows")
        }
        trainer, figure = TRAINED[method]
        found = search_rate(
            trainer, query, rows if len(rows) > 1 else [*rows, *rows], size.rates,
            figure=figure, **{**tried, "steps": size.search},
        )  # fmt: skip
        kept = found.rate
        file.parent.mkdir(parents=True, exist_ok=True)
        figures = {f"{rate:g}": str(figure) for rate, figure in found.figures}
        write_whole(file, json.dumps({"setting": cell.setting, "rate": kept, "figures": figures}).encode())
    return kept


def _kept(file: Path, rates: Sequence[float]) -> float | None:
    try:
        found = float(json.loads(file.read_text(encoding="utf-8"))["rate"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found in rates else None


TRAINED: Mapping[str, Trained] = {
    "sft": (sft, log_likelihood), "ppo": (ppo, mean_log_reward), "gflownet": (gflownet, evidence_bound),
}  # fmt: skip
"""How each method is trained, and the figure that it tries to raise."""
