"""`plm predict`: the distribution of what a program leaves unobserved."""

from __future__ import annotations

import click

from posterior_lm.cli.group import Command
from posterior_lm.cli.options import data_options, draw_options, format_option


@click.command(cls=Command)
@click.argument("file")
@click.argument("name")
@data_options
@draw_options
@format_option("text", "json")
def command(
    file: str, name: str, given: tuple[str, ...], data: str | None, row: int | None, lm: tuple[str, ...],
    allow_use: bool, n: int | None, seed: int, method: str | None, policy: str | None,
    budget: float | None, format: str,
) -> None:  # fmt: skip
    """Predict what was left unobserved.

    NAME is a parameter of a type that lists its values, or a latent. A column of the data
    with that name is ignored.

    \b
    Example:
      plm predict programs/latent_rationale.plm label --given review="A clever film."
    """
    from posterior_lm.cli.given import cases, check_predicted, open_query
    from posterior_lm.cli.output import json_text
    from posterior_lm.cli.progress import progress
    from posterior_lm.cli.report import show_prediction

    query = open_query(file, lm, allow_use=allow_use, method=method)
    if policy is not None:
        query = query.policy(policy)
    check_predicted(query.graph, name)
    asked = cases(query.graph, given, data, row, predicted=name)
    found = []
    for case in asked:
        with progress("drawing") as watch:
            prediction = query.given(case.data).predict(name, n=n, seed=seed, budget=budget, progress=watch)
        if format == "json":
            found.append(prediction.to_json())
            continue
        if case is not asked[0]:
            click.echo()
        show_prediction(prediction, case.row)
    if format == "json":
        click.echo(json_text(found if len(asked) > 1 else found[0]))
