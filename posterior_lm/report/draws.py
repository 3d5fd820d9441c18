"""The draws with their weights, the marginal of every latent, and what every statement adds to the log reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from posterior_lm.lang.value_types import VALUE_TYPES
from posterior_lm.lang.values import GridSpec
from posterior_lm.report.markup import Html, el, join, number, plural, share, table, text_span
from posterior_lm.report.plots import Axes, bars, drawing
from posterior_lm.target.values import spelled_datum

if TYPE_CHECKING:
    from posterior_lm.api.posterior import Datum, Posterior
    from posterior_lm.graph.nodes import TermInfo
    from posterior_lm.report.facts import Facts
    from posterior_lm.target.target import LatentInfo

MOST_ROWS, LEAST_ROWS, ENOUGH = 25, 8, 0.995
"""Rows that are shown at once: as many as hold nearly all of the weight, within bounds."""
MOST_FOLDED = 500
"""Rows of draws behind a fold; the rest is counted."""
MOST_BARS = 24
MOST_BINS = 120
MOST_TEXTS = 10
MOST_LETTERS = 600


def draws_view(
    posterior: Posterior, least: int = LEAST_ROWS, most: int = MOST_ROWS, folded: int = MOST_FOLDED
) -> Html:
    """A row for each distinct value, heaviest first; from `least` to `most` at once, then up to `folded` to open."""
    merged = posterior.merged()
    if not posterior.draws.values:
        return el(
            "p",
            "The program has no latents: there is nothing to draw, and the log evidence is its log reward.",
        )
    names = list(posterior.draws.values)
    spellings = any(m.sequences > 1 for m in merged)
    head = ["weight", "", "log reward", *(["spellings"] if spellings else []), *names]
    rows = [
        [share(m.weight), bar(m.weight / merged[0].weight), number(m.log_reward, 2), *([f"{m.sequences}"] if spellings else []),
         *(_value(spelled_datum(m.values[name]), posterior.types.get(name)) for name in names)]
        for m in merged[: most + folded]
    ]  # fmt: skip
    right = [True, False, True, *([True] if spellings else []), *(False for _ in names)]
    needed = int(np.searchsorted(np.cumsum([m.weight for m in merged]), ENOUGH)) + 1
    shown = min(most, max(least, needed))
    parts: list[Html | None] = [table(head, rows[:shown], right, "stacks")]
    if len(merged) > shown:
        rest = sum(m.weight for m in merged[shown:])
        more = el("summary", f"{plural(len(merged) - shown, 'more value')} with {share(rest)} of the weight")
        uncounted = len(merged) - most - folded
        note = el("p", f"\u2026 and {uncounted:,} more.", class_="faint") if uncounted > 0 else None
        parts.append(el("details", more, table(head, rows[shown:], right, "stacks"), note))
    if spellings:
        parts.append(el("p", "A value's spellings are the token sequences drawn that read the same; their weights add up.",
                        class_="faint"))  # fmt: skip
    return join(parts)


def _value(text: str, kind: str | None) -> Html:
    """A text with room to be read; a value of a list on one line."""
    return (
        el("div", text_span(text, most=MOST_LETTERS), class_="words") if kind == "text" else text_span(text)
    )


def marginals_view(facts: Facts) -> Html | None:
    """Bars for latents of finite types; for texts the likeliest, where there are several latents."""
    several = len(facts.target.latents) > 1
    found = [
        el(
            "figure",
            el("figcaption", *_caption(facts.posterior, info)),
            _marginal(facts, info),
            class_="marginal",
        )
        for info in facts.target.latents
        if info.type != "text" or several
    ]
    return el("div", *found, class_="plots") if found else None


def _caption(posterior: Posterior, info: LatentInfo) -> list[Html | str]:
    name = el("b", info.name)
    if VALUE_TYPES[info.type].kind == "real" and None not in dict(posterior.marginal(info.name)):
        found = posterior.spread(info.name)
        spread = "" if posterior.draws.exact else f" \u00b1 {number(found.se, 2)}"
        said = f": mean {number(found.mean, 2)}{spread}, standard deviation {number(found.sd, 2)}, 90% within {found.low:g} to {found.high:g}"
        return [name, said]
    if VALUE_TYPES[info.type].kind == "int" and None not in dict(posterior.marginal(info.name)):
        mean = posterior.expect(lambda row: float(str(row[info.name])))
        bounds = ", with 90% intervals" if len(posterior.marginal(info.name)) <= MOST_BARS else ""
        spread = "" if posterior.draws.exact else f" \u00b1 {number(mean.se, 2)}"
        return [
            name,
            f": posterior probability of each value{bounds}; mean {number(mean.value, 2)}{spread}",
        ]
    if info.type == "text":
        return [name, ": the likeliest texts by themselves"]
    return [name, ": posterior probability of each value, with 90% intervals"]


def _marginal(facts: Facts, info: LatentInfo) -> Html:
    posterior = facts.posterior
    mass = dict(posterior.marginal(info.name))
    if info.type == "text":
        rows = list(mass.items())[:MOST_TEXTS]
        return _bars([(spelled_datum(v), p, None) for v, p in rows], len(mass) - len(rows))
    if VALUE_TYPES[info.type].kind == "text":
        listed: Sequence[Datum] = facts.target.evaluator.supports[info.name].spec.values  # type: ignore[attr-defined]
        values = [*listed, *(v for v in mass if v not in listed)]
    else:
        values = sorted(mass, key=lambda v: (v is None, v))  # numbers, or false and true
        grid = getattr(facts.target.evaluator.supports[info.name], "spec", None)
        if isinstance(grid, GridSpec) and None not in mass:
            return _cells(info.name, grid, mass)
        if len(values) > MOST_BARS:
            return _histogram(posterior, info.name, mass)
    rows = [(v, mass.get(v, 0.0)) for v in values]
    kept = sorted(rows, key=lambda row: -row[1])[:MOST_BARS]
    shown = [row for row in rows if row in kept]
    bounds = [posterior.prob(lambda row, v=v: row[info.name] == v) for v, _ in shown]  # type: ignore[misc]
    return _bars(
        [(spelled_datum(v), p, (b.low, b.high)) for (v, p), b in zip(shown, bounds, strict=True)],
        len(rows) - len(shown),
    )


def _bars(rows: Sequence[tuple[str, float, tuple[float, float] | None]], more: int) -> Html:
    cells: list[list[Html | str]] = []
    for value, p, bounds in rows:
        said = None if bounds is None else f"90% interval {share(bounds[0])} to {share(bounds[1])}"
        cells.append(
            [
                el("div", text_span(value, most=120), class_="words") if bounds is None else text_span(value),
                bar(p, bounds, said),
                share(p),
            ]
        )
    note = el("p", f"\u2026 and {plural(more, 'more value')}.", class_="faint") if more > 0 else None
    return join([table(None, cells, [False, False, True], "bars-table"), note])


def _cells(name: str, grid: GridSpec, mass: dict[Datum, float]) -> Html:
    """A bar for every cell of a real, or for as many together as leave `MOST_BINS`."""
    wide = -(-grid.size // MOST_BINS)
    edges = [grid.cell(k)[0] for k in range(0, grid.size, wide)] + [grid.high]
    heights = [0.0] * (len(edges) - 1)
    for value, p in mass.items():
        if value is not None:  # a branch that is not taken has none
            heights[grid.nearest(float(value)) // wide] += p
    axes = Axes((edges[0], edges[-1]), (0.0, max(heights) * 1.05), name, "probability")
    titles = [f"{a:g} to {b:g}: {share(p)}" for a, b, p in zip(edges, edges[1:], heights, strict=False)]
    return drawing(f"Marginal of {name}", axes, bars(axes, edges, heights, titles))


def _histogram(posterior: Posterior, name: str, mass: dict[Datum, float]) -> Html:
    numbers = np.array([np.nan if v is None else float(v) for v in mass])
    whole = ~np.isnan(numbers)
    low, high = int(np.nanmin(numbers)), int(np.nanmax(numbers))
    wide = -(-(high - low + 1) // MOST_BINS)  # values a bar stands for
    edges = np.arange(low, high + wide + 1, wide) - 0.5
    heights, _ = np.histogram(numbers[whole], bins=edges, weights=np.array(list(mass.values()))[whole])
    axes = Axes(
        (float(edges[0]), float(edges[-1])),
        (0.0, float(heights.max()) * 1.05),
        name,
        "probability",
        whole=True,
    )
    titles = [
        f"{int(a + 0.5)}{f' to {int(b - 0.5)}' if wide > 1 else ''}: {share(float(p))}"
        for a, b, p in zip(edges, edges[1:], heights, strict=False)
    ]
    title = f"Marginal of {name}" + (f", {wide} values a bar" if wide > 1 else ", one bar a value")
    return drawing(title, axes, bars(axes, list(edges), list(heights), titles))


def bar(p: float, bounds: tuple[float, float] | None = None, title: str | None = None) -> Html:
    """A bar of a share from 0 to 1, with a whisker from one bound to the other."""
    wide = 100 * min(1.0, max(0.0, p))
    marks = [el("rect", x="0", y="1", width=f"{max(wide, 0.6 if p > 0 else 0):.2f}", height="8")]
    if bounds is not None and bounds[1] > bounds[0]:
        marks.append(el("line", x1=f"{100 * bounds[0]:.2f}", x2=f"{100 * bounds[1]:.2f}", y1="5", y2="5"))
    return el("svg", el("title", title) if title else None, *marks, class_="bar", viewBox="0 0 100 10",
              preserveAspectRatio="none", role="img" if title else None,
              aria_hidden=None if title else "true")  # fmt: skip


# ---- terms of the log reward


def terms_view(facts: Facts, prefix: str | None) -> Html:
    """A row for each statement with its mean and spread, and the total; a note on what was scored.

    Lines of the program are pointed to as `prefix` and their number where it is given.
    """
    terms, statements = facts.terms, facts.target.statements
    scale = max([1e-9, *map(abs, terms.mean)])
    rows: list[list[Html | str]] = [
        [_line(info, prefix), el("code", info.label), number(terms.mean[k], 2), _signed_bar(float(terms.mean[k]) / scale),
         number(terms.sd[k], 2), f"{number(terms.low[k], 2)} to {number(terms.high[k], 2)}"]
        for k, info in enumerate(statements)
    ]  # fmt: skip
    rows.append(["", el("b", "log reward"), el("b", number(float(terms.mean.sum()), 2)), "", "", ""])
    head = ("line", "statement", "mean, nats", "", "spread", "90% within")
    note = "Means and standard deviations over the posterior. A term that hardly spreads cannot tell draws apart."
    if terms.covered < 0.9995:
        note += f" Over the heaviest draws, which hold {share(terms.covered)} of the weight."
    return join(
        [
            table(head, rows, (True, False, True, False, True, True), "terms stacks"),
            el("p", note, class_="faint"),
        ]
    )


def _line(info: TermInfo, prefix: str | None) -> Html | str:
    if not info.span.source.text or prefix is None:
        return ""
    return el("a", str(info.span.line), href=f"#{prefix}{info.span.line}")


def _signed_bar(part: float) -> Html:
    """A bar to the left of the middle for what is below zero, to the right for what is above."""
    wide = 50 * min(1.0, abs(part))
    mark = el("rect", x=f"{50 - wide if part < 0 else 50:.2f}", y="1", width=f"{wide:.2f}", height="8",
              class_="below" if part < 0 else None)  # fmt: skip
    zero = el("line", x1="50", x2="50", y1="0", y2="10")
    return el(
        "svg",
        mark,
        zero,
        class_="bar signed",
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        aria_hidden="true",
    )
