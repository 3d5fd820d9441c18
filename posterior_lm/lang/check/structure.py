"""One way through a module: declarations, parameters, and the generative rules of its statements.

Those say what is drawn when, and which statement may stand where.
"""

from __future__ import annotations

import re

from attrs import evolve

from posterior_lm.infer.methods import METHODS
from posterior_lm.lang import ast
from posterior_lm.lang.ast import names, nodes
from posterior_lm.lang.check import declared
from posterior_lm.lang.check.declared import options
from posterior_lm.lang.check.fits import (
    constructor_of,
    count,
    fits_type,
    fits_value,
    needs_trigger,
    preference,
)
from posterior_lm.lang.check.guides import Guided, is_masked, judge
from posterior_lm.lang.check.scope import Scope
from posterior_lm.lang.check.types import distribution, exponent, scored, segments, truth, value, written
from posterior_lm.lang.diagnostics import meant
from posterior_lm.lang.signatures import BEFORE, DISTRIBUTIONS, FUNCTIONS, IT, LMS, TOOLS, Constructor
from posterior_lm.lang.source import Span
from posterior_lm.lang.typed import SPELLED, UNKNOWN, Binding, Dist, Type, Value, joined

_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


# ---------------------------------------------------------------- declarations and parameters


def declaration(scope: Scope, decl: ast.Declaration) -> None:
    """Checks a declaration and brings its name into scope."""
    name = decl.name
    value = UNKNOWN
    if isinstance(decl, ast.LmDecl):
        if isinstance(decl.model, ast.Call):
            _constructor(scope, decl.model, LMS, "language model")
        elif (
            written(scope, decl.model) == ""
            and decl.model.span.end > decl.model.span.start
            and decl.model.span.text == '""'
        ):
            scope.error("PLM211", "the language model has no name", decl.model.span, "an empty string",
                        help='write "tiny", a folder, a .json file or a name on the hub')  # fmt: skip
        sort, value = "lm", Value(kind_of_lm(decl))
    elif isinstance(decl, ast.ToolDecl):
        scope.tools.setdefault(name.id, decl)
        constructor = constructor_of(scope, decl.tool)
        known = TOOLS if constructor is None else {**TOOLS, decl.tool.function.id: constructor}
        _constructor(scope, decl.tool, known, "tool")
        if constructor is not None:
            needs_trigger(scope, decl.tool, constructor)
        sort, value = "tool", Value("tool")
    else:
        target = written(scope, decl.target)
        if not isinstance(target, str) or not _TARGET.fullmatch(target):
            scope.error("PLM209", "this does not name a Python object", decl.target.span,
                        "expected module:name", help='write it like "package.module:function"')  # fmt: skip
        sort = "use"
    scope.declare(Binding(name, sort, value))


def kind_of_lm(decl: ast.LmDecl) -> str:
    """`masked` of a declared `masked(…)`, else `lm`."""
    called = isinstance(decl.model, ast.Call) and decl.model.function.id == "masked"
    return "masked" if called else "lm"


def _constructor(scope: Scope, call: ast.Call, known: dict[str, Constructor], what: str) -> None:
    name = call.function.id
    if not name:
        return
    if name not in known:
        scope.error("PLM211", f"unknown {what} '{name}'", call.function.span, "not known",
                    help=meant(name, known, f"known here: {', '.join(known)}", "'"))  # fmt: skip
        return
    constructor = known[name]
    if count(scope, call, constructor.arguments, (len(constructor.arguments),)):
        for arg in call.args:
            if not isinstance(arg, ast.Literal) or not isinstance(written(scope, arg), str):
                scope.error("PLM301", f"{name} needs a string here", arg.span, "not a string")
    options(scope, call.options, constructor.options, name, call.function.span)


def parameter(scope: Scope, param: ast.Param) -> None:
    """Checks a parameter and brings its name into scope."""
    type_, known = declared.check_type(scope, param.type, place="parameter")
    if known and param.default is not None:
        _default(scope, param.name.id, param.default, type_)
    scope.declare(Binding(param.name, "parameter", type_.value if known else UNKNOWN, type_))


