"""The picture of a graph as inline SVG, from top to bottom, with a legend."""

from __future__ import annotations

from itertools import pairwise

from posterior_lm.graph.graph import RewardGraph
from posterior_lm.page.layers import Layout, layout
from posterior_lm.page.markup import Html, el, join
from posterior_lm.page.picture import Box, Picture, picture

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
    from posterior_lm.graph.dump import text

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
        # A guide that reads the latent it proposes would go round; the checker allows none.
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
