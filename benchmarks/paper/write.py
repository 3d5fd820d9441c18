"""`paper.json`, `paper.md` and `paper.html`, from the cells that are there; each whole or as it was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.paper import published
from benchmarks.paper.cells import Cell
from benchmarks.paper.claims import claims, dominances
from benchmarks.paper.markdown import markdown
from benchmarks.paper.page import page
from benchmarks.paper.rates import ROOM
from benchmarks.paper.summary import entries
from benchmarks.paper.task import Bench
from posterior_lm.storage import write_whole


def write(bench: Bench, cells: Sequence[Cell], model: str) -> list[Path]:
    """The three files for the cells named that have a result; returns their paths."""
    rates = bench.store.folder / ROOM
    results = [(cell, kept) for cell in cells if (kept := bench.store.read(cell)) is not None]
    found = entries(results)
    done = sum(r.state == "done" for _, r in results)
    seconds = sum(r.seconds for _, r in results)
    head = (
        f"Model {model}; sizes of the {bench.plan.name} plan; {done} of {len(cells)} cells done, "
        f"{len(results) - done} failed, {len(cells) - len(results)} not run, {seconds / 60:.0f} minutes. Mean ± "
        "standard deviation over seeds; rows are those that one seed averages over, seconds those of a cell; in brackets Wilson's 95 % interval for the test rows."
    )
    if "stories" in bench.data:
        head += f" Stories of {bench.data['stories'].name}."
    if bench.plan.name == "quick":
        head += " The quick plan only tries the paths: its figures are worth nothing."
    whole = {
        "model": model,
        "plan": bench.plan.name,
        "rows": [entry.to_json() for entry in found],
        "rates": {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(rates.glob("*.json"))},
        "claims": [claim.to_json() for claim in claims(found)],
        "dominances": [
            {"setting": d.setting, "baseline": d.baseline, "ours": d.ours, "fidelity": d.fidelity,
             "diversity": d.diversity, "dominates": d.dominates} for d in dominances(found)
        ],
        "paper": [
            {"task": f.task, "setting": f.setting, "method": f.method, "metric": f.metric, "value": f.value,
             "model": f.model, "source": f.source} for f in published.figures()
        ],
    }  # fmt: skip
    texts = {
        "paper.json": json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "paper.md": markdown(found, head),
        "paper.html": page(found, results, head),
    }
    paths = []
    for name, text in texts.items():
        path = bench.store.folder / name
        write_whole(path, text.encode("utf-8"))
        paths.append(path)
    return paths
