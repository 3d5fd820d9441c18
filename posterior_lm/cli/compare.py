"""`plm compare`: what each method makes of a program, beside the exact posterior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import click

from posterior_lm.cli.commands import ERRORS, FINE, Command
from posterior_lm.cli.given import Case, cases, open_query
from posterior_lm.cli.options import (
    budget_option,
    check_result,
    data_options,
    format_option,
    loading,
    misuse,
    plot_option,
    seed_option,
)
from posterior_lm.cli.output import json_text, progress, show_each, table
from posterior_lm.infer.methods import METHODS
from posterior_lm.infer.request import checked
from posterior_lm.validate.comparison import DRAWS, Comparison, compare
from posterior_lm.validate.database import entries
from posterior_lm.validate.plots import need_plots, plot_comparison
from posterior_lm.validate.trials import HEAD, NEAR, SEEDS, Trials, trials


@click.command(cls=Command)
@click.argument("file", required=False)
@data_options
@click.option("--models", metavar="FOLDER", help="With --db: where models lie that its targets name.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"With --db: so many seeds, from --seed on.  [default: {SEEDS}]",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="NAME",
    help="With --db: only this one.  [default: auto, exact, importance, smc]",
)
@click.option(
    "--class", "kinds", multiple=True, metavar="NAME", help="With --db: only targets of this class."
)
@click.option(
    "--db",
    is_flag=False,
    flag_value="",
    metavar="[FOLDER]",
    help="In place of a program: methods on the database of known posteriors that ships, or on another.",
)
@click.option("-n", type=click.IntRange(min=2), metavar="N", help="Draws of each method.  [default: 1000]")
@seed_option()
@click.option("--policy", metavar="DIR", help="Compare the policy that `plm fit` wrote there, too.")
@budget_option("Stop each method, the exact one too, after so many seconds.")
@plot_option("Also draw the table; for one row of data.")
@format_option("text", "json")
@click.pass_context
def command(
    ctx: click.Context,
    file: str | None, given: tuple[str, ...], data: str | None, row: int | None, lm: tuple[str, ...], allow_use: bool,
    models: str | None, seeds: int | None, methods: tuple[str, ...], kinds: tuple[str, ...], db: str | None,
    n: int | None, seed: int, policy: str | None, budget: float | None, plot: str | None, format: str,
) -> None:  # fmt: skip
    """Run every method beside the exact posterior.

    TV is the total variation between a method's weighted draws and the listed posterior.
    Chance alone makes it positive: the line below the table says what as many exact draws
    would have. error is that of the log evidence, in nats; tokens are the positions that
    language models computed. With --db the exit code is 1 where a list is not the known answer.

    \b
    Example:
      plm compare programs/latent_rationale.plm --data programs/data/latent_rationale.jsonl --row 0
      plm compare --db --class rare_modes --method auto --method smc --seeds 5
    """
    ours = {"FILE": file, "--given": given, "--data": data, "--row": row, "--lm": lm, "--allow-use": allow_use,
            "--policy": policy, "--plot": plot, "--dtype": loading().get("dtype"), "--device": loading().get("device")}  # fmt: skip
    if db is not None:
        _alone(ours, "goes with a program, not with --db")
        _check_methods(methods)
        asked_of = entries(Path(db) if db else None, kinds)
        with progress("comparing", lines=True) as watch:
            whole = trials(
                asked_of, models=None if models is None else Path(models), methods=methods, seeds=seeds or SEEDS, seed=seed,
                n=n, budget=budget, progress=watch,
            )  # fmt: skip
        if format == "json":
            click.echo(json_text(whole.to_json()))
        else:
            _show_trials(whole)
        ctx.exit(ERRORS if whole.faults else FINE)
    _alone({"--models": models, "--seeds": seeds, "--method": methods, "--class": kinds}, "goes with --db")
    if file is None:
        raise click.MissingParameter(param_hint="'FILE' or '--db'", param_type="argument")
    query = open_query(file, lm, allow_use=allow_use, policy=policy)
    asked = cases(query.graph, given, data, row)
    if plot is not None:
        if len(asked) > 1:
            misuse("--plot draws one comparison, and there are several rows", "pick one with --row")
        need_plots(plot)
        check_result(plot, file, given, data)

    def found(case: Case) -> tuple[object, Callable[[], None]]:
        with progress("comparing") as watch:
            one = compare(
                query.prepared, query.request, case.data, draws=n or DRAWS, seed=seed, budget=budget,
                progress=watch,
            )  # fmt: skip
        if plot is not None:
            plot_comparison(one, Path(plot))
        return one.to_json(), lambda: _show(one, case.row)

    show_each(asked, format, found)


def _show(one: Comparison, row: int | None) -> None:
    where = "" if row is None else f"rows[{row}]  "
    click.echo(f"{where}{one.program}  {one.draws} draws of each method  seed {one.seed}\n")
    head, rows = one.cells()
    click.echo("\n".join([*table(head, rows, [False] + [True] * 8), "", *one.notes()]))


def _show_trials(found: Trials) -> None:
    right = [False] + [True] * (len(HEAD) - 1)
    shown = [
        [
            f"{method}  {found.seeds} seed{'s' * (found.seeds != 1)} of each target",
            "",
            *table(HEAD, rows, right),
            "",
        ]
        for method, rows in found.tables().items()
    ]
    said = [f"fault: {one}" for one in found.faults]
    if near := found.near_best:
        far = "".join(f", not on {name}" for name, held in near.items() if not held)
        said.append(
            f"auto is within {NEAR:g} times the best method's error at equal seconds on {sum(near.values())} of {len(near)} targets{far}"
        )
    said += [f"left out: {name}: {why}" for name, why in found.absent.items()]
    click.echo("\n".join([line for lines in shown for line in lines][: None if said else -1] + said))


def _alone(options: Mapping[str, object], why: str) -> None:
    """Raises PLM802 for the first of the options that was given."""
    for name, value in options.items():
        if value is not None and value is not False and value != ():
            misuse(f"{name} {why}", "see plm compare --help")


def _check_methods(names: tuple[str, ...]) -> None:
    """Raises PLM802 for what is no method, or none that a program alone suffices for."""
    for name in names:
        checked(name, {})
        if METHODS[name].needs_policy or METHODS[name].decoder:
            misuse(
                f"--method {name} draws from no posterior without a policy",
                "name auto, exact, importance, smc or mcmc",
            )
