"""Warnings on request: legal programs that probably mean something else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

from attrs import evolve

from posterior_lm.infer.methods import METHODS
from posterior_lm.lang import ast
from posterior_lm.lang.ast import names, nodes, statements
from posterior_lm.lang.check.declared import name_span
from posterior_lm.lang.diagnostics import Diagnostic, in_order, warning
from posterior_lm.lang.source import Span
from posterior_lm.lang.typed import CheckedModule, Type
from posterior_lm.lang.value_types import value_type


def warnings(checked: CheckedModule) -> list[Diagnostic]:
    """Every warning of a module, in order of position."""
    program = checked.module.program
    return in_order(
        [
            *_unused(checked.module, checked.used),
            *_nothing_to_infer(program),
            *unended(checked),
            *_peeking_guides(checked),
            *_idle_latents(program),
            *_boundaries(checked),
            *_old_names(program),
        ]
    )


def _unused(module: ast.Module, used: frozenset[str]) -> Iterator[Diagnostic]:
    declared: list[tuple[str, ast.Name]] = []
    for decl in module.declarations:
        kinds = {ast.LmDecl: "language model", ast.ToolDecl: "tool", ast.UseDecl: "import"}
        declared.append((kinds[type(decl)], decl.name))
    declared += [("parameter", p.name) for p in module.program.params]
    declared += [("let", s.name) for s in statements(module.program.body) if isinstance(s, ast.Let)]
    for kind, name in declared:
        if name.id not in used:
            yield warning("PLM903", f"the {kind} '{name.id}' is never used", name.span, "not used",
                          help="drop it")  # fmt: skip


def _nothing_to_infer(program: ast.Program) -> Iterator[Diagnostic]:
    if not any(isinstance(s, ast.Latent) for s in statements(program.body)):
        yield warning("PLM907", f"the program '{program.name.id}' has no latents", program.name.span,
                      "nothing to infer",
                      help="plm score still gives its log reward")  # fmt: skip


def _old_names(program: ast.Program) -> Iterator[Diagnostic]:
    for infer in (s for s in statements(program.body) if isinstance(s, ast.Infer)):
        method = infer.method.function.id
        former = METHODS[method].former if method in METHODS else {}
        for option in infer.method.options:
            if new := former.get(option.name):
                yield warning("PLM908", f"the option '{option.name}' of {method} is now called '{new}'",
                              name_span(option), "its old name", help=f"write {new}=…")  # fmt: skip


def unended(checked: CheckedModule, given: Mapping[str, object] | None = None) -> Iterator[Diagnostic]:
    """PLM905: types of which one value begins another, where a model spells the value and nothing behind it says that it ends.

    Bounds of ranges that are parameters have their values in `given`, or else their defaults.
    """
    program = checked.module.program
    known = {p.name.id: p.default and checked.constant(p.default) for p in program.params} | dict(given or {})
    latents = [
        one for s in statements(program.body) if isinstance(s, ast.Latent) for one in _spelled_apart(s)
    ]
    observed = [_segments(checked, s.value) for s in statements(program.body) if isinstance(s, ast.Observe)]
    lasts = [parts[-1] for parts in observed if parts]
    scored = {id(checked.declared(last)) for last in lasts if isinstance(last, ast.Name | ast.Field)}
    scored |= {id(checked.type(s.type)) for s in latents if _spelled(checked, s)}
    ended = set(_ended(checked))
    quiet = {id(s.type) for s in latents if s.name.id in ended}
    for node in nodes(program):
        if not isinstance(node, ast.TypeExpr) or not checked.has_type(node):
            continue
        if value_type(node.name).takes != "choices":
            continue
        if id(checked.type(node)) in scored and id(node) not in quiet:
            yield from _prefix_choices(node)
    for latent in latents:
        if (
            value_type(latent.type.name).takes != "range"
            or id(latent.type) in quiet
            or not _spelled(checked, latent)
        ):
            continue
        pair = next(
            (found for arg in latent.type.args if (found := _beginning(checked, arg, known)) is not None),
            None,
        )
        if pair is not None:
            yield warning(
                "PLM905",
                f"the number {pair[0]} of '{latent.name.id}' begins the number {pair[1]}",
                latent.type.span,
                "spelled without an end",
                notes=["a number scores only its own digits, so the shorter one has the mass of both"],
                help=_scored_end(checked, latent),
            )


def _fields(statement: ast.Statement) -> tuple[ast.Column | ast.Expr, ...]:
    """The fields of a record that is drawn, or of a list's, and the known texts between them; of anything else nothing."""
    match statement:
        case ast.Latent(type=ast.TypeExpr(name="record", columns=parts)):
            return parts
        case ast.Latent(type=ast.TypeExpr(args=(ast.Call(function=ast.Name(id="record")) as item, *_))):
            return ast.TypeExpr.of_call(item).columns
    return ()


