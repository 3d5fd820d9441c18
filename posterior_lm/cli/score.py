"""`plm score`: the log reward of given values, one number per statement."""

from __future__ import annotations

import click

from posterior_lm.api.engine import score
from posterior_lm.cli.commands import FINE, Command
from posterior_lm.cli.given import cases, open_query, texts
from posterior_lm.cli.many import answer_many, many, many_options
from posterior_lm.cli.options import data_options, format_option
from posterior_lm.cli.output import progress, show_each, show_score


@click.command(cls=Command)
@click.argument("file")
@click.option("--value", "-v", multiple=True, metavar="NAME=TEXT",
              help="The value of a latent; texts of latents usually begin with a space.")  # fmt: skip
@data_options
@many_options
@format_option("text", "json")
def command(
    file: str, value: tuple[str, ...], given: tuple[str, ...], data: str | None, row: int | None,
    lm: tuple[str, ...], allow_use: bool, format: str,
) -> int:  # fmt: skip
    """Score given values of the latents, term by term.

    \b
    Example:
      plm score programs/tempered_continuation.plm --given prompt="Mia has a cat." \\
        --value next=" She likes the cat."
    """
    values = texts("--value", value)
    if (found := many()) is not None:
        opening = {"file": file, "lm": lm, "allow_use": allow_use, "method": None, "em": None, "policy": None}
        return answer_many(
            found, "score", opening, {"values": values}, given=given, data=data, row=row, format=format
        )
    query = open_query(file, lm, allow_use=allow_use)
    asked = cases(query.graph, given, data, row)
    with progress("scoring"):
        scores = [(c, score(query.prepared.bind_valid(c.valid), values)) for c in asked]
    show_each(scores, format, lambda one: (one[1].to_json(), lambda: show_score(one[1], one[0].row)))
    return FINE
