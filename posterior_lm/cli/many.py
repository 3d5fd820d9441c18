"""`--out`: rows are read as they are needed, answered by several workers, and written shard by shard.

Memory holds the shards that are being answered, whatever the number of rows is. A run that was stopped
goes on when the same command is given again.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from attrs import define, field, frozen

from posterior_lm import __version__
from posterior_lm.api.shards import Shards, check_same, state
from posterior_lm.cli.commands import ERRORS, FINE
from posterior_lm.cli.given import Mistakes, case_of, check_predicted, given_values, open_query, texts
from posterior_lm.cli.options import Decorator, allowed_paths, check_folder, loading, misuse
from posterior_lm.cli.output import json_text
from posterior_lm.cli.ray_workers import Actors
from posterior_lm.cli.showing import showing
from posterior_lm.cli.workers import Crew, Processes, Shard, Task, settings_of_threads
from posterior_lm.lang.diagnostics import DataError, Diagnostic, InferenceError, PlmError
from posterior_lm.lang.values import read_json
from posterior_lm.storage import Lock, folder_named, remove_asides
from posterior_lm.target.rows import stream_rows
from posterior_lm.target.validate import validate_data
from posterior_lm.train.course import Course

if TYPE_CHECKING:
    from posterior_lm.graph.graph import RewardGraph

TOLD = 0.1
"""Seconds between two notes of how far the work is."""
_KEY = "posterior_lm.many"


@frozen
class Many:
    """What `--out` and its companions say."""

    out: str
    workers: int = 1
    shard_rows: int = 100
    engine: str = "processes"
    address: str | None = None


def many_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--out`, `--workers`, `--shard-rows`, `--engine`, `--address`; kept with the command's context, for `many`."""

    def kept(ctx: click.Context, option: click.Parameter, value: object) -> None:
        if value is not None:
            ctx.meta.setdefault(_KEY, {})[option.name] = value

    def option(name: str, help: str, **more: Any) -> Decorator:
        return click.option(name, expose_value=False, callback=kept, help=help, **more)

    for one in (
        option("--address", "Of a Ray cluster that runs already, such as auto.", metavar="HOST:PORT"),
        option("--engine", "Who the workers are: processes of this machine, or actors of Ray.  [default: processes]",
               type=click.Choice(("processes", "ray"))),
        option("--shard-rows", "Rows in each file of --out.  [default: 100]", type=click.IntRange(min=1), metavar="N"),
        option("--workers", "Answer the rows of --out with so many workers, each with a model of its own and one thread "
               "unless --threads says otherwise.  [default: 1]", type=click.IntRange(min=1), metavar="N"),
        option("--out", "Answer the rows as they are read and write the results into this folder, shard by shard; "
               "given again, the same command goes on where it stopped.", metavar="DIR"),
    ):  # fmt: skip
        function = one(function)
    return function


def many() -> Many | None:
    """What the running command says of many rows; None where it has no --out."""
    found: dict[str, Any] = click.get_current_context().meta.get(_KEY, {})
    if not found:
        return None
    if "out" not in found:
        name = next(iter(found)).replace("_", "-")
        misuse(f"--{name} is for the results of many rows, and they have no folder", "add `--out DIR`")
    if "address" in found and found.get("engine") != "ray":
        misuse("--address is of a Ray cluster", "add `--engine ray`")
    return Many(**found)


