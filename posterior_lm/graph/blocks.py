"""Lowering what has parts or is not there in every draw, records, lists and branches, and the rows of plates that have ended.

A list has a latent for each place, which holds an item or the end, or does not exist behind the end. So it is what its program
with a branch at each place would be, and whoever draws latents one by one, or weighs them in between, knows nothing of lists.
A record has a latent for each field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import dropwhile
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from posterior_lm.graph.graph import GuideSpec
from posterior_lm.graph.named_files import tools_of
from posterior_lm.graph.nodes import (
    MARK,
    WHEN,
    Apply,
    Carried,
    Latent,
    LmScore,
    Mix,
    Pool,
    Power,
    Previous,
    Role,
    Running,
    Sum,
)
from posterior_lm.lang import ast
from posterior_lm.lang.signatures import BEFORE
from posterior_lm.lang.source import Span
from posterior_lm.lang.typed import Binding, Type

if TYPE_CHECKING:
    from posterior_lm.graph.lower import Lowering


Meant = Binding | tuple[Binding, str]
"""What a node has a name for: a name, or a field of a record."""


Piece = tuple[int, tuple[int, ...]]
"""The latent of an item or a field, and what stands before it in its list or record."""


@frozen
class Places:
    """The nodes of a list: the item at each place, its fields, and whether there is one; None where there certainly is.

    In a list of some depth the places of what is below an item follow it; `paths` says which item of which it is.
    """

    items: tuple[int, ...]
    fields: tuple[Mapping[str, int], ...]
    holds: tuple[int | None, ...]
    paths: tuple[tuple[int, ...], ...]

    def beside(self, place: int, function: str) -> int | None:
        """Which place is `previous` in the same list, or the `parent`; None where there is none."""
        *above, k = self.paths[place]
        path = (*above, k - 1) if function == "previous" else tuple(above)
        return self.paths.index(path) if path in self.paths else None


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


# ---------------------------------------------------------------- latents, lists and records


def drawn(
    lowering: Lowering, name: str, type_: Type, lm: str | None, span: Span, *more: tuple[str, int],
    path: tuple[int, ...] = (),
) -> int:  # fmt: skip
    """The node of a latent of a type that has no parts, with `more` options, at the place of the lists around it and at
    a `path` in its own."""
    declared = type_.at
    options, inputs = lowering.options(type_)
    if "low" in options:
        lowering.bounds[type_] = inputs[options.index("low")], inputs[options.index("high")]
    if (taken := taken_here(lowering)) is not None:
        more = (*more, (WHEN, taken))
    return lowering.build.add(
        Latent(
            name=lowering.placed(name) + "".join(f"[{k}]" for k in path),
            type=declared.name,
            options=(*options, *(option for option, _ in more)),
            inputs=(*inputs, *(value for _, value in more)),
            choices=type_.choices,
            lm=lm,
            plates=lowering.around,
            tools=tools_of(declared, lowering.tools),
            spans=(("type", declared.span), *((o.name, o.value.span) for o in declared.options)),
            span=span,
        )
    )


@frozen
class _Spoken:
    """The distribution of what is drawn piece by piece: a call of a language model, and the powers around it."""

    lowering: Lowering
    lm: str
    call: ast.Call
    exponents: tuple[ast.Expr, ...]
    span: Span

    @classmethod
    def of(cls, lowering: Lowering, statement: ast.Latent) -> _Spoken:
        call, exponents = statement.dist, tuple[ast.Expr, ...]()
        while isinstance(call, ast.PowerExpr):
            exponents = (call.exponent, *exponents)
            call = call.base
        lm = lowering.model(lowering.checked.spellers[statement.name.id])
        assert lm is not None and isinstance(call, ast.Call)
        return cls(lowering, lm, call, exponents, statement.dist.span)

    def score(self, before: Sequence[int], value: int, *, bare: bool = True) -> int:
        """Of a piece, after the context and the pieces before it."""
        build, span = self.lowering.build, self.call.span
        context = build.segments([*self.lowering.context(self.call), *before], span)
        inputs = (context, build.segments([value], span))
        node = build.add(LmScore(lm=self.lm, bare=bare, inputs=inputs, span=span))
        for exponent in self.exponents:
            node = build.add(Power(inputs=(self.lowering.value(exponent), node), span=self.span))
        return node


def latent_record(lowering: Lowering, statement: ast.Latent, type_: Type) -> None:
    """`latent name: record(field: T, …) ~ d`: a latent and a term for each field, which is drawn after those before it."""
    name, spoken, before = statement.name, _Spoken.of(lowering, statement), list[int]()
    pieces: list[Piece] = []
    for part, node in _fields(lowering, name, type_, type_.at.columns, spoken, before):
        lowering.term("latent", f"{name.id}.{part.name.id}", spoken.score(before, node), part)
        lowering.names[lowering.bound(name), part.name.id] = node
        pieces.append((node, tuple(before)))
    lowering.pieces[lowering.placed(name.id)] = tuple(pieces)
    lowering.name(name, lowering.build.segments(before, name.span))


def _fields(
    lowering: Lowering, name: ast.Name, type_: Type, parts: Sequence[ast.Column | ast.Expr], spoken: _Spoken,
    before: list[int], there: int | None = None, path: tuple[int, ...] = (),
) -> Iterator[tuple[ast.Column, int]]:  # fmt: skip
    """The fields among the parts of a record, drawn one after the other, each added to what stands `before` afterwards;
    the text between them too, where the record is `there`."""
    text = ""
    for part in (*parts, None):
        if isinstance(part, ast.Literal):
            text += str(part.value)
            continue
        if text:
            before.append(_if_there(lowering, there, lowering.build.constant(text), name.span))
            text = ""
        if isinstance(part, ast.Column):
            about = f"{name.id}.{part.name.id}"
            node = drawn(lowering, about, type_.columns[part.name.id], spoken.lm, part.span, path=path)
            yield part, node
            before.append(node)


def _if_there(lowering: Lowering, there: int | None, node: int, span: Span) -> int:
    """What stands in a text where something is there, and nothing elsewhere."""
    if there is None:
        return node
    inputs = (there, node, lowering.build.constant(""))
    return lowering.build.add(Apply(op="if", inputs=inputs, span=span))


def latent_list(lowering: Lowering, statement: ast.Latent, type_: Type) -> None:
    """`latent name: list(T, low..high, end="…") ~ d`: one term, the score of every item and of the end.

    A record's fields follow what it begins with, which is its first field where that is no known text.
    """
    build, name, item = lowering.build, statement.name, type_.item
    assert item is not None and item.begins is not None and type_.places is not None
    parts = item.at.columns if item.known.takes == "fields" else ()
    first = parts[0].name.id if parts and isinstance(parts[0], ast.Column) else None
    rest = parts[1:] if first else tuple(dropwhile(lambda part: isinstance(part, ast.Literal), parts))
    place = name.id if first is None else f"{name.id}.{first}"
    spoken, mark = _Spoken.of(lowering, statement), build.constant(str(type_.options["end"]))
    low, high = type_.places
    depth = int(type_.options.get("depth") or 1)  # type: ignore[arg-type]

    def items(above: tuple[int, ...], there: int | None) -> None:
        """A list below the item at `above`, where that is `there`, None: certainly; each item is followed by its own list."""
        for k in range(high):
            path, begun = (*above, k), len(before)
            with _where(lowering, there):
                may_end = ("may_end", build.constant(k >= low))
                node = drawn(lowering, place, begins, spoken.lm, name.span, (MARK, mark), may_end, path=path)
                terms.append(where_taken(lowering, spoken.score(before, node)))
            pieces.append((node, tuple(before)))
            before.append(node)
            if k >= low:
                there = build.add(Apply(op="holds", inputs=(node,), span=name.span))
            fields = {} if first is None else {first: node}
            with _where(lowering, there):
                for part, field in _fields(lowering, name, item, rest, spoken, before, there, path):
                    terms.append(where_taken(lowering, spoken.score(before, field)))
                    pieces.append((field, tuple(before)))
                    fields[part.name.id] = field
            whole = build.segments(before[begun:], name.span) if parts else node
            places[path] = whole, fields, there
            if len(path) < depth:
                items(path, there)
        with _where(lowering, there):
            terms.append(where_taken(lowering, spoken.score(before, mark, bare=False)))
        before.append(_if_there(lowering, there, mark, name.span))

    before: list[int] = []
    begins = item.begins
    pieces: list[Piece] = []
    places: dict[tuple[int, ...], tuple[int, dict[str, int], int | None]] = {}
    terms: list[int] = []
    items((), None)
    lowering.pieces[lowering.placed(name.id)] = tuple(pieces)
    lowering.name(name, build.segments(before, name.span))
    wholes, fields_of, holds = zip(*places.values(), strict=True)
    lowering.lists[lowering.bound(name)] = Places(wholes, fields_of, holds, tuple(places))
    lowering.term(
        "latent", name.id, build.add(Sum(inputs=tuple(terms), span=statement.span)), statement, whole=True
    )


def guides(lowering: Lowering) -> dict[str, GuideSpec]:
    """What the proposals of the latents read: those of items and fields what is stated, then what stands before them.

    In a conversation what stands before them is the beginning of the answer.
    """
    build, found = lowering.build, dict[str, GuideSpec]()
    for name, guide in lowering.guides.items():
        if name not in lowering.pieces:
            found[name] = guide
            continue
        read = build.nodes[guide.context]
        roles = [node.role for node in map(build.nodes.get, read.inputs) if isinstance(node, Role)]
        answers = bool(roles) and roles[-1] != "assistant"
        for latent, before in lowering.pieces[name]:
            turn = [build.add(Role(role="assistant", span=guide.span))] if answers and before else []
            context = build.segments([*read.inputs, *turn, *before], read.span)
            node = build.nodes[latent]
            assert isinstance(node, Latent)
            found[node.name] = evolve(guide, context=context)
    return found


def over_list(lowering: Lowering, statement: ast.Plate, places: Places) -> None:
    """`plate item in list { … }`: what stands inside for every place that holds an item, a term for each statement."""
    row = lowering.bound(statement.row)
    lowering.lists[row] = places
    outside, columns = (lowering.terms, lowering.infos), []
    lowering.items[row] = mine = []
    for k, (item, fields, holds) in enumerate(zip(places.items, places.fields, places.holds, strict=True)):
        lowering.names[row] = item
        lowering.names |= {(row, name): node for name, node in fields.items()}
        lowering.terms, lowering.infos = [], []
        lowering.index.append(k)
        with _where(lowering, holds):
            lowering.body(statement.body)
        lowering.index.pop()
        columns.append(lowering.terms)
        mine.append(Place(holds, *map(dict, _meanings(lowering))))
    infos = lowering.infos
    lowering.terms, lowering.infos = outside
    for parts, info in zip(zip(*columns, strict=True), infos, strict=True):
        lowering.terms.append(lowering.build.add(Sum(inputs=parts, span=info.span)))
        lowering.infos.append(info)


@frozen
class Place:
    """One place of a list that a plate goes over: whether it holds an item, and what names mean in the plate."""

    holds: int | None
    names: dict[Meant, int]
    plates: dict[Binding, int]
    lists: dict[Binding, Places]
    items: dict[Binding, list[Place]]


def _meanings(lowering: Lowering) -> tuple[dict[Any, Any], ...]:
    return lowering.names, lowering.plates, lowering.lists, lowering.items


@contextmanager
def _at(lowering: Lowering, place: Place) -> Iterator[None]:
    """Where names mean what they do at a place of a list."""
    before = _meanings(lowering)
    lowering.names, lowering.plates = place.names, place.plates
    lowering.lists, lowering.items = place.lists, place.items
    yield
    lowering.names, lowering.plates, lowering.lists, lowering.items = before


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
    """The item at a place, as its tokens where it certainly is there; else its text, or number, where it is."""
    build, k = lowering.build, lowering.checked.constant(call.args[1])
    assert isinstance(k, int)
    place = places.paths.index((k,))
    item, holds, read = places.items[place], places.holds[place], call.args[0]
    if isinstance(read, ast.Field):
        item = places.fields[place][read.column]
    if holds is None:
        return item
    none = build.constant("")
    if lowering.checked.value(call).is_number:
        none = build.add(Apply(op="number", inputs=(none,), span=call.span))
    return build.add(Apply(op="if", inputs=(holds, item, none), span=call.span))


# ---------------------------------------------------------------- rows of plates that have ended


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
    with _at(lowering, lowering.items[row][place]):
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
        with _at(lowering, place):
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


def folded(expr: ast.Expr) -> ast.Expr:
    """A number with its minus as one constant."""
    match expr:
        case ast.Unary(op="-", operand=ast.Literal(value=int() | float() as number)):
            return ast.Literal(-number, span=expr.span)
    return expr
