"""Going through a tree without recursion."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import attrs

from posterior_lm.lang import ast


@cache
def _fields(kind: type[ast.Node]) -> tuple[str, ...]:
    return tuple(f.name for f in attrs.fields(kind) if f.name not in ("span", "comments", "broken"))


def nodes(root: object) -> Iterator[ast.Node]:
    """Every node of a tree, parents first, in the order of the text."""
    stack = [root]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            stack.extend(reversed(item))
        elif isinstance(item, ast.Node):
            yield item
            stack.extend(reversed([getattr(item, name) for name in _fields(type(item))]))  # type: ignore[arg-type]


def names(root: object) -> Iterator[ast.Name]:
    """Every name that an expression or type uses as a value, in the order of the text.

    Functions and distributions that are called are left out; rows of a plate are in.
    """
    called: set[int] = set()
    for node in nodes(root):
        if isinstance(node, ast.Call):
            called.add(id(node.function))
        elif isinstance(node, ast.Column):
            called.add(id(node.name))
        elif isinstance(node, ast.Name) and id(node) not in called:
            yield node


def statements(body: tuple[ast.Statement, ...]) -> Iterator[ast.Statement]:
    """Every statement of a body, those inside plates and tempers after their head."""
    stack = list(reversed(body))
    while stack:
        statement = stack.pop()
        yield statement
        if isinstance(statement, (ast.Plate, ast.Temper)):
            stack.extend(reversed(statement.body))
