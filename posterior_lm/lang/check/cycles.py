"""Latents and lets that depend on one another in a circle."""

from __future__ import annotations

from posterior_lm.lang import ast
from posterior_lm.lang.check.scope import Scope
from posterior_lm.lang.source import Span
from posterior_lm.lang.walk import names, statements

_SHOWN = 6  # members of a circle that a message names


def report_cycles(scope: Scope, program: ast.Program) -> None:
    """One diagnostic per circle; `scope.cyclic` keeps their names from being reported again."""
    made: dict[str, ast.Name] = {}
    reads: dict[str, dict[str, Span]] = {}
    for statement in statements(program.body):
        if isinstance(statement, ast.Latent):
            parts: object = (statement.type, statement.dist)
        elif isinstance(statement, ast.Let):
            parts = statement.value
        else:
            continue
        name = statement.name
        if name.id in made or not name.id:
            continue
        made[name.id] = name
        uses: dict[str, Span] = {}
        for used in names(parts):
            uses.setdefault(used.id, used.span)
        reads[name.id] = uses
    graph = {name: [used for used in uses if used in made] for name, uses in reads.items()}
    for circle in _circles(graph):
        _report(scope, circle, made, reads)
    scope.cyclic = frozenset(scope.cyclic)


def _report(
    scope: Scope, circle: list[str], made: dict[str, ast.Name], reads: dict[str, dict[str, Span]]
) -> None:
    scope.cyclic |= set(circle)
    if len(circle) == 1:
        name = circle[0]
        scope.error(
            "PLM403",
            f"'{name}' depends on itself",
            reads[name][name],
            "used in its own definition",
            secondary=[(made[name].span, "defined here")],
            help="read a value that is drawn before it",
        )
        return
    members = set(circle)
    circle = sorted(circle, key=lambda name: made[name].span.start)
    uses = []
    for name in circle[:_SHOWN]:
        other = next(used for used in reads[name] if used in members)
        uses.append((reads[name][other], f"'{name}' reads '{other}'"))
    quoted = [f"'{name}'" for name in circle]
    if len(quoted) > _SHOWN:
        quoted = [*quoted[:_SHOWN], f"{len(circle) - _SHOWN} more"]
    scope.error(
        "PLM402",
        f"{', '.join(quoted[:-1])} and {quoted[-1]} depend on one another",
        uses[0][0],
        uses[0][1],
        secondary=uses[1:],
        help="write one of the readings as an observe or a factor after all are drawn",
    )


def _circles(graph: dict[str, list[str]]) -> list[list[str]]:
    """Strongly connected components with an edge inside (Tarjan 1972), without recursion."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    on_stack: set[str] = set()
    stack: list[str] = []
    found: list[list[str]] = []
    for root in graph:
        if root in index:
            continue
        work = [(root, iter(graph[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, edges = work[-1]
            for other in edges:
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, iter(graph[other])))
                    break
                if other in on_stack:
                    low[node] = min(low[node], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = []
                    while True:
                        member = stack.pop()
                        on_stack.discard(member)
                        component.append(member)
                        if member == node:
                            break
                    if len(component) > 1 or node in graph[node]:
                        found.append(component)
    return found
