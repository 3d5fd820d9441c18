"""`plm score`: the log reward of given values, one number per statement."""

from __future__ import annotations

import click

from posterior_lm.api.score import score
from posterior_lm.cli.commands import Command
from posterior_lm.cli.given import cases, open_query, texts
from posterior_lm.cli.options import data_options, format_option
from posterior_lm.cli.output import json_text, show_score


@click.command(cls=Command)
@click.argument("file")
@click.option("--value", "-v", multiple=True, metavar="NAME=TEXT",
              help="The value of a latent; texts of latents usually begin with a space.")  # fmt: skip
@data_options
@format_option("text", "json")
def command(
    file: str, value: tuple[str, ...], given: tuple[str, ...], data: str | None, row: int | None,
    lm: tuple[str, ...], allow_use: bool, format: str,
) -> None:  # fmt: skip
    """Score given values of the latents, term by term.

    \b
    Example:
      plm score programs/tempered_continuation.plm --given prompt="Mia has a cat." \\
        --value next=" She likes the cat."
    """
    query = open_query(file, lm, allow_use=allow_use)
    values = texts("--value", value)
    scores = [
        (c, score(query.prepared.bind_valid(c.valid), values)) for c in cases(query.graph, given, data, row)
    ]
    if format == "json":
        shown = [found.to_json() for _, found in scores]
        click.echo(json_text(shown if len(shown) > 1 else shown[0]))
        return
    for number, (case, found) in enumerate(scores):
        if number:
            click.echo()
        show_score(found, case.row)
