"""`plm fmt`: the canonical layout, in place or as a check."""

from __future__ import annotations

import click

from posterior_lm.cli.commands import ERRORS, FINE, Command
from posterior_lm.cli.options import programs, read, replace
from posterior_lm.cli.output import report
from posterior_lm.lang.diagnostics import CompileError, Diagnostic
from posterior_lm.lang.format import format_module
from posterior_lm.lang.parser import parse


@click.command(cls=Command)
@click.argument("files", nargs=-1, metavar="FILE…")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 where a file would change.")
@click.option("--stdin", is_flag=True, help="Read standard input, write standard output; so does the file -.")
@click.pass_context
def command(ctx: click.Context, files: tuple[str, ...], check: bool, stdin: bool) -> None:
    """Rewrite programs in the canonical layout.

    FILE is a program or a folder of programs. A file that does not parse is left alone.

    \b
    Example:
      plm fmt --check programs
    """
    names = programs([*files, *(["-"] if stdin and "-" not in files else [])])
    if not names:
        raise click.UsageError("name at least one file, or - for standard input")
    found: list[Diagnostic] = []
    changed = 0
    for name in names:
        try:
            source = read(name)
            module, wrong = parse(source)
            if module is None or any(d.severity == "error" for d in wrong):
                found += wrong
                continue
            text = format_module(module)
            changed += text != source.text
            if name == "-" and not check:
                click.echo(text, nl=False)
            elif text != source.text:
                if not check:
                    replace(name, text)
                click.echo(f"{'would reformat' if check else 'reformatted'} {source.name}")
        except CompileError as problem:
            found += problem.diagnostics
    if found:
        report(found)
    ctx.exit(ERRORS if found or (check and changed) else FINE)
