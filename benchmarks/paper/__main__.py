"""Every method on the paper's five tasks, one table.

python -m benchmarks.paper --quick
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from posterior_lm.cli.commands import Command, ExitCodes
from posterior_lm.cli.given import model_named
from posterior_lm.cli.main import main
from posterior_lm.cli.options import format_option, misuse, pairs

if TYPE_CHECKING:
    from benchmarks.paper.run import Progress
    from posterior_lm.metrics.judge import Judge


class Bench(ExitCodes, Command):
    """The command with the exit codes and the reports of errors of `plm`."""


@click.command(cls=Bench, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="NAME",
    help="Only this task: integers, continuation, infilling, subjectivity or arithmetic. Repeatable.",
)
@click.option(
    "--setting", "settings", multiple=True, metavar="NAME", help="Only this setting of a task. Repeatable."
)
@click.option("--method", "methods", multiple=True, metavar="NAME", help="Only this method. Repeatable.")
@click.option(
    "--lm",
    multiple=True,
    metavar="ALIAS=MODEL",
    help="Another model than tiny, as base=NAME or base=NAME,dtype=bfloat16; with the paper's settings for its training.",
)
@click.option("--quick", is_flag=True, help="One seed, few rows, few steps: tries every path in minutes.")
@click.option(
    "--small",
    is_flag=True,
    help="One seed, tens of rows and steps, the default recipe: a real model on a processor, in hours.",
)
@click.option(
    "--out",
    metavar="DIR",
    default="bench-paper",
    show_default=True,
    help="Where results go. A bench that was stopped goes on there.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    metavar="N",
    help="Seeds of every cell.  [default: 3, 1 with --quick or --small]",
)
@click.option(
    "--subj", metavar="DIR", help="SUBJ as train.jsonl and test.jsonl, in place of the world's reviews."
)
@click.option(
    "--stories", metavar="FILE",
    help="Real stories as JSON lines, for infilling and continuation, in place of the world's.",
)  # fmt: skip
@click.option(
    "--paper-data", metavar="DIR", help="The paper's files of sums, which are then asked too, by themselves."
)
@click.option("--bert", metavar="DIR", help="The encoder for BERTScore; without it that column is left out.")
@click.option(
    "--judge", metavar="URL", help="An OpenAI-compatible server that rates infilled texts; it sees them."
)
@click.option("--judge-model", metavar="NAME", help="What the server calls its model.")
@click.option("--judge-key", metavar="VARIABLE", help="The environment variable that holds the server's key.")
@format_option("text", "json")
def command(
    tasks: tuple[str, ...], settings: tuple[str, ...], methods: tuple[str, ...], lm: tuple[str, ...], quick: bool, small: bool, out: str,
    seeds: int | None, subj: str | None, stories: str | None, paper_data: str | None, bert: str | None,
    judge: str | None, judge_model: str | None, judge_key: str | None, format: str,
) -> int:  # fmt: skip
    """Run every method on the paper's five tasks, and write one table.

    Each result is kept as soon as it is there, so a bench that was killed goes on where it was
    when the same command is given again. paper.json, paper.md and paper.html in the folder are
    written after every task.

    \b
    Example:
      python -m benchmarks.paper --task integers --quick --out results
    """
    from benchmarks.paper.cells import Store
    from benchmarks.paper.plans import FULL, QUICK, SMALL
    from benchmarks.paper.presets import preset
    from benchmarks.paper.run import cells_of, chosen, open_bench, run
    from benchmarks.paper.task import Bench as PlannedBench
    from benchmarks.paper.tasks import TASKS
    from benchmarks.paper.write import write
    from posterior_lm.cli.commands import FINE, INTERRUPTED
    from posterior_lm.cli.output import json_text

    kept = [TASKS[name] for name in chosen(tasks, tuple(TASKS), "task")]
    named = dict(pairs("--lm", lm, "ALIAS=MODEL"))
    models = {alias: model_named(text) for alias, text in named.items()}
    if quick and small:
        misuse("--quick and --small are two sizes", "give one of them")
    plan = QUICK if quick else SMALL if small else FULL
    folders = {"subj": subj, "stories": stories, "arithmetic": paper_data, "bert": bert}
    data = {name: Path(path).resolve() for name, path in folders.items() if path is not None}
    # Before a folder is begun, so that an unknown name leaves none.
    cells = cells_of(
        PlannedBench(plan, Store(Path(out)), models, data), kept, seeds or plan.seeds, methods, settings
    )
    with watching() as (watch, say):
        bench = open_bench(
            Path(out), plan, models=models, settings={} if small else preset(named, quick=quick), say=say,
            data=data, judge=_judge(judge, judge_model, judge_key),
        )  # fmt: skip
        stopped = False
        try:
            for cell, later in zip(run(bench, cells, watch), [*cells[1:], None], strict=False):
                if later is None or later.task != cell.task:
                    write(bench, cells, named.get("base", "tiny"))
        except KeyboardInterrupt:
            stopped = True
        paths = write(bench, cells, named.get("base", "tiny"))
    results = [bench.store.read(cell) for cell in cells]
    done = sum(r is not None and r.state == "done" for r in results)
    failed = sum(r is not None and r.state == "failed" for r in results)
    if format == "json":
        click.echo(
            json_text({"cells": len(cells), "done": done, "failed": failed, "files": [str(p) for p in paths]})
        )
    else:
        click.echo(f"{done} of {len(cells)} cells done, {failed} failed")
        for path in paths:
            click.echo(f"wrote {path}")
    if stopped:
        click.echo("Interrupted; the same command goes on from here.", err=True)
        return INTERRUPTED
    return FINE


def _judge(url: str | None, model: str | None, key: str | None) -> Judge | None:
    if url is None:
        if model is not None or key is not None:
            misuse("--judge-model and --judge-key are of a judge, and there is none", "add --judge URL")
        return None
    if model is None:
        misuse("--judge needs the name of its model", "add --judge-model NAME")
    from benchmarks.paper.quality import judge_at

    return judge_at(url, model, key)


@contextmanager
def watching() -> Iterator[tuple[Callable[[Progress], None], Callable[[str], None]]]:
    """A function for every cell and one for remarks; both write to standard error."""
    if not sys.stderr.isatty():

        def log(progress: Progress) -> None:
            if not progress.ended:
                return
            state = f": {progress.note}" if progress.note else ""
            click.echo(
                f"{progress.done + progress.failed} of {progress.of}  {progress.words}{state}", err=True
            )

        yield log, lambda text: click.echo(text, err=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Shown

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Shown(*columns, console=Console(stderr=True), transient=True) as shown:
        bar = shown.add_task("opening", total=None)

        def update(progress: Progress) -> None:
            shown.update(bar, description=progress.words, total=progress.of,
                         completed=progress.done + progress.failed)  # fmt: skip
            if progress.ended and progress.note:
                shown.console.print(f"{progress.words}: {progress.note}", markup=False, highlight=False)

        yield update, lambda text: shown.console.print(text, markup=False, highlight=False)


if __name__ == "__main__":
    main(command, "python -m benchmarks.paper")
