"""Conditions at check time: what no value satisfies, and when each is tested (`plm check -v`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from posterior_lm.cli.output import table
from posterior_lm.lang import ast
from posterior_lm.lang.near import shortened
from posterior_lm.lang.walk import statements

if TYPE_CHECKING:
    from posterior_lm.graph.conditions import Conjunct
    from posterior_lm.graph.graph import RewardGraph
    from posterior_lm.lang.diagnostics import Diagnostic
    from posterior_lm.lang.typed import CheckedModule

WIDEST = 40
"""Characters of a condition that are shown."""


@frozen
class Row:
    """A part of a condition and what it is for one latent that it reads."""

    line: int
    condition: str
    latent: str | None
    kind: str
    why: str

    def to_json(self, file: str) -> dict[str, object]:
        return {
            "file": file,
            "line": self.line,
            "condition": self.condition,
            "latent": self.latent,
            "kind": self.kind,
            "why": self.why,
        }


def check_conditions(checked: CheckedModule) -> list[Diagnostic]:
    """PLM340 for finite latents, for a module without errors; texts need a tokenizer and wait for one."""
    body = list(statements(checked.module.program.body))
    finite = any(isinstance(s, ast.Latent) and checked.type(s.type).is_finite for s in body)
    if not finite or not any(isinstance(s, ast.Condition) for s in body):
        return []  # the graph takes a tenth of a second to import
    from posterior_lm.graph import lower, optimize
    from posterior_lm.target.impossible import impossible

    return impossible(optimize(lower(checked)))


def rows(checked: CheckedModule) -> list[Row]:
    """One row per part of a condition and latent, for a module without errors.

    A part that reads no latent is `known`: it is settled when data is bound.
    """
    from posterior_lm.graph import lower, optimize
    from posterior_lm.graph.conditions import conjuncts

    graph = optimize(lower(checked))
    found = []
    for part in conjuncts(graph):
        line, text = part.statement.line, _text(graph, part)
        if not part.readings:
            found.append(Row(line, text, None, "known", "no latent changes it"))
        for reading in part.readings:
            found.append(Row(line, text, reading.latent, reading.kind, reading.why))
    return found


def _text(graph: RewardGraph, part: Conjunct) -> str:
    text = " ".join(graph[part.node].span.text.split())
    return f"not {text}" if part.negated else text


def lines(name: str, found: list[Row]) -> list[str]:
    """The rows as an aligned table under the name of their program."""
    if not found:
        return [f"{name}: no conditions"]
    cells = [[str(r.line), shortened(r.condition, WIDEST), r.latent or "-", r.kind, r.why] for r in found]
    head = ("line", "condition", "latent", "kind", "why")
    return [name, *table(head, cells, (True, False, False, False, False))]
