"""A calibration as a picture: for each quantity the ranks and how far they are from uniform; the bounds of each row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from posterior_lm.evidence.calibration import Calibration
from posterior_lm.evidence.plots import new_figure, save
from posterior_lm.evidence.ranks import PLACES, band

BLUE, GREY, RED = "#3465a4", "#d3d7cf", "#a40000"


def plot(found: Calibration, png: Path) -> None:
    """Draw it. Raises ImportError where matplotlib is absent, DataError PLM612."""
    bounded = found.lower is not None and found.upper is not None
    rows = len(found.ranks) + bounded
    figure = new_figure(8, 2.1 * max(1, rows) + 0.6)
    figure.suptitle(f"{found.method}: {found.rows} simulated rows, {found.draws} draws each")
    grid = figure.add_gridspec(max(1, rows), 2)
    for k, (name, u) in enumerate(found.ranks.items()):
        _histogram(figure.add_subplot(grid[k, 0]), name, u, found.p_values.get(name))
        _difference(figure.add_subplot(grid[k, 1]), u)
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


def _difference(axis: Any, u: np.ndarray) -> None:
    """The distribution function of the ranks less that of the uniform, and the band that holds 99 % of such curves."""
    at = np.arange(1, PLACES) / PLACES
    least, most = band(len(u))
    axis.fill_between(at, least - at, most - at, color=GREY, step=None)
    axis.plot(at, [float(np.mean(u <= x)) - x for x in at], color=BLUE)
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
