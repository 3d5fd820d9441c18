"""Composing programs as syntax: the product and the power.

The product of two programs has the sum of their log rewards. Parameters with one
name and type are one parameter; a latent of both keeps its first prior, and its
second one becomes an observation of it; whatever else shares a name is renamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import attrs

from posterior_lm.lang import ast
from posterior_lm.lang.diagnostics import CompileError, Diagnostic, error
from posterior_lm.lang.parser import FragmentKind, parse_fragment
from posterior_lm.lang.source import Source

N = TypeVar("N")


def rename(node: N, names: Mapping[str, str]) -> N:
    """The same tree with every `Name` in `names` replaced."""
    if isinstance(node, ast.Name):
        return attrs.evolve(node, id=names.get(node.id, node.id))  # type: ignore[return-value]
    if isinstance(node, ast.TypeExpr) and node.name == "shares":
        return node
    if isinstance(node, ast.Column):  # it is read as `row.column`
        return attrs.evolve(node, type=rename(node.type, names))
    if isinstance(node, tuple):
        return tuple(rename(item, names) for item in node)  # type: ignore[return-value]
    if isinstance(node, ast.Node):
        changes = {
            a.name: rename(getattr(node, a.name), names) for a in attrs.fields(type(node)) if a.name != "span"
        }
        return attrs.evolve(node, **changes)
    return node


def power(module: ast.Module, exponent: float) -> ast.Module:
    """The program with its whole body tempered; conditions stay conditions."""
    body = module.program.body
    number = ast.Unary("-", ast.Literal(-exponent)) if exponent < 0 else ast.Literal(exponent)
    return holding(module, tempered(body, number))


def holding(module: ast.Module, body: tuple[ast.Statement, ...]) -> ast.Module:
    """The module with these statements in the place of its program's."""
    return attrs.evolve(module, program=attrs.evolve(module.program, body=body))


def tempered(body: tuple[ast.Statement, ...], exponent: ast.Expr) -> tuple[ast.Statement, ...]:
    """The statements inside one `temper`; `infer` stays outside, where it belongs."""
    outside = tuple(s for s in body if isinstance(s, ast.Infer))
    inside = tuple(s for s in body if not isinstance(s, ast.Infer))
    return (ast.Temper(exponent, inside), *outside)


def product(a: ast.Module, b: ast.Module) -> ast.Module:
    """Both programs as one. Raises CompileError PLM490 where a shared name means two things."""
    declarations, aliases = _declarations(a, b)
    b = rename(b, aliases)
    mine, theirs = _kinds(a), _kinds(b)
    found: list[Diagnostic] = []
    shared: set[str] = set()
    fresh: dict[str, str] = {}
    taken = {*mine, *theirs, *(d.name.id for d in declarations)}
    for name, (kind, here, meaning) in theirs.items():
        if name not in mine:
            continue
        other, there, first = mine[name]
        if kind == other == "latent":
            shared.add(name)
        if kind == other != "bound":
            if meaning != first:
                found.append(_clash(kind, here, there))
        elif kind == "parameter" or (kind == "latent" and other == "parameter"):
            found.append(_clash("name", here, there))
        else:
            fresh[name] = _fresh(name, taken)
            taken.add(fresh[name])
    if found:
        raise CompileError(found)
    params = {p.name.id: p for p in (*b.program.params, *a.program.params)}
    order = dict.fromkeys(p.name.id for p in (*a.program.params, *b.program.params))
    body = _observed(rename(b.program.body, fresh), shared, a)
    program = attrs.evolve(
        a.program, params=tuple(params[name] for name in order), body=(*a.program.body, *body)
    )
    return ast.Module(declarations, program, span=a.span)


def _kinds(module: ast.Module) -> dict[str, tuple[str, ast.Name, object]]:
    """What each name of a program is, where it stands, and what must agree to share it.

    A latent inside a plate or a branch agrees with nothing, not even its like: which row would
    belong to which is not said anywhere. Nor does a list of records, of whose text only a part is scored, nor do shares.
    """
    kinds: dict[str, tuple[str, ast.Name, object]] = {
        p.name.id: ("parameter", p.name, (p.type, p.default)) for p in module.program.params
    }
    blocks = [s for s in ast.statements(module.program.body) if isinstance(s, ast.Plate | ast.If | ast.Else)]
    inside = {id(s) for block in blocks for s in ast.statements(block.body)}
    for statement in ast.statements(module.program.body):
        match statement:
            case ast.Latent(name=name, type=declared):
                records = any(isinstance(n, ast.Call) and n.function.id == "record" for n in declared.args)
                alone = records or declared.name == "shares" or id(statement) in inside
                kinds[name.id] = ("latent", name, object() if alone else declared)
            case ast.Let(name=name) | ast.Plate(row=name):
                kinds[name.id] = ("bound", name, None)
    return kinds