def _spelled_apart(latent: ast.Latent) -> Iterator[ast.Latent]:
    """A latent, or those fields of a record that no other one stands right behind, nor what is scored behind an item."""
    if not (parts := _fields(latent)):
        yield latent
    last = parts[-1] if parts and latent.type.name != "record" else None
    for part, behind in zip(parts, (*parts[1:], last), strict=False):
        if isinstance(part, ast.Column) and not isinstance(behind, ast.Column):
            named = latent.name if behind is None else part.name
            field = f"{latent.name.id}.{part.name.id}"
            yield ast.Latent(
                evolve(named, id=latent.name.id if behind is None else field), part.type, latent.dist
            )


def _prefix_choices(type_: ast.TypeExpr) -> Iterator[Diagnostic]:
    choices = sorted(
        (arg for arg in type_.args if isinstance(arg, ast.Literal) and isinstance(arg.value, str)),
        key=lambda arg: str(arg.value),
    )
    for short, long in pairwise(choices):
        if str(long.value).startswith(str(short.value)) and long.value != short.value:
            yield warning(
                "PLM905",
                f'the choice "{short.value}" begins the choice "{long.value}"',
                short.span,
                "the shorter one",
                secondary=[(long.span, "the longer one")],
                notes=["a choice scores only its own tokens, so the shorter one pays nothing to end there"],
                help=f'end every choice with a mark, such as "{short.value}." and "{long.value}."',
            )


def _spelled(checked: CheckedModule, latent: ast.Latent) -> bool:
    """Whether a model's probabilities of its tokens are its distribution, renormalised or not."""
    lm = checked.dist(latent.dist).lm
    binding = None if lm is None else checked.binding(lm.function)
    return binding is not None and binding.sort == "lm"


def _ended(checked: CheckedModule) -> Iterator[str]:
    """The latents right behind which something is scored that does not go on as a number does."""
    for statement in statements(checked.module.program.body):
        if not isinstance(statement, ast.Latent | ast.Observe):
            continue
        lm = checked.dist(statement.dist).lm
        last = lm.args[-1:] if lm is not None else ()
        context = _segments(
            checked, ast.ListExpr(last[0].args if last and isinstance(last[0], ast.Role) else last)
        )
        if context and isinstance(context[-1], ast.Name):
            value = statement.value if isinstance(statement, ast.Observe) else statement.name
            first = _segments(checked, value)[:1]
            if first and not (isinstance(first[0], ast.Literal) and str(first[0].value)[:1].isdigit()):
                yield context[-1].id


def _scored_end(checked: CheckedModule, latent: ast.Latent) -> str:
    """How to score the end of a number, as a statement where it needs no thought."""
    lm = checked.dist(latent.dist).lm
    assert lm is not None
    if any(isinstance(arg, ast.Role) for arg in lm.args):
        return f"score what follows '{latent.name.id}' in the same message, or let all numbers have as many digits"
    context = ", ".join([*(arg.span.text for arg in lm.args), latent.name.id])
    return f'score its end on the next line: observe "." ~ {lm.function.id}({context})'


def _beginning(checked: CheckedModule, arg: ast.Node, known: Mapping[str, object]) -> tuple[int, int] | None:
    """The first whole number of a range that begins another one in it."""
    if not isinstance(arg, ast.Range):
        return None
    low, high = (
        known.get(e.id) if isinstance(e, ast.Name) else checked.constant(e) for e in (arg.low, arg.high)
    )
    if not isinstance(low, int) or not isinstance(high, int):
        return None
    if max(1, low) * 10 <= high:
        return max(1, low), max(1, low) * 10
    return (min(-1, high), min(-1, high) * 10) if min(-1, high) * 10 >= low else None


