"""From a checked module to the log-reward graph: one term per statement.

`temper` and `plate` disappear as blocks: each statement inside becomes a term of
its own, wrapped in the `Power` and `PlateSum` nodes that stand around it, inside
out. A `condition` is not tempered. `let` is inlined.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal as OneOf

from attrs import define, field

from posterior_lm.graph.beside import FILE_OPTIONS, text_beside
from posterior_lm.graph.graph import GuideSpec, InferSpec, LmSpec, ParamSpec, RewardGraph, UseSpec
from posterior_lm.graph.lower_expr import Scope
from posterior_lm.graph.lower_tools import tool_spec, tools_of
from posterior_lm.graph.nodes import Input, Latent, PlateSum, Power, TermInfo, Test, Total
from posterior_lm.lang import ast
from posterior_lm.lang.diagnostics import InternalError
from posterior_lm.lang.near import shortened
from posterior_lm.lang.source import Span
from posterior_lm.lang.typed import CheckedModule, Type
from posterior_lm.lang.walk import nodes
from posterior_lm.tools.base import ToolSpec


@define
class _Lowering(Scope):
    """The statements of one program, in order; `wrappers` are the blocks around the current one."""

    base: Path | None = field(kw_only=True, default=None)
    wrappers: list[tuple[OneOf["temper", "plate"], int, int]] = field(factory=list)
    terms: list[int] = field(factory=list)
    infos: list[TermInfo] = field(factory=list)
    guides: dict[str, GuideSpec] = field(factory=dict)
    infer: list[InferSpec] = field(factory=list)
    tools: dict[str, ToolSpec] = field(factory=dict)

    # ------------------------------------------------------------- declarations

    def run(self) -> RewardGraph:
        for declaration in self.checked.module.declarations:
            name, span = declaration.name.id, declaration.span
            match declaration:
                case ast.LmDecl(model=ast.Literal(value=model)):
                    self.lms[name] = LmSpec(name, str(model), span=span)
                case ast.LmDecl(model=ast.Call(function=kind, args=(ast.Literal(value=model),)) as call):
                    self.lms[name] = LmSpec(name, str(model), kind.id, self.constants(call), span)
                case ast.UseDecl(target=target):
                    self.uses[name] = UseSpec(name, str(target.value), span)
                case ast.ToolDecl(tool=call):
                    options = dict(self.constants(call))
                    self.tools[name] = tool_spec(name, call, options, self.uses, self.base)
                case _:
                    raise InternalError(f"cannot lower the declaration of {name}")
        program = self.checked.module.program
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
        )

    def constants(self, call: ast.Call) -> tuple[tuple[str, object], ...]:
        """The options of a declaration or method."""
        return tuple((o.name, self.checked.constant(o.value)) for o in call.options)

    def param(self, param: ast.Param) -> ParamSpec:
        type_ = self.bound(param.name).type
        assert type_ is not None
        self.name(param.name, self.build.add(Input(name=param.name.id, span=param.span)))
        for declared in (type_, *type_.columns.values()):
            if declared.range is not None:
                low, high = (self.build.constant(end) for end in declared.range)
                self.bounds[declared] = (low, high)
        default = None if param.default is None else self.checked.constant(param.default)
        columns = tuple(_spec(c.name.id, type_.columns[c.name.id], c.span) for c in param.type.columns)
        return _spec(param.name.id, type_, param.span, columns, default, param.default is None)

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
                self.name(name, self.value(value))
            case ast.Guide(name=name, dist=dist):
                self.guide(name, dist, statement)
            case ast.Infer(method=method):
                self.infer.append(InferSpec(method.function.id, self.constants(method), statement.span))
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
        type_ = self.bound(statement.name).type
        assert type_ is not None
        names, inputs = self.options(declared)
        plates = tuple(p for kind, _, p in self.wrappers if kind == "plate")
        node = self.build.add(
            Latent(
                name=name,
                type=declared.name,
                options=names,
                inputs=inputs,
                choices=type_.choices,
                lm=self.model(self.checked.spellers[name]),
                plates=plates,
                tools=tools_of(declared, self.tools),
                spans=(("type", declared.span), *((o.name, o.value.span) for o in declared.options)),
                span=statement.name.span,
            )
        )
        self.name(statement.name, node)
        if "low" in names:
            self.bounds[type_] = (inputs[names.index("low")], inputs[names.index("high")])
        self.term("latent", name, self.score(statement.name, statement.dist), statement)

    def options(self, declared: ast.TypeExpr) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Names and input nodes of a latent's options, ranges split into their two ends, files read.

        Raises CompileError (PLM336) for a file of a grammar or schema that cannot be read.
        """
        parts: list[tuple[str, ast.Expr]] = []
        for arg in declared.args:
            if isinstance(arg, ast.Range):
                parts += [("low", arg.low), ("high", arg.high)]
        if not parts and (ends := self.checked.type(declared).range) is not None:
            parts += [("low", ast.Literal(ends[0])), ("high", ast.Literal(ends[1]))]
        for option in sorted(declared.options, key=lambda o: o.name):
            name, value = option.name, option.value
            if isinstance(value, ast.Range):
                parts += [(f"{name}_low", value.low), (f"{name}_high", value.high)]
            elif name in FILE_OPTIONS and isinstance(value, ast.Literal):
                parts.append((name, text_beside(value, self.base)))
            elif name != "tools":
                parts.append((name, value))
        return tuple(name for name, _ in parts), tuple(self.value(part) for _, part in parts)

    def plate(self, statement: ast.Plate) -> None:
        table, plate = self.value(statement.table), len(self.plates)
        row = self.checked.binding(statement.row)
        assert row is not None
        self.plates[row] = plate
        self.wrappers.append(("plate", table, plate))
        self.body(statement.body)
        self.wrappers.pop()

    def guide(self, name: ast.Name, dist: ast.Expr, statement: ast.Guide) -> None:
        call = self.checked.dist(dist).lm
        if call is None or (lm := self.model(call.function.id)) is None:
            raise InternalError("a guide reads a language model")
        context = self.build.segments([self.value(a) for a in call.args], call.span)
        reads = tuple(sorted({n.id for n in nodes(call) if isinstance(n, ast.Name)}))
        self.guides[name.id] = GuideSpec(lm, context, reads, statement.span)


def _spec(
    name: str,
    type_: Type,
    span: Span,
    columns: tuple[ParamSpec, ...] = (),
    default: object = None,
    required: bool = True,
) -> ParamSpec:
    """A parameter or column as the data binder sees it."""
    low, high = type_.range or (None, None)
    options = sorted((option, value) for option, value in type_.options.items() if option != "lead")
    lead = str(type_.options.get("lead", ""))
    return ParamSpec(
        name, type_.name, type_.choices, low, high, lead, tuple(options), columns, default, required, span
    )


def _about(value: ast.Expr) -> str:
    """A short name for a statement in tables: the source text of what it scores."""
    text = value.id if isinstance(value, ast.Name) else " ".join(value.span.text.split())
    return shortened(text, 40)


def lower(checked: CheckedModule, base: Path | None = None) -> RewardGraph:
    """The graph of a module without errors.

    Paths of grammars and schemas start at the folder of the program's file, else at
    `base`. Raises CompileError (PLM336) where one cannot be read.
    """
    return _Lowering(checked, base=base).run()
