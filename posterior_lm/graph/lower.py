"""From a checked module to the log-reward graph: one term per statement.

`temper` and `plate` disappear as blocks: each statement inside becomes a term of
its own, wrapped in the `Power` and `PlateSum` nodes that stand around it, inside
out. A `condition` is not tempered. `let` is inlined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal as OneOf

from attrs import define, field, frozen

from posterior_lm.graph.build import GraphBuilder
from posterior_lm.graph.graph import GuideSpec, InferSpec, LmSpec, ParamSpec, RewardGraph
from posterior_lm.graph.lower_types import constant_value, latent_options, param_spec
from posterior_lm.graph.nodes import (
    Apply, ChoiceScore, DistScore, Input, Latent, LmScore, Marker, Node, PlateSum, Power,
    RowField, Segments, TermInfo, Test, Total,
)  # fmt: skip
from posterior_lm.lang import ast
from posterior_lm.lang.diagnostics import InternalError

PENDING_OPTIONS = ("pattern", "grammar", "json", "tools")
"""Options of a text latent that have no support yet."""


@frozen
class _Finite:
    """A finite declared type, as `choice(d)`, `uniform()` and `categorical` need it."""

    choices: tuple[str, ...] = ()
    bounds: tuple[int, int] | None = None  # node ids
    lead: str = ""


@define
class _Lowering:
    module: ast.Module
    build: GraphBuilder = field(factory=GraphBuilder)
    names: dict[str, int] = field(factory=dict)
    finite: dict[str, _Finite] = field(factory=dict)
    rows: dict[str, int] = field(factory=dict)
    columns: dict[int, dict[str, _Finite | None]] = field(factory=dict)
    wrappers: list[tuple[OneOf["temper", "plate"], int, int]] = field(factory=list)
    plates: int = 0
    terms: list[int] = field(factory=list)
    infos: list[TermInfo] = field(factory=list)
    guides: dict[str, GuideSpec] = field(factory=dict)
    infer: list[InferSpec] = field(factory=list)
    pending: list = field(factory=list)
    lms: dict[str, LmSpec] = field(factory=dict)
    uses: dict[str, str] = field(factory=dict)
    tables: dict[str, dict[str, _Finite | None]] = field(factory=dict)

    # ------------------------------------------------------------- declarations

    def run(self) -> RewardGraph:
        for declaration in self.module.declarations:
            match declaration:
                case ast.LmDecl():
                    self.lms[declaration.name.id] = _lm_spec(declaration)
                case ast.UseDecl():
                    self.uses[declaration.name.id] = str(declaration.target.value)
        program = self.module.program
        params = tuple(self.param(p) for p in program.params)
        self.body(program.body)
        total = self.build.add(
            Total(inputs=tuple(self.terms), terms=tuple(self.infos), span=program.span)
        )
        return RewardGraph(
            name=program.name.id,
            nodes=self.build.nodes,
            total=total,
            params=params,
            lms=tuple(self.lms.values()),
            guides=self.guides,
            infer=tuple(self.infer),
            uses=tuple(self.uses.items()),
            pending=tuple(self.pending),
        )

    def param(self, param: ast.Param) -> ParamSpec:
        name = param.name.id
        self.names[name] = self.build.add(Input(name=name, span=param.span))
        spec = param_spec(param)
        if spec.type == "table":
            self.tables[name] = {c.name: self._finite_spec(c) for c in spec.columns}
        else:
            finite = self._finite_spec(spec)
            if finite is not None:
                self.finite[name] = finite
        return spec

    def _finite_spec(self, spec: ParamSpec) -> _Finite | None:
        if spec.type == "one_of":
            return _Finite(choices=spec.choices)
        if spec.type == "int" and spec.low is not None and spec.high is not None:
            bounds = (self.build.constant(spec.low), self.build.constant(spec.high))
            return _Finite(bounds=bounds, lead=spec.lead)
        return None

    # ------------------------------------------------------------- statements

    def body(self, statements: tuple[ast.Statement, ...]) -> None:
        for statement in statements:
            self.statement(statement)

    def statement(self, statement: ast.Statement) -> None:
        match statement:
            case ast.Latent():
                self.latent(statement)
            case ast.Observe(value=value, dist=dist):
                term = self.score(value, dist)
                self.term("observe", _about(value), term, statement)
            case ast.Factor(value=value):
                self.term("factor", _about(value), self.value(value), statement)
            case ast.Condition(value=value):
                test = self.build.add(Test(inputs=(self.value(value),), span=statement.span))
                self.term("condition", _about(value), test, statement, tempered=False)
            case ast.Temper(exponent=exponent, body=body):
                self.wrappers.append(("temper", self.value(exponent), 0))
                self.body(body)
                self.wrappers.pop()
            case ast.Plate():
                self.plate(statement)
            case ast.Let(name=name, value=value):
                self.names[name.id] = self.value(value)
                if isinstance(value, ast.Name) and value.id in self.finite:
                    self.finite[name.id] = self.finite[value.id]
            case ast.Guide(name=name, dist=dist):
                self.guide(name, dist, statement)
            case ast.Infer(method=method):
                options = tuple((o.name, constant_value(o.value)) for o in method.options)
                self.infer.append(InferSpec(method.function.id, options, statement.span))
            case _:
                raise InternalError(f"cannot lower {type(statement).__name__}")

    def term(
        self, keyword: str, about: str, node: int, statement: ast.Statement, *, tempered: bool = True
    ) -> None:
        for kind, first, plate in reversed(self.wrappers):
            if kind == "plate":
                node = self.build.add(PlateSum(plate=plate, inputs=(first, node), span=statement.span))
            elif tempered:
                node = self.build.add(Power(inputs=(first, node), span=statement.span))
        self.terms.append(node)
        self.infos.append(TermInfo(keyword, about, statement.span))

    def latent(self, statement: ast.Latent) -> None:
        name, declared = statement.name.id, statement.type
        for option in declared.options:
            if option.name in PENDING_OPTIONS:
                self.pending.append((f"`{option.name}=`", option.span))
        names, inputs = latent_options(declared, self.value)
        choices = tuple(str(constant_value(a)) for a in declared.args) if declared.name == "one_of" else ()
        plates = tuple(p for kind, _, p in self.wrappers if kind == "plate")
        node = self.build.add(
            Latent(
                name=name,
                type=declared.name,
                options=names,
                inputs=inputs,
                choices=choices,
                lm=self._speller(statement.dist),
                plates=plates,
                span=statement.name.span,
            )
        )
        self.names[name] = node
        lead = next((constant_value(o.value) for o in declared.options if o.name == "lead"), "")
        if choices:
            self.finite[name] = _Finite(choices=choices)
        elif declared.name == "int":
            bounds = tuple(inputs[names.index(end)] for end in ("low", "high"))
            self.finite[name] = _Finite(bounds=(bounds[0], bounds[1]), lead=str(lead))
        self.term("latent", name, self.score(statement.name, statement.dist), statement)

    def _speller(self, dist: ast.Expr) -> str | None:
        """The model whose tokens spell a latent: its own distribution's, else the first declared."""
        while isinstance(dist, ast.PowerExpr):
            dist = dist.base
        if isinstance(dist, ast.Call) and dist.function.id == "choice" and dist.args:
            return self._speller(dist.args[0])
        if isinstance(dist, ast.Call) and self._is_lm(dist.function.id):
            return dist.function.id
        return next(iter(self.lms), None)

    def plate(self, statement: ast.Plate) -> None:
        table, row, plate = self.value(statement.table), statement.row.id, self.plates
        self.plates += 1
        assert isinstance(statement.table, ast.Name)
        self.columns[plate] = self.tables.get(statement.table.id, {})
        outer = (dict(self.names), dict(self.finite), dict(self.rows))
        self.names.pop(row, None)
        self.rows[row] = plate
        self.wrappers.append(("plate", table, plate))
        self.body(statement.body)
        self.wrappers.pop()
        self.names, self.finite, self.rows = outer

    def guide(self, name: ast.Name, dist: ast.Expr, statement: ast.Guide) -> None:
        while isinstance(dist, ast.PowerExpr):
            dist = dist.base
        assert isinstance(dist, ast.Call)
        if not self._is_lm(dist.function.id):
            raise InternalError("a guide reads a language model")
        context = self.build.segments([self.value(a) for a in dist.args], dist.span)
        reads = tuple(sorted(_names_in(dist)))
        self.guides[name.id] = GuideSpec(dist.function.id, context, reads, statement.span)

    # ------------------------------------------------------------- scores

    def _is_lm(self, name: str) -> bool:
        if name in self.uses and name not in self.lms:
            self.lms[name] = LmSpec(name, self.uses[name], "use")
        return name in self.lms

    def score(self, value: ast.Expr, dist: ast.Expr) -> int:
        """The node of log dist(value), in nats."""
        if isinstance(dist, ast.PowerExpr):
            exponent, term = self.value(dist.exponent), self.score(value, dist.base)
            return self.build.add(Power(inputs=(exponent, term), span=dist.span))
        if not isinstance(dist, ast.Call):
            raise InternalError(f"not a distribution: {type(dist).__name__}")
        name, span = dist.function.id, dist.span
        if self._is_lm(name):
            context = self.build.segments([self.value(a) for a in dist.args], span)
            text = self.build.segments([self.value(value)], value.span)
            return self.build.add(LmScore(lm=name, inputs=(context, text), span=span))
        finite = self._finite_of(value)
        if name == "choice":
            inner = dist.args[0]
            if not isinstance(inner, ast.Call) or not self._is_lm(inner.function.id) or finite is None:
                raise InternalError("choice(d) needs a language model and a finite type")
            context = self.build.segments([self.value(a) for a in inner.args], span)
            inputs = (context, self.value(value), *(finite.bounds or ()))
            return self.build.add(
                ChoiceScore(
                    lm=inner.function.id, inputs=inputs, choices=finite.choices, lead=finite.lead, span=span
                )
            )
        args = [self.value(a, listed=True) for a in dist.args]
        bounds = finite.bounds if finite is not None and finite.bounds is not None else ()
        return self.build.add(
            DistScore(
                dist=name,
                inputs=(self.value(value), *args, *bounds),
                choices=finite.choices if finite is not None else (),
                bounded=bool(bounds),
                span=span,
            )
        )

    def _finite_of(self, value: ast.Expr) -> _Finite | None:
        match value:
            case ast.Name(id=name):
                return self.finite.get(name)
            case ast.Field(row=row, column=column):
                return self.columns[self.rows[row.id]].get(column)
            case ast.ListExpr(items=(item,)):
                return self._finite_of(item)
        return None

    # ------------------------------------------------------------- expressions

    def value(self, expr: ast.Expr, *, listed: bool = False) -> int:
        """The node of an expression; with `listed`, a list is items rather than segments."""
        add, span = self.build.add, expr.span
        match expr:
            case ast.Literal(value=value):
                return self.build.constant(value, span)
            case ast.Name(id=name):
                node = self.names[name]
                if listed and isinstance(found := self.build.nodes[node], Segments):
                    return add(Apply(op="list", inputs=found.inputs, span=span))
                return node
            case ast.Field(row=row, column=column):
                return add(RowField(plate=self.rows[row.id], column=column, span=span))
            case ast.Marker(kind=kind):
                return add(Marker(kind=kind, span=span))
            case ast.ListExpr(items=items):
                nodes = [self.value(i) for i in items]
                if listed:
                    return add(Apply(op="list", inputs=tuple(nodes), span=span))
                return self.build.segments(nodes, span)
            case ast.Unary(op=op, operand=operand):
                return add(Apply(op=f"unary {op}", inputs=(self.value(operand),), span=span))
            case ast.Binary(op=op, left=left, right=right):
                return add(Apply(op=op, inputs=(self.value(left), self.value(right)), span=span))
            case ast.IfExpr(test=test, then=then, orelse=orelse):
                inputs = (self.value(test), self.value(then), self.value(orelse))
                return add(Apply(op="if", inputs=inputs, span=span))
            case ast.Call(function=function, args=args):
                if function.id == "log_prob":
                    return self.score(args[0], args[1])
                op = f"use {self.uses[function.id]}" if function.id in self.uses else function.id
                return add(Apply(op=op, inputs=tuple(self.value(a) for a in args), span=span))
        raise InternalError(f"cannot lower {type(expr).__name__}")


