"""What a fit shows while it runs: what a step did, the lines of `metrics.jsonl` and curves of them; and what stops it early."""

from __future__ import annotations

import io
import json
import math
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from posterior_lm.infer import weights
from posterior_lm.installed import need
from posterior_lm.lang.diagnostics import DataError, InferenceError
from posterior_lm.storage import plain, write_whole, writing_into
from posterior_lm.train.balancing import Behaved
from posterior_lm.train.parallel import World

TELLING = 8
"""Own draws of a row from which its ESS/N is shown: of two it is over a half, whatever the policy is."""


@frozen
class Progress:
    """What a step did, for people and for `metrics.jsonl`. Nats; NaN where it does not apply."""

    step: int
    stage: str  # "sleep" | "balance"
    seconds: float
    loss: float
    ess: float
    """Mean over rows of ESS/N of the draws from the policy itself, where a row has `TELLING`; of a row's pairs in the
    sleep phase."""
    log_evidence_lower: float
    """Mean over rows of E_q[log w] of those draws, the dead ones left out."""
    log_evidence_upper: float
    """Mean over rows of the log of their mean weight."""
    dead: float
    """Share of these draws that have no reward."""
    gradient_norm: float
    rate: float
    draws_per_second: float
    done: float
    """Share of the training that is behind it."""


def line(progress: Progress) -> str:
    """One step in one line, as displays show it beside the phase."""
    parts = [f"step {progress.step}", f"loss {progress.loss:.3f}"]
    if not math.isnan(progress.ess):
        parts.append(f"ESS/N {progress.ess:.2f}")
    if not math.isnan(progress.log_evidence_lower):
        parts.append(f"log evidence {progress.log_evidence_lower:.2f} to {progress.log_evidence_upper:.2f}")
    parts.append(f"{progress.draws_per_second:.0f} draws/s")
    return ", ".join(parts)


def measured(behaved: Behaved, log_q: np.ndarray, world: World) -> dict[str, float]:
    """Means over the rows of all processes, of the draws from the policy itself; `log_q` (N,) nats."""
    ess = telling = lower = upper = dead = rows = 0.0
    for k in range(len(behaved.rows)):
        mine = (behaved.slot == k) & behaved.on_policy
        if not mine.any():
            continue
        log_w = behaved.log_reward[mine] - log_q[mine]
        alive = np.isfinite(log_w)
        rows += 1
        dead += 1 - float(alive.mean())
        if len(log_w) >= TELLING:
            telling += 1
            ess += weights.ess(log_w) / len(log_w) if alive.any() else 0.0
        if alive.any():
            lower += float(log_w[alive].mean())
            upper += weights.log_evidence(log_w)
    draws, rows, telling, ess, *sums = world.all_reduce(
        [len(behaved.draws), rows, telling, ess, lower, upper, dead]
    )
    means = (each / max(1.0, rows) for each in sums)
    return {
        "draws": draws,
        "ess": ess / telling if telling else math.nan,
        **dict(zip(("lower", "upper", "dead"), means, strict=True)),
    }


def check_finite(value: Tensor, log_prob: Tensor, rows: Sequence[int] | None, statement: str) -> None:
    """Raises InferenceError PLM626 naming the row of the first number that is not finite."""
    if bool(torch.isfinite(value)):
        return
    bad = torch.nonzero(~torch.isfinite(log_prob.detach()))
    row = rows[int(bad[0, 0])] if rows is not None and len(bad) else None
    raise not_finite("the guide's log probability", row, statement)


def not_finite(what: str, row: float | None, statement: str) -> InferenceError:
    where = "" if row is None else f" in rows[{int(row)}]"
    return InferenceError.of(
        "PLM626",
        f"training stopped: {what} is not finite{where}, at `{statement}`",
        where=None if row is None else f"rows[{int(row)}]",
        help="lower the learning rate, or look at this row's log reward with `plm score`",
    )


# ------------------------------------------------------------------------------- metrics.jsonl

PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("loss",)),
    ("ESS / N", ("ess",)),
    ("log evidence, nats", ("log_evidence_lower", "log_evidence_upper")),
)
"""What `curves` shows: the title of each panel, and the keys of its lines."""


def append_metrics(path: Path, step: int, record: Mapping[str, object]) -> None:
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


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a file in their order, without one at its end that a kill has torn.

    No lines where the file is absent. Raises DataError PLM606 for a line that is not ours.
    """
    return [record for record, _ in _lines(path)]


def cut_metrics(path: Path, step: int) -> None:
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
    records = read_metrics(path)
    panels = [
        (title, lines)
        for title, keys in PANELS
        if (lines := [x for key in keys for x in _curves(records, key)])
    ]
    if not panels:
        raise DataError.of("PLM604", f"{path} holds no measurements to draw", where=str(path))
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
            raise DataError.of(
                "PLM606", message, where=f"{path}:{number}", help=f"delete {path} to begin another"
            ) from None
        lines.append((record, line + b"\n"))
    return lines


# ------------------------------------------------------------------------------- ending early


class Interrupt:
    """Inside the block the first SIGINT or SIGTERM sets `wanted`; the second one is what it always was."""

    def __init__(self) -> None:
        self.wanted = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._asked)
        return self

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self.wanted = True
        signal.signal(number, self._before[number])  # type: ignore[arg-type]

    def __exit__(self, *problem: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
