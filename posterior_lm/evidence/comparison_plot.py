"""A comparison as a picture: one bar a method and measurement."""

from __future__ import annotations

from pathlib import Path

from posterior_lm.evidence.comparison import Comparison
from posterior_lm.evidence.plots import new_figure, save

PANELS = (
    ("tv", "total variation"),
    ("error", "error of the log evidence, nats"),
    ("ess", "ESS"),
    ("tokens", "model tokens"),
    ("seconds", "seconds"),
)


def plot(found: Comparison, png: Path) -> None:
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
