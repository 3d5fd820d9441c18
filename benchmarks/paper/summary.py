"""What cells add up to: mean and spread over seeds of every figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from attrs import asdict, frozen

from benchmarks.paper.cells import Cell, Result
from posterior_lm.metrics.numbers import wilson


@frozen
class Entry:
    """One figure of the table.

    `mean` and `sd` over `seeds` seeds; `sd` is that of the sample (n − 1 below), 0 for one seed;
    None for both where no seed has the figure. `rows` data rows of each seed, `seconds` a cell on
    average. `note` says why it is missing, or how many seeds failed. `interval` are the ends of
    Wilson's 95 % interval of an accuracy, for its test rows alone: several seeds share them.
    """

    task: str
    setting: str
    method: str
    metric: str
    mean: float | None
    sd: float | None
    seeds: int
    rows: int
    seconds: float
    note: str = ""
    interval: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Infinities as the words "inf" and "-inf"."""
        return {k: _plain(v) for k, v in asdict(self).items()}


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return "inf" if value > 0 else "-inf"
    return value


def entries(results: Iterable[tuple[Cell, Result]]) -> list[Entry]:
    """The figures of all cells, in the order in which methods and metrics first occur."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for cell, result in results:
        groups.setdefault((cell.task, cell.setting, cell.method), []).append(result)
    found: list[Entry] = []
    for key, group in groups.items():
        done = [r for r in group if r.state == "done"]
        failed = [r for r in group if r.state == "failed"]
        note = "; ".join(dict.fromkeys(r.note for r in failed if r.note))
        if not done:
            found.append(Entry(*key, "", None, None, 0, 0, _mean([r.seconds for r in group]), note))
            continue
        if failed:
            note = f"{len(failed)} of {len(group)} seeds failed: {note}"
        seconds = _mean([r.seconds for r in done])
        for metric in dict.fromkeys(name for r in done for name in r.metrics):
            values = [r.metrics[metric] for r in done if metric in r.metrics]
            mean, sd = mean_and_sd(values)
            rows = max(r.rows for r in done)
            ends = wilson(mean * rows, rows) if metric.startswith("accuracy") and rows else None
            found.append(Entry(*key, metric, mean, sd, len(values), rows, round(seconds, 2), note, ends))
    return found


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; 0 for one value; an infinite value makes the mean infinite and the sd NaN-free inf."""
    mean = _mean(values)
    if len(values) < 2:
        return mean, 0.0
    if not math.isfinite(mean):
        return mean, math.inf
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def figure(found: Sequence[Entry], task: str, setting: str, method: str, metric: str) -> Entry | None:
    """The entry of that name, None where there is none."""
    for entry in found:
        if (entry.task, entry.setting, entry.method, entry.metric) == (task, setting, method, metric):
            return entry
    return None
