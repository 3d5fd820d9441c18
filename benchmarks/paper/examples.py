"""Solved examples for a prompt, as a file of rows that the method `few_shot` reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.paper.cells import Cell, slug
from benchmarks.paper.task import Bench, Row
from posterior_lm.storage import write_whole

ROOM = "examples"


def example_file(bench: Bench, cell: Cell, rows: Sequence[Row]) -> Path:
    """The rows as JSON lines in the bench's folder, one file for a task, setting and seed."""
    name = "--".join((slug(cell.task), slug(cell.setting), str(cell.seed)))
    path = bench.store.folder / ROOM / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(json.dumps(dict(row)) + "\n" for row in rows).encode())
    return path
