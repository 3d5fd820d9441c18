"""`plm calibrate`: whether a method's draws can be trusted for this program, by exact draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from posterior_lm.cli.commands import ERRORS, FINE, Command
from posterior_lm.cli.given import given_values, open_query, texts
from posterior_lm.cli.options import (
    check_result,
    data_option,
    format_option,
    method_option,
    plot_option,
    program_options,
    seed_option,
)
from posterior_lm.cli.output import json_text, progress
from posterior_lm.infer.base import Info
from posterior_lm.infer.methods import AMORTIZED
from posterior_lm.target.rows import read_rows
from posterior_lm.validate.calibration import DRAWS, ROWS, calibrate
from posterior_lm.validate.plots import need_plots, plot_calibration

if TYPE_CHECKING:
    from posterior_lm.api.query import Query


@click.command(cls=Command)
@click.argument("file")
@data_option("What they give of observed parameters is replaced by what is simulated.")
@program_options
@method_option("The method to test: ")
@click.option("--policy", metavar="DIR", help="Test the policy that `plm fit` wrote there, as it proposes.")
@click.option("--rows", type=click.IntRange(min=16), metavar="N", help="Rows to simulate.  [default: 100]")
@click.option(
    "--draws", type=click.IntRange(min=2), metavar="N", help="Draws of the method a row.  [default: 200]"
)
@seed_option()
@plot_option("Also draw the ranks and the bounds.")
@format_option("text", "json")
@click.pass_context
def command(
    ctx: click.Context, file: str, data: str | None, given: tuple[str, ...], lm: tuple[str, ...], allow_use: bool,
    method: str | None, policy: str | None, rows: int | None, draws: int | None, seed: int,
    plot: str | None, format: str,
) -> None:  # fmt: skip
    """Test a method on rows that the program simulates.

    The latents that a row was simulated from are one exact draw of its posterior. They show
    what a method's own numbers cannot: a mode that it never draws, or weights that are wrong.
    With --policy the method is gflownet where none is named. The exit code is 1 where the
    verdict is that the method failed.

    \b
    Example:
      plm calibrate programs/story_infilling.plm --data programs/data/story_infilling.jsonl
    """
    if plot is not None:
        need_plots(plot)
        check_result(plot, file, given, data)
    query = open_query(file, lm, allow_use=allow_use, method=method)
    if policy is not None:
        query = (query if method is not None else query.using(AMORTIZED)).policy(policy)
    query, known = _bound(query, given, data)
    with progress("simulating") as watch:
        if query.prepared.models is not None and watch is not None:  # they are open now
            watch(Info(False))
        found = calibrate(
            query.prepared, query.request, known, given=query.data, simulate=rows or ROWS,
            draws=draws or DRAWS, seed=seed, progress=watch,
        )  # fmt: skip
    if plot is not None:
        plot_calibration(found, Path(plot))
    click.echo(json_text(found.to_json()) if format == "json" else "\n".join(found.lines()))
    ctx.exit(FINE if found.passed else ERRORS)


def _bound(query: Query, given: Sequence[str], data: str | None) -> tuple[Query, list[Mapping[str, object]]]:
    """The query with what is given, and the rows; unlike elsewhere, observed parameters may be absent."""
    graph = query.graph
    query = query.given(given_values(graph, texts("--given", given)))
    rows = [] if data is None else read_rows(data, graph.params)
    # A column named after a latent is for `plm fit`.
    known = {latent.name for _, latent in graph.latents()} - {p.name for p in graph.params}
    return query, [{k: v for k, v in row.items() if k not in known} for row in rows]
