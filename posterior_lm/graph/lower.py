"""From a checked module to the log-reward graph: one term per statement.

`temper` and `plate` disappear as blocks: each statement inside becomes a term of
its own, wrapped in the `Power` and `PlateSum` nodes that stand around it, inside
out. A `condition` is not tempered. `let` is inlined.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal as OneOf

from attrs import define, field

from posterior_lm.graph.graph import GuideSpec, InferSpec, LmSpec, ParamSpec, RewardGraph, UseSpec
from posterior_lm.graph.lower_expr import Finite, Scope
from posterior_lm.graph.lower_tools import tool_spec, tools_of
from posterior_lm.graph.lower_types import constant_value, latent_options, param_spec
from posterior_lm.graph.nodes import Input, Latent, PlateSum, Power, TermInfo, Test, Total
from posterior_lm.lang import ast
from posterior_lm.lang.compose import walk
from posterior_lm.lang.diagnostics import InternalError
from posterior_lm.lang.source import Span
from posterior_lm.tools.base import ToolSpec


@define
class _Lowering(Scope):
    """The statements of one program, in order; `wrappers` are the blocks around the current one."""

    module: ast.Module = field(kw_only=True)
    base: Path | None = field(kw_only=True, default=None)
    wrappers: list[tuple[OneOf["temper", "plate"], int, int]] = field(factory=list)
    plates: int = 0
    terms: list[int] = field(factory=list)
    infos: list[TermInfo] = field(factory=list)
    guides: dict[str, GuideSpec] = field(factory=dict)
    infer: list[InferSpec] = field(factory=list)
    pending: list[tuple[str, Span]] = field(factory=list)
    tables: dict[str, dict[str, Finite | None]] = field(factory=dict)
    tools: dict[str, ToolSpec] = field(factory=dict)

    # ------------------------------------------------------------- declarations

    def run(self) -> RewardGraph:
        for declaration in self.module.declarations:
            match declaration:
                case ast.LmDecl():
                    self.lms[declaration.name.id] = _lm_spec(declaration)
                case ast.UseDecl():
                    name = declaration.name.id
                    self.uses[name] = UseSpec(name, str(declaration.target.value), declaration.span)
                case ast.ToolDecl():
                    self.tools[declaration.name.id] = tool_spec(declaration, self.uses, self.base)
        program = self.module.program
        params = tuple(self.param(p) for p in program.params)
        self.body(program.body)
        total = self.build.add(Total(inputs=tuple(self.terms), terms=tuple(self.infos), span=program.span))
        return RewardGraph(
            name=program.name.id,
            nodes=self.build.nodes,
            total=total,
            params=params,
            lms=tuple(self.lms.values()),
            guides=self.guides,
            infer=tuple(self.infer),
            uses=tuple(self.uses.values()),
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

    def _finite_spec(self, spec: ParamSpec) -> Finite | None:
        if spec.type == "one_of":
            return Finite(choices=spec.choices)
        if spec.type == "int" and spec.low is not None and spec.high is not None:
            bounds = (self.build.constant(spec.low), self.build.constant(spec.high))
            return Finite(bounds=bounds, lead=spec.lead)
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
        names, inputs = latent_options(declared, self.value, self.base)
        choices = tuple(str(constant_value(a)) for a in declared.args) if declared.name == "one_of" else ()
        plates = tuple(p for kind, _, p in self.wrappers if kind == "plate")
        node = self.build.add(
            Latent(
                name=name,
                type=declared.name,
                options=names,
                inputs=inputs,
                choices=choices,
                lm=self._speller(name, statement.dist),
                plates=plates,
                tools=tools_of(declared, self.tools),
                spans=(("type", declared.span), *((o.name, o.value.span) for o in declared.options)),
                span=statement.name.span,
            )
        )
        self.names[name] = node
        lead = next((constant_value(o.value) for o in declared.options if o.name == "lead"), "")
        if choices:
            self.finite[name] = Finite(choices=choices)
        elif declared.name == "int":
            bounds = tuple(inputs[names.index(end)] for end in ("low", "high"))
            self.finite[name] = Finite(bounds=(bounds[0], bounds[1]), lead=str(lead))
        self.term("latent", name, self.score(statement.name, statement.dist), statement)

    def _speller(self, name: str, dist: ast.Expr) -> str | None:
        """The model whose tokens spell a latent: that of its distribution, else of its guide, else none.

        A value of a finite type that no model draws needs no tokens of its own; where
        a context holds it, each model spells it for itself.
        """
        while isinstance(dist, ast.PowerExpr):
            dist = dist.base
        if isinstance(dist, ast.Call) and dist.function.id == "choice" and dist.args:
            return self._speller(name, dist.args[0])
        if isinstance(dist, ast.Call) and self.is_lm(dist.function.id):
            return dist.function.id
        for statement, _ in walk(self.module.program.body):
            if isinstance(statement, ast.Guide) and statement.name.id == name:
                return self._speller("", statement.dist)
        return None

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
        if not self.is_lm(dist.function.id):
            raise InternalError("a guide reads a language model")
        context = self.build.segments([self.value(a) for a in dist.args], dist.span)
        reads = tuple(sorted(_names_in(dist)))
        self.guides[name.id] = GuideSpec(dist.function.id, context, reads, statement.span)


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


def lower(module: ast.Module, base: Path | None = None) -> RewardGraph:
    """The graph of a module that `lang.check` found no error in.

    Paths of grammars and schemas start at the folder of the program's file, else at
    `base`. Raises CompileError (PLM336) where one cannot be read.
    """
    return _Lowering(module=module, base=base).run()
