"""Declared types and the options of types, methods and constructors."""

from __future__ import annotations

from collections.abc import Mapping

from posterior_lm.lang import ast
from posterior_lm.lang.check.scope import Scope
from posterior_lm.lang.check.types import pattern, value
from posterior_lm.lang.check.values import Value, constant
from posterior_lm.lang.near import nearest
from posterior_lm.lang.signatures import TYPE_OPTIONS, OptionType
from posterior_lm.lang.source import Span

_EXAMPLES = {
    "text": "text(tokens=1..20)",
    "int": "int(0..9)",
    "one_of": 'one_of("yes", "no")',
    "table": "table(input: text, output: text)",
    "real": "real",
    "bool": "bool",
}


def name_span(node: ast.TypeExpr | ast.Option | ast.Call) -> Span:
    """The span of the name that a type or option begins with."""
    length = len(node.name if not isinstance(node, ast.Call) else node.function.id)
    span = node.span
    return Span(span.source, span.start, min(span.end, span.start + length))


def check_type(scope: Scope, type_: ast.TypeExpr, *, place: str) -> bool:
    """Checks a type where it stands: "latent", "parameter" or "column".

    Returns whether it says what values there are; where it does not, they are unknown.
    """
    name = type_.name
    if name not in TYPE_OPTIONS:
        for part in (*type_.args, *(o.value for o in type_.options)):
            _inner(scope, part)
        near = nearest(name, TYPE_OPTIONS) or {
            "str": "text",
            "string": "text",
            "float": "real",
            "number": "real",
            "integer": "int",
            "boolean": "bool",
            "enum": "one_of",
            "list": "table",
        }.get(name)
        scope.error(
            "PLM208",
            f"unknown type '{name}'",
            name_span(type_),
            "not a type",
            help=f"did you mean '{near}'?" if near else f"the types are {', '.join(TYPE_OPTIONS)}",
        )
        return False
    if place == "latent" and name in ("real", "bool", "table"):
        scope.error("PLM310", f"a latent cannot be {'a table' if name == 'table' else f'a {name}'}",
                    name_span(type_), "not a type of a latent",
                    help="latents are text(…), int(a..b) or one_of(…)")  # fmt: skip
        return False
    if place == "column" and name == "table":
        scope.error("PLM322", "a column cannot hold a table", name_span(type_), "a table in a table")
        return True
    _shape(scope, type_, place)
    options(scope, type_.options, TYPE_OPTIONS[name], f"the type {name}", name_span(type_))
    if name == "text":
        _text(scope, type_, place)
    return not (name == "int" and place == "latent" and not type_.args)


def _inner(scope: Scope, part: ast.Expr | ast.Range) -> Value:
    if isinstance(part, ast.Range):
        return Value("unknown", value(scope, part.low).depends | value(scope, part.high).depends)
    return value(scope, part)


def _shape(scope: Scope, type_: ast.TypeExpr, place: str) -> None:
    """The plain arguments of a type: none, one range, choices, or columns."""
    name = type_.name
    if type_.columns and name != "table":
        scope.error("PLM322", f"{name} has no columns", type_.columns[0].span, "not expected here",
                    help=f"write it like {_EXAMPLES[name]}")  # fmt: skip
    if name == "table":
        _table(scope, type_)
    elif name == "one_of":
        _choices(scope, type_)
    elif name == "int":
        _int(scope, type_, place)
    elif type_.args:
        for arg in type_.args:
            _inner(scope, arg)
        scope.error("PLM322", f"{name} takes no plain arguments", type_.args[0].span, "not expected here",
                    help="name the option: tokens=1..20" if name == "text" else f"write {name}")  # fmt: skip


def _table(scope: Scope, type_: ast.TypeExpr) -> None:
    if type_.args:
        scope.error("PLM322", "a table lists columns with their types", type_.args[0].span, "not a column",
                    help=f"write it like {_EXAMPLES['table']}")  # fmt: skip
    elif not type_.columns:
        scope.error("PLM322", "a table needs at least one column", type_.span, "no columns",
                    help=f"write it like {_EXAMPLES['table']}")  # fmt: skip
    seen: dict[str, Span] = {}
    for column in type_.columns:
        if column.name.id in seen:
            scope.error("PLM202", f"the column '{column.name.id}' is declared twice", column.name.span,
                        "declared again here",
                        secondary=[(seen[column.name.id], "first declared here")])  # fmt: skip
        seen.setdefault(column.name.id, column.name.span)
        check_type(scope, column.type, place="column")


def _choices(scope: Scope, type_: ast.TypeExpr) -> None:
    if not type_.args:
        scope.error("PLM316", "one_of needs at least one choice", type_.span, "no choices",
                    help=f"write it like {_EXAMPLES['one_of']}")  # fmt: skip
    seen: dict[str, Span] = {}
    for arg in type_.args:
        if not isinstance(arg, ast.Literal) or not isinstance(arg.value, str):
            found = constant(arg) if not isinstance(arg, ast.Range) else None
            scope.error("PLM316", "a choice is a string", arg.span, "not a string",
                        help=f'write "{found}"' if found is not None else None)  # fmt: skip
        elif not arg.value:
            scope.error("PLM316", "a choice cannot be empty", arg.span, "no text to score")
        elif arg.value in seen:
            scope.error(
                "PLM316",
                f'the choice "{arg.value}" is listed twice',
                arg.span,
                "again here",
                secondary=[(seen[arg.value], "first listed here")],
                help="drop one of them",
            )
        else:
            seen[arg.value] = arg.span