def answer_many(
    many: Many, command: str, opening: Mapping[str, Any], asking: Mapping[str, Any], *, given: tuple[str, ...],
    data: str | None, row: int | None, format: str,
) -> int:  # fmt: skip
    """Answer every row of the data into the folder; the exit code. `asking` are the options of the command."""
    if data is None or data == "-":
        misuse("--out is for rows of a file, which is read again to go on", "add `--data FILE`")
    if row is not None:
        misuse("--row is one row, and --out is for all of them", "leave one of them out")
    if opening["file"] == "-":
        misuse("with --out every worker reads the program", "name its file in place of -")
    began = time.monotonic()
    predicted = asking.get("name")
    check_folder(many.out)
    opening = {**opening, "loaded": dict(loading()), "paths": [str(path) for path in allowed_paths()]}
    program = open_query(**{**opening, "policy": None, "em": None}).prepared
    graph = program.graph
    if predicted is not None:
        check_predicted(graph, predicted)
    known = given_values(graph, texts("--given", given))
    validate_data(graph, known, missing=[p.name for p in graph.params])
    folder, course = folder_named(many.out), Course(watched=True)
    with showing(course) as say, Lock(folder):
        remove_asides(folder)
        course.enter("checking rows")
        shards = Shards(folder, _checked(data, graph, known, predicted, course), many.shard_rows)
        asked = {
            "command": command, "program": graph.name, "text": _digest(program.text.encode()), **asking,
            **{name: opening[name] for name in ("lm", "loaded", "method")}, "given": known,
            "policy": _manifest(opening["policy"], "manifest.json"), "em": _manifest(opening["em"], "em.json"),
            "data": _digest_of(data), "rows": shards.rows, "shard_rows": shards.size,
            "threads": settings_of_threads()["OMP_NUM_THREADS"], "version": __version__,
        }  # fmt: skip
        check_same(folder, asked)
        missing = set(shards.missing())
        stand = _Stand(course, shards.rows, missing, shards)
        if missing:
            if many.workers > len(missing):
                say(
                    f"note: {len(missing)} of {many.workers} workers {'is' if len(missing) == 1 else 'are'} used: {shards.rows:,} rows "
                    f"in shards of {shards.size} leave no more to do; --shard-rows makes them smaller"
                )
            course.enter("starting workers")
            crew = _crew(many, Task(command, opening, known, asking))
            try:
                _work(crew, min(many.workers, len(missing)), _shards(data, graph, shards, missing, predicted),
                      shards, asked, stand)  # fmt: skip
            finally:
                crew.close()
    _summarise(many.out, shards, stand, time.monotonic() - began, format)
    return ERRORS if stand.odd else FINE


def _crew(many: Many, task: Task) -> Crew:
    return Processes(task) if many.engine == "processes" else Actors(task, many.workers, many.address)


# ------------------------------------------------------------------------------- rows


