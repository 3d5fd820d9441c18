"""The table as Markdown: aims first, then every task with the paper's figures beside ours."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.paper import published
from benchmarks.paper.claims import claims, dominances
from benchmarks.paper.summary import Entry
from benchmarks.paper.task import Metric
from benchmarks.paper.tasks import TASKS


def markdown(found: Sequence[Entry], head: str) -> str:
    """The whole page; `head` says with what it was made."""
    parts = ["# The paper's five tasks", head, *_claims(found)]
    for name, task in TASKS.items():
        own = [entry for entry in found if entry.task == name]
        if own:
            parts += [f"## {task.title}", *_task(own, name)]
    return "\n\n".join(parts) + "\n"


def _claims(found: Sequence[Entry]) -> list[str]:
    rows = [[*c.row()[:-1], "**no**" if c.reached is False else c.row()[-1]] for c in claims(found)]
    return ["## Aims", table(["task", "figure", "aim", "ours", "reached"], rows)] if rows else []


def _task(own: Sequence[Entry], name: str) -> list[str]:
    parts = []
    for setting in dict.fromkeys(entry.setting for entry in own):
        head, rows = grid([entry for entry in own if entry.setting == setting], name)
        parts += [f"### {setting}", table(head, rows)]
    if name == "continuation" and (rows := dominance_rows(own)):
        parts += [
            "Each decoding baseline against the policy that it comes nearest to dominating: how much higher its "
            "fidelity (nats: mean log-likelihood; of contrastive texts mean log reward) and its diversity are. "
            "It dominates where both are above 0.",
            table(["setting", "baseline", "policy", "fidelity", "diversity", "dominates"], rows),
        ]
    theirs = [f for f in published.figures() if f.task == name]
    if theirs:
        rows = [[f.setting, f.method, f.metric, _plain(f.value), f.model, f.source] for f in theirs]
        parts += [
            "The paper's own figures (Hu et al. 2024), of other models and data:",
            table(["setting", "method", "metric", "the paper's", "its model", "read in"], rows),
        ]
        if name in published.CAVEATS:
            parts.append(published.CAVEATS[name])
    notes = list(dict.fromkeys(f"{e.setting}, {e.method}: {e.note}" for e in own if e.note))
    if notes:
        parts += ["Cells that failed:", "\n".join(f"- {note}" for note in notes)]
    return parts


def grid(own: Sequence[Entry], task: str) -> tuple[list[str], list[list[str]]]:
    """Head and rows of one setting: a row a method, a column a metric, mean ± sd over seeds."""
    known = [m.name for m in TASKS[task].metrics]
    there = dict.fromkeys(e.metric for e in own if e.metric)
    metrics = [m for m in known if m in there] + [m for m in there if m not in known]
    rows = []
    for method in dict.fromkeys(e.method for e in own):
        mine = {e.metric: e for e in own if e.method == method}
        any_one = next(iter(mine.values()))
        cells = [value(mine[m], TASKS[task].metric(m)) if m in mine else "–" for m in metrics]
        if any_one.seeds == 0:
            cells = ["failed"] * len(metrics)
        rows.append([method, *cells, str(any_one.rows), str(any_one.seeds), f"{any_one.seconds:.0f}"])
    arrows = {"higher": " ↑", "lower": " ↓", "": ""}
    heads = [TASKS[task].metric(m) for m in metrics]
    return ["method", *(f"{h.name}{arrows[h.better]}" for h in heads), "rows", "seeds", "seconds"], rows


def value(entry: Entry, metric: Metric) -> str:
    """A figure as the table shows it, with its spread where there are several seeds."""
    if entry.mean is None:
        return "–"
    scale, unit = (100.0, " %") if metric.unit == "%" else (1.0, "")
    if not math.isfinite(entry.mean):
        return "∞" if entry.mean > 0 else "−∞"
    shown = f"{round(entry.mean * scale, metric.digits) + 0.0:.{metric.digits}f}"
    if entry.seeds > 1 and entry.sd is not None and math.isfinite(entry.sd):
        shown += f" ± {entry.sd * scale:.{metric.digits}f}"
    ends = "" if entry.interval is None else " ({:.0f} to {:.0f})".format(*(100 * e for e in entry.interval))
    return (shown + unit + ends).replace("-", "−")


def dominance_rows(found: Sequence[Entry]) -> list[list[str]]:
    """For each setting and baseline the policy against which its smaller lead, in spreads, is largest."""
    rows = dominances(found)
    shown = []
    for setting, baseline in dict.fromkeys((r.setting, r.baseline) for r in rows):
        own = [r for r in rows if (r.setting, r.baseline) == (setting, baseline)]
        every = [r for r in rows if r.setting == setting]
        wide = max(abs(r.fidelity) for r in every) or 1.0
        high = max(abs(r.diversity) for r in every) or 1.0
        near = max(own, key=lambda r: min(r.fidelity / wide, r.diversity / high))
        shown.append([setting, baseline, near.ours, f"{near.fidelity:+.2f}", f"{near.diversity:+.3f}",
                      "**yes**" if near.dominates else "no"])  # fmt: skip
    return shown


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown; bars in cells are escaped."""
    lines = [list(head), ["---"] * len(head), *[list(row) for row in rows]]
    return "\n".join("| " + " | ".join(_cell(c) for c in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _plain(number: float) -> str:
    return f"{number:.3g}"
