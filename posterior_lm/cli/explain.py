"""`plm explain`: what a diagnostic code stands for."""

from __future__ import annotations

import textwrap

import click

from posterior_lm.cli.commands import Command
from posterior_lm.cli.options import misuse
from posterior_lm.lang.codes import CODES, GROUPS
from posterior_lm.lang.diagnostics import meant


@click.command(cls=Command)
@click.argument("code", required=False)
def command(code: str | None) -> None:
    """Explain a diagnostic code, or list them all.

    \b
    Example:
      plm explain PLM401
    """
    if code is None:
        click.echo("\n".join(_all()))
        return
    name = code.strip().upper()
    name = name if name.startswith("PLM") else f"PLM{name}"
    if name not in CODES:
        misuse(f"there is no code {code!r}", meant(name, CODES, "`plm explain` lists all of them", quote=""))
    entry = CODES[name]
    parts = [f"{entry.code}: {entry.title}", textwrap.fill(entry.explanation, 88)]
    for title, example in (("Wrong", entry.wrong), ("Right", entry.right)):
        if example:
            parts.append(f"{title}:\n\n{textwrap.indent(example.rstrip(), '    ')}")
    click.echo("\n\n".join(parts))


def _all() -> list[str]:
    lines: list[str] = []
    group = ""
    for code in sorted(CODES):
        if code[3] != group:
            group = code[3]
            lines += [*([""] if lines else []), f"{group}xx: {GROUPS[group]}"]
        lines.append(f"  {code}  {CODES[code].title}")
    return lines
