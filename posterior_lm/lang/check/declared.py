"""Declared types and options: which may stand where, what their arguments have to be, what goes together.

Options are those of types, methods and constructors: names, kinds of value, bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from posterior_lm.infer.methods import OptionType
from posterior_lm.lang import ast
from posterior_lm.lang.check.fits import pattern, tools_of_text
from posterior_lm.lang.check.scope import Scope
from posterior_lm.lang.check.types import value, written
from posterior_lm.lang.diagnostics import meant, nearest
from posterior_lm.lang.source import Span
from posterior_lm.lang.typed import KIND_NAMES, Constant, Type, Value, joined
from posterior_lm.lang.value_types import VALUE_TYPES, List, value_type
from posterior_lm.lang.values import PlaceSpec


def check_type(scope: Scope, type_: ast.TypeExpr, *, place: str) -> tuple[Type, bool]:
    """Checks a type where it stands: "latent", "parameter" or "column".

    Returns it and whether it says what values there are; where it does not, they are unknown.
    """
    known = _check(scope, type_, place)
    typed = scope.findings.types[id(type_)] = _typed(scope, type_)
    return typed, known


def _typed(scope: Scope, type_: ast.TypeExpr) -> Type:
    constants = [scope.written(arg) for arg in type_.args]
    known = value_type(type_.name)
    return Type(
        type_,
        choices=known.choices(constants),
        range=known.range(constants),
        options={option.name: scope.written(option.value) for option in type_.options},
        item=_item(scope, type_),
        places=known.places or next(((int(c[0]), int(c[1])) for c in constants if isinstance(c, tuple)), None)
        if isinstance(known, List)
        else None,
        columns={
            c.name.id: scope.findings.types.get(id(c.type)) or _typed(scope, c.type) for c in type_.fields
        }
        | {
            name.id: Type(_REAL)
            for name in type_.args
            if isinstance(name, ast.Name) and known.takes == "names"
        },
    )


def _item(scope: Scope, type_: ast.TypeExpr) -> Type | None:
    """The type of a list's items, where it was found to be one."""
    call = type_.args[0] if value_type(type_.name).takes == "items" and type_.args else None
    return scope.findings.types.get(id(call)) if isinstance(call, ast.Call) else None


def _check(scope: Scope, type_: ast.TypeExpr, place: str) -> bool:
    name = type_.name
    if name not in VALUE_TYPES:
        for part in (*type_.args, *(o.value for o in type_.options)):
            if not (isinstance(part, ast.Call) and part.function.id in VALUE_TYPES):
                inner(scope, part)
        near = nearest(name, VALUE_TYPES) or next(
            (t.name for t in VALUE_TYPES.values() if name in t.elsewhere), None
        )
        scope.error(
            "PLM208",
            f"unknown type '{name}'",
            name_span(type_),
            "not a type",
            help=f"did you mean '{near}'?" if near else f"the types are {', '.join(VALUE_TYPES)}",
        )
        return False
    known = VALUE_TYPES[name]
    if place == "latent" and not known.latent:
        *others, last = (t.form for t in VALUE_TYPES.values() if t.latent)
        scope.error("PLM310", f"a latent cannot be a {name}", name_span(type_), "not a type of a latent",
                    help=f"latents are {', '.join(others)} or {last}")  # fmt: skip
        return False
    if place != "latent" and known.takes in ("items", "fields", "names"):
        what = name if name == "shares" else f"a {name}"
        scope.error("PLM352", f"a {place} cannot be {what}", name_span(type_), "not of what is given",
                    help="take a text, or the rows of a table")  # fmt: skip
        return False
    if place == "column" and name == "table":
        scope.error("PLM322", "a column cannot hold a table", name_span(type_), "a table in a table")
        return True
    options(scope, type_.options, known.options, f"the type {name}", name_span(type_), none=known.no_options)
    _shape(scope, type_, place)
    if name == "text":
        _text(scope, type_, place)
    return not (known.takes == "range" and place == "latent" and not type_.args)


