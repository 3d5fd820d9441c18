"""What `plm fit` shows: a bar while it trains, the certificate when it is done."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from posterior_lm.amortize.fit import Fitted
    from posterior_lm.amortize.progress import Progress

EVERY = 10.0
"""Seconds between two lines where nobody watches a bar."""


def number_or_text(text: str) -> object:
    """The value of `--set NAME=VALUE`: a number where it reads as one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def line(progress: Progress) -> str:
    """One step in one line, as the bar and the log show it."""
    parts = [f"{progress.stage} {progress.step}", f"loss {progress.loss:.3f}"]
    if not math.isnan(progress.ess):
        parts.append(f"ESS/N {progress.ess:.2f}")
    if not math.isnan(progress.log_evidence_lower):
        parts.append(f"log evidence {progress.log_evidence_lower:.2f} to {progress.log_evidence_upper:.2f}")
    parts.append(f"{progress.draws_per_second:.0f} draws/s")
    return ", ".join(parts)


@contextmanager
def watching() -> Iterator[tuple[Callable[[Progress], None], Callable[[str], None]]]:
    """A function for every step and one for remarks; both write to standard error."""
    if not sys.stderr.isatty():
        last = [0.0]

        def log(progress: Progress) -> None:
            if progress.seconds - last[0] >= EVERY or progress.done >= 1:
                last[0] = progress.seconds
                left = progress.seconds * (1 - progress.done) / max(progress.done, 1e-9)
                click.echo(f"{progress.done:4.0%}  {line(progress)}, {left:.0f} s left", err=True)

        yield log, lambda text: click.echo(text, err=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("training", total=1.0)
        yield (
            lambda progress: shown.update(task, completed=progress.done, description=line(progress)),
            lambda text: shown.console.print(text, markup=False, highlight=False),
        )


def announce(fitted: Fitted) -> None:
    """Where the policy is, and what is known of it."""
    manifest = fitted.manifest
    click.echo(f"{manifest.name}: {manifest.steps} steps in {manifest.seconds:.0f} s, in {fitted.folder}")
    if fitted.interrupted:
        click.echo(
            f"Interrupted at step {manifest.steps}. The checkpoint and the policy as it stands are saved, "
            "uncertified; go on with --resume."
        )
        return
    certificate = manifest.checked
    if certificate is not None:
        click.echo()
        for text in certificate.lines():
            click.echo(text)
