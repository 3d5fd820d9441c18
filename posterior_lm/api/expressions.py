"""Expressions of the language over the values of draws: what `expect` and `prob` take as text.

The text is read and checked as a statement of a program whose parameters are the latents, and its
graph is evaluated over all draws at once. Nothing of it is Python, and no model is asked. The latents of
plates are columns of tables, one table for those of equally many rows, which stand in it row by row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import reduce
from typing import Literal

from attrs import evolve

from posterior_lm.graph import lower
from posterior_lm.graph.ground import ground
from posterior_lm.graph.nodes import ChoiceScore, Input, Latent, LmScore, Node, RowField
from posterior_lm.lang import ast
from posterior_lm.lang.check.scope import POOLS
from posterior_lm.lang.diagnostics import CompileError, Diagnostic, InferenceError
from posterior_lm.lang.driver import check
from posterior_lm.lang.parser import parse_fragment
from posterior_lm.lang.source import NOWHERE, Source, Span
from posterior_lm.lang.value_types import value_type
from posterior_lm.lang.values import shares_of
from posterior_lm.target.evaluate import Evaluator
from posterior_lm.target.functions import is_nan
from posterior_lm.target.values import ABSENT, Values, count


def evaluate(
    text: str, wanted: Literal["number", "truth"], types: Mapping[str, str], models: Iterable[str],
    values: Values,
) -> list[float]:  # fmt: skip
    """(N,) the expression of every draw, a truth value as 1 or 0; NaN where it has no value.

    `types` has the declared type of each latent, `models` the aliases of the program's. Raises CompileError for
    an expression that is wrong, InferenceError PLM540 for one that asks a model.
    """
    parsed = parse_fragment(Source("<expression>", text), "expression")
    value = ast.changed(parsed, lambda node: _by_name(node, types))
    of_all = {name.split("[", 1)[0]: value_type(kind).kind for name, kind in types.items()}
    lists = _lists(value, types, values)
    value = ast.changed(value, lambda node: _as_whole(node, lists, of_all))
    statement = ast.Condition(value) if wanted == "truth" else ast.Factor(value)
    every = _rows_of(types)
    alone = [name for name in lists if _place_of(name, of_all) == name]
    places = {name: each for name, each in every.items() if name not in alone}
    beside = dict[str, list[str]]()
    for name in alone:
        beside[name] = _beside(every[name], places, values)
        places = {other: each for other, each in places.items() if other not in beside[name]}
    kinds = {name: kind for name, kind in of_all.items() if name not in every or name in places}
    tables: dict[int, list[str]] = {}
    for name, each in places.items():
        tables.setdefault(len(each), []).append(name)
    params = [ast.Param(ast.Name(name), ast.TypeExpr(kinds[name])) for name in kinds if name not in places]
    plates: list[ast.Statement] = []
    for n, columns in tables.items():
        table, row = (f"{what}_of_{n}_{'_'.join(kinds)}" for what in ("rows", "row"))  # nobody's names
        typed = tuple(ast.Column(ast.Name(name), ast.TypeExpr(kinds[name])) for name in columns)
        params.append(ast.Param(ast.Name(table), ast.TypeExpr("table", columns=typed)))
        body = tuple(ast.Let(ast.Name(name), ast.Field(ast.Name(row), name)) for name in columns)
        plates.append(ast.Plate(ast.Name(row), ast.Name(table), body))
    declared = tuple(ast.LmDecl(ast.Name(alias), ast.Literal("tiny")) for alias in models)
    # A list is what it was, so that its places are read as they were drawn; nobody asks the model.
    asks = ast.Call(ast.Name(next(iter(models), "")))
    for name, declared_list in lists.items():
        whole, item = ast.Name(_WHOLE + name), ast.Name(f"item_of_{name}")
        plates.append(ast.Latent(whole, declared_list, asks))
        if name not in alone:
            continue
        drawn_there = (
            ast.Latent(
                ast.Name(other),
                parse_fragment(_TYPES[of_all[other]], "type"),
                asks if of_all[other] == "text" else ast.Call(ast.Name("uniform")),
            )
            for other in beside[name]
        )
        read = () if _parts(name, of_all) else (ast.Let(ast.Name(name), item),)
        plates.append(ast.Plate(item, whole, (*read, *drawn_there)))
    program = ast.Program(ast.Name("posterior"), tuple(params), (*plates, statement))
    checked = check(ast.Module(declared, program, span=NOWHERE))
    if checked.errors:
        raise CompileError([_of_an_expression(d, types) for d in checked.errors])
    graph = lower(checked)
    for node in map(graph.__getitem__, graph.ancestors(graph.sink.inputs[-1])):
        if isinstance(node, LmScore | ChoiceScore):
            message = "an expression over draws asks no model"
            help = "use `log_reward` of the draws, or score values with the query"
            raise InferenceError.of("PLM540", message, node.span, "a model would score this", help=help)
    nodes = {i: _of_draws(node, kinds) for i, node in graph.nodes.items()}
    rows: dict[str, list[dict[str, object]]] = {
        param.name.id: [{}] * n for param, n in zip(params[len(params) - len(tables) :], tables, strict=True)
    }
    graph = ground(graph.rebuilt(nodes), rows)
    term = graph.sink.inputs[-1]
    root = graph[term].inputs[0] if wanted == "truth" else term
    drawn = {f"{name}[{k}]": values[place] for name, each in places.items() for k, place in enumerate(each)}
    drawn |= {
        f"{_BESIDE}{name}[{k}]": values[place]
        for names in beside.values()
        for name in names
        for k, place in enumerate(every[name])
    }
    evaluator = Evaluator(graph, {}, {}, {})
    return [float(x) for x in evaluator.node(root, {**values, **drawn}, count(values))]  # type: ignore[arg-type]


def _parts(name: str, bases: Iterable[str]) -> list[str]:
    """The latents that are the fields of a record of that name, in order."""
    return [one for one in bases if one.startswith(f"{name}.")]


def _place_of(name: str, bases: Collection[str]) -> str:
    """Of the field of a record that an item is the latent that says whether there is one; else the name itself."""
    record = name.split(".", 1)[0]
    return record if record in bases else _parts(record, bases)[0]


def _by_name(node: ast.Node, types: Mapping[str, str]) -> ast.Node:
    """The latent's name in place of the field of a record, what they say of a share, and records whose length is asked for."""
    if isinstance(node, ast.Call) and _of_a_list(node) and node.function.id == "len":
        bases = dict.fromkeys(one.split("[", 1)[0] for one in types)
        whole = node.args[0]
        assert isinstance(whole, ast.Name)
        if whole.id not in bases and _parts(whole.id, bases):
            return evolve(node, args=(evolve(whole, id=_place_of(whole.id, bases)), *node.args[1:]))
    if isinstance(node, ast.Field):
        name = f"{node.row.id}.{node.column}"
        share = shares_of(dict.fromkeys(one.split("[", 1)[0] for one in types)).get(name)
        if share is not None:
            before, own = share
            left: list[ast.Expr] = [ast.Binary("-", ast.Literal(1), ast.Name(stick)) for stick in before]
            return reduce(lambda a, b: ast.Binary("*", a, b), [*left, *map(ast.Name, own)])
        if any(one.split("[", 1)[0] == name for one in types):
            return ast.Name(name, span=node.span)
    return node