def _shape(scope: Scope, type_: ast.TypeExpr, place: str) -> None:
    """The plain arguments of a type: none, one range, choices, or columns."""
    name, takes = type_.name, VALUE_TYPES[type_.name].takes
    if type_.columns and takes not in ("columns", "fields"):
        scope.error("PLM322", f"{name} has no columns", type_.columns[0].span, "not expected here",
                    help=_like(type_))  # fmt: skip
    if takes == "columns":
        _table(scope, type_)
    elif takes == "items":
        _items(scope, type_)
    elif takes == "fields":
        _fields(scope, type_)
    elif takes == "names":
        _named(scope, type_)
    elif takes == "choices":
        _choices(scope, type_)
    elif takes == "range":
        _ranged(scope, type_, place)
    elif type_.args:
        for arg in type_.args:
            inner(scope, arg)
        scope.error("PLM322", f"{name} takes no plain arguments", type_.args[0].span, "not expected here",
                    help="name the option: tokens=1..20" if name == "text" else f"write {name}")  # fmt: skip


def _like(type_: ast.TypeExpr) -> str:
    return f"write it like {VALUE_TYPES[type_.name].example}"


def _table(scope: Scope, type_: ast.TypeExpr) -> None:
    if type_.args:
        scope.error("PLM322", "a table lists columns with their types", type_.args[0].span, "not a column",
                    help=_like(type_))  # fmt: skip
    elif not type_.columns:
        scope.error("PLM322", "a table needs at least one column", type_.span, "no columns",
                    help=_like(type_))  # fmt: skip
    seen: dict[str, Span] = {}
    for column in type_.fields:
        if column.name.id in seen:
            message = f"the column '{column.name.id}' is declared twice"
            scope.twice("PLM202", message, column.name.span, seen[column.name.id], "declared")
        seen.setdefault(column.name.id, column.name.span)
        check_type(scope, column.type, place="column")


MOST_ITEMS = 64
"""Of a list; every place has a latent."""
ITEMS = ("text", "int", "one_of")
"""The types of what a list holds: a language model spells them."""
LISTED = 10_000
"""Values of an item that are looked at here; the rest is found where data are bound."""


def _items(scope: Scope, type_: ast.TypeExpr) -> None:
    """The plain arguments of a list: what an item is, and how many there may be."""
    call, rest = (type_.args[0], type_.args[1:]) if type_.args else (None, ())
    is_list, a = type_.name == "list", f"a{'n' * (type_.name == 'optional')} {type_.name}"
    ranges = [arg for arg in rest if isinstance(arg, ast.Range)]
    if (
        not isinstance(call, ast.Call)
        or call.function.id not in (*ITEMS, "record")
        or not len(ranges) == len(rest) == is_list
    ):
        for arg in type_.args:
            if not isinstance(arg, ast.Call) and not (isinstance(arg, ast.Name) and arg.id in VALUE_TYPES):
                inner(scope, arg)
        scope.error("PLM322", f"{a} takes what an item is{', and a range' * is_list}", type_.span,
                    f"expected {', '.join(VALUE_TYPES[name].form for name in (*ITEMS, 'record'))}{', then low..high' * is_list}",
                    help=_like(type_))  # fmt: skip
        return
    typed, known = check_type(scope, ast.TypeExpr.of_call(call), place="latent")
    scope.findings.types[id(call)] = typed
    begins = typed.begins
    if begins is not None and begins.name == "text":
        _ends_in_stop(scope, begins.at)
    for range_ in ranges:
        number_range(scope, range_, constants=True, at_least=0)
        most = scope.written(range_)
        deep = next((scope.written(option.value) for option in type_.options if option.name == "depth"), 1)
        if (
            isinstance(most, tuple)
            and most[0] <= most[1]
            and isinstance(deep, int)
            and 1 <= deep <= MOST_ITEMS
        ):
            items = sum(most[1] ** level for level in range(1, deep + 1))
            if not 1 <= items <= MOST_ITEMS:
                found = "too few or too many" if deep == 1 else f"{items:,} over {deep} depths"
                scope.error("PLM302", f"a list has from 1 to {MOST_ITEMS} items at most", range_.span, found)
    ends = [option.value for option in type_.options if option.name == "end"]
    if not ends:
        scope.error("PLM308", f"{a} needs an end", type_.span, "no end", help=_like(type_))
    elif known and begins and (values := begins.finite) is not None and not values.checks():
        end = scope.written(ends[0])
        if isinstance(end, str) and end and values.size <= LISTED:
            scope.found += PlaceSpec(values, end).checks(begins.span)


