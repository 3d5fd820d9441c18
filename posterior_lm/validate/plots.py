"""Calibrations, comparisons and predictions of known answers as pictures, and what pictures need, said before any work.

Of a calibration: for each quantity the ranks and how far they are from uniform, and the bounds of
each row. Of a comparison: one bar a method and measurement. Of predictions: accuracy by coverage and by confidence.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from posterior_lm.installed import need
from posterior_lm.lang.diagnostics import DataError
from posterior_lm.storage import check_place, write_whole
from posterior_lm.validate.calibration import Calibration
from posterior_lm.validate.comparison import Comparison
from posterior_lm.validate.measures import PLACES, band
from posterior_lm.validate.reliability import Reliability


def need_plots(png: str | Path) -> None:
    """Raises DataError PLM732 where matplotlib is absent, PLM612 where the file cannot be written."""
    try:
        need("matplotlib.figure", "plots")
    except ImportError as problem:
        raise DataError.of("PLM732", str(problem), help="or leave --plot out") from None
    check_place(png, "PLM612", "plot.png")


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure, in inches; it needs no display."""
    return need("matplotlib.figure", "plots").Figure(figsize=(width, height), layout="constrained")


def save(figure: Any, png: Path) -> None:
    """Write the figure as a PNG, whole or not at all. Raises DataError PLM612."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_whole(png, picture.getvalue())


# ------------------------------------------------------------------------------- a calibration

BLUE, GREY, RED = "#3465a4", "#d3d7cf", "#a40000"


def plot_calibration(found: Calibration, png: Path) -> None:
    """Draw it. Raises ImportError where matplotlib is absent, DataError PLM612."""
    bounded = found.lower is not None and found.upper is not None
    rows = len(found.ranks) + bounded
    figure = new_figure(8, 2.1 * max(1, rows) + 0.6)
    figure.suptitle(f"{found.method}: {found.rows} simulated rows, {found.draws} draws each")
    grid = figure.add_gridspec(max(1, rows), 2)
    for k, (name, u) in enumerate(found.ranks.items()):
        _histogram(figure.add_subplot(grid[k, 0]), name, u, found.p_values.get(name))
        difference(figure.add_subplot(grid[k, 1]), u)
    if bounded:
        _bounds(figure.add_subplot(grid[rows - 1, :]), found)
    save(figure, png)


def _histogram(axis: Any, name: str, u: np.ndarray, p: float | None) -> None:
    """Counts in 20 bins, and where 98 % of the bins of uniform ranks lie."""
    n, share = len(u), 1 / PLACES
    spread = 2.33 * np.sqrt(n * share * (1 - share))
    axis.axhspan(max(0.0, n * share - spread), n * share + spread, color=GREY)
    axis.axhline(n * share, color="black", linewidth=0.8)
    axis.hist(u, bins=PLACES, range=(0, 1), color=BLUE)
    axis.set_title(name if p is None else f"{name}: p = {p:.2g}", fontsize="small", loc="left")
    axis.set_ylabel("rows")
    axis.set_xlabel("rank of the exact draw")


def difference(axis: Any, u: np.ndarray, color: str = BLUE, label: str | None = None) -> None:
    """The distribution function of the ranks less that of the uniform, and the band that holds 99 % of such curves."""
    at = np.arange(1, PLACES) / PLACES
    least, most = band(len(u))
    axis.fill_between(at, least - at, most - at, color=GREY, step=None)
    axis.plot(at, [float(np.mean(u <= x)) - x for x in at], color=color, label=label)
    axis.axhline(0.0, color="black", linewidth=0.8)
    axis.set_xlim(0, 1)
    axis.set_ylabel("share below, less rank")
    axis.set_xlabel("rank")


def _bounds(axis: Any, found: Calibration) -> None:
    """Each row's two bounds, rows in order of the lower one."""
    assert found.lower is not None and found.upper is not None
    order = np.argsort(found.lower)
    at, lower, upper = np.arange(found.rows), found.lower[order], found.upper[order]
    finite = np.isfinite(lower) & np.isfinite(upper)
    axis.vlines(at[finite], lower[finite], upper[finite], color=BLUE)
    axis.plot(at[finite], lower[finite], ".", color=BLUE, markersize=3, label="lower bound")
    known = np.isfinite(lower) & ~finite
    if known.any():
        axis.plot(at[known], lower[known], "x", color=RED, label="no upper bound")
    axis.set_ylabel("log evidence, nats")
    axis.set_xlabel("simulated rows")
    if finite.any() or known.any():
        axis.legend(fontsize="small")


