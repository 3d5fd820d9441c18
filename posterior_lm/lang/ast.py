"""The surface language as frozen nodes with spans, and ways through their tree.

Spans are left out of equality, so `parse(format(tree)) == tree` is a meaningful
law. Nothing here knows what a name refers to; `check` finds that out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import attrs
from attrs import field, frozen

from posterior_lm.lang.source import NOWHERE, Span


@frozen(kw_only=True)
class Node:
    span: Span = field(default=NOWHERE, eq=False, repr=False)


# ---------------------------------------------------------------- expressions


@frozen
class Literal(Node):
    """A string, integer, real or boolean; `raw` marks r"…" so that it prints back."""

    value: str | int | float | bool
    raw: bool = False


@frozen
class Name(Node):
    id: str


@frozen
class Field(Node):
    """`row.column` inside a plate."""

    row: Name
    column: str


@frozen
class Marker(Node):
    """The segment `bos` or `eos`: the model's own begin- or end-of-text token."""

    kind: str  # "bos" | "eos"


@frozen
class ListExpr(Node):
    """`[a, b]`: segments that are joined, or the items of `categorical([...])`."""

    items: tuple[Expr, ...]


@frozen
class Option(Node):
    """`name=value` inside a call or a type."""

    name: str
    value: Expr | Range


@frozen
class Call(Node):
    """`f(a, b, k=v)`: a function, a distribution or a declared language model."""

    function: Name
    args: tuple[Expr, ...] = ()
    options: tuple[Option, ...] = ()


@frozen
class Role(Node):
    """`user("…", x)`: a message in the context of a language model."""

    role: str  # a name in `signatures.ROLES`
    args: tuple[Expr, ...] = ()


@frozen
class PowerExpr(Node):
    """`d ^ b`."""

    base: Expr
    exponent: Expr


@frozen
class Unary(Node):
    op: str  # "-" | "not"
    operand: Expr


@frozen
class Binary(Node):
    op: str  # + - * / == != < <= > >= and or
    left: Expr
    right: Expr


@frozen
class IfExpr(Node):
    """`if test then a else b`."""

    test: Expr
    then: Expr
    orelse: Expr


@frozen
class Range(Node):
    """`low..high`, both ends included; only inside options and `int(low..high)`."""

    low: Expr
    high: Expr


Expr = Literal | Name | Field | Marker | ListExpr | Call | Role | PowerExpr | Unary | Binary | IfExpr


# ---------------------------------------------------------------- types


@frozen
class Column(Node):
    name: Name
    type: TypeExpr


@frozen
class TypeExpr(Node):
    """`text(tokens=1..25)`, `int(0..9, lead=" ")`, `one_of("a", "b")`, `table(input: text)`, `real`, `bool`.

    `args` holds the range of an `int` (one `Range`) or the choices of a `one_of`
    (literals); `columns` those of a `table`, or the fields of a `record` and the literals between them.
    """

    name: str
    args: tuple[Expr | Range, ...] = ()
    options: tuple[Option, ...] = ()
    columns: tuple[Column | Expr, ...] = ()

    @staticmethod
    def is_column(name: str, part: Node) -> bool:
        """Whether what stands in the parentheses of a type is one of its `columns`."""
        return isinstance(part, Column) or (name == "record" and isinstance(part, Literal))

    @classmethod
    def of_call(cls, call: Call) -> TypeExpr:
        """The type of a list's items, which is read as a call."""
        name = call.function.id
        columns = tuple(part for part in call.args if cls.is_column(name, part))
        args = tuple(part for part in call.args if not cls.is_column(name, part))
        return cls(name, args, call.options, columns, span=call.span)

    @property
    def fields(self) -> tuple[Column, ...]:
        return tuple(part for part in self.columns if isinstance(part, Column))


# ---------------------------------------------------------------- statements


@frozen
class Latent(Node):
    name: Name
    type: TypeExpr
    dist: Expr


@frozen
class Observe(Node):
    value: Expr
    dist: Expr


@frozen
class Prefer(Node):
    """`prefer a over b ~ bradley_terry(score, beta)`: the items, the best first; `it` in the score is each of them."""

    items: tuple[Expr, ...]
    dist: Expr


@frozen
class Factor(Node):
    value: Expr


@frozen
class Condition(Node):
    value: Expr


