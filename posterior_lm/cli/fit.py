"""`plm fit`: a policy for a program, or for several, trained on rows, certified and saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from attrs import asdict

from posterior_lm.cli.commands import FINE, INTERRUPTED, Command
from posterior_lm.cli.given import cases, open_query
from posterior_lm.cli.options import (
    budget_option,
    check_folder,
    data_option,
    misuse,
    objective_option,
    pairs,
    program_options,
    stated,
    training_options,
)
from posterior_lm.cli.output import json_text
from posterior_lm.cli.showing import showing
from posterior_lm.lang.diagnostics import meant
from posterior_lm.train.course import Course
from posterior_lm.train.settings import settings_of

if TYPE_CHECKING:
    from posterior_lm.api.query import Query
    from posterior_lm.train.fit import Fitted


@click.command(cls=Command)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@data_option(
    "A column named after a latent holds a known good value of it. With several programs NAME=FILE, "
    "by the name of the program's file, once for each that has parameters.",
    multiple=True,
)
@click.option("--out", metavar="DIR", help="Where the policy goes: a folder that holds none yet.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only say what each phase will take, by trying three steps; write nothing.",
)
@program_options
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="Training steps.  [default: what a budget holds; without one 300; 600 where rows are listed]",
)
@budget_option("Be done after so many seconds, all told; the schedules end with the training.")
@objective_option()
@click.option("--rank", type=click.IntRange(min=1), metavar="N", help="Of the adapter.  [default: 32]")
@click.option(
    "--targets", metavar="NAMES", help="Layers to adapt, with commas.  [default: every linear layer]"
)
@click.option(
    "--for",
    "scope",
    metavar="WHAT",
    help="rows: the policy is for these rows, certified on them; program: for any row.  "
    "[default: rows where they are fewer than 32]",
)
@click.option(
    "--from",
    "starts",
    metavar="DIR",
    multiple=True,
    help="Begin with the weights of this policy, of the same model.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    metavar="N",
    help="Data rows a step.  [default: 16; 4 for a policy of its rows]",
)
@click.option(
    "--draws",
    type=click.IntRange(min=2),
    metavar="N",
    help="Draws a row and step.  [default: 16; 256 of a step for a policy of its rows]",
)
@click.option(
    "--learning-rate",
    type=float,
    metavar="X",
    help="The highest one.  [default: 0.004; less for a model larger than tiny]",
)
@click.option("--rate", type=float, hidden=True)  # its name in the release before
@click.option("--curves", metavar="FILE.png", help="Also draw loss, ESS and log evidence over the steps.")
@training_options("a fit", "from the checkpoint")
def command(
    files: tuple[str, ...], data: tuple[str, ...], out: str | None, dry_run: bool, given: tuple[str, ...], lm: tuple[str, ...], allow_use: bool,
    steps: int | None, budget: float | None, objective: str | None, rank: int | None, targets: str | None,
    scope: str | None, starts: tuple[str, ...], rows: int | None, draws: int | None, learning_rate: float | None, rate: float | None,
    more: tuple[str, ...], seed: int | None, resume: bool, curves: str | None, format: str,
) -> int:  # fmt: skip
    """Train a policy that draws from the posterior of a program.

    Of many rows it answers any row of the program's parameters; rows that are held out, and rows simulated from the program
    itself, say how far to trust it. Of few it is for them. The verdict is stored with the policy.

    Several programs of one model have one policy, which reads the program that it draws for: it serves
    others too.

    \b
    Example:
      plm fit programs/story_infilling.plm --data rows.jsonl --out policy
      plm run programs/story_infilling.plm --data new.jsonl --policy policy
    """
    if out is None and not dry_run:
        raise click.MissingParameter(param_hint="'--out'", param_type="option")
    course = Course(watched=True)
    course.budget = budget
    with showing(course) as say:
        if out is not None:
            check_folder(out)
        sources = named_data(files, data)
        queries = {file: open_query(file, lm, allow_use=allow_use, method=None) for file in files}
        flags = {
            "steps": steps, "budget": budget, "objective": objective, "rank": rank, "targets": targets,
            "scope": scope, "start": one_of_them("--from", starts),
            "rows": rows, "draws": draws, "rate": rate, "learning_rate": learning_rate, "seed": seed,
        }  # fmt: skip
        (first, query), *others = queries.items()
        chosen = stated(more, flags)
        # Said before anything large is imported: what is wrong here is no matter of the program's rows.
        stated_here = {} if others else query.request.fit_settings(query.prepared)
        settings = settings_of({**stated_here, **chosen})
        asked = {
            file: [
                case.data for case in cases(query.graph, given, sources[file], None, extra=_latents(query))
            ]
            for file, query in queries.items()
        }
        from posterior_lm.train.checkpoint import METRICS  # imports torch, as the next do
        from posterior_lm.train.fit import fit
        from posterior_lm.train.progress import curves as draw_curves

        if others:
            if out is None or dry_run:
                misuse(
                    "--dry-run forecasts the fit of one program", "name one program, or leave out --dry-run"
                )
            from posterior_lm.train.many import Asked, fit_many

            for file, one in queries.items():
                if one.request.fit_settings(one.prepared):
                    say(f"{file}: what its `infer gflownet` states is for a policy of its own, and not used")
            programs = {name_of(file): Asked(one.prepared, asked[file]) for file, one in queries.items()}
            fitted = fit_many(programs, out, settings, resume=resume, say=say, course=course)
        else:
            if out is None or dry_run:
                from posterior_lm.train.rehearsal import rehearse

                forecast = rehearse(query.prepared, asked[first], settings, course=course)
            else:
                fitted = fit(
                    query.prepared, asked[first], out, settings, resume=resume, say=say, course=course
                )
    if out is None or dry_run:
        click.echo(json_text(forecast.to_json()) if format == "json" else "\n".join(forecast.lines()))
        return FINE
    if not fitted.leads:
        return INTERRUPTED if fitted.interrupted else FINE
    if curves is not None:
        draw_curves(fitted.folder / METRICS, Path(curves))
    if format == "json":
        whole = {"folder": str(fitted.folder), "interrupted": fitted.interrupted, **asdict(fitted.manifest)}
        click.echo(json_text(whole))
    else:
        announce(fitted)
    return INTERRUPTED if fitted.interrupted else FINE


def one_of_them(option: str, values: Sequence[str]) -> str | None:
    """The value of an option that stands once or never. Ends the command where it stands twice."""
    if len(values) > 1:
        misuse(f"{option} stands twice", "keep one of them")
    return values[0] if values else None


def _latents(query: Query) -> list[str]:
    return [node.name for _, node in query.graph.latents()]


def name_of(file: str) -> str:
    """What a program is called beside others: its file without the ending."""
    return Path(file).stem


def named_data(files: Sequence[str], data: Sequence[str]) -> dict[str, str | None]:
    """The data file of each program file. Ends the command where programs or data cannot be told apart."""
    if len(files) == 1:
        if len(data) > 1:
            misuse("--data stands twice, and there is one program", "put the rows into one file")
        return {files[0]: data[0] if data else None}
    names: dict[str, str] = {}
    for file in files:
        if (name := name_of(file)) in names:
            what = (
                f"{file} stands twice"
                if file == names[name]
                else f"{names[name]} and {file} are both `{name}`"
            )
            misuse(what, "name each program once, by files of different names")
        names[name] = file
    found = pairs("--data", data, "NAME=FILE")
    for name in found:
        if name not in names:
            misuse(
                f"--data {name}: there is no program `{name}`",
                meant(name, names, f"the programs are {', '.join(names)}"),
            )
    return {file: found.get(name) for name, file in names.items()}


# ---- what it shows


def announce(fitted: Fitted) -> None:
    """Where the policy is, and what is known of it."""
    manifest = fitted.manifest
    steps = f"{manifest.steps} step{'s' * (manifest.steps != 1)}"
    click.echo(f"{manifest.name}: {steps} in {manifest.seconds:.0f} s, in {fitted.folder}")
    if fitted.interrupted:
        click.echo(
            f"Interrupted at step {manifest.steps}. The checkpoint and the policy as it stands are saved, "
            "uncertified; go on with --resume."
        )
        return
    for one in manifest.programs or (manifest,):
        certificate = one.checked
        if manifest.programs:
            click.echo(f"\n{one.name}: {one.steps} of the steps, in {one.seconds:.0f} s")
        if certificate is not None:
            click.echo()
            for text in certificate.lines():
                click.echo(text)