# ------------------------------------------------------------------------------- a comparison

PANELS = (
    ("tv", "total variation"),
    ("error", "error of the log evidence, nats"),
    ("ess", "ESS"),
    ("tokens", "model tokens"),
    ("seconds", "seconds"),
)


def plot_comparison(found: Comparison, png: Path) -> None:
    """Draw it, without what no method has or used. Raises ImportError where matplotlib is absent, DataError PLM612."""
    panels = [p for p in PANELS if any(getattr(m, p[0]) is not None for m in found.methods)]
    if not any(m.tokens for m in found.methods):
        panels = [p for p in panels if p[0] != "tokens"]
    figure = new_figure(8, 0.5 + len(panels) * (0.7 + 0.25 * len(found.methods)))
    figure.suptitle(f"{found.program}: {found.draws} draws of each method")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, (name, title) in zip(axes, panels, strict=True):
        shown = [
            (m.method, getattr(m, name)) for m in reversed(found.methods) if getattr(m, name) is not None
        ]
        axis.barh([method for method, _ in shown], [value for _, value in shown], color="#3465a4")
        if name == "tv" and found.noise is not None:
            axis.axvline(found.noise, color="black", linestyle="--", linewidth=0.8)
            title += f" (dashed: of {found.draws} exact draws)"
        axis.set_title(title, fontsize="small", loc="left")
    save(figure, png)


# ------------------------------------------------------------------------------- predictions of known answers


def plot_reliability(found: Reliability, png: Path) -> None:
    """Draw both curves. Raises ImportError where matplotlib is absent, DataError PLM612."""
    figure = new_figure(9, 4.2)
    figure.suptitle(f"{found.name}: {found.rows} rows")
    left, right = figure.subplots(1, 2)
    selective_curve(left, found)
    reliability_curve(right, found)
    save(figure, png)


def selective_curve(axis: Any, found: Reliability) -> None:
    """Accuracy by coverage, with that of the best order of the rows, and a dot where `abstain` lies."""
    _, covered, accurate = found.curve
    at = np.arange(1, found.rows + 1)
    best = np.minimum(1, found.right.sum() / at)
    axis.plot(at / found.rows, best, color="black", linestyle="--", linewidth=0.8, label="best order")
    axis.step(covered, accurate, color=BLUE, where="pre", label=f"surest first, AURC {found.aurc:.3f}")
    if found.abstain is not None and found.selective_accuracy is not None:
        axis.plot(
            found.coverage, found.selective_accuracy, "o", color=RED, label=f"abstain {found.abstain:g}"
        )
    axis.set_xlim(0, 1)
    axis.set_xlabel("share of rows answered")
    axis.set_ylabel("accuracy")
    axis.legend(fontsize="small")


def reliability_curve(axis: Any, found: Reliability) -> None:
    """Accuracy by mean confidence of each bin with 90 % intervals, and the line of a calibrated prediction."""
    axis.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=0.8, label="calibrated")
    at = np.array([b.confidence for b in found.bins])
    shares = np.array([b.accuracy for b in found.bins])
    low, high = (np.array([b.interval[k] for b in found.bins]) for k in (0, 1))
    axis.errorbar(at, shares, yerr=[(shares - low).clip(0), (high - shares).clip(0)], fmt="o", color=BLUE,
                  ecolor="black", elinewidth=1, capsize=2, label=f"ECE {found.ece:.3f}")  # fmt: skip
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.set_xlabel("confidence")
    axis.set_ylabel("accuracy")
    axis.legend(fontsize="small")
