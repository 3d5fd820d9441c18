"""Guides: whether each guides a latent, and reads what is known when that is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen

from posterior_lm.lang import ast
from posterior_lm.lang.ast import names
from posterior_lm.lang.check.scope import Scope
from posterior_lm.lang.diagnostics import meant
from posterior_lm.lang.typed import KIND_NAMES, UNKNOWN, Binding, Dist


@frozen(eq=False)
class Guided:
    """A guide statement as it stood, judged once every latent is known."""

    statement: ast.Guide
    found: Dist
    block: int


def _parts(args: Sequence[ast.Expr]) -> list[ast.Expr]:
    """The parts of a context, those of lists one by one."""
    return [one for arg in args for one in (_parts(arg.items) if isinstance(arg, ast.ListExpr) else [arg])]


def is_masked(scope: Scope, dist: ast.Expr) -> bool:
    """Whether it is one call of a masked model, which reads the latent that it proposes: there it fills."""
    binding = scope.get(dist.function.id) if isinstance(dist, ast.Call) else None
    return binding is not None and binding.value.kind == "masked"


def judge(
    scope: Scope, guided: Guided, latents: Mapping[str, Binding], spellers: dict[str, str | None]
) -> None:
    """Reports a guide that guides nothing, or reads what it cannot; else it may say which tokens spell the latent."""
    statement = guided.statement
    name = statement.name
    latent = latents.get(name.id)
    if latent is None:
        _not_a_latent(scope, name, latents)
        return
    scope.bind(name, latent)
    if latent.type is not None and latent.type.name == "shares":
        scope.error("PLM409", f"'{name.id}' are shares, which no text says", name.span, "not guided",
                    help="drop the guide: the prior is proposed with as it is")  # fmt: skip
        return
    if guided.found.sort != "masked":
        spellers[name.id] = spellers[name.id] or guided.found.model
    if latent.block != guided.block:
        scope.error(
            "PLM409",
            f"the guide of '{name.id}' stands in another block than its latent",
            name.span,
            "guided here",
            secondary=[(latent.span, "drawn here")],
            help="move the guide next to the latent",
        )
    if guided.found.tempered:
        scope.error("PLM409", "a guide is drawn from, so it has no power", statement.dist.span,
                    "raised to a power", help="drop '^'; the target keeps its own")  # fmt: skip
    if guided.found.parts:
        scope.error("PLM409", "a guide is one call of a language model", statement.dist.span,
                    f"this is a {guided.found.sort}",
                    help="let it read one context, and say in it what the others say; or drop the guide: all parts are proposed from")  # fmt: skip
        return
    if guided.found.sort == "masked":
        _judge_masked(scope, statement, latent)
    elif guided.found.sort not in ("lm", "unknown"):
        scope.error("PLM409", "a guide reads text, so it is a language model", statement.dist.span,
                    f"{guided.found.sort} reads nothing",
                    help="write `guide z ~ base(...)`, or drop the guide: the prior is proposed with as it is")  # fmt: skip
        return
    for later in sorted(guided.found.depends, key=lambda other: other.name):
        if later.order > latent.order:
            other = later.name
            uses = [used.span for used in names(statement.dist) if used.id == other]
            scope.error("PLM407", f"the guide of '{name.id}' reads '{other}', which is drawn later",
                        uses[0] if uses else statement.dist.span, "not known when the guide draws",
                        secondary=[(later.span, "drawn here")])  # fmt: skip


def _judge_masked(scope: Scope, statement: ast.Guide, latent: Binding) -> None:
    """Reports a guide that does not say where the latent stands, and a latent that no masked model fills."""
    call, name = statement.dist, statement.name
    assert isinstance(call, ast.Call) and latent.type is not None
    roles = [arg for arg in call.args if isinstance(arg, ast.Role)]
    parts = _parts(call.args)
    own = [part for part in parts if isinstance(part, ast.Name) and part.id == name.id]
    read = [scope.findings.values.get(id(part), UNKNOWN) for part in parts if part not in own]
    if roles:
        scope.error("PLM416", "a masked model reads one text, and no conversation", roles[0].span, "a message",
                    help="write the text as the model was trained on it")  # fmt: skip
    elif len(own) != 1 or any(latent in one.depends for one in read):
        scope.error("PLM416", f"the guide has to say once where '{name.id}' stands in the text", call.span,
                    f"its places are masked where '{name.id}' stands",
                    help=f"write {call.function.id}(before, {name.id}, behind)")  # fmt: skip
    options = latent.type.options
    written = [o for o in ("grammar", "json", "tools", "canonical") if o in options]
    if latent.type.name != "text" or written:
        what = f"a text with {written[0]}=" if written else KIND_NAMES.get(latent.type.name, latent.type.name)
        scope.error("PLM416", f"a masked model fills no {what.split(' ', 1)[-1]}", name.span, f"'{name.id}' is {what}",
                    secondary=latent.type.span.said("the type"),
                    help="drop the guide: the prior is proposed with as it is")  # fmt: skip


def _not_a_latent(scope: Scope, name: ast.Name, latents: Mapping[str, Binding]) -> None:
    if name.id in scope.broken or (name.id in scope.planned and scope.planned[name.id].sort == "latent"):
        return
    binding = scope.get(name.id)
    if binding is not None:
        scope.error(
            "PLM408",
            f"'{name.id}' is a {binding.sort}, and only a latent has a guide",
            name.span,
            "not a latent",
            secondary=[(binding.span, "declared here")],
        )
        return
    help = meant(name.id, latents, None, "'")
    scope.error("PLM201", f"unknown latent '{name.id}'", name.span, "no such latent", help=help)
