"""Where the boxes of a layered drawing stand (Sugiyama, Tagawa & Toda 1981), in four steps.

A box's layer is one below the lowest it reads; sources move down to their readers; an
arrow over several layers bends at a place of its own in each; places in a layer are
ordered by the mean place of their neighbours, which takes out most crossings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen

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
