"""`plm run`: the posterior of a program."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from posterior_lm.api.engine import draw
from posterior_lm.api.saved import NAME
from posterior_lm.cli.commands import FINE, Command
from posterior_lm.cli.given import cases, open_query
from posterior_lm.cli.many import answer_many, many, many_options
from posterior_lm.cli.options import check_folder, data_options, draw_options, format_option, misuse
from posterior_lm.cli.output import progress, report, show_each, show_posterior
from posterior_lm.cli.showing import showing
from posterior_lm.cli.waiting import waiting
from posterior_lm.lang.check.lint import unended
from posterior_lm.train.course import Course

if TYPE_CHECKING:
    from posterior_lm.cli.given import Case


@click.command(cls=Command)
@click.argument("file")
@data_options
@draw_options
@many_options
@click.option("--save", metavar="DIR", help="Also write the draws there; several rows have a folder each.")
@format_option("text", "json", "jsonl")
def command(
    file: str, given: tuple[str, ...], data: str | None, row: int | None, lm: tuple[str, ...],
    allow_use: bool, n: int | None, seed: int, method: str | None, policy: str | None, em: str | None,
    budget: float | None, save: str | None, format: str,
) -> int:  # fmt: skip
    """Draw from the posterior of a program.

    With several rows of data there is one result for each; with --format jsonl each is a line of JSON,
    written as soon as it is there. Each row has a seed of its own, made of --seed and its number and shown, so
    its draws do not depend on which other rows there are. --budget is for each row. With one of
    two minutes or more for at least 32 rows, auto first trains a policy on them where that can pay;
    then it is for training and all rows together, but with --out, where it is for each row.

    \b
    Example:
      plm run programs/story_infilling.plm --data programs/data/story_infilling.jsonl --row 0
    """
    opening: dict[str, Any] = {
        "file": file,
        "lm": lm,
        "allow_use": allow_use,
        "method": method,
        "em": em,
        "policy": policy,
    }
    if (many_rows := many()) is not None:
        if save is not None:
            misuse(
                "--save is a folder for the draws of each row, and --out one for all results",
                "leave one of them out",
            )
        asking = {"n": n, "seed": seed, "budget": budget}
        return answer_many(many_rows, "run", opening, asking, given=given, data=data, row=row, format=format)
    query = open_query(**opening)
    asked = cases(query.graph, given, data, row)
    if asked and (endless := list(unended(query.checked, asked[0].valid))):
        report(endless)
    if save is not None:
        check_folder(save)
        for case in asked:
            check_folder(str(_place(save, case, asked)), NAME)
    with tempfile.TemporaryDirectory(prefix="plm-policy-") as folder:
        rows = [case.data for case in asked]
        if budget is not None and len(rows) > 1:
            with waiting(lambda: "starting"):  # what trains imports torch
                from posterior_lm.train.fit import trained, worth_training

            if worth_training(query.prepared, query.request, rows, budget):
                course = Course(watched=True)
                with showing(course) as say:
                    found, left = trained(
                        query.prepared, query.request, rows, budget, Path(folder), seed=seed, say=say,
                        course=course,
                    )  # fmt: skip
                query, budget = query if found is None else query.policy(found), left / len(rows)
        program, request = query.prepared, query.request

        def drawn(case: Case) -> tuple[object, Callable[[], None]]:
            with progress("drawing", piped=format != "jsonl") as watch:
                target = program.bind_valid(case.valid)
                posterior = draw(
                    program, target, request, n, seed=case.seed(seed), budget=budget, progress=watch
                )
            if save is not None:
                posterior.save(_place(save, case, asked))
            found = posterior.to_json()
            if format == "jsonl":
                found = {"row": case.row, **found}
            return found, lambda: show_posterior(posterior, case.row)

        show_each(asked, format, drawn)
    return FINE


def _place(save: str, case: Case, asked: Sequence[Case]) -> Path:
    """The folder for the draws of a case."""
    return Path(save) if len(asked) == 1 else Path(save) / f"row-{case.row}"
