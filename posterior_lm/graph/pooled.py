"""Lowering what reads other rows of a plate or other items of a list: the one before, the one above, and all that have ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from posterior_lm.graph.blocks import at
from posterior_lm.graph.nodes import Apply, Carried, Pool, Previous, Running
from posterior_lm.lang import ast
from posterior_lm.lang.signatures import BEFORE
from posterior_lm.lang.source import Span
from posterior_lm.lang.typed import Binding

if TYPE_CHECKING:
    from posterior_lm.graph.lower import Lowering


def let(lowering: Lowering, name: ast.Name, expr: ast.Expr) -> int:
    """The value of a let; where it reads itself in the row before of a table, that is what is carried there."""
    mine, checked = lowering.bound(name), lowering.checked
    rows = [
        row
        for call in ast.nodes(expr)
        if isinstance(call, ast.Call) and call.function.id in BEFORE
        if any(isinstance(n, ast.Name) and checked.binding(n) is mine for n in ast.nodes(call.args[0]))
        for row in checked.pooled(call)
    ]
    if not rows or rows[0] in lowering.items:
        return lowering.value(expr)
    number = len(lowering.build.nodes)
    lowering.name(name, lowering.build.add(Carried(number=number, plates=lowering.around, span=name.span)))
    return lowering.build.add(Running(number=number, inputs=(lowering.value(expr),), span=expr.span))


def previous(lowering: Lowering, call: ast.Call, *, listed: bool) -> int:
    """What a value is in the row before of a plate, at the place before of a list, or at the item above."""
    (row,) = lowering.checked.pooled(call)
    value, first = call.args
    if row not in lowering.items:
        both = lowering.value(value, listed=listed), lowering.value(first, listed=listed)
        return lowering.build.add(Previous(plate=lowering.plates[row], inputs=both, span=call.span))
    place = lowering.lists[row].beside(len(lowering.items[row]), call.function.id)
    if place is None:
        return lowering.value(first, listed=listed)
    with at(lowering, lowering.items[row][place]):
        return lowering.value(value, listed=listed)


def pooled(lowering: Lowering, call: ast.Call, name: str, op: str, *, listed: bool) -> int:
    """A function of many values, or of those of every row of plates and lists that have ended, inner ones first."""
    add, span, rows = lowering.build.add, call.span, lowering.checked.pooled(call)
    if op == "mean" and any(
        row in lowering.items for row in rows
    ):  # over lists, of which no two are of one length
        whole, count = (
            _over(lowering, "+", rows, row, (), span)
            for row in (lambda: _row(lowering, call, name, op, listed), lambda: lowering.build.constant(1))
        )
        return add(Apply(op="/", inputs=(whole, count), span=span))
    beside = (lowering.value(call.args[1], listed=listed),) if op in ("join", "last") else ()
    return _over(lowering, op, rows, lambda: _row(lowering, call, name, op, listed), beside, span)


def _row(lowering: Lowering, call: ast.Call, name: str, op: str, listed: bool) -> int:
    """The value of one row."""
    add, span = lowering.build.add, call.span
    if op in ("join", "last"):
        return lowering.value(call.args[0], listed=listed and op == "last")
    given = [lowering.value(arg, listed=True) for arg in call.args]
    if name == op:
        return add(Apply(op=op, inputs=tuple(given), span=span))
    lists = (lowering.build.nodes[i] for i in given)
    parts = [j for i, n in zip(given, lists, strict=True)
             for j in (n.inputs if isinstance(n, Apply) and n.op == "list" else (i,))]  # fmt: skip
    return lowering.build.reduced(op, parts, span)


def _over(
    lowering: Lowering, op: str, rows: Sequence[Binding], row: Callable[[], int], beside: tuple[int, ...], span: Span,
) -> int:  # fmt: skip
    """The value of all these rows, outermost first; `beside` is what `join` puts between, and `last` falls back on."""
    if not rows:
        return row()
    add, first = lowering.build.add, rows[0]
    if first not in lowering.items:
        plate = lowering.plates[first]
        inner = _over(lowering, op, rows[1:], row, beside, span)
        return add(Pool(op=op, plate=plate, inputs=(lowering.tables[plate], inner, *beside), span=span))
    values: list[tuple[int | None, int]] = []
    for place in lowering.items[first]:
        with at(lowering, place):
            values.append((place.holds, _over(lowering, op, rows[1:], row, beside, span)))

    def where(holds: int | None, value: int, otherwise: int) -> int:
        return value if holds is None else add(Apply(op="if", inputs=(holds, value, otherwise), span=span))

    if op == "last":
        (found,) = beside
        for holds, value in values:
            found = where(holds, value, found)
        return found
    if op == "join":
        parts = [
            lowering.build.segments([*(beside if k else ()), value], span)
            for k, (_, value) in enumerate(values)
        ]
        none = lowering.build.constant("")
        return lowering.build.segments(
            [where(holds, part, none) for (holds, _), part in zip(values, parts, strict=True)], span
        )
    none = lowering.build.reduced(op, [], span)
    return lowering.build.reduced(op, [where(holds, value, none) for holds, value in values], span)
