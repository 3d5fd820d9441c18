"""`plm predict`: the distribution of what a program leaves unobserved, with intervals and what the draws agree on.

Where the data hold the answers, predictions are counted against them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from posterior_lm.api.shards import results
from posterior_lm.cli.commands import FINE, Command
from posterior_lm.cli.given import cases, check_predicted, known_answer, open_query, uncounted_answer
from posterior_lm.cli.many import answer_many, many, many_options
from posterior_lm.cli.options import check_result, data_options, draw_options, format_option, misuse
from posterior_lm.cli.output import (
    TOP,
    checks,
    heading,
    progress,
    quoted,
    show_each,
    show_reals,
    show_rest,
    show_table,
    table,
)
from posterior_lm.graph.ops import spelled
from posterior_lm.lang.values import number_text as number
from posterior_lm.target.rows import stream_rows
from posterior_lm.validate.reliability import reliability
from posterior_lm.validate.scores import ENDS, check_scores, write_scores

if TYPE_CHECKING:
    from posterior_lm.cli.given import Case
    from posterior_lm.graph.graph import RewardGraph
    from posterior_lm.predict import Datum, Prediction, Vote


def _scores(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.lower().endswith(ENDS):
        raise click.BadParameter(f"{value!r} ends in none of {', '.join(ENDS)}")
    return value


@click.command(cls=Command)
@click.argument("file")
@click.argument("name")
@data_options
@draw_options
@click.option(
    "--vote", type=click.Choice(("soft", "hard", "likeliest")), default="soft", show_default=True,
    help="Average over the draws, let each vote for its likeliest value, or ask the likeliest draw alone.",
)  # fmt: skip
@click.option(
    "--abstain",
    type=click.FloatRange(0, 1),
    metavar="P",
    help="Give no answer where it is wrong with probability above P, by the 90 % interval, or the draws are not to be trusted.",
)
@click.option(
    "--scores", callback=_scores, metavar="FILE",
    help="Also write how the predictions compare with the known answers: numbers as .json, curves as .png, both as .html.",
)  # fmt: skip
@many_options
@format_option("text", "json")
def command(
    file: str, name: str, given: tuple[str, ...], data: str | None, row: int | None, lm: tuple[str, ...],
    allow_use: bool, n: int | None, seed: int, method: str | None, policy: str | None, em: str | None,
    budget: float | None, vote: Vote, abstain: float | None, scores: str | None, format: str,
) -> int:  # fmt: skip
    """Predict what was left unobserved.

    NAME is a parameter, or a latent. Values of a type that lists them are compared; an int
    without bounds and a text are drawn. A column of the data with that name is not shown to
    the program; where it holds the answer, the predictions are counted against it.

    \b
    Example:
      plm predict programs/latent_rationale.plm label --given review="A clever film."
      plm predict programs/latent_rationale.plm label --data reviews.jsonl --abstain 0.2 \\
        --scores scores.html
    """
    if abstain is not None and vote != "soft":
        misuse(f"the vote {vote} does not say with what probability it is wrong", "abstain with --vote soft")
    if scores is not None:
        check_scores(scores)
        check_result(scores, file, given, data)
    opening: dict[str, Any] = {
        "file": file,
        "lm": lm,
        "allow_use": allow_use,
        "method": method,
        "em": em,
        "policy": policy,
    }
    asking = {"name": name, "n": n, "seed": seed, "budget": budget, "vote": vote, "abstain": abstain}
    if (many_rows := many()) is not None:
        if scores is not None:
            graph = open_query(**{**opening, "policy": None, "em": None}).graph
            _check_answers(
                data is not None and any(answer is not None for answer, _ in _known(graph, data, name)), name
            )
        code = answer_many(
            many_rows, "predict", opening, asking, given=given, data=data, row=row, format=format
        )
        _show_scores(results(many_rows.out), name, None, scores, format)
        return code
    query = open_query(**opening)
    check_predicted(query.graph, name)
    asked = cases(query.graph, given, data, row, predicted=name)
    answers: dict[int | None, tuple[Datum | None, str | None]] = (
        {} if data is None else dict(enumerate(_known(query.graph, data, name)))
    )
    if scores is not None:
        _check_answers(any(answers.get(case.row, NONE)[0] is not None for case in asked), name)
    held: list[Mapping[str, Any]] = []

    def found(case: Case) -> tuple[object, Callable[[], None]]:
        with progress("drawing", piped=format != "jsonl") as watch:
            prediction = query.given(case.data).predict(
                name, n=n, seed=case.seed(seed), budget=budget, progress=watch, vote=vote, abstain=abstain
            )
        answer, uncounted = answers.get(case.row, NONE)
        whole = {**prediction.to_json(), "row": case.row, "answer": answer, "uncounted": uncounted}
        if (answer, uncounted) != NONE:
            held.append(whole)
        return whole, lambda: show_prediction(prediction, case.row, answer, uncounted)

    show_each(asked, format, found)
    if len(asked) > 1 or scores is not None:
        _show_scores(held, name, len(asked), scores, format)
    return FINE


NONE = (None, None)


def _known(graph: RewardGraph, data: str, name: str) -> Iterator[tuple[Datum | None, str | None]]:
    """What the column of that name holds in each row: a value of the type, or what is there in place of one.

    Rows from standard input are gone once they are read, so they have no answers.
    """
    if data != "-":
        for row in stream_rows(data, graph.params):
            yield known_answer(graph, name, row), uncounted_answer(graph, name, row)


def _check_answers(known: bool, name: str) -> None:
    if not known:
        misuse(
            f"--scores holds predictions against known answers, and no row has one of `{name}`",
            f"add --data FILE with a column `{name}`",
        )


# ---- what it shows


def show_prediction(
    prediction: Prediction, row: int | None, answer: Datum | None, uncounted: str | None = None
) -> None:
    """Each value with its probability, likeliest first; the known `answer` where there is one, or what is in its place."""
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
    show_reals(posterior, prediction.name)
    click.echo("\n".join(["", *_said(prediction, answer, uncounted), *checks(posterior), posterior.verdict]))


def _said(prediction: Prediction, answer: Datum | None, uncounted: str | None) -> list[str]:
    found = []
    if uncounted is not None:
        found.append(f"known: {uncounted}, which is no value of `{prediction.name}` and is not counted")
    if answer is not None:
        found.append(
            f"known: {_plain(answer)}, {'as predicted' if answer == prediction.best else 'not as predicted'}"
        )
    if prediction.other > 0:
        found.append(f"answers that are not listed have probability {prediction.other:.4f}, by estimate")
    if prediction.vote == "likeliest":
        found.append("of the draw with the highest log reward alone")
    if (why := prediction.abstained) is not None:
        found.append(f"no answer: {why}")
    parts = ""
    if prediction.aleatoric is not None and prediction.epistemic is not None:
        parts = f": {number(prediction.aleatoric)} within draws, {number(prediction.epistemic)} between them"
    return [*found, f"entropy {number(prediction.entropy)} nats{parts}"]


def _show_scores(
    held: Iterable[Mapping[str, Any]], name: str, asked: int | None, scores: str | None, format: str
) -> None:
    """How predictions with known answers did, in words and into the file; nothing where there are none."""
    other: list[tuple[int, str]] = []
    first = next(rows := _counted(held, other), None)
    found = None if first is None else reliability(itertools.chain([first], rows))
    if other and format != "json":
        count = f"{len(other)} row{'s' * (len(other) > 1)}"
        number, text = other[0]
        click.echo(
            f"\n{count} in which `{name}` is no value of its type are not counted: row {number} has {text}"
        )
    if found is None:
        return
    if format != "json":
        of = [f"{found.rows} of {asked} rows hold `{name}`"] if asked not in (None, found.rows) else []
        bins = table(found.BIN_HEAD, found.bin_rows(), (False, *[True] * 4))
        click.echo("\n".join(["", *of, *found.lines(), "", *bins]))
    if scores is not None:
        write_scores(found, scores)


def _counted(held: Iterable[Mapping[str, Any]], other: list[tuple[int, str]]) -> Iterator[Mapping[str, Any]]:
    """Those with an answer; `other` gets the row and the text of those with something in its place."""
    for one in held:
        if one.get("answer") is not None:
            yield one
        elif one.get("uncounted") is not None:
            other.append((one["row"], one["uncounted"]))


def _plain(value: Datum) -> str:
    if value is None:
        return "-"
    return quoted(value) if isinstance(value, str) else spelled(value)
