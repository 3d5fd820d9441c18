"""Small pictures of the table: histograms of integers, accuracy against operands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.paper.cells import Cell, Result
from benchmarks.paper.labels import beside
from benchmarks.paper.summary import Entry, figure
from benchmarks.paper.tasks.continuation import OURS
from posterior_lm.report.markup import Html, el
from posterior_lm.report.plots import Axes, bars, dots, drawing, line, plot

SHOWN = ("base", "prompting", "sft", "ppo", "gflownet")
"""Methods whose histogram is drawn."""
WIDE, HIGH = 820.0, 300.0


def histograms(results: Iterable[tuple[Cell, Result]]) -> list[Html]:
    """The distribution of each target and what the methods emit, of the first seed."""
    pictures = []
    for cell, result in results:
        if (
            cell.task != "integers"
            or cell.seed != 0
            or cell.method not in SHOWN
            or "probs" not in result.shown
        ):
            continue
        values, probs, target = (list(result.shown[k]) for k in ("values", "probs", "target"))
        top = 1.05 * max([*target, *(p for p in probs if p < 0.5), 1e-9])
        axes = Axes((min(values) - 0.5, max(values) + 0.5), (0.0, top), "integer", "probability", whole=True)
        edges = [v - 0.5 for v in values] + [values[-1] + 0.5]
        said = [f"{v}: {p:.4f}, target {t:.4f}" for v, p, t in zip(values, probs, target, strict=True)]
        drawn = bars(axes, edges, [min(p, top) for p in probs], said)
        pictures.append(
            plot(
                f"{cell.setting}, {cell.method}; the line is the target",
                axes,
                drawn,
                line(axes, values, target),
            )
        )
    return pictures


def against_operands(found: Sequence[Entry]) -> list[Html]:
    """Accuracy against the number of operands, a line a method; five are out of distribution."""
    settings = [
        s for s in dict.fromkeys(e.setting for e in found if e.task == "arithmetic") if s.split()[0].isdigit()
    ]
    lines, xs = {}, [float(s.split()[0]) for s in settings]
    for method in dict.fromkeys(e.method for e in found if e.task == "arithmetic"):
        there = [figure(found, "arithmetic", s, method, "accuracy") for s in settings]
        if there and all(e is not None and e.mean is not None for e in there):
            lines[method] = [100 * e.mean for e in there]  # type: ignore[union-attr, operator]
    if not lines or len(xs) < 2:
        return []
    axes = Axes(
        (min(xs) - 0.1, max(xs) + 0.6),
        (0.0, 100.0),
        "operands",
        "accuracy, %",
        whole=True,
        width=WIDE,
        height=HIGH,
    )
    marks: list[Html] = []
    for method, ys in lines.items():
        marks.append(line(axes, xs, ys, "line" if method.startswith(OURS) else "line chain1"))
        marks.append(dots(axes, xs, ys, [f"{method}: {y:.1f} %" for y in ys]))
    ends = [axes.at(xs[-1], ys[-1]) for ys in lines.values()]
    marks += [label.drawn() for label in beside(axes, list(lines), ends)]
    title = "Right answers against operands; five are out of distribution"
    return [el("figure", drawing(title, axes, *marks), el("figcaption", title), class_="wide")]
