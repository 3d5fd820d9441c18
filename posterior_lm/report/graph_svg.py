"""The picture of a graph as inline SVG, from top to bottom, with a legend.

Boxes are placed in layers (Sugiyama, Tagawa and Toda 1981), in four steps. A box's layer is one
below the lowest it reads; sources move down to their readers; an arrow over several layers bends at
a place of its own in each; places in a layer are ordered by the mean place of their neighbours,
which takes out most crossings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from attrs import frozen

from posterior_lm.graph.dump import text
from posterior_lm.graph.graph import RewardGraph
from posterior_lm.report.markup import Html, el, join
from posterior_lm.report.picture import Box, Picture, picture

WIDTH, HEIGHT = 212.0, 50.0
GAP = (16.0, 38.0)
MARGIN = 10.0
LETTERS = 30
"""Letters of detail that fit into a box at 10.5 px in a fixed-width font of 0.6 em."""
SHRINK = 0.78
"""Of the drawing's own size, at least: the detail is then at 8.2 px."""

KINDS = (
    ("parameter", "given"),
    ("latent", "latent"),
    ("term", "term of the log reward"),
    ("score", "part of a term"),
    ("guide", "guide: proposes, changes nothing"),
)


def graph_view(graph: RewardGraph) -> Html:
    """The drawing, its legend, and the whole graph as text to open."""
    shown = picture(graph)
    kinds = {box.kind for box in shown.boxes}
    legend = [el("li", _swatch(kind), " ", words) for kind, words in KINDS if kind in kinds]
    return join(
        [
            el("div", graph_svg(shown, f"Graph of {graph.name}"), class_="scroll", tabindex="0"),
            el("ul", *legend, class_="legend"),
            el(
                "details",
                el("summary", "Every node, as text"),
                el("pre", text(graph), class_="plain", tabindex="0"),
            ),
        ]
    )


def graph_rule(graph: RewardGraph) -> str:
    """The style rule that lets the drawing shrink to a page, but never so far that it cannot be read."""
    width = _plan(picture(graph)).width + 2 * MARGIN
    return f".graph {{ min-width: {SHRINK * width:.0f}px; }}\n"


def graph_svg(shown: Picture, title: str) -> Html:
    """Boxes of one size and curved arrows; guides come first in the order, since they propose a latent."""
    plan = _plan(shown)
    arrows = [_arrow(plan, a, b, dashed) for a, b, dashed in shown.arrows]
    boxes = [_box(box, *plan.place[box.id]) for box in shown.boxes]
    width, height = plan.width + 2 * MARGIN, plan.height + 2 * MARGIN
    head = el("path", d="M0,0 L8,4 L0,8 z", class_="head")
    marker = el("marker", head, id="arrow", viewBox="0 0 8 8", refX="7", refY="4", markerWidth="7",
                markerHeight="7", orient="auto")  # fmt: skip
    return el(
        "svg",
        el("title", title),
        el("defs", marker),
        *arrows,
        *boxes,
        class_="graph",
        role="img",
        width=f"{width:.0f}",
        height=f"{height:.0f}",
        viewBox=f"{-MARGIN:g} {-MARGIN:g} {width:g} {height:g}",
    )


def _plan(shown: Picture) -> Layout:
    arrows = [(a, b) for a, b, _ in shown.arrows]
    return layout(_order(shown), arrows, box=(WIDTH, HEIGHT), gap=GAP)


def _order(shown: Picture) -> list[str]:
    """An order in which arrows go forward, guides included."""
    waiting = [box.id for box in shown.boxes]
    done: list[str] = []
    while waiting:
        ready = [n for n in waiting if all(a in done for a, b, _ in shown.arrows if b == n)]
        # A guide that reads the latent it proposes would go round; there is none.
        done += ready[:1] or waiting[:1]
        waiting.remove(done[-1])
    return done


def _box(box: Box, x: float, y: float) -> Html:
    """A rectangle with its heading above its detail; the whole of both on hover."""
    lines = [el("text", clipped(box.heading), x=x, y=y - 5 if box.detail else y + 4, class_="heading")]
    if box.detail:
        lines.append(el("text", clipped(box.detail), x=x, y=y + 12, class_="detail"))
    where = "" if box.line is None else f"  (line {box.line})"
    return el(
        "g",
        el("title", f"{box.heading}  {box.detail}{where}"),
        el("rect", x=x - WIDTH / 2, y=y - HEIGHT / 2, width=WIDTH, height=HEIGHT,
           rx=HEIGHT / 2 if box.kind == "latent" else 6),
        *lines,
        class_=f"box {box.kind}",
    )  # fmt: skip


def clipped(text: str, most: int = LETTERS) -> str:
    """The text on one line, cut in its middle where it is too long: both ends tell most."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    end = most // 3
    return text[: most - 1 - end] + "\u2026" + text[-end:]


def _arrow(plan: Layout, start: str, end: str, dashed: bool) -> Html:
    """A curve from the bottom of one box to the top of another, through its bends."""
    (x, y), (x1, y1) = plan.place[start], plan.place[end]
    # Beside the boxes of a layer an arrow runs straight down, so that it touches none.
    knees = [(bx, by + side * HEIGHT / 2) for bx, by in plan.bends[start, end] for side in (-1, 1)]
    points = [(x, y + HEIGHT / 2), *knees, (x1, y1 - HEIGHT / 2)]
    path = f"M{points[0][0]:g},{points[0][1]:g}"
    for (ax, ay), (bx, by) in pairwise(points):
        middle = (ay + by) / 2
        path += f" V{by:g}" if ax == bx else f" C{ax:g},{middle:g} {bx:g},{middle:g} {bx:g},{by:g}"
    return el("path", d=path, class_="arrow dashed" if dashed else "arrow", marker_end="url(#arrow)")


def _swatch(kind: str) -> Html:
    mark = el("rect", x="1", y="1", width="22", height="12", rx="6" if kind == "latent" else "3")
    return el(
        "svg",
        el("g", mark, class_=f"box {kind}"),
        width="24",
        height="14",
        viewBox="0 0 24 14",
        aria_hidden="true",
    )


# ---- layers

SWEEPS = 12
"""Passes down and up over the order; drawings of a page's size settle in fewer."""


