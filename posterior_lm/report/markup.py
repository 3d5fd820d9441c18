"""HTML and SVG that cannot be broken by what stands in it, and the style sheet.

Markup is made by `el` alone. A child or attribute that is not `Html` is text and is
escaped, so what a model or a data file wrote can never become markup.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

VOID = frozenset(("meta", "br"))
"""Elements that have no end tag."""


class Html(str):
    """A string that is markup already. Only this module and the style sheet make one."""

    __slots__ = ()


Child = Html | str | None


def el(name: str, /, *children: Child, **attributes: object) -> Html:
    """One element. Children that are None are left out.

    In names of attributes an underscore at the end is dropped (`class_`) and others
    become hyphens. An attribute that is None or False is left out, True stands bare.
    """
    shown = "".join(
        f" {key}" if value is True else f' {key}="{escape(str(value))}"'
        for key, value in ((_attribute(k), v) for k, v in attributes.items())
        if value is not None and value is not False
    )
    if name in VOID:
        return Html(f"<{name}{shown}>")
    return Html(f"<{name}{shown}>{join(children)}</{name}>")


def join(children: Iterable[Child], between: str = "") -> Html:
    """Children one after another, text escaped."""
    parts = (c if isinstance(c, Html) else escape(c) for c in children if c is not None)
    return Html(escape(between).join(parts))


def escape(text: str) -> str:
    """Text as HTML; what cannot be seen is spelled, so that it can neither hide nor reorder its neighbours.

    Control characters, direction marks and lone surrogates become `\\u` and four digits;
    line breaks and tabs stay.
    """
    seen = "".join(c if c.isprintable() or c in "\n\t" else f"\\u{ord(c):04x}" for c in text)
    return html.escape(seen, quote=True)


def _attribute(name: str) -> str:
    # SVG's own names are not all in lower case, so the case is kept.
    return name.rstrip("_").replace("_", "-")


def text_span(text: str, *, most: int | None = None) -> Html:
    """A text of the program's world, its spaces kept and its line breaks marked; cut after `most` characters."""
    cut = text if most is None or len(text) <= most else text[:most]
    marked = cut.replace("\n", "\u21b5\n")
    more = (
        None if cut is text else el("span", f" \u2026 {len(text) - len(cut)} more characters", class_="faint")
    )
    if not text:
        return el("span", "empty", class_="faint")
    return join([el("span", marked, class_="txt", title=text if more else None), more])


def table(
    head: Sequence[str] | None,
    rows: Sequence[Sequence[Html | str]],
    right: Sequence[bool],
    kind: str | None = None,
) -> Html:
    """A table. On a narrow page it scrolls sideways, or its cells stand below each other where `kind` is `stacks`."""
    top = [el("thead", el("tr", *(el("th", h, class_="num" if r else None, scope="col")
                                  for h, r in zip(head, right, strict=True))))] if head else []  # fmt: skip
    labels = list(head) if head else [None] * len(right)
    body = [
        el(
            "tr",
            *(
                el("td", c, class_="num" if r else None, data_label=h)
                for c, r, h in zip(row, right, labels, strict=True)
            ),
        )
        for row in rows
    ]
    return el("div", el("table", *top, el("tbody", *body), class_=kind), class_="scroll", tabindex="0")


def number(value: float | None, digits: int = 3) -> str:
    """A number for people: a true minus, infinity as a sign, a dash where there is none."""
    if value is None or value != value:
        return "\u2013"
    if value in (float("inf"), float("-inf")):
        return "\u221e" if value > 0 else "\u2212\u221e"
    shown = f"{abs(value):.{digits}f}"
    return "\u2212" + shown if value < 0 and float(shown) else shown


def share(value: float) -> str:
    """A probability in percent, with the digits that it takes to tell it from 0 and 1."""
    percent = 100 * value
    if 0 < percent < 0.1:
        return "< 0.1%"
    if 99.9 < percent < 100:
        return "> 99.9%"
    return f"{percent:.1f}%"


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 draw`, `1,000 draws`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


# ---- the style sheet: system fonts, light and dark, narrow and wide, screen and paper

STYLE = "\n" + "".join(
    Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("style.css", "graph.css")
)
