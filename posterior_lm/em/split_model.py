"""The program with a model of its own for what the M-step trains.

A program names one model and uses it for the latents, for what is observed and for guides.
Only some of these terms may change in an M-step, so they get an alias of their own: the same
model under another name, `base_em` for `base`. Before any training the program means what it
meant, and printed it shows which terms are trained.
"""

from __future__ import annotations

import attrs
from attrs import frozen

from posterior_lm.lang import ast
from posterior_lm.lang.compose import rename
from posterior_lm.lang.diagnostics import InferenceError, error
from posterior_lm.lang.typed import CheckedModule
from posterior_lm.lang.walk import nodes, statements

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


def split_model(checked: CheckedModule, alias: str | None = None, *, train_prior: bool = False) -> SplitModel:
    """Give the trained terms of a module an alias of their own.

    Trained are the `observe` statements that a model scores and whose value reads no latent:
    raising the probability of a latent's own value is no likelihood. With `train_prior` the
    latents of the same model are trained too. Raises InferenceError PLM790 where nothing is
    left to train, PLM792 where the statements use several models and `alias` names none.
    """
    module = checked.module
    body = module.program.body
    lms = {d.name.id: d for d in module.declarations if isinstance(d, ast.LmDecl)}
    found = [
        (s, who)
        for s in statements(body)
        if isinstance(s, ast.Observe)
        and (who := checked.dist(s.dist).model) in lms
        and not checked.value(s.value).latents
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
    taken = {n.id for n in nodes(module) if isinstance(n, ast.Name)}
    trained = chosen + SUFFIX
    while trained in taken:
        trained += "_"
    marked = {id(s) for s in mine}
    program = attrs.evolve(module.program, body=_renamed(body, marked, {chosen: trained}, train_prior))
    own = lms[chosen]
    declarations: list[ast.Declaration] = []
    for declaration in module.declarations:
        declarations.append(declaration)
        if declaration is own:
            declarations.append(rename(own, {chosen: trained}))
    read = {binding for s in mine for binding in checked.value(s.value).depends}
    labels = tuple(p.name.id for p in module.program.params if checked.binding(p.name) in read)
    # Comments stand at places of the old text, which the new one no longer has.
    split = attrs.evolve(module, declarations=tuple(declarations), program=program, comments=())
    return SplitModel(split, chosen, trained, labels)


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
