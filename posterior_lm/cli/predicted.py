"""A prediction for people: probabilities with intervals, and what the draws agree on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from posterior_lm.cli.output import number, quoted
from posterior_lm.cli.report import TOP, checks, heading, show_rest, show_table

if TYPE_CHECKING:
    from posterior_lm.predict import Datum, Prediction


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
