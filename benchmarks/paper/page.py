"""The table as one self-contained page: aims, tables, pictures, the paper's figures marked as the paper's."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from benchmarks.paper import published
from benchmarks.paper.cells import Cell, Result
from benchmarks.paper.claims import claims
from benchmarks.paper.markdown import dominance_rows, grid
from benchmarks.paper.pictures import against_operands, histograms
from benchmarks.paper.scatter import scatters
from benchmarks.paper.summary import Entry
from benchmarks.paper.tasks import TASKS
from posterior_lm.report.markup import STYLE, Html, el


def page(found: Sequence[Entry], results: Sequence[tuple[Cell, Result]], head: str) -> str:
    """The whole HTML document; it asks for nothing from outside and runs nothing."""
    sections = [_aims(found)]
    for name, task in TASKS.items():
        own = [entry for entry in found if entry.task == name]
        if own:
            sections.append(el("section", el("h2", task.title), *_task(own, name, results), id=name))
    digest = base64.b64encode(hashlib.sha256(STYLE.encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = "The paper's five tasks"
    top = [
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="referrer", content="no-referrer"),
        el("title", title),
        Html(f"<style>{STYLE}</style>"),
    ]
    header = el(
        "header", el("p", "posterior_lm", class_="brand"), el("h1", title), el("p", head, class_="faint")
    )
    body = el("body", header, el("main", *(s for s in sections if s is not None)))
    return "<!DOCTYPE html>\n" + el("html", el("head", *top), body, lang="en") + "\n"


def _aims(found: Sequence[Entry]) -> Html | None:
    rows = [c.row() for c in claims(found)]
    if not rows:
        return None
    return el(
        "section", el("h2", "Aims"), _table(["task", "figure", "aim", "ours", "reached"], rows), id="aims"
    )


def _task(own: Sequence[Entry], name: str, results: Sequence[tuple[Cell, Result]]) -> list[Html]:
    parts: list[Html] = []
    explained = [
        f"{m.name}: {m.said}{f', {m.unit}' if m.unit else ''}" for m in TASKS[name].metrics
        if any(e.metric == m.name for e in own)
    ]  # fmt: skip
    if explained:
        parts.append(el("p", "; ".join(explained) + ".", class_="faint"))
    for setting in dict.fromkeys(entry.setting for entry in own):
        head, rows = grid([entry for entry in own if entry.setting == setting], name)
        parts += [el("h4", setting), _table(head, rows)]
    pictures = {
        "integers": histograms(results),
        "continuation": scatters(own),
        "arithmetic": against_operands(own),
    }
    if pictures.get(name):
        parts.append(el("div", *pictures[name], class_="plots"))
    if name == "continuation" and (rows := dominance_rows(own)):
        said = "A decoding baseline dominates a policy where both differences are above 0; the nearest policy of each."
        head = ["setting", "baseline", "policy", "log-likelihood", "diversity", "dominates"]
        parts += [el("p", said, class_="faint"), _table(head, [[c.strip("*") for c in row] for row in rows])]
    theirs = [f for f in published.figures() if f.task == name]
    if theirs:
        rows = [[f.setting, f.method, f.metric, f"{f.value:.3g}", f.model, f.source] for f in theirs]
        parts += [
            el("h4", "The paper's own figures (Hu et al. 2024), of other models and data"),
            _table(["setting", "method", "metric", "the paper's", "its model", "read in"], rows),
        ]
        if name in published.CAVEATS:
            parts.append(el("p", published.CAVEATS[name], class_="faint"))
    notes = list(dict.fromkeys(f"{e.setting}, {e.method}: {e.note}" for e in own if e.note))
    if notes:
        parts += [el("h4", "Cells that failed"), el("ul", *(el("li", note) for note in notes))]
    return parts


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    top = el("thead", el("tr", *(el("th", h) for h in head)))
    return el("div", el("table", top, el("tbody", *(el("tr", *(el("td", c) for c in row)) for row in rows))),
              class_="scroll")  # fmt: skip
