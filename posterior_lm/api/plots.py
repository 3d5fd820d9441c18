"""One natural picture of each answer, drawn by matplotlib into axes that are given or new."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from posterior_lm.api.tables import optional
from posterior_lm.lang.diagnostics import DataError, either, shortened
from posterior_lm.lang.value_types import value_type
from posterior_lm.target.values import spelled_datum
from posterior_lm.validate.plots import BLUE, GREY, difference, reliability_curve, selective_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from posterior_lm.api.posterior import Posterior
    from posterior_lm.predict import Prediction
    from posterior_lm.validate.calibration import Calibration
    from posterior_lm.validate.comparison import Comparison
    from posterior_lm.validate.reliability import Reliability

MOST_BARS, MOST_LETTERS = 12, 40
MOST_NUMBERS = 40
"""Whole numbers that have a bar each; of more there is a histogram."""


def posterior(found: Posterior, latent: str | None, ax: Axes | None) -> Axes:
    """See `Posterior.plot`."""
    name = latent if latent is not None else next(iter(found.draws.values), "")
    mass = found.marginal(name)
    axes = _axes(ax)
    kind = value_type(found.types.get(name, "int" if isinstance(mass[0][0], int) else "text")).kind
    kind = "text" if any(value is None for value, _ in mass) else kind
    if kind == "real":
        numbers = np.array([value for value, _ in mass])
        axes.hist(
            numbers,
            bins=min(MOST_NUMBERS, len(numbers)),
            weights=[p for _, p in mass],
            color=BLUE,
            rwidth=0.9,
        )
        axes.set_xlabel(name)
        axes.set_ylabel("posterior probability")
        return axes  # type: ignore[no-any-return]
    if kind == "int":
        numbers = np.array([value for value, _ in mass])
        least, most = int(numbers.min()), int(numbers.max())
        bins = (
            np.arange(least, most + 2) - 0.5
            if most - least < MOST_NUMBERS
            else np.linspace(least, most, MOST_NUMBERS)
        )
        axes.hist(numbers, bins=bins, weights=[p for _, p in mass], color=BLUE, rwidth=0.9)
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel(name)
        axes.set_ylabel("posterior probability")
        return axes  # type: ignore[no-any-return]
    errors = None
    if not found.draws.decoded and len(mass) > 1:
        bounds = [found.prob(lambda row, v=value: row[name] == v) for value, _ in mass[:MOST_BARS]]  # type: ignore[misc]
        errors = [(b.low, b.high) for b in bounds]
    _bars(axes, [(spelled_datum(value), p) for value, p in mass], errors, "posterior probability")
    axes.set_title(name, loc="left")
    return axes  # type: ignore[no-any-return]


def prediction(found: Prediction, ax: Axes | None) -> Axes:
    """See `Prediction.plot`."""
    ax = _axes(ax)
    bounds = [found.interval(value) for value, _ in found.probs[:MOST_BARS]]
    known = [b for b in bounds if b is not None]
    _bars(
        ax,
        [(spelled_datum(v), p) for v, p in found.probs],
        known if len(known) == len(bounds) else None,
        "probability",
    )
    ax.set_title(found.name, loc="left")
    return ax


def comparison(found: Comparison, ax: Axes | None) -> Axes:
    """See `Comparison.plot`."""
    ax = _axes(ax)
    which = "tv" if any(m.tv is not None for m in found.methods) else "log_evidence"
    rows = [(m.method, getattr(m, which)) for m in reversed(found.methods) if getattr(m, which) is not None]
    ax.barh([name for name, _ in rows], [value for _, value in rows], color=BLUE)
    if which == "tv" and found.noise is not None:
        ax.axvline(
            found.noise, color="black", linestyle="--", linewidth=0.8, label=f"{found.draws} exact draws"
        )
        ax.legend(fontsize="small")
    ax.set_xlabel("total variation from the exact posterior" if which == "tv" else "log evidence, nats")
    ax.set_title(found.program, loc="left")
    return ax


def calibration(found: Calibration, ax: Axes | None) -> Axes:
    """See `Calibration.plot`."""
    ax = _axes(ax)
    colours = optional("matplotlib.pyplot", "plots").rcParams["axes.prop_cycle"].by_key()["color"]
    for k, (name, ranks) in enumerate(found.ranks.items()):
        difference(ax, ranks, color=colours[k % len(colours)], label=name)
    ax.legend(fontsize="small")
    ax.set_title(f"{found.method}: {found.rows} simulated rows", loc="left")
    return ax


def reliability(found: Reliability, what: str, ax: Axes | None) -> Axes:
    """See `Reliability.plot`."""
    curves = {"selective": selective_curve, "reliability": reliability_curve}
    if what not in curves:
        raise DataError.of("PLM802", f"there is a plot {either(curves)}, not {what!r}", where="what")
    ax = _axes(ax)
    curves[what](ax, found)
    ax.set_title(f"{found.name}: {found.rows} rows", loc="left")
    return ax


def _axes(ax: Axes | None) -> Any:
    """The axes, or those of a new figure, which a notebook shows below its cell."""
    return ax if ax is not None else optional("matplotlib.pyplot", "plots").subplots()[1]


def _bars(
    ax: Any, rows: Sequence[tuple[str, float]], bounds: Sequence[tuple[float, float]] | None, what: str
) -> None:
    """A bar for each of the first rows, the likeliest on top, with whiskers where there are bounds."""
    shown = rows[:MOST_BARS]
    places = np.arange(len(shown))
    shares = np.array([p for _, p in shown])
    # A dollar sign would begin a formula.
    labels = [shortened(text.replace("\n", "↵"), MOST_LETTERS).replace("$", r"\$") for text, _ in shown]
    ax.barh(places, shares, color=BLUE)
    if bounds is not None:
        low, high = (np.array([b[k] for b in bounds]) for k in (0, 1))
        ax.errorbar(shares, places, xerr=[(shares - low).clip(0), (high - shares).clip(0)], fmt="none",
                    ecolor="black", elinewidth=1, capsize=2)  # fmt: skip
    if len(rows) > len(shown):
        rest = sum(p for _, p in rows[len(shown) :])
        ax.barh(len(shown), rest, color=GREY)
        labels.append(f"{len(rows) - len(shown):,} more")
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.set_xlabel(what)