def _ends_in_stop(scope: Scope, type_: ast.TypeExpr) -> None:
    given = {option.name: option for option in type_.options}
    for name in ("grammar", "json", "end"):
        if name in given:
            scope.error("PLM322", f"an item of a list has no {name}=", given[name].span, "not of an item",
                        help="an item ends in its stop, and the list in its end")  # fmt: skip
    if "stop" not in given:
        scope.error("PLM322", "an item of a list ends in a stop", type_.span, "no stop",
                    help='name one: text(tokens=1..12, stop="\\n")')  # fmt: skip


def _fields(scope: Scope, type_: ast.TypeExpr) -> None:
    """The fields of a record, and the known texts between them."""
    seen: dict[str, Span] = {}
    for part in type_.columns:
        if not isinstance(part, ast.Column):
            if not isinstance(value(scope, part).constant, str):
                scope.error("PLM322", "between the fields of a record stands known text", part.span, "no text",
                            help='write it as a string: record("name:", name: text(…))')  # fmt: skip
            continue
        name = part.name
        if name.id in seen:
            message = f"the field '{name.id}' is declared twice"
            scope.twice("PLM202", message, name.span, seen[name.id], "declared")
        seen.setdefault(name.id, name.span)
        check_type(scope, part.type, place="latent")
        if part.type.name in VALUE_TYPES and part.type.name not in ITEMS:
            what = "a " * (part.type.name != "shares") + part.type.name
            scope.error("PLM351", f"a field of a record cannot be {what}", part.type.span, "not of a field",
                        help=f"fields are {', '.join(VALUE_TYPES[one].form for one in ITEMS)}; write another latent for what else there is")  # fmt: skip
    for arg in type_.args:
        inner(scope, arg)
        scope.error(
            "PLM322", "a record takes fields with their types", arg.span, "not a field", help=_like(type_)
        )
    if not seen:
        scope.error("PLM322", "a record needs at least one field", type_.span, "no fields", help=_like(type_))


_REAL = ast.TypeExpr("real")


def _named(scope: Scope, type_: ast.TypeExpr) -> None:
    """The names of shares."""
    seen: dict[str, Span] = {}
    for arg in type_.args:
        if not isinstance(arg, ast.Name):
            inner(scope, arg)
            scope.error("PLM322", "shares have names", arg.span, "not a name", help=_like(type_))
            return
        if arg.id in seen:
            scope.twice("PLM202", f"the share '{arg.id}' is named twice", arg.span, seen[arg.id], "named")
        seen.setdefault(arg.id, arg.span)
    if len(type_.args) < 2:
        scope.error(
            "PLM322", "a whole has two shares or more", type_.span, "what is the rest?", help=_like(type_)
        )
    elif not any(option.name == "grid" for option in type_.options):
        scope.error(
            "PLM308",
            "shares need a grid, the number of cells of each",
            type_.span,
            "no grid",
            help=_like(type_),
        )


def _choices(scope: Scope, type_: ast.TypeExpr) -> None:
    if not type_.args:
        scope.error("PLM316", "one_of needs at least one choice", type_.span, "no choices",
                    help=_like(type_))  # fmt: skip
    seen: dict[str, Span] = {}
    for arg in type_.args:
        found = written(scope, arg)
        if not isinstance(found, str):
            scope.error("PLM316", "a choice is a string", arg.span, "not a string",
                        help=f'write "{found}"' if found is not None else None)  # fmt: skip
        elif not found:
            scope.error("PLM316", "a choice cannot be empty", arg.span, "no text to score")
        elif found in seen:
            message = f'the choice "{found}" is listed twice'
            scope.twice("PLM316", message, arg.span, seen[found], "listed", "drop one of them")
        else:
            seen[found] = arg.span


def _ranged(scope: Scope, type_: ast.TypeExpr, place: str) -> None:
    """The range of an int or a real; a latent real is cut into cells, and any other real is the number that is given."""
    args, name = type_.args, type_.name
    cells = [option for option in type_.options if option.name == "grid"]
    if place == "latent" and not args:
        scope.error("PLM308", f"a latent {name} needs a range", type_.span, "no range",
                    help=_like(type_))  # fmt: skip
    elif place == "latent" and name == "real" and not cells:
        scope.error("PLM308", "a latent real needs a grid, the number of cells its range is cut into", type_.span,
                    "no grid", help=_like(type_))  # fmt: skip
    elif place != "latent" and name == "real" and (args or cells):
        scope.error("PLM322", f"the real of a {place} is the number that is given", type_.span,
                    "a range and a grid are of latents", help="write real")  # fmt: skip
    if not args:
        return
    if len(args) > 1 or not isinstance(args[0], ast.Range):
        for arg in args:
            inner(scope, arg)
        scope.error("PLM322", f"{KIND_NAMES.get(name, f'a {name}')} takes one range", args[0].span, "expected low..high",
                    help=_like(type_))  # fmt: skip
        return
    number_range(scope, args[0], constants=place != "latent", reals=name == "real")


