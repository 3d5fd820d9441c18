"""`plm predict`: the distribution of what a program leaves unobserved, with intervals and what the draws agree on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from posterior_lm.cli.commands import FINE, Command
from posterior_lm.cli.given import cases, check_predicted, known_answer, open_query
from posterior_lm.cli.many import answer_many, many, many_options
from posterior_lm.cli.options import data_options, draw_options, format_option
from posterior_lm.cli.output import (
    TOP,
    checks,
    heading,
    progress,
    quoted,
    show_each,
    show_rest,
    show_table,
)
from posterior_lm.lang.values import number_text as number
from posterior_lm.target.rows import read_rows

if TYPE_CHECKING:
    from posterior_lm.cli.given import Case
    from posterior_lm.graph.graph import RewardGraph
    from posterior_lm.predict import Datum, Prediction, Vote


@click.command(cls=Command)
@click.argument("file")
@click.argument("name")
@data_options
@draw_options
@click.option(
    "--vote", type=click.Choice(("soft", "hard", "likeliest")), default="soft", show_default=True,
    help="Average over the draws, let each vote for its likeliest value, or ask the likeliest draw alone.",
)  # fmt: skip
@many_options
@format_option("text", "json")
def command(
    file: str, name: str, given: tuple[str, ...], data: str | None, row: int | None, lm: tuple[str, ...],
    allow_use: bool, n: int | None, seed: int, method: str | None, policy: str | None, em: str | None,
    budget: float | None, vote: Vote, format: str,
) -> int:  # fmt: skip
    """Predict what was left unobserved.

    NAME is a parameter, or a latent. Values of a type that lists them are compared; an int
    without bounds and a text are drawn. A column of the data with that name is not shown to
    the program; where it holds the answer, the predictions are counted against it.

    \b
    Example:
      plm predict programs/latent_rationale.plm label --given review="A clever film."
    """
    opening: dict[str, Any] = {
        "file": file,
        "lm": lm,
        "allow_use": allow_use,
        "method": method,
        "em": em,
        "policy": policy,
    }
    if (many_rows := many()) is not None:
        asking = {"name": name, "n": n, "seed": seed, "budget": budget, "vote": vote}
        return answer_many(
            many_rows, "predict", opening, asking, given=given, data=data, row=row, format=format
        )
    query = open_query(**opening)
    check_predicted(query.graph, name)
    asked = cases(query.graph, given, data, row, predicted=name)
    answers = _answers(query.graph, data, name, asked)
    right: list[bool] = []

    def found(case: Case) -> tuple[object, Callable[[], None]]:
        with progress("drawing") as watch:
            prediction = query.given(case.data).predict(
                name, n=n, seed=case.seed(seed), budget=budget, progress=watch, vote=vote
            )
        answer = answers.get(case.row)
        if answer is not None:
            right.append(prediction.best == answer)
        whole = {**prediction.to_json(), "row": case.row, "answer": answer}
        return whole, lambda: show_prediction(prediction, case.row, answer)

    show_each(asked, format, found)
    if format != "json" and len(asked) > 1:
        show_accuracy(name, right, len(asked))
    return FINE


def _answers(
    graph: RewardGraph, data: str | None, name: str, asked: Sequence[Case]
) -> Mapping[int | None, str | int | bool]:
    """What the column of that name holds, by row, where it is a value of the type.

    Rows from standard input are gone once they are read, so they have no answers.
    """
    if data is None or data == "-":
        return {}
    rows = read_rows(data, graph.params)
    found = {case.row: known_answer(graph, name, rows[case.row]) for case in asked if case.row is not None}
    return {row: v for row, v in found.items() if v is not None}


# ---- what it shows


def show_prediction(prediction: Prediction, row: int | None, answer: Datum | None) -> None:
    """Each value with its probability, likeliest first; the known `answer` where there is one."""
    posterior = prediction.posterior
    click.echo("\n".join([*heading(posterior, row), ""]))
    spread = any(e.high > e.low for e in prediction.estimates.values())
    cells = []
    for value, p in prediction.probs[:TOP]:
        found = prediction.interval(value)
        between = [] if found is None or not spread else [f"{found[0]:.4f} .. {found[1]:.4f}"]
        cells.append((p, f"{p:.4f}", [*between, _plain(value)]))
    first = "votes" if prediction.vote == "hard" else "prob"
    show_table(first, [*["90 % interval"] * spread, prediction.name], cells)
    show_rest("probability", [p for _, p in prediction.probs[TOP:]])
    click.echo("\n".join(["", *_said(prediction, answer), *checks(posterior), posterior.verdict]))


def _said(prediction: Prediction, answer: Datum | None) -> list[str]:
    found = []
    if answer is not None:
        found.append(
            f"known: {_plain(answer)}, {'as predicted' if answer == prediction.best else 'not as predicted'}"
        )
    if prediction.other > 0:
        found.append(f"answers that are not listed have probability {prediction.other:.4f}, by estimate")
    if prediction.vote == "likeliest":
        found.append("of the draw with the highest log reward alone")
    parts = ""
    if prediction.aleatoric is not None and prediction.epistemic is not None:
        parts = f": {number(prediction.aleatoric)} within draws, {number(prediction.epistemic)} between them"
    return [*found, f"entropy {number(prediction.entropy)} nats{parts}"]


def show_accuracy(name: str, right: Sequence[bool], rows: int) -> None:
    """How many predictions are as the column of that name has them; nothing where no row has it."""
    if right:
        of = f"{rows} rows" if len(right) == rows else f"the {len(right)} of {rows} rows that hold `{name}`"
        click.echo(f"\naccuracy {sum(right) / len(right):.4f}: {sum(right)} of {of}")


def _plain(value: Datum) -> str:
    if isinstance(value, str):
        return quoted(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
