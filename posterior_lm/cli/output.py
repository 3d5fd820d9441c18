"""What commands write: diagnostics, JSON, plain tables, results for people with how far to trust them, a progress bar meanwhile.

In a pipe everything is plain text that `grep` and `cut` can read, and there is no bar; on a terminal the
table is drawn by rich.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import click
from attrs import evolve

from posterior_lm.cli.waiting import waiting
from posterior_lm.graph.ops import spelled
from posterior_lm.lang.diagnostics import Diagnostic, render_concise, render_full, to_json
from posterior_lm.lang.values import number_text as number
from posterior_lm.storage import plain

if TYPE_CHECKING:
    from posterior_lm.api.engine import Score
    from posterior_lm.api.posterior import Datum, Posterior
    from posterior_lm.infer.base import Info

C = TypeVar("C")
TELL_EVERY = 2.0
"""Seconds between two lines about how many rows are done."""
BAR = 20
"""Characters of a bar that stands for weight 1."""


def report(diagnostics: Sequence[Diagnostic], format: str = "full") -> None:
    """Diagnostics on standard error, as text, as lines, or as a JSON list."""
    color = False
    if format in ("json", "jsonl"):
        text = json_text([to_json(_told(d)) for d in diagnostics], lines=format == "jsonl")
    elif format == "concise":
        text = "\n".join(map(render_concise, diagnostics))
    else:
        color = has_color(sys.stderr)
        text = "\n\n".join(render_full(d, color=color) for d in diagnostics)
    click.echo(text, err=True, color=color)


def _told(diagnostic: Diagnostic) -> Diagnostic:
    """The diagnostic with its place in the data in the message, where its span points at the program."""
    where = diagnostic.where
    if where is None or diagnostic.primary is None or where in diagnostic.message:
        return diagnostic
    return evolve(diagnostic, message=f"{diagnostic.message} (at {where})")


def has_color(stream: object) -> bool:
    """Whether text on this stream may be coloured: a terminal, and NO_COLOR (no-color.org) not set."""
    is_terminal = getattr(stream, "isatty", lambda: False)()
    return is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def json_text(value: object, *, lines: bool = False) -> str:
    """Pure JSON: what is not finite is null, and letters are escaped where the stream is not UTF-8.

    With `lines` it is one line.
    """
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    return json.dumps(
        plain(value), indent=None if lines else 2, ensure_ascii=encoding != "utf8", allow_nan=False
    )


def quoted(text: object) -> str:
    """A text as JSON would quote it, so that spaces at its ends and line breaks can be seen."""
    shown = json.dumps(str(text), ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in shown)


def _cell(value: Datum) -> str:
    """A value as a text that is quoted, and a dash for what a draw does not have."""
    return "-" if value is None else quoted(spelled(value))


def bar(share: float, mark: str) -> str:
    """A bar of at most `BAR` marks; anything above zero has at least one."""
    return mark * (max(1, round(share * BAR)) if share > 0 else 0)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Aligned columns, two spaces apart, ASCII only where the cells are; the last one is not padded."""
    widths = [max([len(h), *(len(r[k]) for r in rows)]) for k, h in enumerate(head)]
    lines = []
    for row in (head, *rows):
        cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines


def show_each(
    cases: Sequence[C], format: str, found: Callable[[C], tuple[object, Callable[[], None]]]
) -> None:
    """The results of cases: text one after another, JSON at the end, an object for one case and a list for more,
    or lines of JSON as cases are done, with lines of JSON about how many are done on standard error.

    `found` gives a result as JSON values, and what shows it.
    """
    results, began = [], time.monotonic()
    told = began
    for done, case in enumerate(cases, start=1):
        result, show = found(case)
        if format == "json":
            results.append(result)
        elif format == "jsonl":
            click.echo(json_text(result, lines=True))
            now = time.monotonic()
            if now - told >= TELL_EVERY or (done == len(cases) > 1):
                told = now
                state = {"done": done, "rows": len(cases), "seconds": round(now - began, 1)}
                click.echo(json_text(state, lines=True), err=True)
        else:
            if case is not cases[0]:
                click.echo()
            show()
    if format == "json":
        click.echo(json_text(results if len(results) > 1 else results[0]))


# ---- results for people

