"""What has to fit together: sides of a comparison, arguments and their bounds, values and distributions, texts and tools."""

from __future__ import annotations

from attrs import evolve

from posterior_lm.lang import ast
from posterior_lm.lang.ast import names
from posterior_lm.lang.automaton import automaton
from posterior_lm.lang.check.scope import Scope
from posterior_lm.lang.diagnostics import meant
from posterior_lm.lang.regex import PatternError, wrong_pattern
from posterior_lm.lang.signatures import (
    DISTRIBUTIONS,
    FUNCTIONS,
    IT,
    TOOLS,
    USED_TOOL,
    Constructor,
    Distribution,
)
from posterior_lm.lang.source import Span
from posterior_lm.lang.typed import KIND_NAMES, SPELLED, Binding, Dist, Type, Value, joined
from posterior_lm.lang.value_types import finite_forms


def operand(scope: Scope, op: str, wanted: str, expr: ast.Expr, found: Value) -> None:
    """Reports an operand that is not what its operator needs."""
    help = None
    if op == "+" and found.kind in ("text", "list"):
        help = "texts are joined in a list: [a, b]"
    scope.error("PLM318", f"'{op}' needs {wanted}", expr.span, f"this is {found.shown}", help=help)


def comparison(scope: Scope, expr: ast.Binary, left: Value, right: Value) -> None:
    """Reports sides that cannot be compared, or that never are equal."""
    ordered = expr.op not in ("==", "!=")
    for side, found in ((expr.left, left), (expr.right, right)):
        if found.kind in ("table", "row", "list", "record", "marker"):
            scope.error("PLM318", f"{found.shown} cannot be compared", side.span, f"this is {found.shown}")
            return
    alike = (
        (left.is_number and right.is_number)
        or (left.is_text and right.is_text)
        or (left.is_bool and right.is_bool)
    )
    if not alike:
        scope.error(
            "PLM318",
            f"{left.shown} and {right.shown} cannot be compared",
            expr.span,
            secondary=[(expr.left.span, left.shown), (expr.right.span, right.shown)],
            help="compare chars(…) or words(…) of a text with a number"
            if "text" in (left.kind, right.kind) and ordered
            else None,
        )
    elif ordered and (left.kind in ("text", "bool") or right.kind in ("text", "bool")):
        kind = left if left.kind != "unknown" else right
        scope.error("PLM318", f"'{expr.op}' needs numbers", expr.span, f"compares {kind.shown}",
                    help="texts and truth values are compared with == and !=")  # fmt: skip
    else:
        for one, other, side in ((left, right, expr.right), (right, left, expr.left)):
            text = other.constant
            if one.choices and isinstance(text, str) and text not in one.choices:
                scope.error("PLM316", f'"{text}" is not one of the choices', side.span, "never equal",
                            help=meant(text, map(str, one.choices), None, '"'))  # fmt: skip


def count(
    scope: Scope, expr: ast.Call, arguments: tuple[tuple[str, str], ...], allowed: tuple[int, ...]
) -> bool:
    """Whether a call has one of the allowed numbers of plain arguments; reports if not."""
    found = len(expr.args)
    if found in allowed:
        return True
    wanted = " or ".join(str(n) for n in allowed)
    plural = "" if allowed == (1,) else "s"
    scope.error(
        "PLM307",
        f"{expr.function.id} takes {wanted} argument{plural}, not {found}",
        expr.span,
        f"{found} given",
        help=f"{expr.function.id}({', '.join(name for name, _ in arguments)})" if arguments else None,
    )
    return False


def pattern(scope: Scope, expr: ast.Expr | ast.Range, *, whole: bool = False) -> None:
    """Reports a literal pattern that no automaton can follow; with `whole` also one that needs too large a one."""
    if not isinstance(expr, ast.Literal) or not isinstance(expr.value, str):
        return
    try:
        followed = automaton(expr.value)
        if whole:
            followed.whole()
    except PatternError as wrong:
        scope.found.append(wrong_pattern(expr.value, wrong, expr.span))


