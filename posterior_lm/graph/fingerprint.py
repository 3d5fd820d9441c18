"""The identity of a log reward: SHA-256 of its canonical text.

Only what the total reads counts, so `guide` and `infer` cannot change it. Spans
never count. Bound names (latents, lets, plate rows, model aliases, the program's
own name) are replaced by numbers in order of first use; parameters and columns
keep their names, because data is bound to them by name. Which model spells a
latent does not count either: a text's own score names it, and for a finite type
it changes no number.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from posterior_lm.graph.nodes import (
    Apply,
    Carried,
    ChoiceScore,
    Latent,
    LmScore,
    Node,
    PlateSum,
    Pool,
    RowField,
    Running,
)
from posterior_lm.tools import ToolSpec

if TYPE_CHECKING:
    from posterior_lm.graph.graph import RewardGraph

FORMAT = "plm-graph-1"


def canonical(graph: RewardGraph) -> list[list[object]]:
    """The reachable nodes in depth-first order from the total, as plain JSON values."""
    number: dict[int, int] = {}
    lms: dict[str, int] = {}
    plates: dict[int, int] = {}
    running: dict[int, int] = {}
    rows: list[list[object]] = []
    specs = {lm.alias: lm for lm in graph.lms}

    def alias(name: str | None) -> object:
        if name is None:
            return None
        lms.setdefault(name, len(lms))
        spec = specs.get(name)
        shown = None if spec is None else [spec.spec, spec.kind, [list(o) for o in spec.options]]
        return [lms[name], shown]

    def describe(node: Node) -> list[object]:
        match node:
            case Latent():
                inside = [plates.setdefault(p, len(plates)) for p in node.plates]
                tools: list[object] = [[t.identity for t in node.tools]] if node.tools else []
                return [node.type, list(node.options), list(node.choices), inside, *tools]
            case LmScore():
                return [alias(node.lm), node.bare]
            case ChoiceScore():
                return [alias(node.lm), list(node.choices), node.lead, node.powered]
            case RowField():
                return [plates.setdefault(node.plate, len(plates)), node.column]
            case Running(number=own) | Carried(number=own):
                return [running.setdefault(own, len(running))]
            case Pool():
                return [plates.setdefault(node.plate, len(plates)), node.op]
            case Apply(op=op, tool=ToolSpec() as tool):
                return [op, *tool.identity]
            case PlateSum():
                return [plates.setdefault(node.plate, len(plates))]
            case _:
                return [node.detail]

    stack: list[tuple[int, bool]] = [(graph.total, False)]
    while stack:
        identity, ready = stack.pop()
        if identity in number:
            continue
        node = graph[identity]
        if not ready:
            stack.append((identity, True))
            stack.extend((i, False) for i in reversed(node.inputs))
            continue
        number[identity] = len(number)
        rows.append([node.KIND, describe(node), [number[i] for i in node.inputs]])
    used = {row.name for i in number if hasattr(row := graph[i], "name") and row.KIND == "input"}
    signature: list[object] = [
        [
            p.name,
            p.type,
            [c for c in p.choices if isinstance(c, str)],
            [c.name + ":" + c.type for c in p.columns],
        ]
        for p in sorted(graph.params, key=lambda p: p.name)
        if p.name in used
    ]
    return [[FORMAT], signature, *rows]


def fingerprint(graph: RewardGraph) -> str:
    """64 hex digits; equal exactly where the canonical texts agree."""
    text = json.dumps(canonical(graph), ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
