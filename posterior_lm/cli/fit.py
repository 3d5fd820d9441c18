"""`plm fit`: a policy for a program, trained on rows, certified and saved."""

from __future__ import annotations

from pathlib import Path

import click

from posterior_lm.cli.group import Command
from posterior_lm.cli.options import format_option, objective_option, positive_seconds


@click.command(cls=Command)
@click.argument("file")
@click.option(
    "--data",
    metavar="FILE",
    help="Rows of parameters: .jsonl, .json, .csv; - reads JSON lines from "
    "standard input. A column named after a latent holds a known good value of it.",
)
@click.option(
    "--out", metavar="DIR", required=True, help="Where the policy goes: a folder that holds none yet."
)
@click.option(
    "--given", "-g", multiple=True, metavar="NAME=VALUE", help="A parameter of every row, as for plm run."
)
@click.option("--lm", multiple=True, metavar="ALIAS=MODEL", help="Another model for a declared one.")
@click.option("--allow-use", is_flag=True, help="Let `use` statements import Python objects.")
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="Training steps.  [default: 300; 600 where rows are listed]",
)
@click.option(
    "--budget",
    type=float,
    callback=positive_seconds,
    metavar="SECONDS",
    help="End training after so many seconds; the schedules end with it.",
)
@objective_option()
@click.option("--rank", type=click.IntRange(min=1), metavar="N", help="Of the adapter.  [default: 32]")
@click.option(
    "--targets", metavar="NAMES", help="Layers to adapt, with commas.  [default: every linear layer]"
)
@click.option("--rows", type=click.IntRange(min=1), metavar="N", help="Data rows a step.  [default: 16]")
@click.option("--draws", type=click.IntRange(min=2), metavar="N", help="Draws a row and step.  [default: 16]")
@click.option("--rate", type=float, metavar="X", help="Highest learning rate.  [default: 0.004]")
@click.option("--set", "more", multiple=True, metavar="NAME=VALUE", help="Any other setting of a fit.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Of everything random.  [default: 0]")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in --out.")
@click.option("--curves", metavar="FILE.png", help="Also draw loss, ESS and log evidence over the steps.")
@format_option("text", "json")
def command(
    file: str, data: str | None, out: str, given: tuple[str, ...], lm: tuple[str, ...], allow_use: bool,
    steps: int | None, budget: float | None, objective: str | None, rank: int | None, targets: str | None,
    rows: int | None, draws: int | None, rate: float | None, more: tuple[str, ...], seed: int | None,
    resume: bool, curves: str | None, format: str,
) -> int:  # fmt: skip
    """Train a policy that draws from the posterior of a program.

    It answers any row of the program's parameters. Rows that are held out, and rows simulated from the program itself, say how far
    to trust it; the verdict is stored with the policy.

    \b
    Example:
      plm fit programs/story_infilling.plm --data rows.jsonl --out policy
      plm run programs/story_infilling.plm --data new.jsonl --policy policy
    """
    from posterior_lm.cli.files import check_folder
    from posterior_lm.cli.fitting import announce, number_or_text, watching
    from posterior_lm.cli.given import cases, open_query, pairs
    from posterior_lm.cli.outcome import FINE, INTERRUPTED
    from posterior_lm.cli.output import json_text

    check_folder(out)
    query = open_query(file, lm, allow_use=allow_use, method=None)
    asked = [
        case.data
        for case in cases(query.graph, given, data, None, extra=[n.name for _, n in query.graph.latents()])
    ]
    flags = {
        "steps": steps, "budget": budget, "objective": objective, "rank": rank, "targets": targets,
        "rows": rows, "draws": draws, "rate": rate, "seed": seed,
    }  # fmt: skip
    options: dict[str, object] = {
        **query.request.fit_settings(query.prepared),
        **{k: number_or_text(v) for k, v in pairs("--set", more, "NAME=VALUE").items()},
        **{k: v for k, v in flags.items() if v is not None},
    }
    from posterior_lm.amortize.fit import METRICS, fit
    from posterior_lm.amortize.settings import settings_of

    settings = settings_of(options)
    with watching() as (watch, say):
        fitted = fit(query.prepared, asked, out, settings, resume=resume, watch=watch, say=say)
    if not fitted.leads:
        return INTERRUPTED if fitted.interrupted else FINE
    if curves is not None:
        from posterior_lm.amortize.metrics import curves as draw_curves

        draw_curves(fitted.folder / METRICS, Path(curves))
    if format == "json":
        from attrs import asdict

        click.echo(
            json_text(
                {"folder": str(fitted.folder), "interrupted": fitted.interrupted, **asdict(fitted.manifest)}
            )
        )
    else:
        announce(fitted)
    return INTERRUPTED if fitted.interrupted else FINE
