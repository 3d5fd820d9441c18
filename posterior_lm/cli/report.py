"""`plm report`: a program and its posterior as one page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from posterior_lm.api.engine import draw
from posterior_lm.cli.commands import Command
from posterior_lm.cli.given import cases, open_query
from posterior_lm.cli.options import allowed_paths, check_result, data_options, draw_options, loading, misuse
from posterior_lm.cli.output import progress
from posterior_lm.report.facts import gather
from posterior_lm.report.page import check_place, report_rows

MOST_ROWS = 20
"""Rows of data on one page; with more nobody would read it, and it would be tens of megabytes."""


def _named(ctx: click.Context, option: click.Parameter, value: str) -> str:
    if value in ("", "-"):
        raise click.BadParameter("a page is written to a file, such as report.html")
    return value


@click.command("report", cls=Command)
@click.argument("file")
@click.option(
    "--out",
    "-o",
    required=True,
    callback=_named,
    metavar="FILE",
    help="The HTML file to write; one that exists is replaced.",
)
@data_options
@draw_options
def command(
    file: str, out: str, given: tuple[str, ...], data: str | None, row: int | None, lm: tuple[str, ...],
    allow_use: bool, n: int | None, seed: int, method: str | None, policy: str | None, em: str | None, budget: float | None,
) -> None:  # fmt: skip
    """Draw from the posterior of a program and write one page about it.

    The page is a single HTML file that needs nothing else and runs nothing: the program and
    its graph, the draws with their weights, marginals, the heaviest draws token by token, the
    terms of the log reward, the diagnostics with plots, and what it was made from. Rows of
    data share a page, twenty at most.

    \b
    Example:
      plm report programs/story_infilling.plm --data programs/data/story_infilling.jsonl \\
        --row 0 --out report.html
    """
    query = open_query(file, lm, allow_use=allow_use, method=method, em=em, policy=policy)
    asked = cases(query.graph, given, data, row)
    if len(asked) > MOST_ROWS:
        misuse(f"a page holds {MOST_ROWS} rows at most, and {data} has {len(asked)}", "pick one with --row")
    check_place(out)
    check_result(out, file, given, data)
    facts = []
    for case in asked:
        with progress("drawing") as watch:
            target = query.prepared.bind_valid(case.valid)
            posterior = draw(
                query.prepared, target, query.request, n, seed=case.seed(seed), budget=budget, progress=watch
            )
        facts.append(gather(target, posterior, case.row))
    options = {"--given": given, "--data": data, "--row": row, "--lm": lm, "--allow-use": allow_use,
               "--allow-path": allowed_paths(), "-n": n, "--seed": seed, "--method": method, "--policy": policy,
               "--em": em, "--budget": budget, **{f"--{name}": value for name, value in loading().items()}}  # fmt: skip
    report_rows(facts, out, command=spelled(file, options, Path(out).name))
    click.echo(f"wrote {out}")


def spelled(file: str, options: Mapping[str, object], out: str) -> str:
    """The command line that makes the page again, shortest form; where the page lies is left out."""
    words: list[str] = ["plm", "report", file]
    for name, value in options.items():
        if value is True:
            words.append(name)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            words += [word for item in value for word in (name, str(item))]
        elif value is not None and value is not False:
            words += [name, str(value)]
    return shlex.join([*words, "--out", out])
