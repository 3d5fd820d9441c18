"""Warnings on request: legal programs that probably mean something else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from posterior_lm.lang import ast
from posterior_lm.lang.check.boundaries import boundaries
from posterior_lm.lang.diagnostics import Diagnostic, in_order, warning
from posterior_lm.lang.typed import CheckedModule
from posterior_lm.lang.value_types import value_type
from posterior_lm.lang.walk import names, nodes, statements


def warnings(checked: CheckedModule) -> list[Diagnostic]:
    """Every warning of a module, in order of position."""
    program = checked.module.program
    return in_order(
        [
            *_unused(checked.module, checked.used),
            *_nothing_to_infer(program),
            *_prefix_choices(program),
            *_peeking_guides(checked),
            *_idle_latents(program),
            *boundaries(checked),
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


def _prefix_choices(program: ast.Program) -> Iterator[Diagnostic]:
    for node in nodes(program):
        if not isinstance(node, ast.TypeExpr) or value_type(node.name).takes != "choices":
            continue
        choices = sorted(
            (arg for arg in node.args if isinstance(arg, ast.Literal) and isinstance(arg.value, str)),
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
                    notes=[
                        "a choice scores only its own tokens, so the shorter one pays nothing to end there"
                    ],
                    help=f'end both with a mark, such as "{short.value}." and "{long.value}."',
                )


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


def _idle_latents(program: ast.Program) -> Iterator[Diagnostic]:
    """Latents whose posterior is their prior, since no statement but their own names them."""
    body = list(statements(program.body))
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
            case ast.Factor(value=value) | ast.Condition(value=value) | ast.Let(value=value):
                read |= {n.id for n in names(value)}
    for statement in body:
        if not isinstance(statement, ast.Latent) or isinstance(statement.dist, ast.PowerExpr):
            continue
        name = statement.name
        if name.id not in read and id(statement) not in tempered:
            yield warning(
                "PLM906",
                f"nothing depends on '{name.id}'",
                name.span,
                "its posterior is its prior",
                help=f"add an observe, factor or condition that reads '{name.id}', or drop it",
            )
