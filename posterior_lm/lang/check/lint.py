"""Warnings on request: legal programs that probably mean something else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from posterior_lm.lang import ast
from posterior_lm.lang.check.boundaries import boundaries
from posterior_lm.lang.diagnostics import Diagnostic, warning
from posterior_lm.lang.walk import names, nodes, statements


def lint(module: ast.Module, used: set[str]) -> list[Diagnostic]:
    """Every warning of a module without errors; `used` are the names that something reads."""
    return [
        *_unused(module, used),
        *_nothing_to_infer(module.program),
        *_prefix_choices(module.program),
        *_peeking_guides(module.program),
        *_idle_latents(module.program),
        *boundaries(module),
    ]


def _unused(module: ast.Module, used: set[str]) -> Iterator[Diagnostic]:
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
        if not isinstance(node, ast.TypeExpr) or node.name != "one_of":
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


def _lets(program: ast.Program) -> dict[str, ast.Expr]:
    return {s.name.id: s.value for s in statements(program.body) if isinstance(s, ast.Let)}


def _reads(expr: object, lets: dict[str, ast.Expr]) -> dict[str, ast.Name]:
    """Every name an expression reads, through lets too, with the name in the expression that leads there."""
    found: dict[str, ast.Name] = {}
    stack = [(name, name) for name in names(expr)]
    while stack:
        name, outer = stack.pop()
        if name.id in found:
            continue
        found[name.id] = outer
        if name.id in lets:
            stack += [(inner, outer) for inner in names(lets[name.id])]
    return found


def _peeking_guides(program: ast.Program) -> Iterator[Diagnostic]:
    """Guides that read what programs are usually asked to predict."""
    lets = _lets(program)
    small = {p.name.id for p in program.params if p.type.name in ("one_of", "int")}
    observed: dict[str, ast.Name] = {}
    for statement in statements(program.body):
        if isinstance(statement, ast.Observe):
            observed.update({k: v for k, v in _reads(statement.value, lets).items() if k in small})
    for statement in statements(program.body):
        if not isinstance(statement, ast.Guide):
            continue
        for name, where in _reads(statement.dist, lets).items():
            if name in observed:
                yield warning(
                    "PLM904",
                    f"the guide of '{statement.name.id}' reads '{name}', which is observed",
                    where.span,
                    "not there when it is to be predicted",
                    secondary=[(observed[name].span, "observed here")],
                    help=f"leave '{name}' out of the guide if you want to run: plm predict",
                )


def _idle_latents(program: ast.Program) -> Iterator[Diagnostic]:
    """Latents whose posterior is their prior."""
    read: set[str] = set()
    guided: set[str] = set()
    tempered: set[int] = set()
    for statement in statements(program.body):
        if isinstance(statement, ast.Guide):
            guided.add(statement.name.id)
        elif isinstance(statement, ast.Latent):
            read |= {n.id for n in names((statement.type, statement.dist))}
        elif isinstance(statement, ast.Temper):
            tempered |= {id(s) for s in statements(statement.body)}
        elif isinstance(statement, ast.Observe):
            read |= {n.id for n in names((statement.value, statement.dist))}
        elif isinstance(statement, (ast.Factor, ast.Condition, ast.Let)):
            read |= {n.id for n in names(statement.value)}
    for statement in statements(program.body):
        if not isinstance(statement, ast.Latent) or isinstance(statement.dist, ast.PowerExpr):
            continue
        name = statement.name
        if name.id not in read | guided and id(statement) not in tempered:
            yield warning(
                "PLM906",
                f"nothing depends on '{name.id}'",
                name.span,
                "its posterior is its prior",
                help=f"add an observe, factor or condition that reads '{name.id}', or drop it",
            )
