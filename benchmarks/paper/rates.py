"""Learning rates, searched for each trained method alike: the same list, the same steps, one seed.

Each method is judged by the figure that it tries to raise, on rows that it was not trained
on (`baselines.search.FIGURES`). What was found is kept, so a bench searches once per task,
method and program.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.paper.cells import Cell, slug
from benchmarks.paper.task import Bench, Row
from posterior_lm.amortize.disk import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from posterior_lm.query import Query

ROOM = "rates"


def best_rate(
    bench: Bench, cell: Cell, method: str, query: Query, rows: Sequence[Row], settings: Mapping[str, object]
) -> float | None:
    """The best rate for a method on a task, searched on its first setting and kept in `rates`.

    A list of one rate is taken as it is; None where the settings state a rate themselves.
    """
    from posterior_lm.baselines.search import FIGURES, search_rate

    size = bench.size(cell.task)
    if "rate" in settings or not size.rates:
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
        found = search_rate(
            TRAINERS[method](), query, rows if len(rows) > 1 else [*rows, *rows], size.rates,
            figure=FIGURES[method], **{**tried, "steps": size.search},
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


def _sft() -> Callable[..., Any]:
    from posterior_lm.baselines.sft import sft

    return sft


def _ppo() -> Callable[..., Any]:
    from posterior_lm.baselines.ppo import ppo

    return ppo


def _gflownet() -> Callable[..., Any]:
    from posterior_lm.baselines.search import gflownet

    return gflownet


TRAINERS: Mapping[str, Callable[[], Callable[..., Any]]] = {
    "sft": _sft, "ppo": _ppo, "gflownet": _gflownet,
}  # fmt: skip
"""How each method is trained; imported when it is."""
