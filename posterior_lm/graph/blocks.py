"""Lowering what has parts or is not there in every draw: records, shares, lists and branches.

A list has a latent for each place, which holds an item or the end, or does not exist behind the end. So it is what its program
with a branch at each place would be, and whoever draws latents one by one, or weighs them in between, knows nothing of lists.
A record has a latent for each field, and shares one for each but the last. What reads other items or rows is in `pooled`.
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
    DistScore,
    Latent,
    LmScore,
    Mix,
    Power,
    Role,
    Sum,
)
from posterior_lm.lang import ast
from posterior_lm.lang.source import Span
from posterior_lm.lang.typed import Binding, Type
from posterior_lm.lang.values import stick_name

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


def _raised(dist: ast.Expr) -> tuple[ast.Call, tuple[ast.Expr, ...]]:
    """What is called, and the powers around it, the inner ones first."""
    exponents = tuple[ast.Expr, ...]()
    while isinstance(dist, ast.PowerExpr):
        exponents, dist = (dist.exponent, *exponents), dist.base
    assert isinstance(dist, ast.Call)
    return dist, exponents


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
        call, exponents = _raised(statement.dist)
        lm = lowering.model(lowering.checked.spellers[statement.name.id])
        assert lm is not None
        return cls(lowering, lm, call, exponents, statement.dist.span)

    def score(self, before: Sequence[int], value: int, *, bare: bool = True) -> int:
        """Of a piece, after the context and the pieces before it."""
        build, span = self.lowering.build, self.call.span
        context = build.segments([*self.lowering.context(self.call), *before], span)
        inputs = (context, build.segments([value], span))
        node = build.add(LmScore(lm=self.lm, bare=bare, inputs=inputs, span=span))
        return _to_powers(self.lowering, node, self.exponents, self.span)


def _to_powers(lowering: Lowering, node: int, exponents: Sequence[ast.Expr], span: Span) -> int:
    for exponent in exponents:
        node = lowering.build.add(Power(inputs=(lowering.value(exponent), node), span=span))
    return node


def latent_shares(lowering: Lowering, statement: ast.Latent, type_: Type) -> None:
    """`latent name: shares(a, b, …, grid=n) ~ dirichlet(…)`: each share but the last is a real's part of what is left.

    That part ~ beta(its concentration, the sum of those behind it), independently of the others (Connor and Mosimann 1969).
    """
    build, name, (call, exponents) = lowering.build, statement.name, _raised(statement.dist)
    whole = ast.Range(ast.Literal(0), ast.Literal(1), span=type_.span)
    real = Type(ast.TypeExpr("real", (whole,), type_.at.options, span=type_.span))
    shares, of_each = [*type_.columns], [lowering.value(arg) for arg in call.args]
    one, left, found = build.constant(1), None, list[int]()
    for k in range(len(shares) - 1):
        stick = stick_name(name.id, shares[k:])
        node = drawn(lowering, stick, real, None, name.span)
        given = (of_each[k], build.reduced("+", of_each[k + 1 :], call.span))
        score = DistScore(
            dist="beta", inputs=(node, *given, *lowering.bounds[real]), bounded=True,
            grid=int(str(type_.options["grid"])), span=call.span,
        )  # fmt: skip
        lowering.term(
            "latent", stick, _to_powers(lowering, build.add(score), exponents, call.span), statement
        )
        rest = build.add(Apply(op="-", inputs=(one, node), span=name.span))
        found.append(node if left is None else build.add(Apply(op="*", inputs=(left, node), span=name.span)))
        left = rest if left is None else build.add(Apply(op="*", inputs=(left, rest), span=name.span))
    assert left is not None
    lowering.names |= {(lowering.bound(name), s): n for s, n in zip(shares, [*found, left], strict=True)}
    lowering.name(name, build.segments([*found, left], name.span))


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


IN_PARTS: Mapping[str, Callable[[Lowering, ast.Latent, Type], None]] = {
    "items": latent_list,
    "fields": latent_record,
    "names": latent_shares,
}
"""What draws the latents of a type that has parts, by what the type takes."""


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
def at(lowering: Lowering, place: Place) -> Iterator[None]:
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


def folded(expr: ast.Expr) -> ast.Expr:
    """A number with its minus as one constant."""
    match expr:
        case ast.Unary(op="-", operand=ast.Literal(value=int() | float() as number)):
            return ast.Literal(-number, span=expr.span)
    return expr
