"""`plm predict`: the distribution of what a program leaves unobserved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from posterior_lm.cli.group import Command
from posterior_lm.cli.options import data_options, draw_options, format_option

if TYPE_CHECKING:
    from posterior_lm.cli.given import Case
    from posterior_lm.graph.graph import RewardGraph
    from posterior_lm.predict import Vote


@click.command(cls=Command)
@click.argument("file")
@click.argument("name")
@data_options
@draw_options
@click.option(
    "--vote", type=click.Choice(("soft", "hard", "likeliest")), default="soft", show_default=True,
    help="Average over the draws, let each vote for its likeliest value, or ask the likeliest draw alone.",
)  # fmt: skip
@format_option("text", "json")
def command(
    file: str, name: str, given: tuple[str, ...], data: str | None, row: int | None, lm: tuple[str, ...],
    allow_use: bool, n: int | None, seed: int, method: str | None, policy: str | None, em: str | None,
    budget: float | None, vote: Vote, format: str,
) -> None:  # fmt: skip
    """Predict what was left unobserved.

    NAME is a parameter, or a latent. Values of a type that lists them are compared; an int
    without bounds and a text are drawn. A column of the data with that name is not shown to
    the program; where it holds the answer, the predictions are counted against it.

    \b
    Example:
      plm predict programs/latent_rationale.plm label --given review="A clever film."
    """
    from posterior_lm.cli.given import cases, check_predicted, open_query
    from posterior_lm.cli.output import json_text
    from posterior_lm.cli.predicted import show_accuracy, show_prediction
    from posterior_lm.cli.progress import progress

    query = open_query(file, lm, allow_use=allow_use, method=method, em=em)
    if policy is not None:
        query = query.policy(policy)
    check_predicted(query.graph, name)
    asked = cases(query.graph, given, data, row, predicted=name)
    answers = _answers(query.graph, data, name, asked)
    found = []
    right: list[bool] = []
    for case in asked:
        with progress("drawing") as watch:
            prediction = query.given(case.data).predict(
                name, n=n, seed=seed, budget=budget, progress=watch, vote=vote
            )
        answer = answers.get(case.row)
        if answer is not None:
            right.append(prediction.best == answer)
        if format == "json":
            found.append({**prediction.to_json(), "row": case.row, "answer": answer})
            continue
        if case is not asked[0]:
            click.echo()
        show_prediction(prediction, case.row, answer)
    if format == "json":
        click.echo(json_text(found if len(asked) > 1 else found[0]))
    elif len(asked) > 1:
        show_accuracy(name, right, len(asked))


def _answers(
    graph: RewardGraph, data: str | None, name: str, asked: Sequence[Case]
) -> Mapping[int | None, str | int | bool]:
    """What the column of that name holds, by row, where it is a value of the type.

    Rows from standard input are gone once they are read, so they have no answers.
    """
    if data is None or data == "-":
        return {}
    from posterior_lm.target.rows import read_rows

    rows = read_rows(data, graph.params)
    found = {case.row: rows[case.row].get(name) for case in asked if case.row is not None}
    return {row: v for row, v in found.items() if isinstance(v, str | int) and _fits(graph, name, v)}


def _fits(graph: RewardGraph, name: str, value: str | int) -> bool:
    from posterior_lm.lang.diagnostics import DataError
    from posterior_lm.target.binding import bind_data

    if graph.param(name) is None:
        return True  # a latent's value is compared as it stands
    try:
        bind_data(graph, {name: value}, missing=[p.name for p in graph.params])
    except DataError:
        return False
    return True