def _default(scope: Scope, name: str, default: ast.Expr, type_: Type) -> None:
    if type_.name == "table":
        scope.error("PLM315", "a table has no default", default.span, "drop it")
        return
    found, wanted = written(scope, default), type_.value
    if found is None:
        scope.error("PLM315", "a default is written out", default.span, f"expected {wanted.shown}")
        return
    kind = {str: "text", bool: "bool", int: "int", float: "real"}[type(found)]
    if kind != wanted.kind and not (wanted.kind == "real" and kind == "int"):
        scope.error("PLM315", f"the default of '{name}' has the wrong type", default.span,
                    f"this is {Value(kind).shown}",
                    secondary=[(type_.span, f"the type is {type_.name}")])  # fmt: skip
    elif wanted.choices and found not in wanted.choices:
        scope.error(
            "PLM315",
            f'"{found}" is not one of the choices',
            default.span,
            "not a choice",
            secondary=[(type_.span, "the choices")],
            help=meant(str(found), map(str, wanted.choices), None, '"'),
        )
    elif type_.range is not None:
        low, high = type_.range
        if low <= high and not low <= float(str(found)) <= high:
            scope.error("PLM315", f"the default {found} is outside {low}..{high}", default.span,
                        "out of range", secondary=[((type_.at.args or (type_,))[0].span, "the range")])  # fmt: skip


# ---------------------------------------------------------------- statements