@frozen
class Temper(Node):
    exponent: Expr
    body: tuple[Statement, ...] = ()


@frozen
class Plate(Node):
    row: Name
    table: Expr  # a Name in a legal program
    body: tuple[Statement, ...] = ()


@frozen
class If(Node):
    """`if test { … }`: the statements inside exist where the test is true."""

    test: Expr
    body: tuple[Statement, ...] = ()


@frozen
class Else(Node):
    """`else { … }`, right behind an `if` block: where its test is false."""

    body: tuple[Statement, ...] = ()


@frozen
class Let(Node):
    name: Name
    value: Expr


@frozen
class Guide(Node):
    name: Name
    dist: Expr


@frozen
class Infer(Node):
    """`infer smc(particles=64)`: defaults of a backend."""

    method: Call


Statement = Latent | Observe | Prefer | Factor | Condition | Temper | Plate | If | Else | Let | Guide | Infer
Block = Temper | Plate | If | Else


# ---------------------------------------------------------------- declarations


@frozen
class LmDecl(Node):
    """`lm base = "tiny"` or `lm base = transformers("gpt2", dtype="bfloat16")`."""

    name: Name
    model: Literal | Call


@frozen
class ToolDecl(Node):
    name: Name
    tool: Call


@frozen
class UseDecl(Node):
    """`use name from "module:function"`."""

    name: Name
    target: Literal


Declaration = LmDecl | ToolDecl | UseDecl


@frozen
class Param(Node):
    name: Name
    type: TypeExpr
    default: Expr | None = None


@frozen
class Program(Node):
    name: Name
    params: tuple[Param, ...]
    body: tuple[Statement, ...]


@frozen
class Comment(Node):
    """A `#` comment; `span` says where, `text` includes the `#`."""

    text: str


@frozen
class Module(Node):
    """One file: declarations, one program, and the comments between them.

    `broken` is empty unless the text has syntax errors: the names that were
    declared in what had to be skipped, so that later checks do not call them
    unknown.
    """

    declarations: tuple[Declaration, ...]
    program: Program
    comments: tuple[Comment, ...] = field(default=(), eq=False)
    broken: frozenset[str] = field(default=frozenset(), eq=False)


# ---------------------------------------------------------------- ways through a tree, without recursion


@cache
def _fields(kind: type[Node]) -> tuple[str, ...]:
    """The fields that may hold nodes, the last one first."""
    plain = {"str", "int", "float", "bool", "None"}
    found = [f.name for f in attrs.fields(kind) if not set(re.findall(r"\w+", str(f.type))) <= plain]
    return tuple(name for name in reversed(found) if name not in ("span", "comments", "broken"))


def nodes(root: object) -> Iterator[Node]:
    """Every node of a tree, parents first, in the order of the text."""
    stack = [root]
    while stack:
        item = stack.pop()
        if isinstance(item, Node):
            yield item
            stack += [getattr(item, name) for name in _fields(type(item))]  # type: ignore[arg-type]
        elif isinstance(item, tuple):
            stack += item[::-1]


def changed(part: Any, change: Callable[[Node], Node]) -> Any:
    """The same tree with what `change` makes of each node, the parts of a node first."""
    if isinstance(part, tuple):
        return tuple(changed(one, change) for one in part)
    if not isinstance(part, Node):
        return part
    made = {name: changed(getattr(part, name), change) for name in _fields(type(part))}  # type: ignore[arg-type]
    return change(attrs.evolve(part, **made))


def names(root: object) -> Iterator[Name]:
    """Every name that an expression or type uses as a value, in the order of the text.

    Functions and distributions that are called are left out, as are shares; rows of a plate are in.
    """
    called: set[int] = set()
    for node in nodes(root):
        if isinstance(node, Call):
            called.add(id(node.function))
        elif isinstance(node, Column):
            called.add(id(node.name))
        elif isinstance(node, TypeExpr) and node.name == "shares":
            called.update(map(id, node.args))  # they are read as `name.share`
        elif isinstance(node, Name) and id(node) not in called:
            yield node


def statements(body: tuple[Statement, ...]) -> Iterator[Statement]:
    """Every statement of a body, those inside blocks after their head."""
    stack = list(reversed(body))
    while stack:
        statement = stack.pop()
        yield statement
        if isinstance(statement, Block):
            stack.extend(reversed(statement.body))
