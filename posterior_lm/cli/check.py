"""`plm check`: what is wrong with programs, without importing a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from posterior_lm.cli import outcome
from posterior_lm.cli.group import Command
from posterior_lm.cli.options import format_option

if TYPE_CHECKING:
    from posterior_lm.cli.conditions import Row
    from posterior_lm.lang.diagnostics import Diagnostic
    from posterior_lm.lang.typed import CheckedModule


@click.command(cls=Command)
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--lint", is_flag=True, help="Warn of what is legal and probably not meant.")
@click.option("-v", "--verbose", is_flag=True, help="Say of each condition when it is tested.")
@format_option("full", "concise", "json")
@click.pass_context
def command(ctx: click.Context, files: tuple[str, ...], lint: bool, verbose: bool, format: str) -> None:
    """Say what is wrong with programs.

    FILE is a program, a folder of programs, or - for standard input. Diagnostics go to
    standard error, with --format json to standard output. With -v each condition is
    listed by kind: `mask` is never broken, `prefix` can fail before the value is whole,
    `end` is tested on whole values.

    \b
    Example:
      plm check programs/story_infilling.plm --lint
    """
    from posterior_lm.cli.files import programs

    found: list[Diagnostic] = []
    sorted_: list[tuple[str, list[Row]]] = []
    names = programs(files)
    for name in names:
        checked, wrong = _check(name, lint)
        found += wrong
        if verbose and checked is not None:
            from posterior_lm.cli.conditions import rows

            sorted_.append((name, rows(checked)))
    errors = sum(d.severity == "error" for d in found)
    if format == "json":
        from posterior_lm.cli.output import json_text
        from posterior_lm.lang.diagnostics import to_json

        diagnostics = [to_json(d) for d in found]
        if verbose:
            conditions = [row.to_json(name) for name, table in sorted_ for row in table]
            click.echo(json_text({"diagnostics": diagnostics, "conditions": conditions}))
        else:
            click.echo(json_text(diagnostics))
    else:
        if found:
            outcome.report(found, format)
        for name, table in sorted_:
            from posterior_lm.cli.conditions import lines

            click.echo("\n".join(lines(name, table)))
        if format == "full" and not errors:
            click.echo(f"{len(names)} program{'s' * (len(names) != 1)} checked: no errors")
    ctx.exit(outcome.ERRORS if errors else outcome.FINE)


def _check(name: str, lint: bool) -> tuple[CheckedModule | None, list[Diagnostic]]:
    """The module, where it has no error, and what was found."""
    from posterior_lm.cli.files import read
    from posterior_lm.lang import compile_source
    from posterior_lm.lang.diagnostics import CompileError

    try:
        source = read(name)
    except CompileError as wrong:
        return None, list(wrong.diagnostics)
    checked = compile_source(source, lint=lint)
    found = list(checked.diagnostics)
    if checked.errors:
        return None, found
    from posterior_lm.cli.supports import check_supports

    found += check_supports(checked, name)
    if any(d.severity == "error" for d in found):
        return None, found
    from posterior_lm.cli.conditions import check_conditions

    return checked, found + check_conditions(checked)