def _peeking_guides(checked: CheckedModule) -> Iterator[Diagnostic]:
    """Guides that read what programs are usually asked to predict."""
    body = list(statements(checked.module.program.body))
    observed: dict[str, ast.Name] = {}
    for statement in body:
        if isinstance(statement, ast.Observe):
            observed.update(_parameters(checked, statement.value))
    for statement in body:
        if not isinstance(statement, ast.Guide):
            continue
        for name, where in _parameters(checked, statement.dist).items():
            if name in observed:
                yield warning(
                    "PLM904",
                    f"the guide of '{statement.name.id}' reads '{name}', which is observed",
                    where.span,
                    "not there when it is to be predicted",
                    secondary=[(observed[name].span, "observed here")],
                    help=f"leave '{name}' out of the guide if you want to run: plm predict",
                )


def _parameters(checked: CheckedModule, expr: ast.Expr) -> dict[str, ast.Name]:
    """The finite parameters that an expression reads, and the last name in it that leads there."""
    return {
        read.name: name
        for name in names(expr)
        for read in checked.value(name).depends
        if read.sort == "parameter" and read.type is not None and read.type.known.finite
    }


LENGTH = {"tokens", "stop", "end"}
"""The options of a text that say where it ends, and nothing of what it holds."""


def _idle_latents(program: ast.Program) -> Iterator[Diagnostic]:
    """Latents whose posterior is their prior, since no statement but their own names them.

    Not where that is what the program is for: what reads other latents is foretold by them, and in a program that
    only draws, a model that may say certain things alone is asked which of them it says.
    """
    body = list(statements(program.body))
    latents = {s.name.id for s in body if isinstance(s, ast.Latent)}
    draws_only = not any(
        isinstance(s, (ast.Observe, ast.Prefer, ast.Factor, ast.Condition, ast.Temper)) for s in body
    )
    read: set[str] = set()
    tempered: set[int] = set()
    for statement in body:
        match statement:
            case ast.Guide(name=name):
                read.add(name.id)
            case ast.Temper(body=inside):
                tempered |= {id(s) for s in statements(inside)}
            case ast.Latent(type=type_, dist=dist):
                read |= {n.id for n in names((type_, dist))}
            case ast.Observe(value=value, dist=dist):
                read |= {n.id for n in names((value, dist))}
            case ast.Prefer(items=items, dist=dist):
                read |= {n.id for n in names((items, dist))}
            case ast.Plate(table=table):
                read |= {n.id for n in names(table)}
            case (
                ast.Factor(value=value)
                | ast.Condition(value=value)
                | ast.Let(value=value)
                | ast.If(test=value)
            ):
                read |= {n.id for n in names(value)}
    for statement in body:
        if not isinstance(statement, ast.Latent) or isinstance(statement.dist, ast.PowerExpr | ast.Binary):
            continue
        name = statement.name
        if name.id in read or id(statement) in tempered:
            continue
        type_ = statement.type
        asked = type_.name != "text" or not {option.name for option in type_.options} <= LENGTH
        if any(n.id in latents for n in names(statement.dist)) or (draws_only and asked):
            continue
        yield warning(
            "PLM906",
            f"nothing depends on '{name.id}'",
            name.span,
            "its posterior is its prior",
            help=f"add an observe, factor or condition that reads '{name.id}'"
            + (", or drop it" if not draws_only else ""),
        )


# Known neighbours are tokenised together, but what is drawn or observed has tokens of its own.
# Models learn words with the space in front, so "is " followed by "true" is far less likely
# than "is" followed by " true".


Segment = ast.Expr | ast.Column
"""A part of a text; a column is a field of a record."""


def _boundaries(checked: CheckedModule) -> Iterator[Diagnostic]:
    """Where a latent or an observed text begins: a lone space before it, a word cut in two; each place once."""
    seen: set[tuple[str, Span]] = set()
    for statement in statements(checked.module.program.body):
        scored: list[tuple[Segment, ast.Expr]] = []
        fields = _fields(statement)
        meetings: list[tuple[Segment, Segment]] = [
            (one, other) for one, other in pairwise(fields) if not isinstance(one, ast.Column)
        ]
        if isinstance(statement, ast.Latent) and fields:
            begins = statement.type.name != "record" or isinstance(fields[0], ast.Column)
            scored += [(first, statement.dist) for first in fields[:1] if begins]
        elif isinstance(statement, (ast.Latent, ast.Guide)) and checked.dist(statement.dist).sort != "masked":
            scored.append((statement.name, statement.dist))
        elif isinstance(statement, ast.Observe):
            scored.append((statement.value, statement.dist))
        for node in nodes(statement):
            if isinstance(node, ast.Call) and node.function.id == "log_prob" and len(node.args) == 2:
                scored.append((node.args[0], node.args[1]))
        for value, dist in scored:
            meetings += _meetings(checked, value, dist)
        for before, after in meetings:
            for found in _pair(checked, before, after):
                if (place := (found.code, before.span)) not in seen:
                    seen.add(place)
                    yield found