def _declarations(a: ast.Module, b: ast.Module) -> tuple[tuple[ast.Declaration, ...], dict[str, str]]:
    """The declarations of both, and new names for those of `b` that clash."""
    kept = {d.name.id: d for d in a.declarations}
    taken = {*kept, *_kinds(a), *_kinds(b)}
    aliases: dict[str, str] = {}
    for declaration in b.declarations:
        name = declaration.name.id
        if name in kept and kept[name] == declaration:
            continue
        if name in kept or name in _kinds(a):
            aliases[name] = _fresh(name, taken | {d.name.id for d in b.declarations})
            taken.add(aliases[name])
        renamed = rename(declaration, aliases)
        kept[renamed.name.id] = renamed
    return tuple(kept.values()), aliases


def _fresh(name: str, taken: set[str]) -> str:
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def _observed(
    statements: tuple[ast.Statement, ...], shared: set[str], a: ast.Module
) -> tuple[ast.Statement, ...]:
    """The second program's body, with the priors of shared latents turned into observations."""
    guided = {s.name.id for s in ast.statements(a.program.body) if isinstance(s, ast.Guide)}
    methods = {s.method.function.id for s in ast.statements(a.program.body) if isinstance(s, ast.Infer)}
    body: list[ast.Statement] = []
    for statement in statements:
        match statement:
            case ast.Latent(name=name) if name.id in shared:
                body += _scored_again(statement)
            case ast.Guide(name=name) if name.id in guided:
                continue
            case ast.Infer(method=method) if method.function.id in methods:
                continue
            case ast.Temper() | ast.Plate() | ast.If() | ast.Else():
                body.append(attrs.evolve(statement, body=_observed(statement.body, shared, a)))
            case _:
                body.append(statement)
    return tuple(body)


def _scored_again(latent: ast.Latent) -> list[ast.Statement]:
    """The prior of a latent that is drawn already; of a record field by field, each after those before it."""
    if latent.type.name != "record":
        return [ast.Observe(latent.name, latent.dist, span=latent.span)]
    found: list[ast.Statement] = []
    before: tuple[ast.Expr, ...] = ()
    for part in latent.type.columns:
        read = ast.Field(latent.name, part.name.id) if isinstance(part, ast.Column) else part
        if isinstance(part, ast.Column):
            found.append(ast.Observe(read, _behind(latent.dist, before), span=latent.span))
        before = (*before, read)
    return found


def _behind(dist: ast.Expr, before: tuple[ast.Expr, ...]) -> ast.Expr:
    """The call of a language model, maybe with a power, with more in its context."""
    if isinstance(dist, ast.PowerExpr):
        return attrs.evolve(dist, base=_behind(dist.base, before))
    return attrs.evolve(dist, args=(*dist.args, *before)) if isinstance(dist, ast.Call) else dist


def _clash(what: str, here: ast.Name, there: ast.Name) -> Diagnostic:
    return error(
        "PLM490",
        f"the {what} `{here.id}` means two different things in the two programs",
        here.span,
        "here",
        secondary=() if here.span is there.span else [(there.span, "and here")],
        help="give it one type in both, or rename it in one of them",
    )


# ------------------------------------------------------------------------------- parts in texts of their own


def fragment(text: str, kind: FragmentKind) -> Any:
    """A part of a program from its own text. Raises CompileError with all that is wrong with it."""
    return parse_fragment(Source(f"<{kind}>", text), kind)


def name(text: str) -> ast.Name:
    """A name. Raises CompileError PLM101 for anything else."""
    found = fragment(text, "expression")
    if not isinstance(found, ast.Name):
        raise CompileError.of("PLM101", f"{text!r} is no name", found.span)
    return found


def call(text: str) -> ast.Call:
    """What makes a tool. Raises CompileError PLM101 for anything else."""
    found = fragment(text, "expression")
    if not isinstance(found, ast.Call):
        raise CompileError.of("PLM101", f"{text!r} makes no tool", found.span)
    return found


def number(value: str | float) -> str:
    """A number as it is written; a text is written already."""
    return value if isinstance(value, str) else repr(value)
