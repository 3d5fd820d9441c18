"""What the checker knows of an expression: its kind, and what it depends on."""

from __future__ import annotations

from attrs import field, frozen

from posterior_lm.lang import ast
from posterior_lm.lang.source import Span

KIND_NAMES = {
    "text": "text",
    "int": "an int",
    "real": "a real",
    "number": "a number",
    "bool": "a truth value",
    "list": "a list",
    "marker": "a special token",
    "table": "a table",
    "row": "a row",
    "lm": "a language model",
    "tool": "a tool",
    "function": "a function",
    "distribution": "a distribution",
    "unknown": "unknown",
}


@frozen
class Value:
    """An expression's kind and the latents that it reads, directly or through lets.

    `choices` are the spellings of a one_of, `numeric` says that every item of a
    list is a number, `length` is a list's number of items, `constant` the value
    of a literal, `special` says that it holds `bos` or `eos`.
    """

    kind: str
    depends: frozenset[str] = frozenset()
    choices: tuple[str, ...] | None = None
    numeric: bool = False
    length: int | None = None
    constant: str | int | float | bool | None = None
    special: bool = False

    @property
    def is_number(self) -> bool:
        return self.kind in ("int", "real", "unknown")

    @property
    def is_text(self) -> bool:
        return self.kind in ("text", "unknown")

    @property
    def is_bool(self) -> bool:
        return self.kind in ("bool", "unknown")

    @property
    def is_segment(self) -> bool:
        return self.kind in ("text", "int", "real", "list", "marker", "unknown")

    @property
    def shown(self) -> str:
        return KIND_NAMES[self.kind]


UNKNOWN = Value("unknown")


@frozen
class Binding:
    """A name in scope: how it was made, where, and what it stands for."""

    name: str
    sort: str  # "parameter" | "latent" | "let" | "row" | "lm" | "tool" | "use"
    span: Span
    value: Value
    type: ast.TypeExpr | None = None
    columns: dict[str, ast.TypeExpr] = field(factory=dict, eq=False)
    block: int = 0  # the plate it lives in; 0 is the program itself
    order: int = 0  # latents count from 1 in the order they are drawn


def value_of_type(type_: ast.TypeExpr, depends: frozenset[str] = frozenset()) -> Value:
    """The value of a parameter, column or latent of a declared type."""
    if type_.name == "one_of":
        choices = tuple(
            a.value for a in type_.args if isinstance(a, ast.Literal) and isinstance(a.value, str)
        )
        return Value("text", depends, choices=choices)
    kind = type_.name if type_.name in ("text", "int", "real", "bool", "table") else "unknown"
    return Value(kind, depends)


def finite_size(type_: ast.TypeExpr | None) -> int | None:
    """How many values a type lists one by one, where that can be read off; else None."""
    if type_ is None:
        return None
    if type_.name == "one_of":
        return len(type_.args)
    if type_.name == "int" and type_.args and isinstance(type_.args[0], ast.Range):
        low, high = constant(type_.args[0].low), constant(type_.args[0].high)
        if isinstance(low, int) and isinstance(high, int):
            return max(0, high - low + 1)
    return None


def is_finite(type_: ast.TypeExpr | None) -> bool:
    """Whether a type lists its values: one_of(…) and int(a..b)."""
    return type_ is not None and (type_.name == "one_of" or (type_.name == "int" and bool(type_.args)))


def constant(expr: ast.Expr | ast.Range | None) -> str | int | float | bool | None:
    """The value of a literal, a negated one, or integer arithmetic on them; else None."""
    if isinstance(expr, ast.Literal):
        return expr.value
    if isinstance(expr, ast.Unary) and expr.op == "-":
        inner = constant(expr.operand)
        if isinstance(inner, (int, float)) and not isinstance(inner, bool):
            return -inner
    if isinstance(expr, ast.Binary) and expr.op in ("+", "-", "*"):
        left, right = constant(expr.left), constant(expr.right)
        if _plain_number(left) and _plain_number(right):
            assert isinstance(left, (int, float)) and isinstance(right, (int, float))
            return {"+": left + right, "-": left - right, "*": left * right}[expr.op]
    return None


def _plain_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
