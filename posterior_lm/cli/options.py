"""Options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def format_option(*choices: str) -> Decorator:
    """`--format`; the first choice is the default."""
    return click.option(
        "--format",
        type=click.Choice(choices),
        default=choices[0],
        show_default=True,
        help="How results are written; with json, diagnostics on standard error are JSON too."
        if "json" in choices
        else "How results are written.",
    )


def data_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--given`, `--data`, `--row`, `--lm`, `--allow-use`: what the program is asked about."""
    for option in (
        click.option("--allow-use", is_flag=True, help="Let `use` statements import Python objects."),
        click.option("--lm", multiple=True, metavar="ALIAS=MODEL",
                     help="Another model for a declared one: a folder, a table or a hub name."),
        click.option("--row", type=click.IntRange(min=0), metavar="N", help="Only this row of the data."),
        click.option("--data", metavar="FILE",
                     help="Rows of parameters: .jsonl, .json, .csv; - reads JSON lines from standard input."),
        click.option("--given", "-g", multiple=True, metavar="NAME=VALUE",
                     help="A parameter, before what the data says. VALUE is read by the declared type, a "
                     "table as JSON; @FILE reads it from a file, @@ stands for @."),
    ):  # fmt: skip
        function = option(function)
    return function


def draw_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`-n`, `--seed`, `--method`, `--policy`, `--em`, `--budget`: how the posterior is found."""
    for option in (
        click.option(
            "--budget", type=float, callback=positive_seconds, metavar="SECONDS", help="Stop after so many seconds."
        ),
        click.option("--policy", metavar="DIR", help="Propose with the policy that `plm fit` wrote there."),
        click.option("--em", metavar="DIR", help="Ask with the model and the guide that `plm em` wrote there."),
        click.option("--method", metavar="NAME",
                     help="auto, exact, importance, smc, mcmc, gflownet, or a decoder such as beam.  "
                     "[default: the program's, else auto]"),
        click.option(
            "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything random."
        ),
        click.option("-n", type=click.IntRange(min=1), metavar="N", help="Number of draws.  [default: 1000]"),
    ):  # fmt: skip
        function = option(function)
    return function


def plot_option(help: str) -> Decorator:
    """`--plot`."""
    return click.option("--plot", callback=_png, metavar="FILE.png", help=help)


def _png(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.lower().endswith(".png"):
        raise click.BadParameter(f"{value!r} does not end in .png, and a picture is a PNG file")
    return value


def positive_seconds(ctx: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """Checks a number of seconds."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise click.BadParameter(f"{value:g} is not a positive number of seconds")
    return value
