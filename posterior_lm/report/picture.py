"""What is drawn of a log-reward graph: its parameters, latents, scores and terms, and what reads what.

The graph has a node for every constant and every piece of text. A picture of all of
them cannot be read, so expressions are written into the boxes that read them, close to
how the language writes them.
"""

from __future__ import annotations

from attrs import frozen

from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.nodes import (
    Apply,
    Carried,
    ChoiceScore,
    Constant,
    DistScore,
    Input,
    Latent,
    LmScore,
    Marker,
    Mix,
    Node,
    PlateSum,
    Pool,
    Power,
    Previous,
    Role,
    RowField,
    Running,
    Segments,
    Sum,
    Test,
    Total,
)


@frozen
class Box:
    """One box: its node's id (None for a guide), a heading, a line of detail, the whole detail for a tooltip.

    `kind` is parameter, latent, score, term, total or guide; `line` is that of its statement.
    """

    id: str
    kind: str
    heading: str
    detail: str = ""
    line: int | None = None


@frozen
class Picture:
    """Boxes and arrows between their ids; a dashed arrow is a proposal, not a part of the log reward."""

    boxes: tuple[Box, ...]
    arrows: tuple[tuple[str, str, bool], ...]


def picture(graph: RewardGraph) -> Picture:
    """The boxes of a graph in an order in which arrows go forward."""
    terms: dict[int, list[int]] = {}
    for k, i in enumerate(graph.sink.inputs):
        terms.setdefault(i, []).append(k)
    boxes: list[Box] = []
    arrows: list[tuple[str, str, bool]] = []
    drawn = {i for i, node in graph.nodes.items() if _has_box(node) or i in terms}
    drawn -= _folded(graph, drawn, set(terms))
    for i in graph.order():
        if i not in drawn:
            continue
        boxes.append(_box(graph, i, terms.get(i, []), drawn))
        arrows += [(f"n{j}", f"n{i}", False) for j in sorted(_sources(graph, i, drawn))]
    for name, guide in sorted(graph.guides.items()):
        box = Box(f"g-{name}", "guide", f"guide {name}", f"{guide.lm}({spelled(graph, guide.context)})")
        boxes.append(box)
        readers = _sources(graph, guide.context, drawn) | ({guide.context} & drawn)
        proposed = {i for i, latent in graph.latents() if latent.name == name and i in drawn}
        # A masked model is told where the latent stands, which is no reading of it.
        arrows += [(f"n{j}", box.id, True) for j in sorted(readers - proposed)]
        arrows += [(box.id, f"n{i}", True) for i in sorted(proposed)]
    return Picture(tuple(boxes), tuple(arrows))


def _has_box(node: Node) -> bool:
    return isinstance(
        node, Input | Latent | LmScore | ChoiceScore | DistScore | Test | Power | Mix | PlateSum | Sum | Total
    )


def _folded(graph: RewardGraph, drawn: set[int], terms: set[int]) -> set[int]:
    """Scores and powers that one other node reads, and that can be written into its box.

    What a plate sums keeps its own box, since it stands there once and counts for every row.
    """
    readers: dict[int, list[int]] = {}
    for i, node in graph.nodes.items():
        for j in node.inputs:
            readers.setdefault(j, []).append(i)
    return {
        i
        for i in drawn
        if isinstance(graph[i], LmScore | ChoiceScore | DistScore | Power | Mix | Sum)
        and i not in terms
        and len(readers.get(i, [])) == 1
        and not isinstance(graph[readers[i][0]], PlateSum)
    }


def _sources(graph: RewardGraph, i: int, drawn: set[int]) -> set[int]:
    """The boxes that a node reads, through what has none."""
    found: set[int] = set()
    node = graph[i]
    inputs = node.inputs
    if isinstance(node, RowField):  # a column comes from the table that its plate runs over
        plates = (n for n in graph.nodes.values() if isinstance(n, PlateSum | Pool) and n.plate == node.plate)
        inputs = tuple({n.inputs[0] for n in plates})
    for j in inputs:
        found |= {j} if j in drawn else _sources(graph, j, drawn)
    return found


def _box(graph: RewardGraph, i: int, terms: list[int], drawn: set[int]) -> Box:
    node, infos = graph[i], [graph.sink.terms[k] for k in terms]
    line = infos[0].span.line if infos and infos[0].span.source.text else None
    statement = " + ".join(info.keyword + f" {info.about}" * (info.keyword == "latent") for info in infos)
    kind = "term" if infos else "score"
    match node:
        case Input(name=name):
            return Box(f"n{i}", "parameter", name)
        case Latent(name=name, type=of):
            return Box(f"n{i}", "latent", f"{name}: {of}", _options(graph, node))
        case Total():
            return Box(f"n{i}", "total", "log reward", "the sum of the terms")
        case Test():
            return Box(
                f"n{i}",
                kind,
                f"{statement or 'test'}: 0 or \u2212\u221e",
                spelled(graph, node.inputs[0]),
                line,
            )
        case Power():
            return Box(f"n{i}", kind, statement or "power", _power(graph, i, drawn), line)
        case PlateSum():
            return Box(
                f"n{i}",
                kind,
                statement or "plate",
                f"sum over the rows of {spelled(graph, node.inputs[0])}",
                line,
            )
    return Box(f"n{i}", kind, statement or "score", spelled(graph, i), line)