class Structure:
    """One walk over the statements of a program, in order."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.latents: dict[str, Binding] = {}
        self.spellers: dict[str, str | None] = {}
        self.guides: dict[str, Guided] = {}
        self.methods: dict[str, Span] = {}
        self.tempers = 0

    def program(self, body: tuple[ast.Statement, ...]) -> None:
        self._body(body)
        for guided in self.guides.values():
            judge(self.scope, guided, self.latents, self.spellers)

    def _body(self, body: tuple[ast.Statement, ...]) -> None:
        before: ast.Statement | None = None
        for statement in body:
            match statement:
                case ast.If() | ast.Else():
                    self._branch(statement, before)
                case ast.Latent():
                    self._latent(statement)
                case ast.Observe():
                    found = value(self.scope, statement.value)
                    dist = distribution(self.scope, statement.dist)
                    fits_value(
                        self.scope, statement.value, scored(self.scope, statement.value, found, dist), dist
                    )
                case ast.Prefer():
                    self._prefer(statement)
                case ast.Factor():
                    self._factor(statement)
                case ast.Condition():
                    self._condition(statement)
                case ast.Temper():
                    self._temper(statement)
                case ast.Plate():
                    self._plate(statement)
                case ast.Let():
                    self._let(statement)
                case ast.Guide():
                    self._guide(statement)
                case ast.Infer():
                    self._infer(statement)
            before = statement

    @property
    def _block(self) -> int:
        return self.scope.blocks[-1] if self.scope.blocks else 0

    # ------------------------------------------------------------ terms

    def _latent(self, statement: ast.Latent) -> None:
        scope, name = self.scope, statement.name
        type_, known = declared.check_type(scope, statement.type, place="latent")
        earlier = self.latents.get(name.id)
        if earlier is not None and scope.get(name.id) is None:
            message, help = f"two blocks hold a latent named '{name.id}'", "rename one of them"
            scope.twice("PLM202", message, name.span, earlier.span, "declared", help)
            distribution(scope, statement.dist)
            return
        is_new = scope.get(name.id) is None
        binding = Binding(
            name,
            "latent",
            type_.value if known else UNKNOWN,
            type_,
            block=self._block,
            order=len(self.latents) + 1,
        )
        built_in = name.id in DISTRIBUTIONS or name.id in FUNCTIONS
        if not built_in:
            scope.declare(binding)  # its distribution may read what it was in the row before
        found = distribution(scope, statement.dist)
        if built_in:
            scope.declare(binding)
        if known and type_.known.takes in ("items", "fields"):
            self._in_parts(statement, found)
        elif known and type_.known.takes == "names":
            self._broken(statement, found)
        elif known:
            fits_type(scope, type_, found, f"'{name.id}'", drawn=True)
        if is_new and scope.get(name.id) is binding:
            self.latents[name.id] = binding
            self.spellers[name.id] = found.model

    def _let(self, statement: ast.Let) -> None:
        """A name for an expression; in a plate it may read what it was in the row before."""
        scope, name, expr = self.scope, statement.name, statement.value
        running = [call for call in nodes(expr) if isinstance(call, ast.Call) and call.function.id in BEFORE
                   and len(call.args) == 2 and any(used.id == name.id for used in names(call.args[0]))]  # fmt: skip
        row = next((row for row in reversed(scope.rows) if row is not None), None)
        if not running or scope.get(name.id) is not None or row is None:
            found = evolve(value(scope, expr), written=False)
            scope.declare(Binding(name, "let", found, definition=expr, block=self._block))
            return
        known = [scope.get(used.id) for used in names(expr) if used.id != name.id]
        depends = joined(*(one.read for one in known if one is not None))
        first = evolve(value(scope, running[0].args[1]), constant=None, written=False)
        mine = Binding(
            name, "let", evolve(first, depends=first.depends | depends), definition=expr, block=self._block
        )
        scope.declare(mine)
        found = value(scope, expr)
        kinds = {found.kind, first.kind} - {"unknown"}
        if kinds > {first.kind} and not kinds <= SPELLED:
            scope.error("PLM319", f"'{name.id}' is {first.shown} in the first row and {found.shown} behind it", expr.span,
                        secondary=[(running[0].args[1].span, first.shown)])  # fmt: skip

    def _prefer(self, statement: ast.Prefer) -> None:
        """The score is read once, with `it` for whatever is compared: all of it has to be of one kind."""
        scope = self.scope
        found = [segments(scope, item) for item in statement.items]
        kinds = {one.kind for one in found} - {"unknown"}
        wider = {"list": SPELLED, "real": {"int", "real"}}
        kind = (
            kinds.copy().pop()
            if len(kinds) == 1
            else next((k for k in wider if kinds <= wider[k]), "unknown")
        )
        if kind == "unknown" and kinds:
            scope.error("PLM350", "what is compared differs in kind", statement.items[0].span, found[0].shown,
                        secondary=[(item.span, one.shown) for item, one in zip(statement.items[1:], found[1:], strict=True)])  # fmt: skip
        it = Value(kind, joined(*found), special=any(one.special for one in found), written=False)
        binding = Binding(ast.Name(IT, span=statement.dist.span), IT, it, block=self._block)
        scope.levels.append({})
        scope.declare(binding)
        scope.bind(statement, binding)
        before = len(scope.found)
        dist = distribution(scope, statement.dist)
        scope.levels.pop()
        if len(scope.found) == before:
            preference(scope, statement, dist)

    def _in_parts(self, statement: ast.Latent, found: Dist) -> None:
        """Items and fields are drawn one by one from one call of a language model, whose context is no conversation."""
        call = found.lm
        messages = call is not None and any(isinstance(arg, ast.Role) for arg in call.args)
        if found.sort != "unknown" and (found.sort != "lm" or found.parts or messages):
            self.scope.error("PLM311", f"a {statement.type.name} comes from one call of a language model", statement.dist.span,
                             "a conversation" if messages else f"this is a {found.sort}",
                             help="write base(…), with a power or without; decide between models in a branch")  # fmt: skip

    def _broken(self, statement: ast.Latent, found: Dist) -> None:
        """Shares come from a dirichlet, with a concentration above 0 for each."""
        type_, call, n = statement.type, found.call, len(statement.type.args)
        if call is None or found.sort != "dirichlet":
            if found.sort != "unknown":
                this = "this is " + (
                    "a language model" if found.sort == "lm" else "a " * bool(found.parts) + found.sort
                )
                self.scope.error("PLM311", "shares come from one dirichlet", statement.dist.span, this,
                                 secondary=type_.span.said("the type"), help=f"equal ones: dirichlet({', '.join(['1'] * n)})")  # fmt: skip
            return
        if len(call.args) != n > 1 and not any(isinstance(arg, ast.ListExpr) for arg in call.args):
            self.scope.error("PLM307", f"dirichlet takes a concentration for each of the {n} shares, not {len(call.args)}", call.span,
                             f"{len(call.args)} given", secondary=type_.span.said("the shares"))  # fmt: skip
        for arg in call.args:
            known = self.scope.written(arg)
            if isinstance(known, int | float) and known <= 0:
                self.scope.error(
                    "PLM313", "a concentration of dirichlet has to be above 0", arg.span, "out of range"
                )

    def _factor(self, statement: ast.Factor) -> None:
        found = value(self.scope, statement.value)
        if not found.is_number:
            help = None
            if found.kind == "bool":
                help = "write 'condition', or spell a weight: factor if … then 1 else 0"
            self.scope.error("PLM304", "a factor is a number, in nats", statement.value.span,
                             f"this is {found.shown}", help=help)  # fmt: skip

    def _condition(self, statement: ast.Condition) -> None:
        found = value(self.scope, statement.value)
        if not found.is_bool:
            help = "compare it, such as words(z) <= 16" if found.is_number else None
            if found.kind == "text":
                help = 'compare it, or look into it: contains(z, "dog")'
            self.scope.error("PLM303", "a condition is true or false", statement.value.span,
                             f"this is {found.shown}", help=help)  # fmt: skip

    def _temper(self, statement: ast.Temper) -> None:
        exponent(self.scope, statement.exponent)
        if not statement.body and statement.exponent.span.end > statement.exponent.span.start:
            self.scope.error("PLM411", "this temper has nothing in it", statement.span, "no statements",
                             help="put statements between the braces or drop it")  # fmt: skip
        self.tempers += 1
        self._body(statement.body)
        self.tempers -= 1

    def _branch(self, statement: ast.If | ast.Else, before: ast.Statement | None) -> None:
        scope = self.scope
        if isinstance(statement, ast.If):
            truth(scope, statement.test)
        elif not isinstance(before, ast.If):
            scope.error("PLM413", "this else belongs to no if", statement.span, "no if block right before it",
                        help="put it behind the `}` of an if block")  # fmt: skip
        if not statement.body and statement.span.text:
            scope.error("PLM411", "this branch has nothing in it", statement.span, "no statements",
                        help="put statements between the braces or drop it")  # fmt: skip
        with scope.within(id(statement)):
            self._body(statement.body)

    def _plate(self, statement: ast.Plate) -> None:
        scope = self.scope
        row = statement.row
        binding = scope.get(statement.table.id) if isinstance(statement.table, ast.Name) else None
        if binding is not None and binding.type is not None and binding.type.item is not None:
            value(scope, statement.table)
            read = evolve(binding.type.item.value, depends=binding.read.depends)
            deep = binding.type.options.get("depth", 1) != 1
            own = Binding(row, "row", read, binding.type.item, block=id(statement), deep=deep)
            with scope.within(id(statement), own):
                self._body(statement.body)
            return
        type_, depends = self._table(statement.table)
        if not statement.body and row.id:
            scope.error("PLM411", "this plate has nothing in it", statement.span, "no statements",
                        help="put statements between the braces or drop it")  # fmt: skip
        kind = "unknown" if type_ is None or not type_.columns else "row"
        own = Binding(row, "row", Value(kind, depends), type_, block=id(statement))
        with scope.within(id(statement), own):
            self._body(statement.body)

    def _table(self, table: ast.Expr) -> tuple[Type | None, frozenset[Binding]]:
        """The type of what a plate goes over, where it is known, and what that reads."""
        if isinstance(table, ast.Name):
            binding = self.scope.resolve(table)
            if binding is None:
                return None, frozenset()
            if binding.value.kind in ("table", "unknown"):
                self.scope.findings.values[id(table)] = binding.read
                return binding.type, binding.read.depends
            secondary = [(binding.span, "declared here")]
            shown = f"'{table.id}' is {binding.value.shown}"
        else:
            found = value(self.scope, table)
            if found.kind == "unknown":
                return None, found.depends
            secondary, shown = [], f"this is {found.shown}"
        self.scope.error(
            "PLM320",
            "a plate goes over the rows of a table",
            table.span,
            shown,
            secondary=secondary,
            help="declare a parameter such as rows: table(input: text)",
        )
        return None, frozenset()

    # ------------------------------------------------------------ guide and infer

    def _guide(self, statement: ast.Guide) -> None:
        scope, name = self.scope, statement.name
        own = [used for used in names(statement.dist) if used.id == name.id]
        if is_masked(scope, statement.dist):
            own, scope.guided = [], statement.dist
        if own and (name.id in scope.planned):
            scope.error("PLM407", f"the guide of '{name.id}' reads '{name.id}' itself", own[0].span,
                        "not known when the guide draws it")  # fmt: skip
        cyclic = scope.cyclic
        if own:
            scope.cyclic = cyclic | {name.id}
        found = distribution(scope, statement.dist)
        scope.cyclic, scope.guided = cyclic, None
        if name.id in self.guides:
            scope.error("PLM406", f"'{name.id}' has two guides", name.span, "second guide",
                        secondary=[(self.guides[name.id].statement.name.span, "first guide")],
                        help="keep one of them")  # fmt: skip
            return
        self.guides[name.id] = Guided(statement, found, self._block)

    def _infer(self, statement: ast.Infer) -> None:
        scope, call = self.scope, statement.method
        name = call.function.id
        if self.scope.blocks or self.tempers:
            scope.error("PLM410", "infer stands in the program itself, not inside a block", statement.span,
                        "inside a block", help="move it to the end of the program")  # fmt: skip
        if name not in METHODS:
            scope.error(
                "PLM210",
                f"unknown method '{name}'",
                call.function.span,
                "not a method of inference",
                help=meant(name, METHODS, f"the methods are {', '.join(METHODS)}", "'"),
            )
            return
        if name in self.methods:
            message, help = f"the defaults of {name} are given twice", "keep one of them"
            scope.twice("PLM410", message, call.function.span, self.methods[name], "given", help)
        self.methods.setdefault(name, call.function.span)
        if call.args:
            first = next(iter(METHODS[name].options), "n")
            scope.error("PLM307", f"{name} takes options, not plain arguments", call.args[0].span, "no name",
                        help=f"write {first}=…")  # fmt: skip
        known = METHODS[name]
        options(scope, call.options, known.options, f"the method {name}", call.function.span, known.former)
