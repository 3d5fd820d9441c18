"""What every statement adds to the log reward, on average under the posterior."""

from __future__ import annotations

from typing import TYPE_CHECKING

from posterior_lm.page.draws import table
from posterior_lm.page.markup import Html, el, join, number, share

if TYPE_CHECKING:
    from posterior_lm.graph.nodes import TermInfo
    from posterior_lm.page.facts import Facts


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