def _int(scope: Scope, type_: ast.TypeExpr, place: str) -> None:
    args = type_.args
    if not args and place == "latent":
        scope.error("PLM308", "a latent int needs a range", type_.span, "no range",
                    help=f"write it like {_EXAMPLES['int']}")  # fmt: skip
    if not args:
        return
    if len(args) > 1 or not isinstance(args[0], ast.Range):
        for arg in args:
            _inner(scope, arg)
        scope.error("PLM322", "an int takes one range", args[0].span, "expected low..high",
                    help=f"write it like {_EXAMPLES['int']}")  # fmt: skip
        return
    int_range(scope, args[0], constants=place != "latent")


def int_range(
    scope: Scope, range_: ast.Range, *, constants: bool = False, at_least: int | None = None
) -> None:
    """Checks low..high: ints, known before anything is drawn, not empty."""
    for bound in (range_.low, range_.high):
        found = value(scope, bound) if not constants or constant(bound) is not None else None
        if found is None:
            scope.error(
                "PLM322", "the range of a parameter is made of plain numbers", bound.span, "not a number"
            )
        elif found.kind not in ("int", "unknown"):
            scope.error("PLM301", "a range is made of ints", bound.span, f"this is {found.shown}")
        elif found.depends:
            scope.error("PLM322", "a range cannot depend on a latent", bound.span,
                        f"depends on '{min(found.depends)}'")  # fmt: skip
    low, high = constant(range_.low), constant(range_.high)
    if not isinstance(low, int) or not isinstance(high, int):
        return
    if low > high:
        scope.error(
            "PLM302",
            f"the range {low}..{high} is empty",
            range_.span,
            "the first number is the larger",
            help=f"write {high}..{low}",
        )
    elif at_least is not None and low < at_least:
        scope.error("PLM302", "a number of tokens cannot be negative", range_.low.span, "below 0")


def options(
    scope: Scope, given: tuple[ast.Option, ...], known: Mapping[str, OptionType], owner: str, at: Span
) -> None:
    """Checks options by name, number and kind of value."""
    seen: dict[str, ast.Option] = {}
    for option in given:
        if option.name not in known:
            _inner(scope, option.value) if not isinstance(option.value, ast.Name) else None
            near = nearest(option.name, known)
            listed = f"its options are {', '.join(known)}" if known else "it has no options"
            scope.error(
                "PLM206",
                f"{owner} has no option '{option.name}'",
                name_span(option),
                "unknown option",
                help=f"did you mean '{near}'?" if near else listed,
            )
            continue
        if option.name in seen:
            scope.error(
                "PLM207",
                f"the option '{option.name}' is given twice",
                name_span(option),
                "again here",
                secondary=[(seen[option.name].span, "first given here")],
            )
            continue
        seen[option.name] = option
        _option(scope, option, known[option.name])


def _option(scope: Scope, option: ast.Option, wanted: OptionType) -> None:
    given = option.value
    if wanted.kind == "tool":
        _tools(scope, option)
        return
    if wanted.kind == "range":
        if isinstance(given, ast.Range):
            int_range(scope, given, at_least=0)
        else:
            found = value(scope, given)
            number = constant(given)
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
    found_constant = constant(given) if not isinstance(given, ast.Range) else None
    if found_constant is None:
        help = None
        if isinstance(given, ast.Name) and scope.get(given.id) is None:
            if wanted.kind in ("text", "nonempty", "pattern", "choice"):
                meant = nearest(given.id, wanted.choices) or given.id
                help = f'strings stand in quotes: {option.name}="{meant}"'
        else:
            _inner(scope, given)
        scope.error("PLM309", f"{option.name} takes {_wanted(wanted)}", given.span,
                    "has to be written out here", help=help)  # fmt: skip
        return
    _literal(scope, option.name, given.span, found_constant, wanted)
    if wanted.kind == "pattern":
        pattern(scope, given)


def _literal(
    scope: Scope, name: str, span: Span, found: str | int | float | bool, wanted: OptionType
) -> None:
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
        near = nearest(str(found), wanted.choices)
        listed = ", ".join(f'"{c}"' for c in wanted.choices)
        scope.error("PLM309", f'{name} cannot be "{found}"', span, f"expected one of {listed}",
                    help=f'did you mean "{near}"?' if near else None)  # fmt: skip
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
        if isinstance(item, ast.Name) and (binding is None or binding.sort in ("tool", "use")):
            continue
        shown = (
            f"'{item.id}' is {binding.value.shown}"
            if isinstance(item, ast.Name) and binding
            else "not a tool"
        )
        scope.error("PLM309", f"{option.name} takes the name of a declared tool", item.span, shown,
                    help='declare one: tool calc = calculator(trigger="=")')  # fmt: skip


def _text(scope: Scope, type_: ast.TypeExpr, place: str) -> None:
    given = {option.name: option for option in type_.options}
    if place == "latent" and "tokens" not in given:
        scope.error("PLM308", "a latent text needs a limit on its tokens", type_.span, "no limit",
                    help=f"write it like {_EXAMPLES['text']}")  # fmt: skip
    tokens = given.get("tokens")
    if tokens is not None and isinstance(tokens.value, ast.Range) and constant(tokens.value.high) == 0:
        if constant(tokens.value.low) == 0:
            scope.error("PLM302", "no text has between 0 and 0 tokens but the empty one", tokens.value.span,
                        "nothing to draw", help=f"write it like {_EXAMPLES['text']}")  # fmt: skip
    stop, end = given.get("stop"), given.get("end")
    if stop is not None and end is not None and constant_of(end) in ("free", "eos"):
        scope.error("PLM321", f'stop= and end="{constant_of(end)}" contradict each other', end.span,
                    "another way to end", secondary=[(stop.span, "ends at the stop")],
                    help="drop one of them")  # fmt: skip


def constant_of(option: ast.Option) -> str | int | float | bool | None:
    """The literal value of an option, or None."""
    return None if isinstance(option.value, ast.Range) else constant(option.value)
