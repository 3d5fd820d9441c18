"""Programs that came over the network: what they may do, what is wrong with them, and their posteriors as JSON.

They see the models that are served and nothing else of the machine: no files, tools or Python.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import attrs
from attrs import field, frozen

from posterior_lm.api.engine import draw, score
from posterior_lm.api.posterior import Posterior
from posterior_lm.api.query import Query, loads
from posterior_lm.graph.named_files import FILE_OPTIONS
from posterior_lm.infer.base import Info
from posterior_lm.infer.methods import METHODS
from posterior_lm.infer.request import seed_of_row
from posterior_lm.lang import ast
from posterior_lm.lang.ast import nodes
from posterior_lm.lang.colours import pieces
from posterior_lm.lang.diagnostics import (
    CompileError,
    DataError,
    Diagnostic,
    error,
    in_order,
    meant,
    shown,
    to_json,
)
from posterior_lm.lang.driver import compile_source
from posterior_lm.lang.source import Source
from posterior_lm.lm.protocol import LanguageModel
from posterior_lm.report.facts import END_OF_TEXT, SHOWN, heaviest, read_tokens, shade
from posterior_lm.report.graph_svg import graph_svg
from posterior_lm.report.picture import picture
from posterior_lm.storage import Stored, plain, structured
from posterior_lm.target.target import Target
from posterior_lm.target.validate import validate_data
from posterior_lm.target.values import Datum, take

Models = Mapping[str, LanguageModel]
Check = Callable[[Source], list[Diagnostic]]
"""What is wrong with a program that may be sent."""
Tell = Callable[[str, dict[str, Any]], None]
"""Takes an event by name, as it comes."""
NAME = "<program>"
MOST = 10_000
"""Draws of a posterior, and the most that any whole number of a method may be."""
MOST_ROWS = 1_000
EVERY = 0.2
"""Seconds between two words on how far a run is."""
ACTIONS = ("draw", "predict", "score")
VOTES = ("soft", "hard", "likeliest")


class Stopped(Exception):
    """Nobody waits for the answer any more."""


def fields_of(kind: type[Any], body: object) -> Any:
    """An attrs class out of the JSON of a request; what is absent is its default. Raises DataError PLM831."""
    try:
        if not isinstance(body, dict):
            raise ValueError("a request is a JSON object")
        known = attrs.fields_dict(kind)
        if odd := next((name for name in body if name not in known), None):
            raise ValueError(
                f"it has no field `{odd}`; " + meant(odd, known, f"there are {', '.join(known)}")
            )
        return structured(kind, {**_defaults(kind), **body})
    except ValueError as problem:
        raise DataError.of("PLM831", f"this request cannot be answered: {problem}") from None


def _defaults(kind: type[Any]) -> dict[str, Any]:
    stated = {f.name: f.default for f in attrs.fields(kind) if f.default is not attrs.NOTHING}
    return {k: d.factory() if isinstance(d, attrs.Factory) else d for k, d in stated.items()}  # type: ignore[arg-type]


def refusals(module: ast.Module, served: Models) -> list[Diagnostic]:
    """PLM830 at everything in a program that reaches beyond the served models."""
    found = []
    for declared in module.declarations:
        if isinstance(declared, ast.LmDecl):
            if not (isinstance(declared.model, ast.Literal) and declared.model.value in served):
                help = "it serves " + ", ".join(f'"{name}"' for name in served)
                found.append(_refused("this server does not serve that model", declared.model, help))
        else:
            what = "tools" if isinstance(declared, ast.ToolDecl) else "Python functions"
            found.append(_refused(f"a program on a server may not use {what}", declared))
    for node in nodes(module.program):
        files: list[ast.Option] = []
        if isinstance(node, ast.TypeExpr):
            files = [o for o in node.options if o.name in FILE_OPTIONS]
        elif isinstance(node, ast.Infer) and node.method.function.id in METHODS:
            known = METHODS[node.method.function.id].options
            files = [o for o in node.method.options if o.name in known and known[o.name].file]
        found += [_refused("a program on a server may not read files", o) for o in files]
    return found


def _refused(
    message: str, node: ast.Node, help: str = "run it on your own machine, with plm run"
) -> Diagnostic:
    return error("PLM830", message, node.span, help=help)


@frozen
class Text:
    """What is sent to be checked; with `show` an answer has what an editor shows of it."""

    program: str
    show: bool = False


def check(body: object, served: Models, further: Check) -> dict[str, Any]:
    """The `diagnostics` of a program in order; those of `further` too where it may be sent.

    Where it is to be shown, `pieces` are its text, cut by kind, and `graph` is a drawing of its log reward, None where it has none.
    """
    asked: Text = fields_of(Text, body)
    source = Source(NAME, asked.program)
    compiled = compile_source(source, lint=True)
    refused = [] if compiled.errors else refusals(compiled.module, served)
    whole = not compiled.errors and not refused
    found = in_order(further(source) if whole else [*compiled.diagnostics, *refused])
    answer: dict[str, Any] = {"diagnostics": [to_json(d) for d in found]}
    if asked.show:
        answer["pieces"] = list(pieces(source))
        graph = loads(asked.program, NAME).graph if whole else None
        answer["graph"] = None if graph is None else str(graph_svg(picture(graph), f"Graph of {graph.name}"))
    return answer


# ------------------------------------------------------------------------------- posteriors

_Whole = Annotated[int, Stored(low=1, high=MOST)]


@frozen
class Asked:
    """A request for posteriors, one for each row of parameters; `budget` is in seconds, for each row.

    `name` and `vote` are those of a prediction, `values` the latents of a score. With `tokens` the first draws are told token by token.
    """

    program: str
    rows: tuple[Mapping[str, Any], ...] = ({},)
    action: str = "draw"
    method: str | None = None
    options: Mapping[str, Any] = field(factory=dict)
    n: _Whole | None = None
    seed: Annotated[int, Stored(low=0)] = 0
    budget: Annotated[float, Stored(low=0)] | None = None
    name: str | None = None
    vote: str = "soft"
    values: Mapping[str, Datum] = field(factory=dict)
    stream: bool = False
    tokens: bool = False


def ask(body: object, served: Models, longest: float) -> tuple[Asked, Query]:
    """A request and the program in it, bound to the served models; a budget is `longest` at most.

    Raises DataError PLM831 for the request, CompileError for the program, InferenceError for the method.
    """
    asked: Asked = fields_of(Asked, body)
    for name, value, known in (("action", asked.action, ACTIONS), ("vote", asked.vote, VOTES)):
        if value not in known:
            raise _wrong(f"`{name}` is one of {', '.join(known)}, not {shown(value)}", name)
    if len(asked.rows) > MOST_ROWS:
        raise _wrong(f"it has {len(asked.rows):,} rows, and {MOST_ROWS:,} are the most", "rows")
    if asked.action == "predict" and asked.name is None:
        raise _wrong("`name`, a parameter or a latent to predict, is missing", "name")
    query = loads(asked.program, NAME)
    if refused := refusals(query.module, served):
        raise CompileError(refused)
    declared = [d for d in query.module.declarations if isinstance(d, ast.LmDecl)]
    query = query.lm(**{d.name.id: served[d.model.value] for d in declared})  # type: ignore
    if asked.method is not None:
        query = query.using(asked.method, **asked.options)
    elif asked.options:
        raise _wrong("`options` are those of a `method`, and none is named", "options")
    _check_method(query)
    longest = min(longest, asked.budget or longest)
    return attrs.evolve(asked, budget=longest), query


def _wrong(why: str, where: str) -> DataError:
    return DataError.of("PLM831", f"this request cannot be answered: {why}", where=where)


def _check_method(query: Query) -> None:
    """Raises DataError PLM831 for more draws, steps or particles than a server takes, PLM830 for an option that names a file."""
    method, options = query.request.of(query.prepared)
    for name, value in options.items():
        if METHODS[method].options[name].file and value is not None:
            raise DataError.of(
                "PLM830", f"`{name}` of `{method}` names a file, which is not read on a server"
            )
        if isinstance(value, int) and value > MOST:
            raise _wrong(f"`{name}` of `{method}` is at most {MOST:,}, not {shown(value)}", name)


def answer(asked: Asked, query: Query, tell: Tell, stopped: Callable[[], bool]) -> None:
    """Tells of `progress`, as often as is useful, and of a `result` for each row, as it is done.

    A row has the seed that `plm run` gives it. Raises PlmError where a row cannot be answered, Stopped where
    `stopped` says so between two steps.
    """
    for row, data in enumerate(asked.rows):
        last = 0.0

        def watch(info: Info, row: int = row) -> None:
            nonlocal last
            if stopped():
                raise Stopped
            if time.monotonic() - last > EVERY:
                last = time.monotonic()
                tell(
                    "progress",
                    {"row": row, "note": info.note, "fraction": info.fraction, "drawn": info.drawn},
                )

        if stopped():
            raise Stopped
        tell("result", {"row": row, **_answer(asked, query, row, data, watch)})


def _answer(
    asked: Asked, query: Query, row: int, data: Mapping[str, object], watch: Callable[[Info], None]
) -> dict[str, Any]:
    how: dict[str, Any] = {
        "n": asked.n, "seed": seed_of_row(asked.seed, row), "budget": asked.budget, "progress": watch,
    }  # fmt: skip
    if asked.action == "predict":
        assert asked.name is not None
        found = query.given(data).predict(asked.name, vote=asked.vote, **how)  # type: ignore[arg-type]
        return _named_as_served(found.to_json(), query)
    program = query.prepared
    target = program.bind_valid(validate_data(program.graph, data, path=f"rows[{row}]."))
    if asked.action == "score":
        return _named_as_served(score(target, asked.values).to_json(), query)
    posterior = draw(program, target, query.request, **how)
    drawn = _named_as_served(posterior.to_json(), query)
    if asked.tokens:
        _add_tokens(drawn["draws"], target, posterior)
    return {**drawn, "verdict": posterior.verdict}


def _add_tokens(draws: Sequence[dict[str, Any]], target: Target, posterior: Posterior) -> None:
    """To the first draws the `tokens` of their texts as their own distributions score them: text, log-prob and shade of each."""
    columns = posterior.draws.values
    first: dict[tuple[object, ...], int] = {}
    for found in heaviest(posterior):
        first.setdefault(tuple(column[found.draw].datum for column in columns.values()), found.draw)
    listed = enumerate(posterior.merged()[:SHOWN])  # as the draws stand in their JSON
    places = {k: first.get(tuple(one.values.values())) for k, one in listed}
    heavy = {k: d for k, d in places.items() if d is not None}
    readings = read_tokens(target, take(columns, [*heavy.values()]), len(heavy))
    for k, texts in zip(heavy, readings, strict=True):
        told = draws[k]["tokens"] = {}
        own = [one for one in texts if target.statements[one.term].keyword == "latent"]
        for name, value in draws[k]["values"].items():
            for one in own:
                last = len(one.tokens) - (one.tokens[-1].text == END_OF_TEXT)
                if "".join(token.text for token in one.tokens[:last]) == value:
                    told[name] = [[t.text, plain(t.log_prob), shade(t.log_prob)] for t in one.tokens]


def _named_as_served(result: dict[str, Any], query: Query) -> dict[str, Any]:
    """Models by the names that they are served by: their own may be folders of this machine."""
    for declared in query.module.declarations:
        if isinstance(declared, ast.LmDecl) and declared.name.id in result.get("lm", {}):
            result["lm"][declared.name.id]["name"] = declared.model.value  # type: ignore[union-attr]
    return result