TOP = 10
"""Rows of a table of draws; `--format json` has them all."""


def show_posterior(posterior: Posterior, row: int | None) -> None:
    """The likeliest values with their weights, the evidence, and what can be checked of both."""
    merged = posterior.merged()
    names = list(posterior.draws.values)
    click.echo("\n".join([*heading(posterior, row), ""]))
    cells = [
        (
            m.weight,
            f"{m.weight:.4f}",
            [number(m.log_reward), *(_cell(m.values[name]) for name in names)],
        )
        for m in merged[:TOP]
    ]
    show_table("weight", ["log reward", *names], cells, numeric=1)
    show_rest("weight", [m.weight for m in merged[TOP:]])
    show_reals(posterior)
    click.echo("\n".join(["", _evidence(posterior), *checks(posterior), posterior.verdict]))


def show_reals(posterior: Posterior, only: str | None = None) -> None:
    """Mean, standard deviation and the middle 90 % of the latents that are reals, or of `only` one, where there are any."""
    found = {name: s for name, s in posterior.reals.items() if only in (None, name)}
    if not found:
        return
    exact = posterior.draws.exact
    cells = [
        (
            name,
            number(s.mean) + ("" if exact else f" ± {number(s.se)}"),
            number(s.sd),
            f"{s.low:g} .. {s.high:g}",
        )
        for name, s in list(found.items())[:TOP]
    ]
    click.echo(
        "\n".join(["", *table(("real", "mean", "sd", "middle 90 %"), cells, (False, True, True, False))])
    )
    if len(found) > TOP:
        click.echo(f"  ... {_counted(len(found) - TOP, 'more real')}")


def show_score(score: Score, row: int | None) -> None:
    """The log reward and the term of each statement."""
    where = "" if row is None else f"rows[{row}]  "
    click.echo(f"{where}{score.program}  fingerprint {score.fingerprint[:12]}")
    click.echo(f"log reward {number(score.log_reward)} nats\n")
    rows = [(str(info.span.line), number(x), info.label) for info, x in score.terms]
    click.echo("\n".join(table(("line", "log reward", "statement"), rows, (True, True, False))))


def show_table(
    first: str, others: Sequence[str], cells: Sequence[tuple[float, str, list[str]]], numeric: int = 0
) -> None:
    """Rows of (share, share as text, other cells), a bar behind the share; `numeric` others stand right."""
    if not sys.stdout.isatty():
        rows = [(shown, bar(share, "#"), *rest) for share, shown, rest in cells]
        right = (True, False, *(k < numeric for k in range(len(others))))
        click.echo("\n".join(table((first, "", *others), rows, right)))
        return
    # A tenth of a second that only a terminal needs.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    drawn.add_column(first, justify="right", style="bold")
    drawn.add_column("")
    for k, name in enumerate(others):
        drawn.add_column(Text(name), justify="right" if k < numeric else "left", overflow="fold")
    for share, shown, rest in cells:
        drawn.add_row(shown, Text(bar(share, "\u2588"), style="cyan"), *(Text(cell) for cell in rest))
    Console().print(drawn)


def show_rest(what: str, shares: Sequence[float]) -> None:
    if shares:
        click.echo(f"  ... {_counted(len(shares), 'more value')} with {what} {sum(shares):.4f}")


def heading(posterior: Posterior, row: int | None) -> list[str]:
    models = ", ".join(
        f"{alias} = {m.name} ({m.dtype}, {m.digest[:8]})" for alias, m in sorted(posterior.lm.items())
    )
    parts = [posterior.program, f"fingerprint {posterior.fingerprint[:12]}", models, f"seed {posterior.seed}"]
    if row is not None:
        parts.insert(0, f"rows[{row}]")
    method, reason = posterior.method, posterior.reason
    told = not reason or reason.startswith(f"{method}:")
    how = (reason or method) if told else f"{method}: {reason}"
    return ["  ".join(p for p in parts if p), f"method {how}"]


def _evidence(posterior: Posterior) -> str:
    if posterior.log_evidence is None:
        return f"log evidence: not known to {posterior.method}"
    se = posterior.log_evidence_se
    least = ", at least" if posterior.draws.exact and se is None else ""
    if se is None or posterior.draws.exact:
        return f"log evidence{least} {number(posterior.log_evidence)} nats"
    if math.isinf(se):
        return f"log evidence {number(posterior.log_evidence)} nats, of draws that support no error"
    return f"log evidence {number(posterior.log_evidence)} ± {number(se)} nats"