def _text(scope: Scope, type_: ast.TypeExpr, place: str) -> None:
    given = {option.name: option for option in type_.options}
    if place == "latent" and "tokens" not in given:
        scope.error("PLM308", "a latent text needs a limit on its tokens", type_.span, "no limit",
                    help=_like(type_))  # fmt: skip
    tools_of_text(scope, type_, place)
    tokens = given["tokens"].value if "tokens" in given else None
    if tokens is not None and scope.written(tokens) == (0, 0):
        scope.error("PLM302", "no text has between 0 and 0 tokens but the empty one", tokens.span,
                    "nothing to draw", help=_like(type_))  # fmt: skip
    stop, end = given.get("stop"), given.get("end")
    if stop is not None and end is not None and (ending := scope.written(end.value)) in ("free", "eos"):
        scope.error("PLM321", f'stop= and end="{ending}" contradict each other', end.span,
                    "another way to end", secondary=[(stop.span, "ends at the stop")],
                    help="drop one of them")  # fmt: skip


# ---------------------------------------------------------------- options


def name_span(node: ast.TypeExpr | ast.Option | ast.Call) -> Span:
    """The span of the name that a type or option begins with."""
    length = len(node.name if not isinstance(node, ast.Call) else node.function.id)
    span = node.span
    return Span(span.source, span.start, min(span.end, span.start + length))


def inner(scope: Scope, part: ast.Expr | ast.Range) -> None:
    """Looks at an argument or option, which may be a range."""
    for one in (part.low, part.high) if isinstance(part, ast.Range) else (part,):
        value(scope, one)


def number_range(
    scope: Scope, range_: ast.Range, *, constants: bool = False, at_least: int | None = None,
    reals: bool = False,
) -> None:  # fmt: skip
    """Checks low..high: ints, or `reals`, known before anything is drawn, not empty."""
    ends = []
    for bound in (range_.low, range_.high):
        if constants and written(scope, bound) is None:
            scope.error(
                "PLM322", "the range of a parameter is made of plain numbers", bound.span, "not a number"
            )
            continue
        ends.append(found := scope.findings.values[id(bound)] if constants else value(scope, bound))
        if not found.is_number if reals else found.kind not in ("int", "unknown"):
            wanted = "numbers" if reals else "ints"
            scope.error("PLM301", f"a range is made of {wanted}", bound.span, f"this is {found.shown}")
        elif found.latents:
            scope.error("PLM322", "a range cannot depend on a latent", bound.span,
                        f"depends on '{found.latents[0]}'")  # fmt: skip
    low, high = scope.written(range_.low), scope.written(range_.high)
    kinds = (int, float) if reals else int
    known = (low, high) if isinstance(low, kinds) and isinstance(high, kinds) else None
    scope.findings.values[id(range_)] = Value("unknown", joined(*ends), constant=known)
    if known is None:
        return
    low, high = known
    if low > high or (reals and low == high):
        scope.error(
            "PLM302",
            f"the range {low}..{high} is empty",
            range_.span,
            "the first number is the larger" if low > high else "no real lies between these",
            help=f"write {high}..{low}" if low > high else None,
        )
    elif at_least is not None and low < at_least:
        scope.error("PLM302", "a number of tokens cannot be negative", range_.low.span, "below 0")


def options(
    scope: Scope, given: tuple[ast.Option, ...], known: Mapping[str, OptionType], owner: str, at: Span,
    former: Mapping[str, str] = MappingProxyType({}), none: str = "it has no options",
) -> None:  # fmt: skip
    """Checks options by name, number and kind of value; `former` are old names that still serve."""
    seen: dict[str, ast.Option] = {}
    for option in given:
        name = former.get(option.name, option.name)
        if name not in known:
            inner(scope, option.value) if not isinstance(option.value, ast.Name) else None
            listed = f"its options are {', '.join(known)}" if known else none
            scope.error(
                "PLM206",
                f"{owner} has no option '{option.name}'",
                name_span(option),
                "unknown option",
                help=meant(option.name, known, listed, "'"),
            )
            continue
        if name in seen:
            message = f"the option '{option.name}' is given twice"
            scope.twice("PLM207", message, name_span(option), seen[name].span, "given")
            continue
        seen[name] = option
        _option(scope, option, known[name])


