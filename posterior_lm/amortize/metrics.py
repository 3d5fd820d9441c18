"""What training measured, step by step: one JSON object per line, and curves of it."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posterior_lm.installed import need
from posterior_lm.lang.diagnostics import DataError, error
from posterior_lm.storage import plain, write_whole, writing_into

NAME = "metrics.jsonl"
PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("loss",)),
    ("ESS / N", ("ess",)),
    ("log evidence, nats", ("log_evidence_lower", "log_evidence_upper")),
)
"""What `curves` shows: the title of each panel, and the keys of its lines."""


def append(path: Path, step: int, record: Mapping[str, object]) -> None:
    """Add a line with the step and these numbers, which is in the file when this returns.

    What is not finite becomes null, which JSON can say. Raises DataError PLM612.
    """
    text = json.dumps({"step": step, **plain(record)}, ensure_ascii=False, allow_nan=False)
    line = text.encode("utf-8", "backslashreplace") + b"\n"
    # Opened each time, and unbuffered: a kill can tear the last line alone.
    with writing_into(path.parent), open(path, "ab", buffering=0) as file:
        start = file.tell()
        try:
            while line:  # a disk that is nearly full takes a part, and refuses the rest
                line = line[file.write(line) :]
        except OSError:
            file.truncate(start)
            raise


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file in their order, without one at its end that a kill has torn.

    No lines where the file is absent. Raises DataError PLM606 for a line that is not ours.
    """
    return [record for record, _ in _lines(path)]


def cut(path: Path, step: int) -> None:
    """Remove the lines after a step, and a torn one at the end, in one stroke.

    For a run that goes on from the checkpoint of that step: a killed one may have measured more
    than it kept. Raises DataError PLM606 or PLM612; the file is then as it was.
    """
    kept = b"".join(line for record, line in _lines(path) if record["step"] <= step)
    if path.exists() and path.read_bytes() != kept:
        write_whole(path, kept)


def curves(path: Path, png: Path) -> None:
    """Draw loss, ESS and bounds of the log evidence against steps, stages apart, as a PNG.

    Raises ImportError where matplotlib is absent, DataError PLM604 where nothing was measured,
    PLM606 and PLM612.
    """
    figure_of = need("matplotlib.figure", "plots").Figure
    records = read(path)
    panels = [
        (title, lines)
        for title, keys in PANELS
        if (lines := [x for key in keys for x in _curves(records, key)])
    ]
    if not panels:
        raise DataError(error("PLM604", f"{path} holds no measurements to draw", where=str(path)))
    figure = figure_of(figsize=(8, 2.6 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (title, lines) in zip(axes, panels, strict=True):
        for label, steps, values in lines:
            axis.plot(steps, values, label=label, linewidth=1.2, marker="." if len(steps) < 50 else None)
        if title == "loss" and all(value > 0 or math.isnan(value) for _, _, ys in lines for value in ys):
            axis.set_yscale("log")
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    axes[-1].set_xlabel("step")
    picture = io.BytesIO()
    # A Figure of its own draws PNG by Agg and needs no display; pyplot would keep it alive.
    figure.savefig(picture, format="png", dpi=120)
    write_whole(png, picture.getvalue())


def _curves(records: Sequence[Mapping[str, Any]], key: str) -> list[tuple[str, list[int], list[float]]]:
    """Label, steps and values of a key, stage by stage; a gap where a value was not finite."""
    stages: dict[str, tuple[list[int], list[float]]] = {}
    for record in records:
        if key in record:
            steps, values = stages.setdefault(str(record.get("stage") or ""), ([], []))
            steps.append(record["step"])
            values.append(math.nan if record[key] is None else float(record[key]))
    return [
        (f"{key} ({stage})" if stage else key, steps, values)
        for stage, (steps, values) in stages.items()
        if any(math.isfinite(value) for value in values)
    ]


def _lines(path: Path) -> list[tuple[dict[str, Any], bytes]]:
    """Each line as an object and as it stands; without what follows the last end of a line."""
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return []
    lines = []
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
            if not (isinstance(record, dict) and isinstance(record["step"], int)):
                raise ValueError("no object with a step")
        except (ValueError, LookupError, RecursionError):
            message = f"line {number} of {path} holds no measurements"
            raise DataError(
                error("PLM606", message, where=f"{path}:{number}", help=f"delete {path} to begin another")
            ) from None
        lines.append((record, line + b"\n"))
    return lines
