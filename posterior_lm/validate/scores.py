"""A file about predictions of known answers: numbers as JSON, curves as a PNG, or both as a page, by how its name ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from posterior_lm.report.markup import Html, el, table
from posterior_lm.report.page import check_place, document, section, write
from posterior_lm.report.plots import Axes, dots, line, plot
from posterior_lm.storage import plain, write_whole
from posterior_lm.validate.plots import need_plots, plot_reliability
from posterior_lm.validate.reliability import Reliability

ENDS = (".json", ".png", ".html")


def check_scores(path: str) -> None:
    """Raises DataError where the file cannot be written, or matplotlib is absent for a picture. Call it before any work."""
    if path.lower().endswith(".png"):
        need_plots(path)
    else:
        check_place(path)


def write_scores(found: Reliability, path: str) -> None:
    """Write the file, whole or not at all. Raises DataError PLM612, PLM805."""
    if path.lower().endswith(".png"):
        plot_reliability(found, Path(path))
    elif path.lower().endswith(".html"):
        write(path, _page(found))
    else:
        text = json.dumps(plain(found.to_json()), ensure_ascii=False, indent=2)
        write_whole(Path(path), (text + "\n").encode())


def _page(found: Reliability) -> str:
    curves = el("div", _selective(found), _reliable(found), class_="plots")
    bins = table(found.BIN_HEAD, found.bin_rows(), (False, *[True] * 4))
    said = [el("p", one) for one in found.lines()]
    return document(
        f"{found.name}: predictions", f"Predictions of {found.name}", said,
        [section("curves", "Curves", curves), section("reliability", "Accuracy by confidence", bins)],
    )  # fmt: skip


def _selective(found: Reliability) -> Html:
    _, covered, accurate = found.curve
    low = min(0.5, float(accurate.min()))
    axes = Axes((0.0, 1.0), (low, 1.0), "share of rows answered", "accuracy")
    at = np.arange(1, found.rows + 1)
    best = np.minimum(1, found.right.sum() / at)
    here = []
    if found.abstain is not None and found.selective_accuracy is not None:
        told = (
            f"abstain {found.abstain:g}: {found.coverage:.1%} answered, {found.selective_accuracy:.1%} right"
        )
        here = [dots(axes, [found.coverage], [found.selective_accuracy], [told])]
    title = "Accuracy of the surest rows; grey: were all that is right surer than all that is wrong"
    return plot(
        title,
        axes,
        line(axes, at / found.rows, best, "line faint-line"),
        line(axes, covered, accurate),
        *here,
    )


def _reliable(found: Reliability) -> Html:
    axes = Axes((0.0, 1.0), (0.0, 1.0), "confidence", "accuracy")
    marks = [line(axes, [0, 1], [0, 1], "line faint-line")]
    for b in found.bins:
        marks.append(line(axes, [b.confidence, b.confidence], list(b.interval)))
    told = [
        f"{b.right} of {b.rows} right, 90 %: {b.interval[0]:.1%} to {b.interval[1]:.1%}" for b in found.bins
    ]
    points = dots(axes, [b.confidence for b in found.bins], [b.accuracy for b in found.bins], told)
    return plot("Accuracy by confidence with 90 % intervals; grey: where they agree", axes, *marks, points)