@frozen
class Layout:
    """`place` has the (x, y) of the middle of each box; `bends` the points that an arrow passes."""

    place: Mapping[str, tuple[float, float]]
    bends: Mapping[tuple[str, str], tuple[tuple[float, float], ...]]
    width: float
    height: float


def layout(
    nodes: Sequence[str],
    arrows: Sequence[tuple[str, str]],
    *,
    box: tuple[float, float],
    gap: tuple[float, float],
) -> Layout:
    """Boxes of one size; `nodes` come in an order in which every arrow goes forward. Raises ValueError else."""
    layer = _layers(nodes, arrows)
    rows: list[list[str]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for node in nodes:
        rows[layer[node]].append(node)
    above: dict[str, list[str]] = {node: [] for node in nodes}
    chains: dict[tuple[str, str], list[str]] = {}
    for start, end in arrows:
        chain = [start]
        for k in range(layer[start] + 1, layer[end]):
            knee = f"{start}>{end}@{k}"
            rows[k].append(knee)
            above[knee] = [chain[-1]]
            chain.append(knee)
        above[end].append(chain[-1])
        chains[start, end] = chain[1:]
    below: dict[str, list[str]] = {node: [] for node in above}
    for node, sources in above.items():
        for source in sources:
            below[source].append(node)
    wide = {node: box[0] if node in layer else 12.0 for node in above}
    x = _settle(rows, above, below, wide, gap[0])
    y = {node: box[1] / 2 + k * (box[1] + gap[1]) for k, row in enumerate(rows) for node in row}
    left = min((x[n] - wide[n] / 2 for n in x), default=0.0)
    right = max((x[n] + wide[n] / 2 for n in x), default=0.0)
    at = {node: (round(x[node] - left, 1), round(y[node], 1)) for node in x}
    return Layout(
        {node: at[node] for node in nodes},
        {arrow: tuple(at[knee] for knee in chain) for arrow, chain in chains.items()},
        round(right - left, 1),
        max(0.0, len(rows) * (box[1] + gap[1]) - gap[1]),
    )


def _layers(nodes: Sequence[str], arrows: Sequence[tuple[str, str]]) -> dict[str, int]:
    """The longest way from a source; sources without a source stand right above their first reader."""
    position = {node: k for k, node in enumerate(nodes)}
    if any(position[a] >= position[b] for a, b in arrows):
        raise ValueError("an arrow goes backward")
    layer = dict.fromkeys(nodes, 0)
    for node in nodes:
        layer[node] = max((layer[a] + 1 for a, b in arrows if b == node), default=0)
    targets = {b for _, b in arrows}
    for node in nodes:
        readers = [layer[b] for a, b in arrows if a == node]
        if node not in targets and readers:
            layer[node] = min(readers) - 1
    return layer


def _settle(
    rows: list[list[str]],
    above: Mapping[str, list[str]],
    below: Mapping[str, list[str]],
    wide: Mapping[str, float],
    gap: float,
) -> dict[str, float]:
    """The x of every place: rows are sorted by the mean x of their neighbours, then pushed apart."""
    x: dict[str, float] = {}
    for row in rows:
        _spread(row, {node: 0.0 for node in row}, x, wide, gap)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        sides = above if down else below
        for row in rows if down else rows[::-1]:
            wish = {n: _mean([x[m] for m in sides[n]], x[n]) for n in row}
            row.sort(key=lambda n: (wish[n], x[n]))
            _spread(row, wish, x, wide, gap)
    return x


def _spread(
    row: Sequence[str], wish: Mapping[str, float], x: dict[str, float], wide: Mapping[str, float], gap: float
) -> None:
    """The places of a row as near to what they wish for as they can without touching, by merging blocks."""
    blocks: list[tuple[float, float, list[tuple[str, float]]]] = []  # sum of starts, count, (node, offset)
    for node in row:
        start, members = wish[node] - wide[node] / 2, [(node, wide[node] / 2)]
        block = (start, 1.0, members)
        while (
            blocks and blocks[-1][0] / blocks[-1][1] + _length(blocks[-1][2], wide, gap) > block[0] / block[1]
        ):
            total, count, before = blocks.pop()
            shift = _length(before, wide, gap)
            moved = [(n, offset + shift) for n, offset in block[2]]
            block = (total + block[0] - shift * block[1], count + block[1], before + moved)
        blocks.append(block)
    for total, count, members in blocks:
        for node, offset in members:
            x[node] = total / count + offset


def _length(members: Sequence[tuple[str, float]], wide: Mapping[str, float], gap: float) -> float:
    node, offset = members[-1]
    return offset + wide[node] / 2 + gap


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default
