"""`plm em`: a guide and the model of what is observed, trained in turns on rows, and saved."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from posterior_lm.cli.commands import FINE, INTERRUPTED, Command
from posterior_lm.cli.given import given_values, open_query, texts
from posterior_lm.cli.options import (
    budget_option,
    check_folder,
    data_option,
    program_options,
    stated,
    training_options,
)
from posterior_lm.cli.output import json_text, live_bar
from posterior_lm.cli.waiting import waiting
from posterior_lm.target.rows import read_rows
from posterior_lm.train.course import Course

if TYPE_CHECKING:
    from posterior_lm.api.query import EmResult
    from posterior_lm.em.rounds import Round


@click.command(cls=Command)
@click.argument("file")
@data_option("Rows without what is observed are left out.", required=True)
@click.option(
    "--out", metavar="DIR", required=True, help="Where both adapters go: a folder that holds none yet."
)
@program_options
@click.option("--rounds", type=click.IntRange(min=0), metavar="N", help="M-steps at most.  [default: 5]")
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    metavar="N",
    help="Rounds without a better held-out bound after which it ends.  [default: 2]",
)
@budget_option("End, certified and saved, within so many seconds.")
@click.option(
    "--e-steps", type=click.IntRange(min=1), metavar="N", help="Steps of an E-step.  [default: 100]"
)
@click.option(
    "--m-steps", type=click.IntRange(min=1), metavar="N", help="Steps of an M-step at most.  [default: 100]"
)
@click.option("--m-rate", type=float, metavar="X", help="Learning rate of an M-step.  [default: 0.001]")
@click.option("--train", metavar="ALIAS", help="The model to train, where what is observed uses several.")
@click.option("--train-prior", is_flag=True, help="Train the latents' own terms too.")
@training_options("EM or of a fit", "after the last whole round")
def command(
    file: str, data: str, out: str, given: tuple[str, ...], lm: tuple[str, ...], allow_use: bool,
    rounds: int | None, patience: int | None, budget: float | None, e_steps: int | None,
    m_steps: int | None, m_rate: float | None, train: str | None, train_prior: bool, more: tuple[str, ...],
    seed: int | None, resume: bool, format: str,
) -> int:  # fmt: skip
    """Train a guide and the model of what is observed, in turns.

    Each round raises the probability of what the rows observe, given latents drawn for them
    (M-step), and fits the guide to the posterior that this leaves (E-step). It ends when the bound of the
    log evidence of held-out rows no longer rises; the best round is kept.

    \b
    Example:
      plm em programs/latent_rationale.plm --data rows.jsonl --out em
    """
    course = Course()
    check_folder(out)
    query = open_query(file, lm, allow_use=allow_use)
    query = query.given(given_values(query.graph, texts("--given", given)))
    rows = read_rows(data, query.graph.params)
    flags = {
        "rounds": rounds, "patience": patience, "budget": budget, "e_steps": e_steps, "m_steps": m_steps,
        "m_rate": m_rate, "train": train, "train_prior": train_prior or None, "seed": seed,
    }  # fmt: skip
    with _watching() as (watch, tick, say):
        found = query.em(
            rows, out, resume=resume, watch=watch, tick=tick, say=say, course=course, **stated(more, flags)
        )
    if format == "json":
        kept = ("interrupted", "stopped", "best", "notes", "rounds")
        whole = {"folder": str(found.folder), "program": str(found.query)}
        click.echo(json_text({**whole, **{name: getattr(found, name) for name in kept}}))
    else:
        _announce(found)
    return INTERRUPTED if found.interrupted else FINE


# ---- what it shows

HEADER = "round    Q before   after    ELBO   log evidence   held out: ELBO   log evidence   ESS/N"


def line(found: Round) -> str:
    """One round in one line; nats a row."""

    def nats(x: float | None, width: int) -> str:
        return f"{'' if x is None else f'{x:.3f}':>{width}}"

    raised, held = found.raised, found.held_out
    before, after = (None, None) if raised is None else (raised.before, raised.after)
    elbo, tight = (None, None) if held is None else (held.elbo, held.log_evidence)
    return (
        f"{found.number:>5}{nats(before, 12)}{nats(after, 8)}{nats(found.bound.elbo, 8)}"
        f"{nats(found.bound.log_evidence, 15)}{nats(elbo, 17)}{nats(tight, 15)}{found.bound.ess:>8.2f}"
    )


def _announce(found: EmResult) -> None:
    """The program that is trained, the table of rounds, and which one was kept."""
    click.echo(str(found.query))
    click.echo(HEADER)
    for one in found.rounds:
        click.echo(line(one))
    click.echo()
    click.echo(f"Round {found.best} is kept in {found.folder}: {found.stopped}.")
    if found.interrupted:
        click.echo("The guide is uncertified; go on with --resume.")


Watchers = tuple["Callable[[Round], None]", "Callable[[int, str, float], None]", "Callable[[str], None]"]


@contextmanager
def _watching() -> Iterator[Watchers]:
    """What is told of rounds, of steps and of remarks; all write to standard error, in a pipe from the first second on."""

    def say(text: str) -> None:
        click.echo(text, err=True)

    if sys.stderr.isatty():
        with live_bar("EM") as (move, tell):
            yield (
                lambda found: tell(line(found)),
                lambda number, what, share: move(share, f"round {number}, {what}"),
                tell,
            )
        return
    latest = ["starting"]

    def tick(number: int, what: str, share: float) -> None:
        latest[0] = f"round {number}, {what} {share:.0%}"

    with waiting(lambda: latest[0]):
        yield (lambda found: say(_brief(found))), tick, say


def _brief(found: Round) -> str:
    """A round in a line that needs no header, since whoever reads a pipe sees it long before the table."""
    held = "" if found.held_out is None else f", held out {found.held_out.log_evidence:.3f}"
    return f"round {found.number}: log evidence {found.bound.log_evidence:.3f}{held}"
