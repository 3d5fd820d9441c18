"""`plm lsp`: the language server of editors, on the standard streams."""

from __future__ import annotations

import os
from importlib.util import find_spec

import click

from posterior_lm import __version__
from posterior_lm.cli.check import check_source
from posterior_lm.cli.commands import Command
from posterior_lm.lang.diagnostics import PlmError


@click.command(cls=Command)
@click.option("--stdio", is_flag=True, help="Standard input and output, which it speaks on anyway.")
def command(stdio: bool) -> None:
    """Serve editors: diagnostics, hover, completion, rename and more as one types.

    An editor starts this; it speaks the Language Server Protocol on standard input and output.

    \b
    Example:
      plm lsp
    """
    if find_spec("pygls") is None:
        help = "pip install 'posterior_lm[lsp]'"
        raise PlmError.of("PLM810", "the language server needs pygls, which is not installed", help=help)
    from posterior_lm.editors.server import make_server

    server = make_server(__version__, lambda source: check_source(source, source.name, lint=True)[1])
    # The streams are the protocol's: what anything prints goes to standard error, and pygls closes its own copies.
    with os.fdopen(os.dup(0), "rb") as asked, os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        server.start_io(asked, answers)