def within(scope: Scope, dist: Distribution, index: int, arg: ast.Expr) -> None:
    """Reports a number outside the bounds of an argument."""
    low, high = dist.bounds[index]
    found = scope.written(arg)
    if not isinstance(found, (int, float)) or isinstance(found, bool):
        return
    if (low is not None and found < low) or (high is not None and found > high):
        name = dist.arguments[index][0]
        allowed = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
        scope.error("PLM313", f"{name} of {dist.name} has to be {allowed}", arg.span, "out of range")


def probabilities(scope: Scope, arg: ast.Expr) -> None:
    """Reports probabilities that are none, or do not add up to 1."""
    if not isinstance(arg, ast.ListExpr):
        return
    known = [scope.written(item) for item in arg.items]
    numbers = [k for k in known if isinstance(k, (int, float)) and not isinstance(k, bool)]
    if len(numbers) < len(known):
        return
    for item, number in zip(arg.items, numbers, strict=True):
        if number < 0:
            scope.error("PLM313", "a probability is at least 0", item.span, "out of range")
            return
    if abs(sum(numbers) - 1) > 1e-6:
        scope.error(
            "PLM313", f"the probabilities add up to {sum(numbers):.6g}", arg.span, "should add up to 1"
        )


_INSTEAD = {
    "text": "a text comes from a language model",
    "real": "write normal(mean, sd), beta(a, b) or uniform()",
    "bool": "write bernoulli(p)",
}


def fits_type(scope: Scope, type_: Type, dist: Dist, what: str, *, drawn: bool = False) -> None:
    """Reports a distribution that is not over a declared type; `what` names the value, which may be `drawn` from it."""
    for part in dist.parts:
        fits_type(scope, type_, part, what, drawn=drawn)
    call = dist.call
    kind, called = type_.known.kind, KIND_NAMES.get(type_.name, f"a {type_.name}")
    if call is None or kind in ("table", "unknown"):
        return
    if dist.lm is not None and kind in ("real", "bool"):
        scope.error("PLM311", f"a language model draws no {kind}, and {what} is one", call.span,
                    "wrong distribution for this type", secondary=type_.span.said("the type"),
                    help=_INSTEAD[kind] if kind == "real" else 'write one_of("yes", "no")')  # fmt: skip
        return
    if dist.sort not in DISTRIBUTIONS:
        return
    over = DISTRIBUTIONS[dist.sort].over
    if over in ("order", "shares"):
        no_order(scope, dist) if over == "order" else no_shares(scope, dist)
        return
    by_numbers = over == "int" or (dist.sort == "uniform" and len(call.args) == 2)
    strange = {
        "int": kind != "int",
        "real": kind != "real" and (drawn or kind != "int"),
        "truth": kind not in ("bool", "int"),
    }.get("int" if by_numbers else over, False)
    if strange:
        of = {"real": "reals", "truth": "truth values, and 0 and 1"}.get(over, "whole numbers")
        help = _INSTEAD.get(type_.name, "write uniform() or categorical([…])")
        scope.error("PLM311", f"{dist.sort} is over {of}, and {what} is {called}", call.span,
                    "wrong distribution for this type", secondary=type_.span.said("the type"),
                    help=help)  # fmt: skip
    elif over == "finite" and not by_numbers and not type_.is_finite:
        scope.error(
            "PLM311",
            f"{dist.sort} needs a type that lists its values, and {what} is {called}",
            call.span,
            "wrong distribution for this type",
            secondary=type_.span.said("the type"),
            help=f"such types are {finite_forms()}",
        )
    elif dist.sort == "categorical" and call.args:
        items, values = call.args[0], type_.finite
        if values is not None and isinstance(items, ast.ListExpr) and len(items.items) != values.size:
            scope.error("PLM307", f"{len(items.items)} probabilities for {values.size} values", items.span,
                        f"expected {values.size}", secondary=type_.span.said("the values"))  # fmt: skip


