"""`plm graph`: the log-reward graph, after any pass."""

from __future__ import annotations

import click

from posterior_lm.cli.commands import Command
from posterior_lm.cli.options import allow_path_option, allowed_paths, format_option, misuse, read
from posterior_lm.graph import PASSES, lower, optimize, verify
from posterior_lm.graph.dump import FORMATS
from posterior_lm.lang.diagnostics import meant
from posterior_lm.lang.driver import compile_source


@click.command(cls=Command)
@click.argument("file")
@allow_path_option
@format_option("text", "dot", "mermaid", "json")
@click.option("--after", metavar="PASS", help="lower, fold, prune, share or mark.  [default: the last]")
def command(file: str, format: str, after: str | None) -> None:
    """Show the log-reward graph of a program.

    \b
    Example:
      plm graph programs/story_infilling.plm --format dot | dot -Tsvg > graph.svg
    """
    steps = ["lower", *(p.name for p in PASSES)]
    if after is not None and after not in steps:
        misuse(f"there is no pass {after!r}", meant(after, steps, f"the steps are {', '.join(steps)}"))
    graph = verify(lower(compile_source(read(file)).without_errors(), allowed=allowed_paths()))
    if after != "lower":
        graph = optimize(graph, until=after)
    click.echo(FORMATS[format](graph), nl=False)
