"""`plm check`: what is wrong with programs, without importing a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from posterior_lm.cli import outcome
from posterior_lm.cli.group import Command
from posterior_lm.cli.options import format_option

if TYPE_CHECKING:
    from posterior_lm.lang.diagnostics import Diagnostic


@click.command(cls=Command)
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--lint", is_flag=True, help="Warn of what is legal and probably not meant.")
@format_option("full", "concise", "json")
@click.pass_context
def command(ctx: click.Context, files: tuple[str, ...], lint: bool, format: str) -> None:
    """Say what is wrong with programs.

    FILE is a program, a folder of programs, or - for standard input. Diagnostics go to
    standard error, with --format json to standard output.

    \b
    Example:
      plm check programs/story_infilling.plm --lint
    """
    from posterior_lm.cli.files import programs

    found: list[Diagnostic] = []
    names = programs(files)
    for name in names:
        found += _check(name, lint)
    errors = sum(d.severity == "error" for d in found)
    if format == "json":
        from posterior_lm.cli.output import json_text
        from posterior_lm.lang.render import to_json

        click.echo(json_text([to_json(d) for d in found]))
    else:
        if found:
            outcome.report(found, format)
        if format == "full" and not errors:
            click.echo(f"{len(names)} program{'s' * (len(names) != 1)} checked: no errors")
    ctx.exit(outcome.ERRORS if errors else outcome.FINE)


def _check(name: str, lint: bool) -> list[Diagnostic]:
    from posterior_lm.cli.files import read
    from posterior_lm.lang import compile_source
    from posterior_lm.lang.diagnostics import CompileError

    try:
        source = read(name)
    except CompileError as wrong:
        return list(wrong.diagnostics)
    module, found = compile_source(source, lint=lint)
    if module is None or any(d.severity == "error" for d in found):
        return found
    from posterior_lm.cli.supports import check_supports

    return found + check_supports(module, name)
