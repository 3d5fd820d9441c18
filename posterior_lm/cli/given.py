"""From `--given`, `--data` and `--row` to the bindings a command works through."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from posterior_lm.api.query import load, loads
from posterior_lm.cli.options import allowed_paths, loading, misuse, pairs, read
from posterior_lm.infer.request import seed_of_row
from posterior_lm.lang.diagnostics import DataError, Diagnostic, meant, shortened
from posterior_lm.lang.signatures import LMS
from posterior_lm.lm.resolve import Asked
from posterior_lm.lm.resolve import resolve as locate
from posterior_lm.target.rows import decode, json_value, read_bytes, read_field, read_rows
from posterior_lm.target.validate import validate_data

if TYPE_CHECKING:
    from posterior_lm.api.query import Query
    from posterior_lm.graph.graph import RewardGraph

MOST = 20
"""Diagnostics shown of one data file: the same column is often missing in every row."""


@frozen
class Case:
    """One binding of a program's parameters; `row` is its number in the data, if it came from there.

    `valid` is `data` as values of the parameters' types, what is predicted left out.
    """

    row: int | None
    data: Mapping[str, object]
    valid: Mapping[str, object]

    def seed(self, seed: int) -> int:
        """The seed of this row's draws: rows are independent, and none depends on which others there are."""
        return seed_of_row(seed, self.row or 0)


def texts(option: str, given: Iterable[str]) -> dict[str, str]:
    """`NAME=VALUE` options by name; `@FILE` is replaced by what stands in the file."""
    return {name: _read(text) for name, text in pairs(option, given).items()}


def _read(text: str) -> str:
    if text.startswith("@@"):
        return text[1:]
    if not text.startswith("@"):
        return text
    return decode(read_bytes(text[1:]), text[1:])


def open_query(
    file: str,
    lm: Sequence[str],
    *,
    allow_use: bool,
    method: str | None = None,
    em: str | None = None,
    policy: str | None = None,
    loaded: Mapping[str, str] | None = None,
    paths: Sequence[str] | None = None,
) -> Query:
    """The query of a program file with the options that every asking command has.

    `loaded` and `paths` are --dtype, --device and --allow-path, those of the running command where they are None.
    `em` is a folder that `plm em` wrote, whose model and guide take the program's place; `policy` one of `plm fit`.
    """
    source = read(file) if file == "-" else None
    query = load(file) if source is None else loads(source.text, source.name)
    models = {alias: model_named(text) for alias, text in pairs("--lm", lm, "ALIAS=MODEL").items()}
    if models:
        query = query.lm(**models)  # type: ignore[arg-type]
    if everywhere := loading() if loaded is None else loaded:
        query = query.loading(**everywhere)
    if method is not None:
        query = query.using(method)
    query = query.allow_use() if allow_use else query
    query = query.allow_path(*(allowed_paths() if paths is None else paths))
    query = query if em is None else query.with_em(em)
    return query if policy is None else query.policy(policy)


def model_named(text: str) -> str | Asked:
    """`MODEL` or `MODEL,dtype=…,device=…`. A comma that no option follows is one of the name."""
    if os.path.exists(os.path.expanduser(text)):
        return text
    spec, *parts = text.split(",")
    kind = "server" if locate(spec).kind == "server" else "transformers"
    known = LMS[kind].options
    options: dict[str, object] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals and not options:
            spec += f",{part}"
        elif name not in known or not value:
            misuse(
                f"--lm {text}: {part!r} is no option of a model",
                meant(name, known, f"the options are {', '.join(f'{one}=…' for one in known)}"),
            )
        elif name in options:
            misuse(f"--lm {text}: {name} stands there twice", f"leave out one {name}=…")
        else:
            options[name] = value
    return Asked(spec, tuple(options.items())) if options else spec


