"""`plm check`: what is wrong with programs, without importing a model, and when each condition is tested (`-v`).

The graph, which takes a tenth of a second to import, is imported where a program has conditions that need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from attrs import asdict, frozen

from posterior_lm.cli.commands import ERRORS, FINE, Command
from posterior_lm.cli.files import programs, read
from posterior_lm.cli.options import format_option
from posterior_lm.cli.output import json_text, report, table
from posterior_lm.cli.supports import check_supports
from posterior_lm.graph import lower, optimize
from posterior_lm.graph.conditions import conjuncts
from posterior_lm.lang import ast
from posterior_lm.lang.ast import statements
from posterior_lm.lang.diagnostics import CompileError, shortened, to_json
from posterior_lm.lang.driver import compile_source
from posterior_lm.target.certainty import impossible

if TYPE_CHECKING:
    from posterior_lm.graph.conditions import Conjunct
    from posterior_lm.graph.graph import RewardGraph
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
    found: list[Diagnostic] = []
    sorted_: list[tuple[str, list[Row]]] = []
    names = programs(files)
    for name in names:
        checked, wrong = _check(name, lint)
        found += wrong
        if verbose and checked is not None:
            sorted_.append((name, rows(checked)))
    errors = sum(d.severity == "error" for d in found)
    if format == "json":
        diagnostics = [to_json(d) for d in found]
        if verbose:
            conditions = [row.to_json(name) for name, table in sorted_ for row in table]
            click.echo(json_text({"diagnostics": diagnostics, "conditions": conditions}))
        else:
            click.echo(json_text(diagnostics))
    else:
        if found:
            report(found, format)
        for name, table in sorted_:
            click.echo("\n".join(lines(name, table)))
        if format == "full" and not errors:
            click.echo(f"{len(names)} program{'s' * (len(names) != 1)} checked: no errors")
    ctx.exit(ERRORS if errors else FINE)


def _check(name: str, lint: bool) -> tuple[CheckedModule | None, list[Diagnostic]]:
    """The module, where it has no error, and what was found."""
    try:
        source = read(name)
    except CompileError as wrong:
        return None, list(wrong.diagnostics)
    checked = compile_source(source, lint=lint)
    found = list(checked.diagnostics)
    if checked.errors:
        return None, found
    found += check_supports(checked, name)
    if any(d.severity == "error" for d in found):
        return None, found
    return checked, found + check_conditions(checked)


# ---- conditions: what no value satisfies, and when each is tested

WIDEST = 40
"""Characters of a condition that are shown."""


@frozen
class Row:
    """A part of a condition and what it is for one latent that it reads."""

    line: int
    condition: str
    latent: str | None
    kind: str
    why: str

    def to_json(self, file: str) -> dict[str, object]:
        return {"file": file, **asdict(self)}


def check_conditions(checked: CheckedModule) -> list[Diagnostic]:
    """PLM340 for finite latents, for a module without errors; texts need a tokenizer and wait for one."""
    body = list(statements(checked.module.program.body))
    finite = any(isinstance(s, ast.Latent) and checked.type(s.type).is_finite for s in body)
    if not finite or not any(isinstance(s, ast.Condition) for s in body):
        return []
    return impossible(optimize(lower(checked)))


def rows(checked: CheckedModule) -> list[Row]:
    """One row per part of a condition and latent, for a module without errors.

    A part that reads no latent is `known`: it is settled when data is bound.
    """
    graph = optimize(lower(checked))
    found = []
    for part in conjuncts(graph):
        line, text = part.statement.line, _text(graph, part)
        if not part.readings:
            found.append(Row(line, text, None, "known", "no latent changes it"))
        for reading in part.readings:
            found.append(Row(line, text, reading.latent, reading.kind, reading.why))
    return found


def _text(graph: RewardGraph, part: Conjunct) -> str:
    text = " ".join(graph[part.node].span.text.split())
    return f"not {text}" if part.negated else text


def lines(name: str, found: list[Row]) -> list[str]:
    """The rows as an aligned table under the name of their program."""
    if not found:
        return [f"{name}: no conditions"]
    cells = [[str(r.line), shortened(r.condition, WIDEST), r.latent or "-", r.kind, r.why] for r in found]
    head = ("line", "condition", "latent", "kind", "why")
    return [name, *table(head, cells, (True, False, False, False, False))]
