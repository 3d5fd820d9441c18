"""The options of types, methods and constructors: names, kinds of value, bounds."""

from __future__ import annotations

from collections.abc import Mapping

from posterior_lm.lang import ast
from posterior_lm.lang.check.fits import pattern
from posterior_lm.lang.check.scope import Scope
from posterior_lm.lang.check.types import value, written
from posterior_lm.lang.near import nearest
from posterior_lm.lang.signatures import OptionType
from posterior_lm.lang.source import Span
from posterior_lm.lang.typed import Constant, Value, joined


def name_span(node: ast.TypeExpr | ast.Option | ast.Call) -> Span:
    """The span of the name that a type or option begins with."""
    length = len(node.name if not isinstance(node, ast.Call) else node.function.id)
    span = node.span
    return Span(span.source, span.start, min(span.end, span.start + length))


def inner(scope: Scope, part: ast.Expr | ast.Range) -> None:
    """Looks at an argument or option, which may be a range."""
    for one in (part.low, part.high) if isinstance(part, ast.Range) else (part,):
        value(scope, one)


def int_range(
    scope: Scope, range_: ast.Range, *, constants: bool = False, at_least: int | None = None
) -> None:
    """Checks low..high: ints, known before anything is drawn, not empty."""
    ends = []
    for bound in (range_.low, range_.high):
        if constants and written(scope, bound) is None:
            scope.error(
                "PLM322", "the range of a parameter is made of plain numbers", bound.span, "not a number"
            )
            continue
        ends.append(found := scope.findings.values[id(bound)] if constants else value(scope, bound))
        if found.kind not in ("int", "unknown"):
            scope.error("PLM301", "a range is made of ints", bound.span, f"this is {found.shown}")
        elif found.latents:
            scope.error("PLM322", "a range cannot depend on a latent", bound.span,
                        f"depends on '{found.latents[0]}'")  # fmt: skip
    low, high = scope.written(range_.low), scope.written(range_.high)
    known = (low, high) if isinstance(low, int) and isinstance(high, int) else None
    scope.findings.values[id(range_)] = Value("unknown", joined(*ends), constant=known)
    if known is None:
        return
    low, high = known
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
            inner(scope, option.value) if not isinstance(option.value, ast.Name) else None
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
        if isinstance(item, ast.Name) and (binding is None or binding.sort == "tool"):
            continue
        shown, how = "not a tool", 'tool calc = calculator(trigger="=")'
        if isinstance(item, ast.Name) and binding:
            used = binding.sort == "use"
            shown = f"'{item.id}' is {'a function' if used else binding.value.shown}"
            how = f'tool t = {item.id}(trigger="=")' if used else how
        scope.error("PLM309", f"{option.name} takes the name of a declared tool", item.span, shown,
                    help=f"declare one: {how}")  # fmt: skip