def _power(graph: RewardGraph, i: int, drawn: set[int]) -> str:
    """A power as text; three dots for what has a box of its own."""
    exponent, inner = graph[i].inputs
    if inner in drawn:
        return f"{spelled(graph, exponent)} \u00d7 \u2026"
    if isinstance(graph[inner], Power):
        return f"{spelled(graph, exponent)} \u00d7 {_power(graph, inner, drawn)}"
    return spelled(graph, i)


def _options(graph: RewardGraph, node: Latent) -> str:
    """What restricts a latent, as the language writes it: ranges with two dots."""
    found = dict(zip(node.options, (spelled(graph, j) for j in node.inputs), strict=True))
    parts = [literal(choice) for choice in node.choices]
    for low, high, name in (("low", "high", ""), ("tokens_low", "tokens_high", "tokens=")):
        if low in found and high in found:
            parts.append(f"{name}{found.pop(low)}..{found.pop(high)}")
    return ", ".join([*parts, *(f"{name}={value}" for name, value in sorted(found.items(), reverse=True))])


# ---- expressions as text


def _messages(graph: RewardGraph, node: Segments, inside: list[str]) -> list[str]:
    """The parts of a text, those of a message in its role's brackets."""
    found: list[str] = []
    parts: dict[int, list[str]] = {}
    for j, part in zip(node.inputs, inside, strict=True):
        match graph[j]:
            case Role(role=role):
                parts[len(found)] = []
                found.append(role)
            case _ if parts:
                parts[len(found) - 1].append(part)
            case _:
                found.append(part)
    return [f"{one}({', '.join(parts[k])})" if k in parts else one for k, one in enumerate(found)]


def spelled(graph: RewardGraph, i: int) -> str:
    """The expression of a node, close to how the language writes it."""
    node = graph[i]
    inside = [spelled(graph, j) for j in node.inputs]
    match node:
        case Input(name=name) | Latent(name=name):
            return name
        case Constant(value=value):
            return literal(value)
        case Marker(kind=kind):
            return kind
        case Role(role=role):
            return role
        case RowField(column=column):
            return f"row.{column}"
        case Segments():
            return ", ".join(_messages(graph, node, inside))
        case LmScore(lm=lm) | ChoiceScore(lm=lm):
            return f"log {lm}({inside[1]} | {inside[0]})" if inside[0] else f"log {lm}({inside[1]})"
        case DistScore(dist=dist, bounded=bounded):
            return f"log {dist}({', '.join(inside[1:-2] if bounded else inside[1:])})({inside[0]})"
        case Apply(op=op):
            if not op[0].isalpha() or op in ("and", "or", "unary -", "unary not"):
                loose = [_is_loose(graph[j]) for j in node.inputs]
                inside = [f"({x})" if wrap else x for x, wrap in zip(inside, loose, strict=True)]
            return _applied(op if node.tool is None else node.tool.name, inside)
        case Power():
            return f"{inside[0]} \u00d7 " + (
                f"({inside[1]})" if _is_loose(graph[node.inputs[1]]) else inside[1]
            )
        case Pool(op=op):
            name = {"+": "sum", "or": "any", "and": "all"}.get(op, op)
            return f"{name} over the rows of {inside[0]} of {inside[1]}"
        case Mix(inputs=(_, _, other)) if graph[other] == Constant(value=0.0):  # a statement of a branch
            return f"{inside[1]} where {inside[0]}"
        case Previous():
            return f"previous({', '.join(inside)})"
        case Running():
            return inside[0]
        case Carried():
            return "itself"
        case Mix():
            return f"log mix({', '.join(inside)})"
        case Sum():
            return " + ".join(inside) or "0"
        case PlateSum():
            return f"sum of {inside[-1]}" if inside else "0"
    return node.KIND


def literal(value: object) -> str:
    """A constant as the language writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return str(value)


def _applied(op: str, inside: list[str]) -> str:
    if op == "list":
        return f"[{', '.join(inside)}]"
    if op == "if":
        return f"if {inside[0]} then {inside[1]} else {inside[2]}"
    if op.startswith("unary "):
        return f"{op[6:]} {inside[0]}" if op[6:].isalpha() else f"{op[6:]}{inside[0]}"
    if len(inside) == 2 and (not op[0].isalpha() or op in ("and", "or")):
        return f"{inside[0]} {op} {inside[1]}"
    return f"{op.removeprefix('use ')}({', '.join(inside)})"


def _is_loose(node: Node) -> bool:
    """Whether an expression needs brackets as a part of another: an infix operator or `if`."""
    if not isinstance(node, Apply):
        return False
    return node.op in ("if", "and", "or") or not node.op[0].isalpha()