_WHOLE = "whole_"
"""Before the name of a list that `len` or `item` reads; by itself the name is one of its items."""
_BESIDE = "beside "
"""Before the name of what is drawn for every item of a list."""


_TYPES = {"int": "int(0..1)", "real": "real(0..1, grid=2)", "bool": "bool", "text": "text(tokens=1..1)"}
"""A type of each kind; what values there really are nobody asks."""


def _beside(items: Sequence[str], others: Mapping[str, Sequence[str]], values: Values) -> list[str]:
    """The latents that stand in a plate over a list: there is one for every item, and none where there is no item."""
    there = [[v.datum is not None for v in values[one]] for one in items]
    return [
        name for name, each in others.items() if [[v != ABSENT for v in values[one]] for one in each] == there
    ]


def _lists(value: ast.Expr, types: Mapping[str, str], values: Values) -> dict[str, ast.TypeExpr]:
    """The types of those latents that are lists: asked for their length or an item, or with an end in some draw."""
    found: dict[str, ast.TypeExpr] = {}
    bases = dict.fromkeys(one.split("[", 1)[0] for one in types)
    asked = {call.args[0].id for call in ast.nodes(value) if _of_a_list(call)}  # type: ignore[attr-defined]
    used = {one.id for one in ast.names(value)} & bases.keys()
    for name in sorted(used | {_place_of(one, bases) for one in used}):
        places = [one for one in types if one.split("[", 1)[0] == name and "[" in one]
        top = sum(one.count("[") == 1 for one in places)  # none is where each row of a plate has its own
        ends = name in asked or any(v.datum is None and v.ids for one in places for v in values[one])
        if top and ends:
            depth = max(one.count("[") for one in places)
            number = value_type(types[places[0]]).kind == "int"
            item = "int(0..1)" if number else 'text(tokens=1..1, stop=".")'
            found[name] = parse_fragment(f'list({item}, 0..{top}, depth={depth}, end=".")', "type")
    return found


