"""The program with a model of its own for what the M-step trains, and the rows that teach it.

A program names one model and uses it for the latents, for what is observed and for guides.
Only some of these terms may change in an M-step, so they get an alias of their own: the same
model under another name, `base_em` for `base`. Before any training the program means what it
meant, and printed it shows which terms are trained. Rows teach something where they hold what is
observed, and observe more than one thing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs
from attrs import frozen

from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.nodes import ChoiceScore, LmScore, Mix, Power, Sum
from posterior_lm.graph.ops import spelled
from posterior_lm.lang import ast
from posterior_lm.lang.ast import nodes, statements
from posterior_lm.lang.compose import rename
from posterior_lm.lang.diagnostics import DataError, InferenceError
from posterior_lm.lang.typed import CheckedModule
from posterior_lm.target.segments import Known
from posterior_lm.target.target import Target
from posterior_lm.train.observable import where_taken
from posterior_lm.train.rows import Rows

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
        raise InferenceError.of(
            "PLM792",
            f"what `{module.program.name.id}` observes is scored by {len(aliases)} models, {named}",
            found[-1][0].span,
            help=f"say which one the M-step trains: --train {aliases[0]}",
        )
    chosen = aliases[0] if alias is None and aliases else alias
    mine = [s for s, who in found if who == chosen]
    if not mine or chosen is None:
        which = "a language model" if alias is None else f"the model `{alias}`"
        raise InferenceError.of(
            "PLM790",
            f"`{module.program.name.id}` observes nothing that {which} scores, so there is nothing "
            "for an M-step to train",
            module.program.name.span,
            help="observe a parameter, as in `observe label ~ base(question, reason)`",
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
            case ast.Temper() | ast.Plate() | ast.If() | ast.Else():
                out.append(attrs.evolve(statement, body=_renamed(statement.body, marked, new, train_prior)))
            case ast.Observe() if id(statement) in marked:
                out.append(attrs.evolve(statement, dist=rename(statement.dist, new)))
            case ast.Latent() if train_prior:
                out.append(attrs.evolve(statement, dist=rename(statement.dist, new)))
            case _:
                out.append(statement)
    return tuple(out)


# ------------------------------------------------------------------------------- rows

Row = Mapping[str, object]


def labelled(
    rows: Sequence[Row], graph: RewardGraph, split: SplitModel, known: Mapping[str, object]
) -> tuple[list[Row], str | None]:
    """The rows that hold every observed value, and a remark about the others; None where there are none.

    A column that is absent or null is a missing value, unless it is `known` for every row. Raises
    DataError PLM791 where no row holds them all.
    """
    wanted = [p.name for p in graph.params if p.name in split.labels and p.name not in known]
    kept: list[Row] = []
    missing: dict[str, int] = {}
    for row in rows:
        absent = [
            name
            for name in wanted
            if row.get(name) is None and (name in row or graph.param(name).required)  # type: ignore[union-attr]
        ]
        if not absent:
            kept.append(row)
        for name in absent:
            missing[name] = missing.get(name, 0) + 1
    if not missing:
        return kept, None
    names = " or ".join(f"`{name}`" for name in missing)
    if not kept:
        raise DataError.of(
            "PLM791",
            f"none of the {len(rows)} rows has a value of {names}, and EM learns from nothing else",
            help=f"add the column {names} to some rows; those without it are left out",
        )
    few = len(rows) - len(kept)
    word = "row has" if few == 1 else "rows have"
    return kept, f"{few} of {len(rows)} {word} no {names}: they say nothing about it and are left out"


def one_label(rows: Rows, numbers: Sequence[int], alias: str) -> bool:
    """Whether the model `alias` is taught one and the same text by all of these rows."""
    seen: set[str] = set()
    for number in numbers:
        seen |= _texts(rows.target(number), alias)
        if len(seen) > 1:
            return False
    return True


def check_labels(rows: Rows, numbers: Sequence[int], alias: str) -> None:
    """Raises DataError PLM794 where every row teaches the same text.

    Then p(y | x, z) goes to 1 whatever z is, and the evidence with it.
    """
    if not one_label(rows, numbers, alias):
        return
    said = next(iter(_texts(rows.target(numbers[0]), alias)), "").strip()
    who = f"all {len(numbers)} rows observe" if len(numbers) > 1 else "the only row observes"
    raise DataError.of(
        "PLM794",
        f"{who} {said!r}, so the M-step would learn to say it whatever the latents are",
        help="give rows with at least two labels, or fit the guide alone with `plm fit`",
    )


def trained_scores(graph: RewardGraph, alias: str) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Each score of the model with the exponents and the tests of branches around it, in the order of the statements."""
    stack: list[tuple[int, tuple[int, ...]]] = [(i, ()) for i in reversed(graph.sink.inputs)]
    while stack:
        i, powers = stack.pop()
        node = graph[i]
        match node:
            case Sum():
                stack += [(j, powers) for j in reversed(node.inputs)]
            case Power():
                stack.append((node.inputs[1], (*powers, node.inputs[0])))
            case LmScore() | ChoiceScore() if node.lm == alias:
                yield i, powers
            case Mix() if (inside := where_taken(graph, i)) is not None:
                stack.append((inside, (*powers, node.inputs[0])))  # whether it is taken is 1 or 0
            case Mix() if any(
                isinstance(one := graph[j], LmScore | ChoiceScore) and one.lm == alias
                for j in graph.ancestors(i)
            ):
                raise InferenceError.of(
                    "PLM540",
                    f"an M-step cannot train `{alias}` as a part of a mixture or of a branch",
                    node.span,
                    "how much of it counts differs by the draw",
                    help="let it score in a statement of its own, or fit the guide alone with `plm fit`",
                )


def _texts(target: Target, alias: str) -> set[str]:
    """What the trained scores of a row say, latents aside."""
    found: set[str] = set()
    for i, _ in trained_scores(target.graph, alias):
        node, evaluator = target.graph[i], target.evaluator
        if isinstance(node, ChoiceScore):
            if node.inputs[1] in target.graph.fixed:
                found.add(spelled(evaluator.fixed_value(node.inputs[1])))  # type: ignore[arg-type]
            continue
        segments = evaluator.plan(i).text
        if all(isinstance(p, Known) or hasattr(p, "kind") for p in segments):
            found.add("".join(p.text for p in segments if isinstance(p, Known)))
    return found