def cases(
    graph: RewardGraph,
    given: Sequence[str],
    data: str | None,
    row: int | None,
    *,
    predicted: str | None = None,
    extra: Sequence[str] = (),
) -> list[Case]:
    """Every binding that was asked for, checked against the declared parameters.

    The column of what is to be `predicted` is left out; `extra` columns are kept unchecked. Raises DataError holding what is
    wrong in any row; PLM802 where the options do not fit together.
    """
    known = given_values(graph, texts("--given", given))
    validate_data(graph, known, missing=[p.name for p in graph.params])  # what is wrong with it, once
    absent = () if predicted is None else (predicted,)
    if data is None:
        if row is not None:
            misuse("--row picks a row of --data, and there is none", "add `--data FILE`")
        return [Case(None, known, validate_data(graph, known, missing=absent))]
    rows = read_rows(data, graph.params)
    numbers = range(len(rows)) if row is None else [row]
    if row is not None and row >= len(rows):
        misuse(
            f"--row {row} is past the last of the {len(rows)} rows of {data}",
            f"rows are numbered 0 to {len(rows) - 1}",
        )
    mistakes = Mistakes()
    all_cases = []
    for number in numbers:
        with mistakes.kept():
            all_cases.append(case_of(graph, number, rows[number], known, predicted=predicted, extra=extra))
    mistakes.end()
    return all_cases


def case_of(
    graph: RewardGraph, number: int, row: Mapping[str, object], known: Mapping[str, object], *,
    predicted: str | None = None, extra: Sequence[str] = (),
) -> Case:  # fmt: skip
    """A row of data as a case; `known` are parameters of every row. Raises DataError."""
    bound = {k: v for k, v in row.items() if k != predicted} | dict(known)
    checked = {k: v for k, v in bound.items() if k not in extra}
    absent = () if predicted is None else (predicted,)
    return Case(number, bound, validate_data(graph, checked, path=f"rows[{number}].", missing=absent))


class Mistakes:
    """What is wrong in any row: the first `MOST` of it and how much more, raised together by `end`."""

    def __init__(self) -> None:
        self.found: list[Diagnostic] = []
        self.count = 0

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keeps the DataError of the block."""
        try:
            yield
        except DataError as wrong:
            self.count += len(wrong.diagnostics)
            self.found += wrong.diagnostics[: MOST - len(self.found)]

    def end(self) -> None:
        """Raises DataError where there was any."""
        if self.count > MOST:
            more = f"{self.count - MOST} more mistakes in other rows are not shown"
            self.found[-1] = evolve(self.found[-1], notes=(*self.found[-1].notes, more))
        if self.found:
            raise DataError(self.found)


def check_predicted(graph: RewardGraph, name: str) -> None:
    """Raises DataError PLM803 for a name that is neither a parameter nor a latent."""
    known = [p.name for p in graph.params] + [latent.name for _, latent in graph.latents()]
    if name.split("[", 1)[0] not in {one.split("[", 1)[0] for one in known}:
        raise DataError.of(
            "PLM803",
            f"`{graph.name}` has no parameter or latent `{name}` to predict",
            where=name,
            help=meant(name, known, f"it has {', '.join(f'`{k}`' for k in known)}"),
        )


def known_answer(graph: RewardGraph, name: str, row: Mapping[str, object]) -> str | int | bool | None:
    """What the column of that name holds in a row, where it is a value of the type."""
    value = row.get(name)
    return value if isinstance(value, str | int) and _fits(graph, name, value) else None


def uncounted_answer(graph: RewardGraph, name: str, row: Mapping[str, object]) -> str | None:
    """What the column of that name holds in a row, as shown, where it is something and no value of the type."""
    value = row.get(name)
    if value is None or known_answer(graph, name, row) is not None:
        return None
    return shortened(json.dumps(value, ensure_ascii=False, default=str))


def _fits(graph: RewardGraph, name: str, value: str | int) -> bool:
    if graph.param(name) is None:
        return True  # a latent's value is compared as it stands
    try:
        validate_data(graph, {name: value}, missing=[p.name for p in graph.params])
    except DataError:
        return False
    return True


def given_values(graph: RewardGraph, texts: Mapping[str, str]) -> dict[str, object]:
    """The values that `--given` spells, read by the declared types."""
    found: dict[str, object] = {}
    for name, text in texts.items():
        param = graph.param(name)
        if param is not None and param.type == "table":
            found[name] = json_value(text, f"--given {name}")
        else:
            found[name] = text if param is None else read_field(param, text)
    return found