def _of_a_list(node: ast.Node) -> bool:
    asks = isinstance(node, ast.Call) and node.function.id in ("len", "item") and bool(node.args)
    return asks and isinstance(node.args[0], ast.Name)  # type: ignore[attr-defined]


def _as_whole(node: ast.Node, lists: Mapping[str, ast.TypeExpr], bases: Iterable[str]) -> ast.Node:
    """What `len` and `item` read of these lists is the list as a whole."""
    if isinstance(node, ast.Call) and _of_a_list(node):
        first, *rest = node.args
        if isinstance(first, ast.Name) and first.id in lists:
            if node.function.id == "item" and _parts(first.id, bases):  # draws hold its fields alone
                return node
            return evolve(node, args=(evolve(first, id=_WHOLE + first.id), *rest))
    return node


def _rows_of(names: Iterable[str]) -> dict[str, list[str]]:
    """What the latents of plates are called row by row, `z[0]`, `z[1]`, … (`z[0][0]`, … in nested ones), by name."""
    found: dict[str, list[str]] = {}
    for name in names:
        if "[" in name:
            found.setdefault(name.split("[", 1)[0], []).append(name)
    return found


def refuse_nan(text: str, found: Iterable[float]) -> None:
    """Raises InferenceError PLM701 where the expression has no value for a draw that counts."""
    lost = [is_nan(x) for x in found]
    if any(lost):
        span = Span(Source("<expression>", text), 0, len(text))
        raise InferenceError.of(
            "PLM701", f"the expression is not a number for {sum(lost)} of {len(lost)} draws", span,
            help="guard it, for example with `if … then … else …`",
        )  # fmt: skip


def _of_draws(node: Node, kinds: Mapping[str, str]) -> Node:
    """A latent in place of the parameter or the column that stands for it; a list's have their own names again."""
    match node:
        case Input(name=name) if name in kinds:
            return Latent(name=name, type=kinds[name], span=node.span)
        case Latent(name=name):
            whole = name.startswith(_WHOLE)
            return evolve(node, name=name.removeprefix(_WHOLE) if whole else _BESIDE + name)
        case RowField(plate=plate, column=name):
            return Latent(name=name, type=kinds[name], plates=(plate,), span=node.span)
    return node


def _of_an_expression(found: Diagnostic, types: Mapping[str, str]) -> Diagnostic:
    """What the checker says of a statement, of an expression that stands alone."""
    match found.code:
        case "PLM303":
            found = evolve(
                found, message=found.message.replace("a condition is", "what has a probability is")
            )
        case "PLM304":
            truth = found.primary is not None and "truth" in found.primary.text
            help = 'prob("…") is the probability that it is true' if truth else None
            found = evolve(found, message="an expectation is of a number", help=help)
        case "PLM201" if found.help is None and found.message.startswith("unknown name"):
            names = ", ".join(f"`{name}`" for name in types) or "none"
            found = evolve(found, help=f"the latents are {names}")
        case "PLM405":
            first = next(name for name in types if "[" in name)
            found = evolve(
                found, secondary=(), message=found.message.replace("outside it", "outside its rows"),
                help=f"pool the rows: {POOLS}; a single one is read by a function: lambda row: row[{first!r}]",
            )  # fmt: skip
    return found