def _option(scope: Scope, option: ast.Option, wanted: OptionType) -> None:
    given = option.value
    if wanted.kind == "tool":
        _tools(scope, option)
        return
    if wanted.kind == "range":
        if isinstance(given, ast.Range):
            number_range(scope, given, at_least=0)
        else:
            found = value(scope, given)
            number = scope.written(given)
            scope.error(
                "PLM309",
                f"{option.name} takes a range",
                given.span,
                "expected low..high",
                help=f"write {option.name}={number}..{number}"
                if found.kind == "int" and number is not None
                else f"write it like {option.name}=1..20",
            )
        return
    found_constant = written(scope, given)
    if found_constant is None:
        help = None
        if isinstance(given, ast.Name) and scope.get(given.id) is None:
            if wanted.kind in ("text", "nonempty", "pattern", "choice"):
                meant = nearest(given.id, wanted.choices) or given.id
                help = f'strings stand in quotes: {option.name}="{meant}"'
        elif id(given) not in scope.findings.values:
            inner(scope, given)
        scope.error("PLM309", f"{option.name} takes {_wanted(wanted)}", given.span,
                    "has to be written out here", help=help)  # fmt: skip
        return
    _literal(scope, option.name, given.span, found_constant, wanted)
    if wanted.kind == "pattern":
        pattern(scope, given, whole=True)


def _literal(scope: Scope, name: str, span: Span, found: Constant, wanted: OptionType) -> None:
    number = isinstance(found, (int, float)) and not isinstance(found, bool)
    fits = {
        "text": isinstance(found, str),
        "nonempty": isinstance(found, str),
        "pattern": isinstance(found, str),
        "choice": isinstance(found, str),
        "bool": isinstance(found, bool),
        "int": isinstance(found, int) and number,
        "number": number,
    }[wanted.kind]
    if not fits:
        shown = {str: "text", bool: "a truth value", int: "an int", float: "a real"}[type(found)]
        scope.error("PLM309", f"{name} takes {_wanted(wanted)}", span, f"this is {shown}")
    elif wanted.kind == "choice" and found not in wanted.choices:
        listed = ", ".join(f'"{c}"' for c in wanted.choices)
        scope.error("PLM309", f'{name} cannot be "{found}"', span, f"expected one of {listed}",
                    help=meant(str(found), wanted.choices, None, '"'))  # fmt: skip
    elif wanted.kind == "nonempty" and found == "":
        scope.error("PLM309", f"{name} cannot be empty", span, "no character in it", help="drop the option")
    elif isinstance(found, (int, float)) and (
        (wanted.low is not None and found < wanted.low) or (wanted.high is not None and found > wanted.high)
    ):
        scope.error("PLM309", f"{name} takes {_wanted(wanted)}", span, "out of range")


def _wanted(wanted: OptionType) -> str:
    base = {"text": "a string", "nonempty": "a string", "pattern": "a pattern, such as r\"[a-z]*\"",
            "bool": "true or false", "int": "an int", "number": "a number"}.get(wanted.kind)  # fmt: skip
    if base is None:
        return "one of " + ", ".join(f'"{c}"' for c in wanted.choices)
    if wanted.low is not None and wanted.high is not None:
        return f"{base} from {wanted.low:g} to {wanted.high:g}"
    return base if wanted.low is None else f"{base} of at least {wanted.low:g}"


def _tools(scope: Scope, option: ast.Option) -> None:
    items = option.value.items if isinstance(option.value, ast.ListExpr) else (option.value,)
    for item in items:
        binding = scope.resolve(item) if isinstance(item, ast.Name) else None
        if isinstance(item, ast.Name) and (binding is None or binding.sort == "tool"):
            continue
        shown, how = "not a tool", 'tool calc = calculator(trigger="=")'
        if isinstance(item, ast.Name) and binding:
            used = binding.sort == "use"
            shown = f"'{item.id}' is {'a function' if used else binding.value.shown}"
            how = f'tool t = {item.id}(trigger="=")' if used else how
        scope.error("PLM309", f"{option.name} takes the name of a declared tool", item.span, shown,
                    help=f"declare one: {how}")  # fmt: skip
