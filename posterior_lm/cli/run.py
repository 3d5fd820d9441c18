"""`plm run`: the posterior of a program."""

from __future__ import annotations

from pathlib import Path

import click

from posterior_lm.cli.group import Command
from posterior_lm.cli.options import data_options, draw_options, format_option


@click.command(cls=Command)
@click.argument("file")
@data_options
@draw_options
@click.option("--save", metavar="DIR", help="Also write the draws there; several rows have a folder each.")
@format_option("text", "json")
def command(
    file: str, given: tuple[str, ...], data: str | None, row: int | None, lm: tuple[str, ...],
    allow_use: bool, n: int | None, seed: int, method: str | None, policy: str | None,
    budget: float | None, save: str | None, format: str,
) -> None:  # fmt: skip
    """Draw from the posterior of a program.

    With several rows of data there is one result for each; their draws are independent
    of each other and of how many rows there are.

    \b
    Example:
      plm run programs/story_infilling.plm --data programs/data/story_infilling.jsonl --row 0
    """
    from posterior_lm.cli.files import check_folder
    from posterior_lm.cli.given import cases, open_query
    from posterior_lm.cli.output import json_text
    from posterior_lm.cli.progress import progress
    from posterior_lm.cli.report import show_posterior

    query = open_query(file, lm, allow_use=allow_use, method=method)
    if policy is not None:
        query = query.policy(policy)
    asked = cases(query.graph, given, data, row)
    if save is not None:
        check_folder(save)
    found = []
    for case in asked:
        with progress("drawing") as watch:
            posterior = query.given(case.data).draw(n, seed=seed, budget=budget, progress=watch)
        if save is not None:
            posterior.save(Path(save) if len(asked) == 1 else Path(save) / f"row-{case.row}")
        if format == "json":
            found.append(posterior.to_json())
            continue
        if case is not asked[0]:
            click.echo()
        show_posterior(posterior, case.row)
    if format == "json":
        click.echo(json_text(found if len(asked) > 1 else found[0]))
