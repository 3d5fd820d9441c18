"""A folder of results of many rows: shards of a stated number of rows, and what they were asked for.

`run.json` says what the run is: the program, the models, the rows, the options. `shard-000012.jsonl` holds
the results of its rows, a line of JSON each in the order of the rows. Each file is written whole or not at
all, so whatever shard is there is done, and a run that was stopped goes on with the first that is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from attrs import frozen

from posterior_lm.lang.diagnostics import DataError, shown
from posterior_lm.lang.values import read_json
from posterior_lm.storage import plain, read_bytes, read_object, refusing, write_whole

FORMAT = "plm-rows-1"
RUN = "run.json"


@frozen
class Shards:
    """The shards of a folder: `rows` rows in all, `size` in each but the last."""

    folder: Path
    rows: int
    size: int

    def __len__(self) -> int:
        return -(-self.rows // self.size)

    def path(self, number: int) -> Path:
        return self.folder / f"shard-{number:06d}.jsonl"

    def missing(self) -> list[int]:
        """The numbers of those that are not done."""
        return [number for number in range(len(self)) if not self.path(number).exists()]

    def write(self, number: int, lines: Sequence[bytes]) -> None:
        """Write a shard, a line for each of its rows. Raises DataError PLM612."""
        write_whole(self.path(number), b"".join(line + b"\n" for line in lines))


def check_same(folder: Path, asked: Mapping[str, Any]) -> bool:
    """Whether the folder holds a run already; what is `asked` of it must then be what it was asked for.

    Raises DataError PLM630 that names what differs, or that the folder holds something else.
    """
    help = "choose another folder, or ask again as it was asked to go on with it"
    if not (folder / RUN).exists():
        if any(folder.glob("shard-*.jsonl")):
            message = f"{folder} holds shards, and no {RUN} that says of what"
            raise DataError.of("PLM630", message, where=str(folder), help=help)
        return False
    kept = _read(folder)
    for name, value in plain(asked).items():
        if name in kept and kept[name] != value:
            what, held, wanted = _difference(name, kept[name], value)
            message = f"the results in {folder} are of another run: its `{what}` is {shown(held)}, not {shown(wanted)}"
            raise DataError.of("PLM630", message, where=str(folder / RUN), help=help)
    return True


def _difference(name: str, held: object, wanted: object) -> tuple[str, object, object]:
    """The first part that differs, by its name, and what it is on either side."""
    if isinstance(held, dict) and isinstance(wanted, dict):
        for key in (*held, *wanted):
            if held.get(key) != wanted.get(key):
                return _difference(f"{name}.{key}", held.get(key), wanted.get(key))
    return name, held, wanted


def state(folder: Path, asked: Mapping[str, Any]) -> None:
    """Write what the run in the folder is asked for, where none is there. Raises DataError PLM612, PLM630."""
    if not check_same(folder, asked):
        whole = {"format": FORMAT, **plain(asked)}
        write_whole(folder / RUN, (json.dumps(whole, ensure_ascii=False, indent=2) + "\n").encode())


def results(folder: str | Path, *, unfinished: bool = False) -> Iterator[dict[str, Any]]:
    """The results that `plm run`, `predict` or `score` left in `--out`, in the order of the rows.

    Each is the object that `--format json` shows of a row, with `row`, its number; one that could not be answered has
    `diagnostics` in place of a result. A shard is read at a time. Raises DataError PLM632 for a folder that holds no
    results, and for one with rows yet to be done unless it may be `unfinished`.
    """
    folder = Path(folder)
    run = _read(folder)
    with refusing(partial(_no_results, folder)):
        shards = Shards(folder, int(run["rows"]), int(run["shard_rows"]))
    missing = set(shards.missing())
    if missing and not unfinished:
        why = f"{len(missing)} of {len(shards)} shards are yet to be done"
        raise _no_results(
            folder, why, "the same command goes on with them; unfinished=True reads what is there"
        )
    return _read_shards(shards, [number for number in range(len(shards)) if number not in missing])


def _read_shards(shards: Shards, numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
    for number in numbers:
        path = shards.path(number)
        with refusing(partial(_no_results, path)):
            found = [read_json(line) for line in read_bytes(path).splitlines()]
        yield from found


def _read(folder: Path) -> dict[str, Any]:
    """What `state` wrote. Raises DataError PLM632."""
    with refusing(partial(_no_results, folder / RUN)):
        run = read_object(folder / RUN)
        if run.get("format") != FORMAT:
            raise ValueError(f"its format is {run.get('format')!r}, not {FORMAT!r}")
        return run


def _no_results(path: Path, why: str, help: str | None = None) -> DataError:
    help = help or "name the folder that --out of plm run, predict or score named"
    return DataError.of("PLM632", f"{path} holds no whole results: {why}", where=str(path), help=help)
