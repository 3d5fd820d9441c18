"""`plm playground`: a page to write a program on and see its posterior, drawn by a model of this machine."""

from __future__ import annotations

import click

from posterior_lm.cli.commands import Command
from posterior_lm.cli.options import loading_option, threads_option
from posterior_lm.cli.serve import serve


@click.command(cls=Command)
@click.argument("models", nargs=-1, metavar="[MODEL…]")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one."
)
@click.option("--open/--no-open", "show", default=True, show_default=True, help="Open it in a browser.")
@threads_option()
@loading_option("dtype")
@loading_option("device")
def command(models: tuple[str, ...], port: int, show: bool) -> None:
    """Try programs on a page in the browser.

    MODEL is what a program may call a model, or NAME=MODEL; tiny where none is given. The page is that of `plm serve`,
    on this machine alone: its programs see the served models, and no files, tools or Python.

    \b
    Example:
      plm playground tiny
    """
    serve(models or ("tiny",), "127.0.0.1", port, 32, 60.0, page=True, show=show)