def fits_value(scope: Scope, expr: ast.Expr, found: Value, dist: Dist) -> None:
    """Reports a value that its distribution cannot score, in observe and log_prob."""
    if dist.parts:
        before = len(scope.found)
        for part in dist.leaves:
            if len(scope.found) == before:  # what no part can score is said once
                fits_value(scope, expr, found, part)
        return
    name = dist.sort
    if name not in DISTRIBUTIONS or dist.call is None:
        if found.kind == "real":
            scope.error("PLM311", "a language model scores text, and this is a real", expr.span,
                        "not text", help="put it into a list to spell it: [value]")  # fmt: skip
        return
    if found.kind == "unknown":
        return
    type_ = None
    if isinstance(expr, (ast.Name, ast.Field)):
        name_of = expr if isinstance(expr, ast.Name) else expr.row
        binding = scope.get(name_of.id)
        type_ = binding.type if binding else None
        if isinstance(expr, ast.Field):
            type_ = binding.columns.get(expr.column) if binding else None
    over = DISTRIBUTIONS[name].over
    if over in ("order", "shares"):
        no_order(scope, dist) if over == "order" else no_shares(scope, dist)
    elif type_ is not None:
        fits_type(scope, type_, dist, "the value")
    elif over in ("real", "truth"):
        fits = found.is_number if over == "real" else found.kind in ("bool", "int")
        if not fits:
            needs = "a number" if over == "real" else "a truth value, 0 or 1"
            scope.error("PLM311", f"{name} needs {needs}", expr.span, f"this is {found.shown}")
    elif found.kind != "int" or name in ("choice", "categorical") or not dist.call.args:
        needs = "a declared value of a type that lists its values" if name != "uniform" else "an int"
        if found.kind != "int" and DISTRIBUTIONS[name].over == "int":
            needs = "an int"
        scope.error("PLM311", f"{name} needs {needs}", expr.span, f"this is {found.shown}")


def no_order(scope: Scope, dist: Dist) -> None:
    """Reports a distribution over orders where a value has to be scored."""
    if dist.call is not None:
        scope.error("PLM350", f"{dist.sort} says what is preferred, not what a value is", dist.call.span,
                    "a distribution of preferences", help=f"write prefer a over b ~ {dist.sort}(…)")  # fmt: skip


def no_shares(scope: Scope, dist: Dist) -> None:
    """Reports a distribution over shares where something else is drawn, or a value is scored."""
    if dist.call is not None:
        scope.error("PLM311", f"{dist.sort} draws shares, and nothing else", dist.call.span, "wrong distribution here",
                    help=f"write latent w: shares(a, b, grid=20) ~ {dist.sort}(2, 1), and read w.a")  # fmt: skip


def preference(scope: Scope, statement: ast.Prefer, dist: Dist) -> None:
    """Reports what is no distribution over the orders of the items, and `it` where nothing is scored."""
    scores: set[int] = set()
    for leaf in dist.leaves:
        call = leaf.call
        if call is None:
            continue
        if leaf.sort not in DISTRIBUTIONS or DISTRIBUTIONS[leaf.sort].over != "order":
            scope.error("PLM350", f"{call.function.id}(…) says nothing of what is preferred", call.span, "not over preferences",
                        help="write bradley_terry(score, beta) of two, plackett_luce(score, beta) of a ranked list")  # fmt: skip
        elif leaf.sort == "bradley_terry" and len(statement.items) > 2:
            scope.error("PLM350", f"bradley_terry is of two, and {len(statement.items)} are ranked", call.span, "of two",
                        help="write plackett_luce(score, beta)")  # fmt: skip
        elif call.args and not any(name.id == IT for name in names(call.args[0])):
            scope.error("PLM350", "this score does not read `it`, so it is the same for all", call.args[0].span, "the score",
                        help="`it` stands for each of what is compared, as in bradley_terry(words(it), 1)")  # fmt: skip
        scores |= {id(name) for arg in call.args[:1] for name in names(arg)}
    for name in names(statement.dist):
        if name.id == IT and id(name) not in scores:
            scope.error("PLM350", "`it` is known in the score alone", name.span, "of which one?",
                        help="read what all of them share, or write it into the score")  # fmt: skip


