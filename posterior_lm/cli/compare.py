"""`plm compare`: what each method makes of a program, beside the exact posterior."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from posterior_lm.cli.commands import Command
from posterior_lm.cli.given import Case, cases, open_query
from posterior_lm.cli.options import (
    budget_option,
    check_result,
    data_options,
    format_option,
    misuse,
    plot_option,
    seed_option,
)
from posterior_lm.cli.output import progress, show_each, table
from posterior_lm.validate.comparison import DRAWS, Comparison, compare
from posterior_lm.validate.plots import need_plots, plot_comparison


@click.command(cls=Command)
@click.argument("file")
@data_options
@click.option("-n", type=click.IntRange(min=2), metavar="N", help="Draws of each method.  [default: 1000]")
@seed_option()
@click.option("--policy", metavar="DIR", help="Compare the policy that `plm fit` wrote there, too.")
@budget_option("Stop each method, the exact one too, after so many seconds.")
@plot_option("Also draw the table; for one row of data.")
@format_option("text", "json")
def command(
    file: str, given: tuple[str, ...], data: str | None, row: int | None, lm: tuple[str, ...], allow_use: bool,
    n: int | None, seed: int, policy: str | None, budget: float | None, plot: str | None, format: str,
) -> None:  # fmt: skip
    """Run every method beside the exact posterior.

    TV is the total variation between a method's weighted draws and the listed posterior.
    Chance alone makes it positive: the line below the table says what as many exact draws
    would have. error is that of the log evidence, in nats; tokens are the positions that
    language models computed.

    \b
    Example:
      plm compare programs/latent_rationale.plm --data programs/data/latent_rationale.jsonl --row 0
    """
    query = open_query(file, lm, allow_use=allow_use, policy=policy)
    asked = cases(query.graph, given, data, row)
    if plot is not None:
        if len(asked) > 1:
            misuse("--plot draws one comparison, and there are several rows", "pick one with --row")
        need_plots(plot)
        check_result(plot, file, given, data)

    def found(case: Case) -> tuple[object, Callable[[], None]]:
        with progress("comparing") as watch:
            one = compare(
                query.prepared, query.request, case.data, draws=n or DRAWS, seed=seed, budget=budget,
                progress=watch,
            )  # fmt: skip
        if plot is not None:
            plot_comparison(one, Path(plot))
        return one.to_json(), lambda: _show(one, case.row)

    show_each(asked, format, found)


def _show(one: Comparison, row: int | None) -> None:
    where = "" if row is None else f"rows[{row}]  "
    click.echo(f"{where}{one.program}  {one.draws} draws of each method  seed {one.seed}\n")
    head, rows = one.cells()
    click.echo("\n".join([*table(head, rows, [False] + [True] * 8), "", *one.notes()]))
