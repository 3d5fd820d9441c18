"""Expressions and scores as nodes, in the scope in which they stand."""

from __future__ import annotations

from attrs import define, field

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
from posterior_lm.lang.typed import Binding, CheckedModule, Type


@define
class Scope:
    """The nodes that names stand for, and the builder that holds them."""

    checked: CheckedModule
    build: GraphBuilder = field(factory=GraphBuilder)
    names: dict[Binding, int] = field(factory=dict)
    """Parameters, latents and lets by node."""
    bounds: dict[Type, tuple[int, int]] = field(factory=dict)
    """The nodes of the ends of the ints."""
    plates: dict[Binding, int] = field(factory=dict)
    """Row variables by plate."""
    lms: dict[str, LmSpec] = field(factory=dict)
    uses: dict[str, UseSpec] = field(factory=dict)

    def name(self, name: ast.Name, node: int) -> None:
        """Says which node a declared name stands for."""
        self.names[self.bound(name)] = node

    def bound(self, name: ast.Name) -> Binding:
        binding = self.checked.binding(name)
        if binding is None:
            raise InternalError(f"cannot lower the name {name.id}")
        return binding

    # ------------------------------------------------------------- scores

    def model(self, name: str | None) -> str | None:
        """The alias of a language model, which may come from Python."""
        if name in self.uses and name not in self.lms:
            use = self.uses[name]
            self.lms[name] = LmSpec(name, use.where, "use", span=use.span)
        return name

    def score(self, value: ast.Expr, dist: ast.Expr) -> int:
        """The node of log dist(value), in nats."""
        if isinstance(dist, ast.PowerExpr):
            exponent, term = self.value(dist.exponent), self.score(value, dist.base)
            return self.build.add(Power(inputs=(exponent, term), span=dist.span))
        if not isinstance(dist, ast.Call):
            raise InternalError(f"not a distribution: {type(dist).__name__}")
        name, span = dist.function.id, dist.span
        if self.checked.dist(dist).lm is dist:
            self.model(name)
            context = self.build.segments([self.value(a) for a in dist.args], span)
            scored = self.value(value)
            bare = isinstance(self.build.nodes[scored], Latent)  # `[z]` and `["", z]` are lists, not a latent
            text = self.build.segments([scored], value.span)
            return self.build.add(LmScore(lm=name, bare=bare, inputs=(context, text), span=span))
        type_ = self.checked.declared(value)
        bounds = () if type_ is None else self.bounds.get(type_, ())
        choices = () if type_ is None else type_.choices
        if name == "choice" and type_ is not None:
            return self._choice(dist, value, type_, bounds)
        args = [self.value(a, listed=True) for a in dist.args]
        return self.build.add(
            DistScore(
                dist=name,
                inputs=(self.value(value), *args, *bounds),
                choices=choices,
                bounded=bool(bounds),
                span=span,
            )
        )

    def _choice(self, dist: ast.Call, value: ast.Expr, type_: Type, bounds: tuple[int, ...]) -> int:
        """`choice(d)`: powers inside are of the model, before it is renormalised."""
        inner, power, span = dist.args[0], None, dist.span
        call = self.checked.dist(dist).lm
        while isinstance(inner, ast.PowerExpr):
            one = self.value(inner.exponent)
            power = one if power is None else self.build.add(Apply(op="*", inputs=(one, power), span=span))
            inner = inner.base
        if call is None or (lm := self.model(call.function.id)) is None:
            raise InternalError("choice(d) needs a language model")
        context = self.build.segments([self.value(a) for a in call.args], span)
        inputs = (context, self.value(value), *bounds, *(() if power is None else (power,)))
        return self.build.add(
            ChoiceScore(
                lm=lm,
                inputs=inputs,
                choices=type_.choices,
                lead=str(type_.options.get("lead", "")),
                powered=power is not None,
                span=span,
            )
        )

    # ------------------------------------------------------------- expressions

    def value(self, expr: ast.Expr, *, listed: bool = False) -> int:
        """The node of an expression; with `listed`, a list is items rather than segments."""
        add, span = self.build.add, expr.span
        match expr:
            case ast.Literal(value=value):
                return self.build.constant(value, span)
            case ast.Name():
                node = self.names[self.bound(expr)]
                if listed and isinstance(found := self.build.nodes[node], Segments):
                    return add(Apply(op="list", inputs=found.inputs, span=span))
                return node
            case ast.Field(row=row, column=column):
                return add(RowField(plate=self.plates[self.bound(row)], column=column, span=span))
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