# ---------------------------------------------------------------- rows before, and lists


def previous(scope: Scope, call: ast.Call, then: Value, first: Value) -> Value:
    """What an expression was in the row before of the innermost plate, or at the item above; both arguments are of one kind."""
    row, name = next((row for row in reversed(scope.rows) if row is not None), None), call.function.id
    where, first_of = (
        ("the row before", "in the first row") if name == "previous" else ("the item above", "at the top")
    )
    if row is None:
        scope.error("PLM414", f"{name} reads {where}, and this stands in no plate", call.span,
                    "not in a plate", help="put this statement into the plate")  # fmt: skip
        return Value("unknown", joined(then, first))
    if name == "parent" and not row.deep:
        scope.error("PLM425", "parent reads the item above, and this plate goes over no list of some depth", call.span,
                    "no item above", secondary=[(row.at.span, "what it goes over")],
                    help='say how deep: list(…, 1..2, depth=3, end="…"); previous reads the row before')  # fmt: skip
    scope.findings.pools[id(call)] = (row,)
    either = _either(scope, call, f"{where} and what stands for it {first_of}", then, first)
    return evolve(either, depends=either.depends | row.value.depends)


def of_rows(
    scope: Scope, call: ast.Call, name: str, rows: tuple[Binding, ...], each: Value, beside: Value
) -> Value:
    """The value of `join` and `last`, of an expression that is read for every row and of what it stands beside."""
    if not rows:
        scope.error("PLM329", f"{name} reads the rows of a plate, and nothing here belongs to one", call.span,
                    "no name of a plate that has ended",
                    help="write a list: [a, separator, b]" if name == "join" else None)  # fmt: skip
    elif each.special and any(row.type is not None and row.type.name != "table" for row in rows):
        scope.error("PLM306", "a special token cannot stand in the items of a list", call.args[0].span, "a token, not text",
                    help="how many items there are is drawn: join text")  # fmt: skip
    if name == "last":
        return _either(scope, call, "the last row and what stands for it where there is none", each, beside)
    return Value("list", joined(each, beside), special=each.special or beside.special)


def _either(scope: Scope, call: ast.Call, what: str, one: Value, other: Value) -> Value:
    """One of two values, which are of one kind."""
    kinds, special = {one.kind, other.kind} - {"unknown"}, one.special or other.special
    if len(kinds) < 2:
        kind = min(kinds, default="unknown")
    elif kinds == {"int", "real"} or kinds <= SPELLED:
        kind = "real" if "int" in kinds else "list"
    else:
        scope.error("PLM319", f"{what} differ in kind", call.span,
                    secondary=[(call.args[0].span, one.shown), (call.args[1].span, other.shown)])  # fmt: skip
        kind = "unknown"
    return Value(kind, joined(one, other), special=special)


def fits_part(scope: Scope, owner: str, expr: ast.Expr, kind: str, found: Value) -> None:
    """Reports what is not the name of a list ("items"), or not the number of a place ("place")."""
    place = found.constant
    if kind == "place":
        if not isinstance(place, int) or isinstance(place, bool) or place < 0:
            scope.error(
                "PLM301", f"{owner} needs a place that is written out here", expr.span, "not 0, 1, 2, …"
            )
        return
    if _listed(scope, expr)[1] is None:
        scope.error("PLM301", f"{owner} needs a list here", expr.span, f"this is {found.shown}",
                    help='name a latent that is one: latent steps: list(text(…), 1..4, end="…") ~ …')  # fmt: skip


