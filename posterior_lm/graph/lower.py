"""From a checked module to the log-reward graph: one term per statement.

`temper` and `plate` disappear as blocks: each statement inside becomes a term of
its own, wrapped in the `Power` and `PlateSum` nodes that stand around it, inside
out. A `condition` is not tempered. `let` is inlined. Tools become plain data, and
the text of a file that a program names becomes a part of the graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal as OneOf

from attrs import define, field

from posterior_lm.graph import blocks, pooled
from posterior_lm.graph.graph import (
    GraphBuilder,
    GuideSpec,
    InferSpec,
    LmSpec,
    ParamSpec,
    RewardGraph,
    UseSpec,
)
from posterior_lm.graph.named_files import FILE_OPTIONS, text_beside, tool_spec
from posterior_lm.graph.nodes import (
    Apply,
    ChoiceScore,
    DistScore,
    Input,
    Latent,
    LmScore,
    Marker,
    Mix,
    PlateSum,
    Power,
    Role,
    RowField,
    Segments,
    Sum,
    TermInfo,
    Test,
    Total,
)
from posterior_lm.lang import ast
from posterior_lm.lang.ast import nodes
from posterior_lm.lang.diagnostics import InternalError, shortened
from posterior_lm.lang.signatures import BEFORE, FUNCTIONS
from posterior_lm.lang.typed import Binding, CheckedModule, Type
from posterior_lm.tools import ToolSpec


def lower(checked: CheckedModule, base: Path | None = None, allowed: tuple[Path, ...] = ()) -> RewardGraph:
    """The graph of a module without errors.

    Paths of grammars, schemas and tables start at the folder of the program's file, else at `base`, and
    stay below it or below one of the `allowed` folders. Raises CompileError: PLM336 or PLM344 where one
    cannot be read, PLM347 where it lies elsewhere.
    """
    return Lowering(checked, base, allowed).run()


@define
class Lowering:
    """The statements of one program, in order; `wrappers` are the blocks around the current one."""

    checked: CheckedModule
    base: Path | None = None
    allowed: tuple[Path, ...] = ()
    build: GraphBuilder = field(factory=GraphBuilder)
    names: dict[blocks.Meant, int] = field(factory=dict)
    """Parameters, latents and lets by node, and the fields of records."""
    bounds: dict[Type, tuple[int, int]] = field(factory=dict)
    """The nodes of the ends of the ints."""
    plates: dict[Binding, int] = field(factory=dict)
    """Row variables by plate."""
    tables: list[int] = field(factory=list)
    """What each plate goes over."""
    lms: dict[str, LmSpec] = field(factory=dict)
    uses: dict[str, UseSpec] = field(factory=dict)
    tools: dict[str, ToolSpec] = field(factory=dict)
    wrappers: list[tuple[OneOf["temper", "plate"], int, int]] = field(factory=list)
    branches: list[int] = field(factory=list)
    """The tests of the branches around the current statement, outermost first."""
    lists: dict[Binding, blocks.Places] = field(factory=dict)
    items: dict[Binding, list[blocks.Place]] = field(factory=dict)
    """Of plates over lists, by their rows, what stands at each place so far."""
    index: list[int] = field(factory=list)
    """The places of the lists that the current statement is repeated for."""
    test: int | None = None
    """That of the last `if` block, which an `else` block is the other side of."""
    terms: list[int] = field(factory=list)
    infos: list[TermInfo] = field(factory=list)
    guides: dict[str, GuideSpec] = field(factory=dict)
    pieces: dict[str, tuple[blocks.Piece, ...]] = field(factory=dict)
    """Of what is drawn piece by piece, by its name."""
    infer: list[InferSpec] = field(factory=list)

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
                    self.tools[name] = tool_spec(name, call, options, self.uses, self.base, self.allowed)
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
            guides=blocks.guides(self),
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
        columns = tuple(ParamSpec.of(c.name.id, type_.columns[c.name.id], c.span) for c in param.type.fields)
        return ParamSpec.of(param.name.id, type_, param.span, columns, default, param.default is None)

    def name(self, name: ast.Name, node: int) -> None:
        """Says which node a declared name stands for."""
        self.names[self.bound(name)] = node

    def bound(self, name: ast.Name) -> Binding:
        binding = self.checked.binding(name)
        if binding is None:
            raise InternalError(f"cannot lower the name {name.id}")
        return binding

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
            case ast.Prefer(items=items, dist=dist):
                self.term("prefer", _about(*items), self.score(statement, dist), statement)
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
            case ast.If(test=test, body=body):
                mine = self.value(test)
                blocks.branch(self, mine, body)
                self.test = mine
            case ast.Else(body=body):
                assert self.test is not None
                other = self.build.add(Apply(op="unary not", inputs=(self.test,), span=statement.span))
                blocks.branch(self, other, body)
            case ast.Let(name=name, value=value):
                self.name(name, pooled.let(self, name, value))
            case ast.Guide(name=name, dist=dist):
                self.guide(name, dist, statement)
            case ast.Infer(method=method):
                self.infer.append(InferSpec(method.function.id, self.constants(method), statement.span))
            case _:
                raise InternalError(f"cannot lower {type(statement).__name__}")

    def term(
        self,
        keyword: str,
        about: str,
        node: int,
        statement: ast.Node,
        *,
        tempered: bool = True,
        whole: bool = False,
    ) -> None:
        """Adds a term, inside the blocks around it; `whole` says that what is not taken is left out of it already."""
        node = node if whole else blocks.where_taken(self, node)
        for kind, first, plate in reversed(self.wrappers):
            if kind == "plate":
                node = self.build.add(PlateSum(plate=plate, inputs=(first, node), span=statement.span))
            elif tempered:
                node = self.build.add(Power(inputs=(first, node), span=statement.span))
        self.terms.append(node)
        self.infos.append(TermInfo(keyword, about, statement.span))

    @property
    def around(self) -> tuple[int, ...]:
        """The plates around the current statement, outermost first."""
        return tuple(plate for kind, _, plate in self.wrappers if kind == "plate")

    def placed(self, name: str) -> str:
        """The name of a latent, at the place of the lists around it."""
        return name + "".join(f"[{k}]" for k in self.index)

    def latent(self, statement: ast.Latent) -> None:
        name = statement.name.id
        type_ = self.bound(statement.name).type
        assert type_ is not None
        if (made := blocks.IN_PARTS.get(type_.known.takes)) is not None:
            made(self, statement, type_)
            return
        lm = self.model(self.checked.spellers[name])
        self.name(statement.name, blocks.drawn(self, name, type_, lm, statement.name.span))
        self.term("latent", name, self.score(statement.name, statement.dist), statement)

    def options(self, type_: Type) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Names and input nodes of a latent's options, ranges split into their two ends, files read.

        Raises CompileError as `text_beside` does.
        """
        declared, parts = type_.at, list[tuple[str, ast.Expr]]()
        for arg in declared.args:
            if isinstance(arg, ast.Range):
                parts += [("low", blocks.folded(arg.low)), ("high", blocks.folded(arg.high))]
        if not parts and (ends := type_.range) is not None:
            parts += [("low", ast.Literal(ends[0])), ("high", ast.Literal(ends[1]))]
        for option in sorted(declared.options, key=lambda o: o.name):
            name, value = option.name, option.value
            if isinstance(value, ast.Range):
                parts += [(f"{name}_low", value.low), (f"{name}_high", value.high)]
            elif name in FILE_OPTIONS and isinstance(value, ast.Literal):
                parts.append((name, text_beside(value, self.base, self.allowed)))
            elif name != "tools":
                parts.append((name, value))
        return tuple(name for name, _ in parts), tuple(self.value(part) for _, part in parts)

    def plate(self, statement: ast.Plate) -> None:
        over = self.checked.binding(statement.table)
        if over is not None and over in self.lists:
            blocks.over_list(self, statement, self.lists[over])
            return
        table, plate = self.value(statement.table), len(self.tables)
        row = self.checked.binding(statement.row)
        assert row is not None
        self.plates[row] = plate
        self.tables.append(table)
        self.wrappers.append(("plate", table, plate))
        self.body(statement.body)
        self.wrappers.pop()

    def guide(self, name: ast.Name, dist: ast.Expr, statement: ast.Guide) -> None:
        call = self.checked.dist(dist).lm
        if call is None or (lm := self.model(call.function.id)) is None:
            raise InternalError("a guide reads a language model")
        context = self.build.segments(self.context(call), call.span)
        reads = tuple(sorted({n.id for n in nodes(call) if isinstance(n, ast.Name)}))
        masked = self.lms[lm].kind == "masked"
        self.guides[self.placed(name.id)] = GuideSpec(lm, context, reads, masked, statement.span)

    # ------------------------------------------------------------- scores

    def model(self, name: str | None) -> str | None:
        """The alias of a language model, which may come from Python."""
        if name in self.uses and name not in self.lms:
            use = self.uses[name]
            self.lms[name] = LmSpec(name, use.where, "use", span=use.span)
        return name

    def score(self, value: ast.Expr | ast.Prefer, dist: ast.Expr) -> int:
        """The node of log dist(value), in nats; of a preference that of what it states."""
        match dist:
            case ast.Binary() | ast.PowerExpr() if len(_factors(dist)) > 1:
                return self._product(value, dist)
            case ast.PowerExpr(base=base, exponent=exponent):
                inputs = (self.value(exponent), self.score(value, base))
                return self.build.add(Power(inputs=inputs, span=dist.span))
            case ast.IfExpr(test=test, then=then, orelse=orelse):
                return self._mix((self.value(test), self.score(value, then), self.score(value, orelse)), dist)
            case ast.Call(args=(share, first, second)) if self.checked.dist(dist).parts:
                return self._mix(
                    (self.value(share), self.score(value, first), self.score(value, second)), dist
                )
        if isinstance(value, ast.Prefer) and isinstance(dist, ast.Call):
            return self._order(value, dist)
        if isinstance(value, ast.Prefer) or not isinstance(dist, ast.Call):
            raise InternalError(f"not a distribution: {type(dist).__name__}")
        name, span = dist.function.id, dist.span
        if self.checked.dist(dist).lm is dist:
            self.model(name)
            context = self.build.segments(self.context(dist), span)
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
                grid=0 if type_ is None else int(str(type_.options.get("grid") or 0)),
                span=span,
            )
        )

    def _order(self, statement: ast.Prefer, call: ast.Call) -> int:
        """log P of the order: each item against those behind it, by the log-odds x − log Σ exp(x of those).

        Of two these are beta · (score a − score b) (Bradley and Terry 1952); of more this is Plackett and Luce's ranking.
        """
        it, span, add = self.checked.binding(statement), call.span, self.build.add
        assert it is not None
        scores = []
        for item in statement.items:
            self.names[it] = self.value(item)
            scores.append(self.value(call.args[0]))
        beta = self.value(call.args[1])
        if len(scores) == 2:
            apart = add(Apply(op="-", inputs=(scores[0], scores[1]), span=span))
            odds = [add(Apply(op="*", inputs=(beta, apart), span=span))]
        else:
            tempered = [add(Apply(op="*", inputs=(beta, score), span=span)) for score in scores]
            odds = []
            for k, first in enumerate(tempered[:-1]):
                rest = tempered[k + 1 :]
                behind = (
                    rest[0] if len(rest) == 1 else add(Apply(op="logsumexp", inputs=tuple(rest), span=span))
                )
                odds.append(add(Apply(op="-", inputs=(first, behind), span=span)))
        return self.build.reduced(
            "+", [add(Apply(op="log_sigmoid", inputs=(one,), span=span)) for one in odds], span
        )

    def _mix(self, inputs: tuple[int, int, int], dist: ast.Expr) -> int:
        return self.build.add(Mix(inputs=inputs, span=dist.span))

    def _product(self, value: ast.Expr | ast.Prefer, dist: ast.Expr) -> int:
        """The sum of a product's factors; a factor that stands there twice is one with both its powers."""
        powers: dict[int, list[int]] = {}
        for factor, exponents in _factors(dist):
            power = self.value(exponents[0]) if exponents else self.build.constant(1)
            for one in exponents[1:]:
                power = self.build.add(Apply(op="*", inputs=(power, self.value(one)), span=dist.span))
            powers.setdefault(self.score(value, factor), []).append(power)
        parts = []
        for node, (total, *more) in powers.items():
            for further in more:
                total = self.build.add(Apply(op="+", inputs=(total, further), span=dist.span))
            parts.append(self.build.add(Power(inputs=(total, node), span=dist.span)))
        return parts[0] if len(parts) == 1 else self.build.add(Sum(inputs=tuple(parts), span=dist.span))

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
        context = self.build.segments(self.context(call), span)
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

    def context(self, call: ast.Call) -> list[int]:
        """The nodes of a model's context: each message is its role and what it holds."""
        found: list[int] = []
        for arg in call.args:
            if isinstance(arg, ast.Role):
                found.append(self.build.add(Role(role=arg.role, span=arg.span)))
                found += map(self.value, arg.args)
            else:
                found.append(self.value(arg))
        return found

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
                if (one := self.names.get((self.bound(row), column))) is not None:
                    return one
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
                known = FUNCTIONS.get(function.id)
                if function.id in ("len", "item") and function.id not in self.uses:
                    made = blocks.length if function.id == "len" else blocks.item_at
                    whole = args[0].row if isinstance(args[0], ast.Field) else args[0]
                    assert isinstance(whole, ast.Name)
                    return made(self, self.lists[self.bound(whole)], expr)
                if function.id in BEFORE and function.id not in self.uses:
                    return pooled.previous(self, expr, listed=listed)
                if known is not None and known.pools and function.id not in self.uses:
                    return pooled.pooled(self, expr, known.name, known.pools, listed=listed)
                if function.id in self.tools:
                    text = self.value(args[0])
                    return add(Apply(op="tool", tool=self.tools[function.id], inputs=(text,), span=span))
                op = f"use {self.uses[function.id].where}" if function.id in self.uses else function.id
                lists = op in FUNCTIONS and FUNCTIONS[op].many
                return add(Apply(op=op, inputs=tuple(self.value(a, listed=lists) for a in args), span=span))
        raise InternalError(f"cannot lower {type(expr).__name__}")


def _factors(
    dist: ast.Expr, exponents: tuple[ast.Expr, ...] = ()
) -> list[tuple[ast.Expr, tuple[ast.Expr, ...]]]:
    """The factors of a product of distributions, each with the exponents around it, the inner ones first."""
    match dist:
        case ast.PowerExpr(base=base, exponent=exponent):
            return _factors(base, (exponent, *exponents))
        case ast.Binary(left=left, right=right):
            return _factors(left, exponents) + _factors(right, exponents)
    return [(dist, exponents)]


def _about(*values: ast.Expr) -> str:
    """A short name for a statement in tables: the source text of what it scores, or ranks."""
    texts = [v.id if isinstance(v, ast.Name) else " ".join(v.span.text.split()) for v in values]
    return shortened(" over ".join(texts), 40)
