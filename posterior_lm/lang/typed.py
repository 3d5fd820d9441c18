"""The typed tree: what the checker found out about every expression, type and name of a module.

Findings are kept by the identity of the syntax node that they are about. Lowering, warnings
and whoever shows a program read them here; nothing derives a kind, a constant, a dependence
or a speller again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import takewhile

from attrs import evolve, field, frozen

from posterior_lm.lang import ast
from posterior_lm.lang.diagnostics import CompileError, Diagnostic
from posterior_lm.lang.source import Span
from posterior_lm.lang.value_types import ValueType, value_type
from posterior_lm.lang.values import FiniteSpec, finite_spec

Constant = str | int | float | bool | tuple[float, float]
"""What is known before data are: a value, or both ends of a range."""

KIND_NAMES = {
    "text": "text",
    "int": "an int",
    "real": "a real",
    "number": "a number",
    "bool": "a truth value",
    "list": "a list",
    "record": "a record",
    "shares": "shares",
    "marker": "a special token",
    "table": "a table",
    "row": "a row",
    "lm": "a language model",
    "masked": "a masked language model",
    "tool": "a tool",
    "function": "a function",
    "distribution": "a distribution",
    "unknown": "unknown",
}

SPELLED = frozenset(("text", "list", "record", "marker"))
"""The kinds that are texts, or made of such."""


@frozen
class Value:
    """An expression's kind, its constant, and the parameters, latents and rows that it reads.

    What is read through lets and through the table of a row counts. `constant` is known
    before data are, and `written` where literals alone spell it, not a let. `choices` are
    those of a type that lists strings, `numeric` says that every item of a list is a number,
    `special` that it holds `bos` or `eos`.
    """

    kind: str
    depends: frozenset[Binding] = frozenset()
    choices: tuple[str | bool, ...] | None = None
    numeric: bool = False
    constant: Constant | None = None
    written: bool = True
    special: bool = False

    @property
    def latents(self) -> list[str]:
        """The names of the latents that it reads, sorted."""
        return sorted({binding.name for binding in self.depends if binding.sort == "latent"})

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
        return self.kind in SPELLED or self.is_number

    @property
    def shown(self) -> str:
        return KIND_NAMES[self.kind]


UNKNOWN = Value("unknown")


@frozen
class Dist:
    """What stands where a distribution has to.

    `sort` is "lm", "masked", the name of a built-in, or "unknown", as that of an imported function is;
    `call` is what is raised to powers, where `tempered`, or stands alone; `lm` the call of a
    language model in it, itself or inside choice(…). What is put together of other distributions
    ("mixture", "branch" or "product") has them as `parts`, and no call of its own; `lm` is then the first of theirs.
    """

    sort: str
    depends: frozenset[Binding] = frozenset()
    tempered: bool = False
    call: ast.Call | None = None
    lm: ast.Call | None = None
    parts: tuple[Dist, ...] = ()

    @property
    def leaves(self) -> tuple[Dist, ...]:
        """What it is put together of, down to what is called."""
        return tuple(leaf for part in self.parts for leaf in part.leaves) or (self,)

    @property
    def model(self) -> str | None:
        """The alias of the language model that scores."""
        return self.lm.function.id if self.lm is not None else None


@frozen(eq=False)
class Type:
    """A declared type with the values of its options; a range is both of its ends.

    An option that data decide, and one that names tools, has no constant: None. `range` holds
    the ends of numbers, and `finite` the values that a type lists, where they can be read off.
    """

    at: ast.TypeExpr
    choices: tuple[str | bool, ...] = ()
    range: tuple[float, float] | None = None
    options: Mapping[str, Constant | None] = field(factory=dict)
    columns: Mapping[str, Type] = field(factory=dict)
    item: Type | None = None
    """Of a list; `places` are its fewest and its most items."""
    places: tuple[int, int] | None = None

    @cached_property
    def begins(self) -> Type | None:
        """What stands where a list may end, of its items' type: an item, a record's first field, or its known beginning."""
        if self.known.takes != "fields":
            return self
        known = list(takewhile(lambda part: isinstance(part, ast.Literal), self.at.columns))
        opening = "".join(str(part.value) for part in known if isinstance(part, ast.Literal))
        if not opening:
            return next(iter(self.columns.values()), None)
        literal = ast.Literal(opening, span=known[0].span)
        return Type(ast.TypeExpr("one_of", (literal,), span=literal.span), choices=(opening,))

    @property
    def name(self) -> str:
        return self.at.name

    @property
    def known(self) -> ValueType:
        return value_type(self.name)

    @property
    def span(self) -> Span:
        return self.at.span

    @property
    def is_finite(self) -> bool:
        """Whether it lists its values, as a number does with a range."""
        return self.known.finite and (self.known.takes != "range" or bool(self.at.args))

    @property
    def is_written(self) -> bool:
        """Whether everything in it is known before data are."""
        ranged = self.known.takes != "range" or self.range is not None
        return ranged and None not in self.options.values()

    @property
    def finite(self) -> FiniteSpec | None:
        low, high = self.range or (None, None)
        return finite_spec(self.choices, low, high, self.options.get("lead"), self.options.get("grid"))

    @property
    def value(self) -> Value:
        """The value of a parameter, column or latent of this type."""
        return Value(self.known.kind, choices=self.choices or None, numeric=self.known.takes == "names")


@frozen(eq=False)
class Binding:
    """A name: how it was made and where, and what it stands for."""

    at: ast.Name
    sort: str  # "parameter" | "latent" | "let" | "it" | "row" | "lm" | "tool" | "use"
    value: Value
    type: Type | None = None
    """Of a parameter or latent; of a row, that of its table."""
    definition: ast.Expr | None = None
    """Of a let."""
    block: int = 0
    """The plate it lives in; 0 is the program itself."""
    order: int = 0
    """Latents count from 1 in the order they are drawn."""
    deep: bool = False
    """Of a row: whether it is an item of a list of some depth."""

    @property
    def name(self) -> str:
        return self.at.id

    @property
    def span(self) -> Span:
        return self.at.span

    @cached_property
    def read(self) -> Value:
        """The value of an expression that names it."""
        if self.sort in ("let", "it", "use"):
            return self.value
        return evolve(self.value, depends=self.value.depends | {self})

    @property
    def columns(self) -> Mapping[str, Type]:
        return {} if self.type is None else (self.type.item or self.type).columns

    @property
    def has_fields(self) -> bool:
        """Whether its parts are read as `name.part`: a row of a table, a record, a list of such, or shares."""
        if self.type is None:
            return self.sort == "row"
        parted = ("fields", "names", *["columns"] * (self.sort == "row"))
        return (self.type.item or self.type).known.takes in parted


@frozen
class Findings:
    """What was found, by `id` of the node that it is about."""

    values: dict[int, Value] = field(factory=dict)
    dists: dict[int, Dist] = field(factory=dict)
    types: dict[int, Type] = field(factory=dict)
    bindings: dict[int, Binding] = field(factory=dict)
    pools: dict[int, tuple[Binding, ...]] = field(factory=dict)


_EMPTY = ast.Module((), ast.Program(ast.Name(""), (), ()))


@frozen(eq=False)
class CheckedModule:
    """A module and everything that is known about it.

    `diagnostics` are in order of position. What had an error has no findings, or those of
    something unknown. `spellers` says of each latent which model's tokens spell it: that of its
    distribution, else of its guide, else none, since a value of a finite type that no model
    draws needs no tokens of its own. `used` are the names that something reads.
    """

    module: ast.Module = _EMPTY
    diagnostics: tuple[Diagnostic, ...] = ()
    used: frozenset[str] = frozenset()
    spellers: Mapping[str, str | None] = field(factory=dict)
    _found: Findings = field(factory=Findings, repr=False)

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        return tuple(d for d in self.diagnostics if d.severity == "error")

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        return tuple(d for d in self.diagnostics if d.severity == "warning")

    def without_errors(self) -> CheckedModule:
        """The module itself. Raises CompileError with every error that it has."""
        if errors := self.errors:
            raise CompileError(errors)
        return self

    def value(self, expr: ast.Expr | ast.Range) -> Value:
        """The kind of an expression, its constant and what it reads."""
        return self._found.values.get(id(expr), UNKNOWN)

    def constant(self, expr: ast.Expr | ast.Range) -> Constant | None:
        """The value that an expression has whatever the data are; None where it has none."""
        return self.value(expr).constant

    def dist(self, expr: ast.Expr) -> Dist:
        """What stands where a distribution has to."""
        return self._found.dists.get(id(expr), Dist("unknown"))

    def type(self, declared: ast.TypeExpr) -> Type:
        """A declared type."""
        return self._found.types[id(declared)]

    def has_type(self, declared: ast.TypeExpr) -> bool:
        """Whether it stands where a type may: what is wrong there was said, and it was not looked into."""
        return id(declared) in self._found.types

    def binding(self, name: ast.Node) -> Binding | None:
        """What a name stands for, where it is declared and where it is used; None of a built-in and of no name."""
        return self._found.bindings.get(id(name))

    def pooled(self, call: ast.Call) -> tuple[Binding, ...]:
        """The rows of the plates that a call goes over, outermost first; none where it is of one row."""
        return self._found.pools.get(id(call), ())

    def depends_on(self, expr: ast.Expr) -> frozenset[str]:
        """The parameters, latents and rows that an expression or distribution reads, through lets too."""
        dist = self._found.dists.get(id(expr))
        return frozenset(b.name for b in (self.value(expr) if dist is None else dist).depends)

    def declared(self, expr: ast.Expr) -> Type | None:
        """The declared type of a parameter or latent, or of a column, also by the name of a let."""
        if isinstance(expr, ast.Field):
            row = self.binding(expr.row)
            return None if row is None else row.columns.get(expr.column)
        binding = self.binding(expr)
        if binding is not None and isinstance(binding.definition, ast.Name | ast.Field):
            return self.declared(binding.definition)
        return None if binding is None else binding.type


def joined(*parts: Value | Dist) -> frozenset[Binding]:
    """What any of them reads."""
    return frozenset[Binding]().union(*(part.depends for part in parts))
