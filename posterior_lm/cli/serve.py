"""`plm serve`: models of this machine by HTTP, and posteriors of programs over them."""

from __future__ import annotations

import os
import socket
import webbrowser
from importlib.util import find_spec

import click

from posterior_lm.cli.check import check_source
from posterior_lm.cli.commands import Command
from posterior_lm.cli.given import model_named
from posterior_lm.cli.options import loading, loading_option, misuse, threads_option
from posterior_lm.lang.diagnostics import PlmError
from posterior_lm.lm.protocol import LanguageModel
from posterior_lm.lm.resolve import Asked, load_model

TOKEN = "PLM_SERVER_TOKEN"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
GRACE = 10
"""Seconds that answers under way have when the server is to end."""


@click.command(cls=Command)
@click.argument("models", nargs=-1, required=True, metavar="MODEL…")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help=f"Where to listen. Elsewhere than on this machine, clients need the token in ${TOKEN}.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one."
)
@click.option(
    "--queue",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Requests that may wait; the next is told to come again.",
)
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="The most that a posterior of one row may take.",
)
@threads_option()
@loading_option("dtype")
@loading_option("device")
def command(models: tuple[str, ...], host: str, port: int, queue: int, budget: float) -> None:
    """Serve models: log-probs and draws as vLLM has them, and posteriors of programs.

    MODEL is what a program may call a model, or NAME=MODEL. POST /v1/completions, /v1/posterior and /v1/check, GET
    /v1/models and /health. Programs that are sent see the served models, and no files, tools or Python.

    \b
    Example:
      plm serve tiny
    """
    serve(models, host, port, queue, budget)


def serve(
    models: tuple[str, ...],
    host: str,
    port: int,
    queue: int,
    budget: float,
    *,
    page: bool = False,
    show: bool = False,
) -> None:
    """Serve until the process is told to end. With `page`, say where the page is that tries programs; with `show`, open it."""
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        help = "pip install 'posterior_lm[serve]'"
        raise PlmError.of(
            "PLM810", "the server needs starlette and uvicorn, which are not installed", help=help
        )
    token = os.environ.get(TOKEN) or None
    if host not in LOOPBACK and token is None:
        misuse(
            f"a server on {host} can be reached from other machines, and ${TOKEN} is not set",
            f"set {TOKEN} to a secret of your own, which clients send; or leave out --host",
        )
    import uvicorn

    from posterior_lm.server.app import application

    served = dict(map(_named, models))
    app = application(
        served,
        lambda source: check_source(source, source.name, lint=True)[1],
        token=token,
        hosts=LOOPBACK if host in LOOPBACK else (),
        queue=queue,
        budget=budget,
    )
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=GRACE, server_header=False)
    with _listening(host, port) as sock:
        at = f"[{host}]" if ":" in host else host
        address = f"http://{at}:{sock.getsockname()[1]}/"
        click.echo(f"serving {', '.join(served)} on {address}{'' if page else 'v1'}", err=True)
        if show:
            webbrowser.open(address)
        uvicorn.Server(config).run(sockets=[sock])


def _named(text: str) -> tuple[str, LanguageModel]:
    """`MODEL` or `NAME=MODEL`, with options after commas as `--lm` has them."""
    name, equals, rest = text.partition("=")
    named = bool(equals) and not set(name) & set(",/")
    asked = model_named(rest if named else text)
    if isinstance(asked, str):
        asked = Asked(asked)
    return name if named else asked.spec, load_model(asked.spec, **{**loading(), **dict(asked.options)})  # type: ignore[arg-type]


def _listening(host: str, port: int) -> socket.socket:
    """Raises PlmError PLM832 for an address that cannot be had."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as problem:
        why = (problem.strerror or str(problem)).lower()
        help = "name another with --port; 0 takes a free one"
        raise PlmError.of("PLM832", f"cannot listen on {host}, port {port}: {why}", help=help) from None