def _checked(
    data: str, graph: RewardGraph, known: Mapping[str, object], predicted: str | None, course: Course
) -> int:
    """How many rows there are. Raises DataError with what is wrong in any of them, before the first is answered."""
    mistakes, count = Mistakes(), 0
    for count, row in enumerate(stream_rows(data, graph.params), start=1):
        with mistakes.kept():
            case_of(graph, count - 1, row, known, predicted=predicted)
        if count % 1000 == 0:
            course.move(None, f"{count:,}")
    mistakes.end()
    return count


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest_of(data: str) -> str:
    with open(data, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest(folder: str | None, name: str) -> str | None:
    """The digest of what a policy or a result of EM says of itself, digests of its files among it.

    Of a folder that holds none there is none to say; a worker refuses it.
    """
    try:
        return None if folder is None else _digest((Path(folder) / name).read_bytes())
    except OSError:
        return ""


def _shards(
    data: str, graph: RewardGraph, shards: Shards, wanted: Collection[int], predicted: str | None
) -> Iterator[Shard]:
    rows = stream_rows(data, graph.params)
    for number in range(len(shards)):
        first = number * shards.size
        part = list(islice(rows, shards.size))
        if len(part) != min(shards.size, shards.rows - first):
            raise DataError.of("PLM801", f"cannot read {data}: it was changed meanwhile", where=data)
        if number in wanted:
            yield Shard(number, first, [_sent(row, predicted) for row in part])


def _sent(row: Mapping[str, object], predicted: str | None) -> Mapping[str, object]:
    """A row as JSON has it: what is predicted may be of any kind, and is no answer then."""
    return {
        name: cell for name, cell in row.items() if name != predicted or isinstance(cell, str | int | float)
    }


# ------------------------------------------------------------------------------- the work


@define
class _Stand:
    """How many rows are done, and how many of them are odd ones; told to the course."""

    course: Course
    rows: int
    missing: Collection[int]
    shards: Shards
    done: int = 0
    odd: int = 0
    now: int = 0
    """Rows that this command has answered."""
    ready: int = 0
    began: float = field(factory=time.monotonic)
    told: float = 0.0

    def __attrs_post_init__(self) -> None:
        for number in range(len(self.shards)):
            if number not in self.missing:
                with open(self.shards.path(number), "rb") as file:
                    for line in file:
                        self.done += 1
                        self.odd += b'"diagnostics": [' in line[:64]

    def tell(self) -> None:
        now = time.monotonic()
        if now - self.told < TOLD:
            return
        self.told = now
        rate = self.now / max(1e-9, now - self.began)
        odd = f", {self.odd:,} without a result" if self.odd else ""
        workers = f"{self.ready} worker{'s' * (self.ready != 1)}"
        note = f"{self.done:,} of {self.rows:,} rows, {rate:.3g} a second by {workers}{odd}"
        if self.now:
            self.course.expect((self.rows - self.done) / rate)
        self.course.move(self.done / self.rows, note)


def _work(
    crew: Crew,
    workers: int,
    waiting: Iterator[Shard],
    shards: Shards,
    asked: Mapping[str, Any],
    stand: _Stand,
) -> None:
    """Give shards to workers until none is left. One whose worker ends is given to another, once.

    Raises what a worker says is wrong, InferenceError PLM631 where a second worker ends at a shard, DataError PLM612.
    """
    busy: dict[int, Shard | None] = {crew.start(): None for _ in range(workers)}  # None: not ready yet
    idle: set[int] = set()
    again: deque[Shard] = deque()
    why: dict[int, str] = {}
    unready = ""

    def give(worker: int) -> None:
        shard = again.popleft() if again else next(waiting, None)
        if shard is None:
            idle.add(worker)
            del busy[worker]
        else:
            busy[worker] = shard
            crew.give(worker, shard)

    while busy:
        worker, word, content = crew.wait()
        shard = busy.get(worker)
        if word == "ready":
            state(shards.folder, {**asked, **read_json(content)})
            if not stand.ready:
                stand.course.enter("answering")
                stand.began = time.monotonic()
            stand.ready += 1
            give(worker)
        elif word in ("row", "odd") and shard is not None:
            shard.lines.append(content)
            stand.now += 1
            stand.done += 1
            shard.odd += word == "odd"
            stand.odd += word == "odd"
        elif word == "end" and shard is not None:
            give(worker)
            shards.write(shard.number, shard.lines)
        elif word == "failed":
            why[worker] = content.decode()
        elif word == "wrong":
            raise PlmError([_diagnostic(found) for found in read_json(content)])
        elif word == "gone":
            reason = why.get(worker) or content.decode()
            idle.discard(worker)
            if worker in busy:
                del busy[worker]
                if shard is None:
                    if unready:
                        raise _gone("before they were ready", None, reason)
                    unready = reason
                else:
                    stand.ready -= 1
                    at = shard.first + len(shard.lines)
                    if shard.lost:
                        raise _gone(
                            f"with the shard of rows[{shard.first}], the last at rows[{at}]", at, reason
                        )
                    stand.now -= len(shard.lines)
                    stand.done -= len(shard.lines)
                    stand.odd -= shard.odd
                    again.append(Shard(shard.number, shard.first, shard.rows, lost=reason))
                if idle and again:
                    one = idle.pop()
                    busy[one] = None
                    give(one)
                elif again or shard is None:
                    busy[crew.start()] = None
        stand.tell()


def _gone(where: str, row: int | None, reason: str) -> InferenceError:
    return InferenceError.of(
        "PLM631",
        f"two workers ended {where}: {reason}",
        where=None if row is None else f"rows[{row}]",
        help="what is done is kept; where memory is short, use fewer --workers or a smaller -n",
    )


def _diagnostic(found: Mapping[str, Any]) -> Diagnostic:
    """Of its JSON; the text of the program stands with the worker, so the place is named and not shown."""
    where = found["file"]
    if found["line"] is not None:
        where = f"{where}:{found['line']}:{found['column']}"
    return Diagnostic(found["code"], found["message"], help=found["help"], where=where)


def _summarise(out: str, shards: Shards, stand: _Stand, seconds: float, format: str) -> None:
    if format != "text":
        found = {"folder": out, "rows": shards.rows, "shards": len(shards), "without_result": stand.odd}
        click.echo(json_text({**found, "seconds": round(seconds, 1)}, lines=format == "jsonl"))
        return
    click.echo(f"{shards.rows:,} rows in {len(shards):,} shards of {out}, {stand.now:,} of them now")
    if stand.odd:
        click.echo(f"{stand.odd:,} have no result, and `diagnostics` in its place")