def _listed(scope: Scope, expr: ast.Expr) -> tuple[Binding | None, Type | None]:
    """The list that is named, by itself or by a field of its items, and the type of what is read of an item."""
    named = expr.row if isinstance(expr, ast.Field) else expr
    binding = scope.get(named.id) if isinstance(named, ast.Name) else None
    if binding is None or binding.sort != "latent" or binding.type is None or binding.type.item is None:
        return None, None
    item = binding.type.item
    return binding, item.columns.get(expr.column) if isinstance(expr, ast.Field) else item


def within_list(scope: Scope, call: ast.Call) -> str:
    """The kind of an item, or of a field of it; reports a place that a list never has."""
    binding, item = _listed(scope, call.args[0])
    place = scope.findings.values[id(call.args[1])].constant
    if binding is not None and binding.type is not None and binding.type.places is not None:
        most = binding.type.places[1]
        if isinstance(place, int) and place >= most:
            scope.error("PLM302", f"'{binding.name}' has at most {most} items, counted from 0", call.args[1].span,
                        "never there", secondary=[(binding.type.span, "the type")])  # fmt: skip
    kind = "unknown" if item is None else item.value.kind
    return "list" if kind == "record" else kind


def is_called(scope: Scope, *exprs: ast.Expr) -> bool:
    """Whether one of them calls a distribution, raised to a power or not."""
    for expr in exprs:
        called = expr.base if isinstance(expr, ast.PowerExpr) else expr
        if isinstance(called, ast.Call):
            binding = scope.get(called.function.id)
            if called.function.id in DISTRIBUTIONS if binding is None else binding.sort == "lm":
                return True
    return False


def as_distribution(scope: Scope) -> str:
    """What could stand where a distribution has to."""
    models = [b.name for b in scope.levels[0].values() if b.sort == "lm"]
    if models:
        return f"a language model is called: {models[0]}(…)"
    return 'declare a language model, lm base = "tiny", and call it: base(…)'


def bare_name(scope: Scope, expr: ast.Name) -> None:
    """Reports a name that is not called."""
    name = expr.id
    binding = scope.get(name)
    if binding is None and name in DISTRIBUTIONS:
        scope.error("PLM312", f"'{name}' needs its arguments", expr.span, "not called",
                    help=f"write {name}(…)")  # fmt: skip
    elif binding is None and name in FUNCTIONS:
        scope.error("PLM312", f"'{name}' is a function, not a distribution", expr.span,
                    "not a distribution", help=as_distribution(scope))  # fmt: skip
    elif (binding := scope.resolve(expr)) and (binding.value.kind != "unknown" or binding.sort == "lm"):
        scope.error(
            "PLM312",
            f"'{name}' is {binding.value.shown}, and a distribution has to stand here",
            expr.span,
            "not called" if binding.sort == "lm" else "not a distribution",
            help=f"write {name}(…)" if binding.sort == "lm" else as_distribution(scope),
        )


def role_outside(scope: Scope, role: str, span: Span) -> None:
    scope.error("PLM324", f"{role}(…) stands outside the context of a language model", span, "a message",
                help=f"messages are arguments of a model: base({role}(…))")  # fmt: skip


def filled(scope: Scope, call: ast.Call, depends: frozenset[Binding]) -> Dist:
    """A call of a masked model, which is a guide; reports one that is to score."""
    if call is scope.guided:
        return Dist("masked", depends, call=call, lm=call)
    name = call.function.id
    scope.error("PLM415", f"'{name}' fills masked places, and gives no text a probability", call.span, "a masked model",
                help=f"it proposes, in the guide of a latent z: guide z ~ {name}(before, z, behind)")  # fmt: skip
    return Dist("unknown", depends)