def _meetings(checked: CheckedModule, value: Segment, dist: ast.Expr) -> Iterator[tuple[Segment, Segment]]:
    """Neighbours in the text of one score of which the second has tokens of its own."""
    for part in checked.dist(dist).leaves:
        if part.lm is not None:
            yield from _called(checked, value, part.lm)


def _called(checked: CheckedModule, value: Segment, call: ast.Call) -> Iterator[tuple[Segment, Segment]]:
    model = checked.binding(call.function)
    if model is None or model.sort != "lm":
        return
    messages = [arg for arg in call.args if isinstance(arg, ast.Role)]
    for part in [m.args for m in messages] or [call.args]:
        context = _segments(checked, ast.ListExpr(part))
        found = pairwise(context)
        yield from ((before, after) for before, after in found if _latent(checked, after) is not None)
    # The text of an answer begins behind what the template writes, but where the answer is begun already.
    if context and (not messages or messages[-1].role == "assistant"):
        yield from ((context[-1], first) for first in _segments(checked, value)[:1])


def _segments(checked: CheckedModule, expr: Segment) -> list[Segment]:
    """The segments of an expression, lists and lets opened."""
    out: list[Segment] = []
    stack, opened = [expr], 0
    while stack:
        item = stack.pop()
        binding = checked.binding(item)
        if isinstance(item, ast.ListExpr):
            stack += reversed(item.items)
        elif binding is not None and binding.definition is not None and opened < 1000:
            opened += 1
            stack.append(binding.definition)
        else:
            out.append(item)
    return out


def _pair(checked: CheckedModule, before: Segment, after: Segment) -> Iterator[Diagnostic]:
    if not isinstance(before, ast.Literal) or not isinstance(before.value, str) or not before.value:
        return
    if isinstance(after, ast.Literal) and not isinstance(after.value, str):
        return
    text = before.value
    named = after.name if isinstance(after, ast.Column) else after
    what = f"'{named.id}'" if isinstance(named, ast.Name) else "the scored text"
    if text[-1] in " \t":
        yield warning(
            "PLM901",
            f"the text before {what} ends in a lone space",
            _tail(before),
            "tokenised without the word that follows",
            secondary=after.span.said("begins here"),
            notes=["models learn words with the space in front of them"],
            help=_fix(checked, after),
        )
    elif text[-1].isalnum() and _begins_a_word(checked, after):
        yield warning(
            "PLM902",
            f"a word is cut in two before {what}",
            _tail(before),
            "ends inside a word",
            secondary=after.span.said("begins here"),
            help=_fix(checked, after, add=True),
        )


def _begins_a_word(checked: CheckedModule, after: Segment) -> bool:
    if isinstance(after, ast.Literal):
        return str(after.value)[:1].isalnum()
    type_ = checked.declared(after) if isinstance(after, ast.Name) else _latent(checked, after)
    if type_ is None:
        return False
    if type_.known.kind == "int":
        return not type_.options.get("lead")
    return any(str(choice)[:1].isalnum() for choice in type_.choices)


def _latent(checked: CheckedModule, expr: Segment) -> Type | None:
    """The type of a latent or of a field of a record; None of anything else."""
    if isinstance(expr, ast.Column):
        return checked.type(expr.type)
    binding = checked.binding(expr)
    return binding.type if binding is not None and binding.sort == "latent" else None


def _fix(checked: CheckedModule, after: Segment, *, add: bool = False) -> str:
    drop = "" if add else "drop the space here and "
    if (latent := _latent(checked, after)) is not None:
        if "lead" in latent.known.options:
            return f'{drop}spell it in the type: {latent.name}(…, lead=" ")'
        if latent.known.takes == "choices":
            return f"{drop}begin each choice with the space"
        return "drop the space here: the text that is drawn begins with its own"
    if isinstance(after, ast.Name):
        return f'{drop}score [" ", {after.id}]'
    return f"{drop}begin the scored text with the space"


def _tail(literal: ast.Literal) -> Span:
    """The last character of a string literal, or all of it where no source spells it."""
    span = literal.span
    if span.end - span.start < 3:
        return span
    return Span(span.source, span.end - 2, span.end - 1)
