"""The pictures of the table: fidelity against diversity, histograms of integers, accuracy against operands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from posterior_lm.bench.cells import Cell, Result
from posterior_lm.bench.claims import dominances
from posterior_lm.bench.summary import Entry, figure
from posterior_lm.bench.tasks.continuation import FIDELITY, OURS
from posterior_lm.page.markup import Html, el
from posterior_lm.page.plots import Axes, bars, dots, line, plot, span

SHOWN = ("base", "prompting", "sft", "ppo", "gflownet")
"""Methods whose histogram is drawn."""


def scatters(found: Sequence[Entry]) -> list[Html]:
    """Fidelity against semantic diversity, one picture a setting, a label at every method."""
    pictures = []
    for setting in dict.fromkeys(e.setting for e in found if e.task == "continuation"):
        points = []
        for method in dict.fromkeys(
            e.method for e in found if (e.task, e.setting) == ("continuation", setting)
        ):
            x, y = (
                figure(found, "continuation", setting, method, m) for m in ("diversity", FIDELITY[setting])
            )
            if x is not None and y is not None and x.mean is not None and y.mean is not None:
                points.append((method, x.mean, y.mean))
        if points:
            pictures.append(_scatter(setting, points, found))
    return pictures


def _scatter(setting: str, points: Sequence[tuple[str, float, float]], found: Sequence[Entry]) -> Html:
    axes = Axes(
        span([x for _, x, _ in points], 0.12), span([y for _, _, y in points], 0.08),
        "semantic diversity", f"mean {FIDELITY[setting].replace('_', ' ')}, nats",
    )  # fmt: skip
    own = [p for p in points if p[0].startswith(OURS)]
    others = [p for p in points if p not in own]
    marks = [
        dots(axes, [p[1] for p in group], [p[2] for p in group], [_said(p) for p in group], kind)
        for group, kind in ((others, "dots"), (own, "chain1 dots"))
    ]
    labels = [_label(axes, name, x, y) for name, x, y in points]
    worse = sum(r.dominates for r in dominances(found) if r.setting == setting)
    title = (
        f"{setting}: fidelity and diversity; up and to the right is better. "
        f"{worse or 'No'} decoding baseline{'s' * (worse > 1)} above and to the right of a policy."
    )
    return plot(title, axes, *marks, *labels)


def _said(point: tuple[str, float, float]) -> str:
    return f"{point[0]}: diversity {point[1]:.3f}, log-likelihood {point[2]:.2f}"


def _label(axes: Axes, name: str, x: float, y: float) -> Html:
    across, down = axes.at(x, y)
    return el("text", name, x=across + 4, y=down + 3, font_size="8")


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
        s for s in dict.fromkeys(e.setting for e in found if e.task == "arithmetic") if s.endswith("operands")
    ]
    lines, xs = {}, [float(s.split()[0]) for s in settings]
    for method in dict.fromkeys(e.method for e in found if e.task == "arithmetic"):
        there = [figure(found, "arithmetic", s, method, "accuracy") for s in settings]
        if there and all(e is not None and e.mean is not None for e in there):
            lines[method] = [100 * e.mean for e in there]  # type: ignore[union-attr, operator]
    if not lines or len(xs) < 2:
        return []
    axes = Axes((min(xs) - 0.1, max(xs) + 0.6), (0.0, 100.0), "operands", "accuracy, %", whole=True)
    marks: list[Html] = []
    for method, ys in lines.items():
        marks.append(line(axes, xs, ys, "line" if method.startswith(OURS) else "line chain1"))
        marks.append(dots(axes, xs, ys, [f"{method}: {y:.1f} %" for y in ys]))
        marks.append(_label(axes, method, xs[-1], ys[-1]))
    return [plot("Right answers against operands; five are out of distribution", axes, *marks)]
