"""HTML and SVG that cannot be broken by what stands in it, and the style sheet.

Markup is made by `el` alone. A child or attribute that is not `Html` is text and is
escaped, so what a model or a data file wrote can never become markup.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

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

STYLE = """
:root { color-scheme: light dark;
  --bg: #fbfaf8; --card: #ffffff; --ink: #1d2129; --faint: #5c6470; --line: #dcd9d2; --soft: #f1efea;
  --blue: #2458c6; --green: #1f7a4d; --amber: #94600a; --red: #b3261e; --violet: #7a3fb0; --teal: #0b7285;
  --bar: #4a78d8; --bar2: #c2703d; --s-ink: #1d2129;
  --s0: #f4f1ea; --s1: #fbe7b8; --s2: #fbcf82; --s3: #f7ac5c; --s4: #f09360; --s5: #ea7466; }
@media (prefers-color-scheme: dark) { :root {
  --bg: #14161b; --card: #1c1f26; --ink: #e8e6e1; --faint: #a3a9b3; --line: #363b45; --soft: #262a33;
  --blue: #8db0ff; --green: #74cf9f; --amber: #e6b563; --red: #ff9088; --violet: #cda4f5; --teal: #6fcfdd;
  --bar: #6f97ec; --bar2: #d98f5e; --s-ink: #f3f1ec;
  --s0: #2a2e37; --s1: #4a3f22; --s2: #664a1c; --s3: #81481c; --s4: #96391f; --s5: #ac2a2a; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--bg); color: var(--ink); overflow-wrap: anywhere;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
header, main { max-width: 1120px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 28px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 12px; font-family: ui-monospace, Menlo, Consolas, monospace; }
h2 { font-size: 20px; margin: 0 0 14px; }
h4 { font-size: 15px; margin: 0 0 8px; } .scroll + h4, .plots + h4 { margin-top: 18px; }
p { margin: 8px 0; }
a { color: var(--blue); }
.brand { color: var(--faint); margin: 0; font-size: 14px; letter-spacing: .04em; }
.faint { color: var(--faint); font-size: 14px; }
nav { display: flex; flex-wrap: wrap; gap: 6px 18px; margin: 18px 0 6px; }
section, .row-head { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px;
  margin: 18px 0; min-width: 0; }
.verdict { border-left: 5px solid var(--faint); background: var(--soft); padding: 10px 14px; border-radius: 0 8px 8px 0; }
.verdict.good { border-color: var(--green); } .verdict.fair { border-color: var(--teal); }
.verdict.care { border-color: var(--amber); } .verdict.bad { border-color: var(--red); }
.tiles { display: flex; flex-wrap: wrap; gap: 10px 34px; margin: 14px 0 0; }
.tiles dt, .figures dt { color: var(--faint); font-size: 13px; }
.tiles dd { margin: 0; font-size: 20px; font-variant-numeric: tabular-nums; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 14px 24px; margin: 0 0 18px; }
.figures dd { margin: 0; font-size: 18px; font-variant-numeric: tabular-nums; }
.figures p { margin: 0; font-size: 13px; line-height: 1.35; }
pre, code, .mono, .txt, .tok { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { margin: 0; font-size: 14px; line-height: 1.6; white-space: pre-wrap; }
.plain { font-size: 12.5px; line-height: 1.45; white-space: pre; overflow-x: auto; padding: 10px 0; overflow-wrap: normal; }
code { font-size: .92em; }
.mono { font-size: 13.5px; white-space: pre-wrap; }
.program { counter-reset: line; }
.program .line { display: block; counter-increment: line; padding-left: 3.2em; text-indent: -3.2em; border-radius: 3px; }
.program .line::before { content: counter(line); display: inline-block; width: 2.2em; margin-right: 1em; text-indent: 0;
  text-align: right; color: var(--faint); user-select: none; }
.program .line:target { background: var(--soft); outline: 2px solid var(--blue); }
.keyword { color: var(--violet); font-weight: 600; } .string { color: var(--green); } .number { color: var(--amber); }
.comment { color: var(--faint); font-style: italic; } .type, .option { color: var(--teal); }
.function, .call { color: var(--blue); } .name { font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 15px; overflow-wrap: normal; }
th, td { text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--faint); font-weight: 500; font-size: 13px; white-space: nowrap; }
tr:last-child td { border-bottom: 0; }
.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td:has(.words) { width: 50%; } .stacks:not(.terms):not(:has(.words)), .pairs table { width: auto; }
.pairs > tbody > tr > td:first-child { white-space: nowrap; width: 1%; color: var(--faint); }
.pairs > tbody > tr > td:last-child { width: 99%; overflow-wrap: anywhere; min-width: 12em; }
.txt { white-space: pre-wrap; background: var(--soft); border-radius: 4px; padding: 1px 3px; font-size: 14px;
  overflow-wrap: anywhere; -webkit-box-decoration-break: clone; box-decoration-break: clone; }
td .txt { overflow-wrap: normal; } td .words { min-width: 13em; max-width: 44em; } td .words .txt { overflow-wrap: anywhere; }
.bar { width: 110px; min-width: 110px; height: 12px; display: block; margin-top: 6px; fill: var(--bar); overflow: visible; }
.bar line { stroke: var(--ink); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.bar.signed line { stroke: var(--faint); stroke-width: 1; } .bar .below { fill: var(--bar2); }
.bars-table td { vertical-align: middle; } .bars-table .bar { margin: 0; width: 100%; }
.bars-table td:nth-child(2) { width: 55%; } .bars-table td .words { min-width: 9em; }
.marginal figcaption { margin-bottom: 4px; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)); gap: 18px 28px; margin-top: 16px; }
figure.wide { max-width: none; grid-column: 1 / -1; } .ours rect { fill: var(--bar2); }
figure { margin: 0; max-width: 520px; min-width: 0; } figcaption { color: var(--faint); font-size: 14px; line-height: 1.4; }
svg text { fill: var(--ink); font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
.plot { width: 100%; height: auto; display: block; }
.plot .tick, .plot .axis, .plot .rule text { font-size: 13.5px; fill: var(--faint); }
.middle { text-anchor: middle; } .end { text-anchor: end; }
.grid { stroke: var(--line); } .bars rect { fill: var(--bar); } .band { fill: var(--bar); opacity: .2; }
.line { fill: none; stroke: var(--bar); stroke-width: 2; } .faint-line { stroke: var(--faint); stroke-width: 1; }
.chain0 { stroke: var(--blue); stroke-width: 1.2; } .chain1 { stroke: var(--bar2); stroke-width: 1.2; }
.chain2 { stroke: var(--green); stroke-width: 1.2; } .chain3 { stroke: var(--violet); stroke-width: 1.2; }
.dots circle { fill: var(--bar); opacity: .7; } .rule line { stroke: var(--faint); stroke-dasharray: 4 3; }
.graph { display: block; margin: 0 auto; max-width: 100%; height: auto; }
.box rect { fill: var(--card); stroke: var(--faint); stroke-width: 1.5; }
.box text { text-anchor: middle; } .box .heading { font-size: 13px; font-weight: 600; }
.box .detail { font-size: 10.5px; font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: var(--faint); }
.box.parameter rect { fill: var(--soft); stroke: var(--line); } .box.latent rect { stroke: var(--violet); stroke-width: 2.2; }
.box.term rect { stroke: var(--blue); } .box.total rect { fill: var(--soft); stroke: var(--ink); stroke-width: 2.2; }
.box.guide rect { stroke: var(--green); stroke-dasharray: 5 4; }
.arrow { fill: none; stroke: var(--faint); stroke-width: 1.3; } .dashed { stroke-dasharray: 5 4; stroke: var(--green); }
.head { fill: var(--faint); }
.legend { list-style: none; padding: 0; margin: 12px 0; display: flex; flex-wrap: wrap; gap: 8px 20px; font-size: 14px; }
.legend svg { vertical-align: -2px; }
.token-legend { position: relative; }
.draw { border-top: 1px solid var(--line); padding: 14px 0 12px; }
.draw h4 { display: flex; flex-wrap: wrap; gap: 0 20px; align-items: baseline; } .draw h4 span { font-weight: 400; }
.draw .rank { color: var(--faint); min-width: 1.2em; margin-right: -12px; }
.draw dl { display: grid; grid-template-columns: minmax(180px, 30%) 1fr; gap: 2px 20px; margin: 0; }
.draw dt, .draw ul { font-size: 14px; } .draw dt { padding-top: 3px; } .draw dd { margin: 0; min-width: 0; }
.draw ul { list-style: none; padding: 0; margin: 4px 0 0; display: flex; flex-wrap: wrap; gap: 2px 26px; }
.tokens { font-size: 15px; line-height: 1.8; white-space: pre-wrap; }
.tok { font-size: 15px; border-radius: 3px; padding: 2px 0; color: var(--s-ink); white-space: pre-wrap; box-shadow: inset -1px 0 var(--card);
  -webkit-print-color-adjust: exact; print-color-adjust: exact; }
.legend .tok { padding: 2px 10px; }
.s0 { background: var(--s0); } .s1 { background: var(--s1); } .s2 { background: var(--s2); }
.s3 { background: var(--s3); } .s4 { background: var(--s4); } .s5 { background: var(--s5); }
details { margin: 12px 0 0; } summary { cursor: pointer; color: var(--blue); }
@media (max-width: 640px) {
  header, main { padding: 0 12px; } header { padding-top: 18px; } h1 { font-size: 24px; }
  section, .row-head { padding: 14px 14px; margin: 12px 0; border-radius: 8px; }
  .program { font-size: 13px; } .tiles { gap: 8px 24px; } .tiles dd { font-size: 18px; }
  .bar { width: 64px; min-width: 64px; } .stacks, .stacks tbody { display: block; } .stacks thead { display: none; }
  .stacks tr { display: flex; flex-wrap: wrap; align-items: baseline; gap: 2px 16px; padding: 8px 0; border-bottom: 1px solid var(--line); }
  .stacks tr:last-child { border: 0; } .stacks td, .stacks td:last-child { border: 0; padding: 0; width: auto; }
  .stacks td:empty { display: none; } .stacks .bar { margin: 0; } .stacks td:has(.words), .terms td:nth-child(2) { width: 100%; }
  .stacks td[data-label]:not(:first-child):not(:empty):not(:has(svg, code, b))::before, .terms td:first-child::before { content: attr(data-label) " "; color: var(--faint); font-size: 13px; }
  .stacks .words { display: inline; }
  .terms td:nth-child(2) { width: calc(100% - 5em); }
  .draw dl { grid-template-columns: 1fr; } .draw dd { margin-bottom: 6px; } }
@media print {
  :root { --bg: #fff; --card: #fff; --ink: #000; }
  nav { display: none; } section { border: 0; padding: 0; } body { font-size: 12px; }
  .draw, figure, tr { break-inside: avoid; } .scroll { overflow: visible; } }
"""
