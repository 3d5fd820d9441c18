"""Cells: the result of one method on one task, setting and seed, each one file that is whole or absent.

A folder of cells remembers what they were made with. A bench that starts again with the
same settings skips what is done; one with other settings is refused, since its figures
would be averaged with those of a different experiment.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from attrs import field, frozen

from posterior_lm.lang.diagnostics import DataError, error
from posterior_lm.storage import write_whole

FORMAT = 1
ROOM, SETTINGS = "cells", "bench.json"


@frozen(order=True)
class Cell:
    """Which result: a task, one of its settings, a method, a seed."""

    task: str
    setting: str
    method: str
    seed: int

    @property
    def file(self) -> str:
        """Its file name; two cells never share one, since names are made of other characters than `--`."""
        return (
            "--".join(slug(part) for part in (self.task, self.setting, self.method)) + f"--{self.seed}.json"
        )


def slug(text: str) -> str:
    """Letters, digits, dots and single hyphens of a name, for files."""
    kept = re.sub(r"[^A-Za-z0-9.+]+", "-", text).strip("-.")
    return re.sub(r"-{2,}", "-", kept) or "none"


@frozen(eq=False)
class Result:
    """What became of a cell.

    `metrics` are numbers by name (infinities allowed, NaN not); `rows` how many data rows they
    average over; `seconds` of the whole cell, its training included; `shown` what pictures need.
    A failed cell has no metrics and a `note` that says why.
    """

    state: Literal["done", "failed"]
    metrics: Mapping[str, float] = field(factory=dict)
    rows: int = 0
    seconds: float = 0.0
    note: str = ""
    shown: Mapping[str, Any] = field(factory=dict)


@frozen
class Store:
    """The folder of a bench: `bench.json`, and one file per cell below `cells`."""

    folder: Path

    @classmethod
    def open(cls, folder: Path, settings: Mapping[str, object]) -> Store:
        """The store, begun with these settings or found with the same.

        Raises DataError PLM821 where the folder holds the cells of another bench, naming what
        differs, PLM612 where it cannot be written.
        """
        path = folder / SETTINGS
        wanted = json.loads(json.dumps({"format": FORMAT, **settings}))
        if folder.exists() and not folder.is_dir():
            raise _refused(folder, "it is a file", "name a folder with --out")
        if path.exists():
            found = _read(path)
            odd = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
            if odd:
                said = "; ".join(_difference(k, found.get(k), wanted.get(k)) for k in odd[:4])
                raise _refused(
                    folder,
                    f"it holds the cells of another bench: {said}",
                    "give another folder with --out, or the settings that those cells were made with",
                )
        elif folder.exists() and any(folder.iterdir()):
            raise _refused(folder, "it holds other files", "name a new or an empty folder with --out")
        else:
            try:
                (folder / ROOM).mkdir(parents=True, exist_ok=True)
                write_whole(path, json.dumps(wanted, indent=1).encode())
            except OSError as problem:
                said = (problem.strerror or str(problem)).lower()
                raise DataError(
                    error("PLM612", f"cannot write {folder}: {said}", where=str(folder))
                ) from None
        return cls(folder)

    def read(self, cell: Cell) -> Result | None:
        """A cell's result, None where there is none yet or its file is damaged."""
        path = self.folder / ROOM / cell.file
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            metrics = {str(k): _number(v) for k, v in found["metrics"].items()}
            return Result(
                found["state"], metrics, found["rows"], found["seconds"], found["note"], found["shown"]
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, cell: Cell, result: Result) -> None:
        """Put a result in place at once. Raises ValueError for NaN, DataError PLM612."""
        wrong = [name for name, value in result.metrics.items() if math.isnan(value)]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} of {cell.task} by {cell.method} is not a number")
        whole = {
            "task": cell.task,
            "setting": cell.setting,
            "method": cell.method,
            "seed": cell.seed,
            "state": result.state,
            "metrics": {k: _spelled(v) for k, v in result.metrics.items()},
            "rows": result.rows,
            "seconds": round(result.seconds, 3),
            "note": result.note,
            "shown": result.shown,
        }
        (self.folder / ROOM).mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / ROOM / cell.file, json.dumps(whole, allow_nan=False).encode())

    def all(self) -> Iterator[tuple[Cell, Result]]:
        """Every whole cell of the folder, in order of its name."""
        for path in sorted((self.folder / ROOM).glob("*.json")):
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                cell = Cell(found["task"], found["setting"], found["method"], int(found["seed"]))
            except (OSError, ValueError, KeyError, TypeError):
                continue
            result = self.read(cell)
            if result is not None:
                yield cell, result


def _spelled(value: float) -> float | str:
    # JSON has no infinities, and leaving one out would make a mean of the rest.
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def _number(value: object) -> float:
    return float(value)  # type: ignore[arg-type]


def _read(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise _refused(path.parent, f"its {SETTINGS} is damaged", "name another folder with --out")
    return found


def _difference(name: str, found: object, wanted: object) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        if found.get("name") != wanted.get("name"):  # another plan or model: the rest of it says no more
            found, wanted = ({"name": d.get("name")} for d in (found, wanted))
        keys = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
        return ", ".join(_difference(f"{name}.{k}", found.get(k), wanted.get(k)) for k in keys[:3])
    return f"{name} was {json.dumps(found)[:60]}, now {json.dumps(wanted)[:60]}"


def _refused(folder: Path, why: str, help: str) -> DataError:
    return DataError(error("PLM821", f"cannot use the folder {folder}: {why}", where=str(folder), help=help))
