"""The program with a model of its own for what the M-step trains.

A program names one model and uses it for the latents, for what is observed and for guides.
Only some of these terms may change in an M-step, so they get an alias of their own: the same
model under another name, `base_em` for `base`. Before any training the program means what it
meant, and printed it shows which terms are trained.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from attrs import frozen

from posterior_lm.lang import ast
from posterior_lm.lang.compose import rename
from posterior_lm.lang.diagnostics import InferenceError, error
from posterior_lm.lang.walk import names, statements

SUFFIX = "_em"


@frozen
class SplitModel:
    """The module with the new alias; `alias` is the model's old name, `trained` its new one.

    `labels` are the parameters that stand in what the trained statements observe.
    """

    module: ast.Module
    alias: str
    trained: str
    labels: tuple[str, ...]


def split_model(module: ast.Module, alias: str | None = None, *, train_prior: bool = False) -> SplitModel:
    """Give the trained terms of a checked module an alias of their own.

    Trained are the `observe` statements that a model scores and whose value reads no latent:
    raising the probability of a latent's own value is no likelihood. With `train_prior` the
    latents of the same model are trained too. Raises InferenceError PLM790 where nothing is
    left to train, PLM792 where the statements use several models and `alias` names none.
    """
    body = module.program.body
    hidden = _reading_latents(body)
    lms = [d for d in module.declarations if isinstance(d, ast.LmDecl)]
    found = [
        (s, who)
        for s in statements(body)
        if isinstance(s, ast.Observe)
        and (who := _model_of(s.dist, {d.name.id for d in lms})) is not None
        and not {n.id for n in names(s.value)} & hidden
    ]
    aliases = list(dict.fromkeys(who for _, who in found))
    if alias is None and len(aliases) > 1:
        named = " and ".join(f"`{a}`" for a in aliases)
        raise InferenceError(
            error(
                "PLM792",
                f"what `{module.program.name.id}` observes is scored by {len(aliases)} models, {named}",
                found[-1][0].span,
                help=f"say which one the M-step trains: --train {aliases[0]}",
            )
        )
    chosen = aliases[0] if alias is None and aliases else alias
    mine = [s for s, who in found if who == chosen]
    if not mine or chosen is None:
        which = "a language model" if alias is None else f"the model `{alias}`"
        raise InferenceError(
            error(
                "PLM790",
                f"`{module.program.name.id}` observes nothing that {which} scores, so there is nothing "
                "for an M-step to train",
                module.program.name.span,
                help="observe a parameter, as in `observe label ~ base(question, reason)`",
            )
        )
    taken = {n.id for n in _all_names(module)}
    trained = chosen + SUFFIX
    while trained in taken:
        trained += "_"
    marked = {id(s) for s in mine}
    program = attrs.evolve(module.program, body=_renamed(body, marked, {chosen: trained}, train_prior))
    own = next(d for d in lms if d.name.id == chosen)
    declarations: list[ast.Declaration] = []
    for declaration in module.declarations:
        declarations.append(declaration)
        if declaration is own:
            declarations.append(attrs.evolve(own, name=ast.Name(trained)))
    params = {p.name.id for p in module.program.params}
    read = {name for s in mine for name in _read_by(s.value, body)}
    labels = tuple(p.name.id for p in module.program.params if p.name.id in params & read)
    # Comments stand at places of the old text, which the new one no longer has.
    split = attrs.evolve(module, declarations=tuple(declarations), program=program, comments=())
    return SplitModel(split, chosen, trained, labels)


def _model_of(dist: ast.Expr, lms: set[str]) -> str | None:
    """The model of a distribution, powers and `choice` seen through."""
    while isinstance(dist, ast.PowerExpr):
        dist = dist.base
    if not isinstance(dist, ast.Call):
        return None
    if dist.function.id == "choice" and dist.args:
        return _model_of(dist.args[0], lms)
    return dist.function.id if dist.function.id in lms else None


def _reading_latents(body: tuple[ast.Statement, ...]) -> set[str]:
    """The latents, and every `let` whose value comes from one."""
    found: set[str] = set()
    for statement in statements(body):  # a `let` stands after what it reads
        match statement:
            case ast.Latent(name=name):
                found.add(name.id)
            case ast.Let(name=name, value=value) if {n.id for n in names(value)} & found:
                found.add(name.id)
    return found


def _read_by(value: ast.Expr, body: tuple[ast.Statement, ...]) -> set[str]:
    """Every name that an expression reads, through `let`s and the rows of plates."""
    meaning = {s.name.id: s.value for s in statements(body) if isinstance(s, ast.Let)}
    meaning |= {s.row.id: s.table for s in statements(body) if isinstance(s, ast.Plate)}
    found: set[str] = set()
    todo: list[ast.Expr] = [value]
    while todo:
        for name in names(todo.pop()):
            if name.id not in found:
                found.add(name.id)
                if name.id in meaning:
                    todo.append(meaning[name.id])
    return found


def _renamed(
    body: tuple[ast.Statement, ...], marked: set[int], new: dict[str, str], train_prior: bool
) -> tuple[ast.Statement, ...]:
    out: list[ast.Statement] = []
    for statement in body:
        match statement:
            case ast.Temper() | ast.Plate():
                out.append(attrs.evolve(statement, body=_renamed(statement.body, marked, new, train_prior)))
            case ast.Observe() if id(statement) in marked:
                out.append(attrs.evolve(statement, dist=rename(statement.dist, new)))
            case ast.Latent() if train_prior:
                out.append(attrs.evolve(statement, dist=rename(statement.dist, new)))
            case _:
                out.append(statement)
    return tuple(out)


def _all_names(node: object) -> Iterator[ast.Name]:
    from posterior_lm.lang.walk import nodes

    return (n for n in nodes(node) if isinstance(n, ast.Name))
