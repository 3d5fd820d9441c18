"""Expressions and scores as nodes, in the scope in which they stand."""

from __future__ import annotations

from attrs import define, field, frozen

from posterior_lm.graph.build import GraphBuilder
from posterior_lm.graph.graph import LmSpec, UseSpec
from posterior_lm.graph.nodes import (
    Apply,
    ChoiceScore,
    DistScore,
    Latent,
    LmScore,
    Marker,
    Power,
    RowField,
    Segments,
)
from posterior_lm.lang import ast
from posterior_lm.lang.diagnostics import InternalError


@frozen
class Finite:
    """A finite declared type, as `choice(d)`, `uniform()` and `categorical` need it."""

    choices: tuple[str, ...] = ()
    bounds: tuple[int, int] | None = None  # node ids
    lead: str = ""


@define
class Scope:
    """What names mean at one place of a program, and the builder that holds the nodes."""

    build: GraphBuilder = field(factory=GraphBuilder)
    names: dict[str, int] = field(factory=dict)
    """Parameters, latents and lets by node."""
    finite: dict[str, Finite] = field(factory=dict)
    """Those of a finite type."""
    rows: dict[str, int] = field(factory=dict)
    """Row variables by plate."""
    columns: dict[int, dict[str, Finite | None]] = field(factory=dict)
    """The finite types of each plate's columns."""
    lms: dict[str, LmSpec] = field(factory=dict)
    uses: dict[str, UseSpec] = field(factory=dict)

    # ------------------------------------------------------------- scores

    def is_lm(self, name: str) -> bool:
        if name in self.uses and name not in self.lms:
            use = self.uses[name]
            self.lms[name] = LmSpec(name, use.where, "use", span=use.span)
        return name in self.lms

    def score(self, value: ast.Expr, dist: ast.Expr) -> int:
        """The node of log dist(value), in nats."""
        if isinstance(dist, ast.PowerExpr):
            exponent, term = self.value(dist.exponent), self.score(value, dist.base)
            return self.build.add(Power(inputs=(exponent, term), span=dist.span))
        if not isinstance(dist, ast.Call):
            raise InternalError(f"not a distribution: {type(dist).__name__}")
        name, span = dist.function.id, dist.span
        if self.is_lm(name):
            context = self.build.segments([self.value(a) for a in dist.args], span)
            scored = self.value(value)
            bare = isinstance(self.build.nodes[scored], Latent)  # `[z]` and `["", z]` are lists, not a latent
            text = self.build.segments([scored], value.span)
            return self.build.add(LmScore(lm=name, bare=bare, inputs=(context, text), span=span))
        finite = self._finite_of(value)
        if name == "choice":
            return self._choice(dist, value, finite)
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

    def _choice(self, dist: ast.Call, value: ast.Expr, finite: Finite | None) -> int:
        """`choice(d)`: powers inside are of the model, before it is renormalised."""
        inner, power, span = dist.args[0], None, dist.span
        while isinstance(inner, ast.PowerExpr):
            one = self.value(inner.exponent)
            power = one if power is None else self.build.add(Apply(op="*", inputs=(one, power), span=span))
            inner = inner.base
        if not isinstance(inner, ast.Call) or not self.is_lm(inner.function.id) or finite is None:
            raise InternalError("choice(d) needs a language model and a finite type")
        context = self.build.segments([self.value(a) for a in inner.args], span)
        inputs = (context, self.value(value), *(finite.bounds or ()), *(() if power is None else (power,)))
        return self.build.add(
            ChoiceScore(
                lm=inner.function.id,
                inputs=inputs,
                choices=finite.choices,
                lead=finite.lead,
                powered=power is not None,
                span=span,
            )
        )

    def _finite_of(self, value: ast.Expr) -> Finite | None:
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
                op = f"use {self.uses[function.id].where}" if function.id in self.uses else function.id
                return add(Apply(op=op, inputs=tuple(self.value(a) for a in args), span=span))
        raise InternalError(f"cannot lower {type(expr).__name__}")