def _lm_spec(declaration: ast.LmDecl) -> LmSpec:
    model, span = declaration.model, declaration.span
    if isinstance(model, ast.Literal):
        return LmSpec(declaration.name.id, str(model.value), span=span)
    options = tuple((o.name, constant_value(o.value)) for o in model.options)
    return LmSpec(declaration.name.id, str(constant_value(model.args[0])), model.function.id, options, span)


def _about(value: ast.Expr) -> str:
    """A short name for a statement in tables: the source text of what it scores."""
    text = value.id if isinstance(value, ast.Name) else " ".join(value.span.text.split())
    return text if len(text) <= 40 else text[:37] + "..."


def _names_in(node: object) -> set[str]:
    """Every name an expression mentions."""
    found: set[str] = set()
    stack: list[object] = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, ast.Name):
            found.add(item.id)
        elif isinstance(item, ast.Node):
            stack.extend(getattr(item, a.name) for a in item.__attrs_attrs__ if a.name != "span")
        elif isinstance(item, tuple):
            stack.extend(item)
    return found


Lower = Callable[[ast.Module], RewardGraph]


def lower(module: ast.Module) -> RewardGraph:
    """The graph of a module that `lang.check` found no error in."""
    return _Lowering(module).run()


__all__ = ["Node", "lower"]
