"""Lowering what is not there in every draw, branches and lists of texts, and the rows of plates that have ended.

A list has a latent for each place, which holds an item or the end, or does not exist behind the end. So it is what its program
with a branch at each place would be, and whoever draws latents one by one, or weighs them in between, knows nothing of lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from posterior_lm.graph.named_files import tools_of
from posterior_lm.graph.nodes import MARK, WHEN, Apply, Latent, LmScore, Mix, Pool, Power, Sum
from posterior_lm.lang import ast
from posterior_lm.lang.typed import Type

if TYPE_CHECKING:
    from posterior_lm.graph.lower import Lowering


@frozen
class Places:
    """The nodes of a list: a latent for each place, and whether it holds an item; None where it certainly does."""

    latents: tuple[int, ...]
    holds: tuple[int | None, ...]


# ---------------------------------------------------------------- branches


def branch(lowering: Lowering, test: int, body: tuple[ast.Statement, ...]) -> None:
    """The statements of an `if` or `else` block."""
    with _where(lowering, test):
        lowering.body(body)


def taken_here(lowering: Lowering) -> int | None:
    """Whether all branches around the current statement are taken; None where there is none."""
    tests = lowering.branches
    return lowering.build.reduced("and", tests, lowering.build.nodes[tests[-1]].span) if tests else None


def where_taken(lowering: Lowering, node: int) -> int:
    """The term where the branches around it are taken, and 0 elsewhere, pushed down to the scores that it is made of."""
    test, build = taken_here(lowering), lowering.build
    if test is None:
        return node
    inside = build.nodes[node]
    match inside:
        case Power(inputs=(exponent, term)):
            return build.add(evolve(inside, inputs=(exponent, where_taken(lowering, term))))
        case Sum():
            return build.add(evolve(inside, inputs=tuple(where_taken(lowering, i) for i in inside.inputs)))
    return build.add(Mix(inputs=(test, node, build.constant(0.0)), span=inside.span))


@contextmanager
def _where(lowering: Lowering, test: int | None) -> Iterator[None]:
    """Inside a branch with this test, if there is one."""
    if test is not None:
        lowering.branches.append(test)
    yield
    if test is not None:
        lowering.branches.pop()


# ---------------------------------------------------------------- lists


def latent_list(lowering: Lowering, statement: ast.Latent, type_: Type) -> None:
    """`latent name: list(T, low..high, end="…") ~ d`: one term, the score of every item and of the end."""
    build, name, item = lowering.build, statement.name, type_.item
    call, exponents = statement.dist, list[ast.Expr]()
    while isinstance(call, ast.PowerExpr):
        exponents.insert(0, call.exponent)
        call = call.base
    lm = lowering.model(lowering.checked.spellers[name.id])
    assert item is not None and type_.places is not None and lm is not None and isinstance(call, ast.Call)
    context, mark = lowering.context(call), build.constant(str(type_.options["end"]))
    options, inputs = lowering.options(item.at)
    low, high = type_.places

    def scored(before: list[int], value: int, *, bare: bool) -> int:
        text = build.segments([value], call.span)
        node = build.add(
            LmScore(
                lm=lm,
                bare=bare,
                inputs=(build.segments([*context, *before], call.span), text),
                span=call.span,
            )
        )
        for exponent in exponents:
            node = build.add(Power(inputs=(lowering.value(exponent), node), span=statement.dist.span))
        return where_taken(lowering, node)

    latents: list[int] = []
    holds: list[int | None] = []
    terms: list[int] = []
    for k in range(high):
        with _where(lowering, holds[-1] if holds else None):
            taken = taken_here(lowering)
            when = () if taken is None else ((WHEN, taken),)
            mine = (
                *zip(options, inputs, strict=True),
                (MARK, mark),
                ("may_end", build.constant(k >= low)),
                *when,
            )
            node = build.add(
                Latent(
                    name=lowering.placed(name.id) + f"[{k}]",
                    type=item.name,
                    options=tuple(option for option, _ in mine),
                    inputs=tuple(value for _, value in mine),
                    lm=lm,
                    plates=lowering.around,
                    tools=tools_of(item.at, lowering.tools),
                    spans=(("type", item.span), *((o.name, o.value.span) for o in item.at.options)),
                    span=name.span,
                )
            )
            terms.append(scored(latents, node, bare=True))
        latents.append(node)
        holds.append(None if k < low else build.add(Apply(op="holds", inputs=(node,), span=name.span)))
    full = holds[-1]
    with _where(lowering, full):
        terms.append(scored(latents, mark, bare=False))
    if full is not None:
        mark = build.add(Apply(op="if", inputs=(full, mark, build.constant("")), span=name.span))
    lowering.name(name, build.segments([*latents, mark], name.span))
    lowering.lists[lowering.bound(name)] = Places(tuple(latents), tuple(holds))
    lowering.term(
        "latent", name.id, build.add(Sum(inputs=tuple(terms), span=statement.span)), statement, whole=True
    )


def over_list(lowering: Lowering, statement: ast.Plate, places: Places) -> None:
    """`plate item in list { … }`: what stands inside for every place that holds an item, a term for each statement."""
    row = lowering.bound(statement.row)
    outside, columns = (lowering.terms, lowering.infos), []
    for k, (latent, holds) in enumerate(zip(places.latents, places.holds, strict=True)):
        lowering.names[row] = latent
        lowering.terms, lowering.infos = [], []
        lowering.index.append(k)
        with _where(lowering, holds):
            lowering.body(statement.body)
        lowering.index.pop()
        columns.append(lowering.terms)
    infos = lowering.infos
    lowering.terms, lowering.infos = outside
    for parts, info in zip(zip(*columns, strict=True), infos, strict=True):
        lowering.terms.append(lowering.build.add(Sum(inputs=parts, span=info.span)))
        lowering.infos.append(info)


def length(lowering: Lowering, places: Places, call: ast.Call) -> int:
    """How many places hold an item."""
    build = lowering.build
    one, none = build.constant(1), build.constant(0)
    counts = [
        one if holds is None else build.add(Apply(op="if", inputs=(holds, one, none), span=call.span))
        for holds in places.holds
    ]
    return build.reduced("+", counts, call.span)


def item_at(lowering: Lowering, places: Places, call: ast.Call) -> int:
    """The item at a place, as its tokens where it certainly is there; else its text, empty where there is none."""
    build, k = lowering.build, lowering.checked.constant(call.args[1])
    assert isinstance(k, int)
    latent, holds = places.latents[k], places.holds[k]
    if holds is None:
        return latent
    return build.add(Apply(op="if", inputs=(holds, latent, build.constant("")), span=call.span))


# ---------------------------------------------------------------- rows of plates that have ended


def pooled(lowering: Lowering, call: ast.Call, name: str, op: str) -> int:
    """A function of many values, or of those of every row of plates that have ended, inner ones first."""
    add, span, rows = lowering.build.add, call.span, lowering.checked.pooled(call)
    between: tuple[int, ...] = ()
    if op == "join":
        row, between = lowering.value(call.args[0]), (lowering.value(call.args[1]),)
    else:
        given = [lowering.value(arg, listed=True) for arg in call.args]
        if name == op:
            row = add(Apply(op=op, inputs=tuple(given), span=span))
        else:
            lists = (lowering.build.nodes[i] for i in given)
            parts = [j for i, n in zip(given, lists, strict=True)
                     for j in (n.inputs if isinstance(n, Apply) and n.op == "list" else (i,))]  # fmt: skip
            row = lowering.build.reduced(op, parts, span)
    for one in reversed(rows):
        plate = lowering.plates[one]
        row = add(Pool(op=op, plate=plate, inputs=(lowering.tables[plate], row, *between), span=span))
    return row


def folded(expr: ast.Expr) -> ast.Expr:
    """A number with its minus as one constant."""
    match expr:
        case ast.Unary(op="-", operand=ast.Literal(value=int() | float() as number)):
            return ast.Literal(-number, span=expr.span)
    return expr