# ---------------------------------------------------------------- tools

_OTHER_LANGUAGES = ("grammar", "json", "canonical")
"""Options of a text that look at all of its tokens as drawn ones."""


def constructor_of(scope: Scope, call: ast.Call) -> Constructor | None:
    """What a tool is made by: a built-in tool, or a function that `use` imports."""
    name = call.function.id
    binding = scope.get(name)
    if binding is not None and binding.sort == "use":
        scope.used.add(name)
        return USED_TOOL
    return TOOLS.get(name)


def needs_trigger(scope: Scope, call: ast.Call, constructor: Constructor) -> None:
    """PLM341 for a tool that nothing calls."""
    wanted = constructor.options["trigger"]
    if wanted.default is None and not any(o.name == "trigger" for o in call.options):
        scope.error("PLM341", f"{call.function.id}(…) has no trigger, so nothing would call it", call.span,
                    "no trigger", help='add the text that it writes after: trigger="="')  # fmt: skip


def tools_of_text(scope: Scope, type_: ast.TypeExpr, place: str) -> None:
    """PLM342, PLM343 and PLM345: tools that do not go with each other or with the other options."""
    given = {option.name: option for option in type_.options}
    option = given.get("tools")
    if option is None:
        return
    if place != "latent":
        scope.error("PLM343", f"the text of a {place} is given, so no tool writes into it", option.span,
                    "not of a latent", help="name the tools in the type of the latent that they write into")  # fmt: skip
        return
    for name in _OTHER_LANGUAGES:
        other = given.get(name)
        if other is not None and scope.written(other.value) is not False:
            scope.error("PLM343", f"{name}= and tools= cannot stand together", option.span,
                        "written by tools", secondary=[(other.span, "read as drawn")],
                        help="pattern=, chars= and stop= go with tools")  # fmt: skip
    triggers = _triggers(scope, option)
    _clashes(scope, triggers)
    stop, chars = (scope.written(given[name].value) if name in given else None for name in ("stop", "chars"))
    for trigger, span in triggers:
        if isinstance(stop, str) and stop and stop in trigger:
            scope.error("PLM345", f"no text goes on after stop={stop!r}, which trigger={trigger!r} holds", span,
                        "never called", secondary=[(given["stop"].span, "ends the text")],
                        help="choose another stop or another trigger")  # fmt: skip
        elif isinstance(chars, str) and (strange := [c for c in trigger if c not in chars]):
            scope.error("PLM345", f"no text holds trigger={trigger!r}, since {strange[0]!r} is not among its chars",
                        span, "never called", secondary=[(given["chars"].span, "the characters")],
                        help="add the trigger's characters to chars=")  # fmt: skip


def _triggers(scope: Scope, option: ast.Option) -> list[tuple[str, Span]]:
    """The triggers of the tools that an option names, as far as they are known."""
    items = option.value.items if isinstance(option.value, ast.ListExpr) else (option.value,)
    found = []
    for item in items:
        declared = scope.tools.get(item.id) if isinstance(item, ast.Name) else None
        if declared is None:
            continue
        constructor = constructor_of(scope, declared.tool)
        given = next((o.value for o in declared.tool.options if o.name == "trigger"), None)
        default = None if constructor is None else constructor.options["trigger"].default
        trigger = default if given is None else scope.written(given)
        if isinstance(trigger, str) and trigger:
            found.append((trigger, item.span))
    return found


def _clashes(scope: Scope, triggers: list[tuple[str, Span]]) -> None:
    for k, (trigger, span) in enumerate(triggers):
        for other, first in triggers[:k]:
            if trigger.endswith(other) or other.endswith(trigger):
                scope.error("PLM342", f"two tools write after {max(trigger, other, key=len)!r}", span,
                            f"writes after {trigger!r}", secondary=[(first, f"writes after {other!r}")],
                            help="give them triggers of which none ends in another")  # fmt: skip
                break