def checks(posterior: Posterior) -> list[str]:
    """ESS and k-hat of draws, what particles and chains add, the certificate of a list."""
    draws = posterior.draws
    certificate, particles, chains = draws.certificate, draws.particles, draws.chains
    if draws.decoded:
        alive = draws.log_reward[draws.log_reward > -math.inf]
        best = number(float(alive.max())) if len(alive) else "none"
        mean = number(float(alive.mean())) if len(alive) else "none"
        return [f"log reward: best {best}, mean {mean} of the {len(alive)} of {posterior.n} that have one"]
    if chains is not None:
        return [
            f"R-hat {number(chains.rhat, 3)}, bulk ESS {number(chains.bulk_ess, 1)} of {posterior.n} draws",
            f"{_counted(chains.number, 'chain')}, {number(100 * chains.acceptance, 0)} % of the moves accepted, "
            f"{_counted(draws.distinct, 'distinct value')}",
        ]
    if certificate is None:
        found = [f"ESS {number(posterior.ess, 1)} of {posterior.n}, k-hat {number(posterior.khat, 2)}"]
        if particles is not None:
            found.append(
                f"resampled {_counted(particles.resampled, 'time')}, least ESS {number(particles.least_ess, 1)}, "
                f"{_counted(particles.ancestors, 'ancestor')}, {_counted(draws.distinct, 'distinct value')}"
            )
        return found
    if certificate.complete:
        missing = "nothing is left out"
    elif certificate.missing_share >= 1.0:
        missing = "no bound on what is left out"
    else:
        missing = f"at most {certificate.missing_share:.2g} of the posterior is left out"
    return [f"certificate: {_counted(certificate.listed, 'value')} listed, {missing}"]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


# ---- a bar while one waits


@contextmanager
def progress(
    what: str, *, first: str = "opening models", lines: bool = False, piped: bool = True
) -> Iterator[Callable[[Info], None] | None]:
    """The callback that `Query.draw` takes, or None where nobody is watching.

    What is done is said in the callback's notes, else it is `what`, and before the first of them `first`. A terminal gets a bar; a
    pipe a line every few seconds from the first ones on, unless it is not `piped`; with `lines` one at once.
    """
    if sys.stderr.isatty():
        with live_bar(first) as (move, _):
            yield lambda info: move(info.fraction, info.note or what)
        return
    if lines:
        yield _line_now_and_then(what)
    elif piped:
        with _lines_where_it_takes_long(what, first) as watch:
            yield watch
    else:
        yield None


def _line_now_and_then(what: str) -> Callable[[Info], None]:
    began = time.monotonic()
    told = began - TELL_EVERY

    def tell(info: Info) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= TELL_EVERY:
            told = now
            click.echo(f"{_words(what, info)}, {now - began:.0f} s", err=True)

    return tell


def _words(what: str, info: Info) -> str:
    share = "" if info.fraction is None else f"{info.fraction:.0%}  "
    return f"{share}{info.note or what}"


@contextmanager
def _lines_where_it_takes_long(what: str, first: str) -> Iterator[Callable[[Info], None]]:
    """What was told last, as `waiting` says it; before that `first`."""
    latest: list[Info] = []

    def watch(info: Info) -> None:
        latest[:] = [info]

    with waiting(lambda: _words(what, latest[0]) if latest else first):
        yield watch


@contextmanager
def live_bar(
    what: str, *, left: bool = False
) -> Iterator[tuple[Callable[[float | None, str], None], Callable[[str], None]]]:
    """A bar on standard error, a terminal: what moves it to a share of the work, and what writes a line above it.

    The share is None where it is not known. `left` shows the time that is left, too.
    """
    # A tenth of a second that only a terminal needs.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    more = (TimeRemainingColumn(),) if left else ()
    with Progress(*columns, *more, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=None)

        def move(share: float | None, now: str) -> None:
            total = None if share is None else 1.0
            shown.update(task, description=now, total=total, completed=share or 0.0)

        def say(text: str) -> None:
            shown.console.print(text, markup=False, highlight=False)

        yield move, say
