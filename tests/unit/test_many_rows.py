"""`--out`: many rows answered by several workers, shard by shard, and gone on with."""

from __future__ import annotations

import errno
import json
import re
import shutil
from pathlib import Path

import pytest

import posterior_lm
from posterior_lm import storage
from posterior_lm.cli.workers import Task, Worker
from posterior_lm.lang.diagnostics import DataError
from posterior_lm.target.prepared import PreparedProgram
from tests.cli import FOLDER, plm

FRAGILE = """
use fragile from "fragile:f"

program p(x: int(0..7)) {
  latent z: int(0..9) ~ poisson(1 + x)
  condition x != 5
  factor fragile(z, x)
}
"""
DIES = """
import os, signal

def f(z, x):
    if x == 3 and not os.path.exists({marker!r}):
        open({marker!r}, "w").close()
        {always}
        os.kill(os.getpid(), signal.SIGKILL)
    return 0.0
"""
ROWS = [{"start": start, "end": end} for start in "ab" for end in "ab"] * 2
OPENING = {
    "lm": (),
    "allow_use": False,
    "method": None,
    "em": None,
    "policy": None,
    "loaded": {},
    "paths": (),
}


def walk(folder: Path) -> tuple[object, ...]:
    """The arguments of a run of eight rows over a table that lies in the folder."""
    for name in ("walk.plm", "letters.json"):
        shutil.copy(FOLDER / name, folder)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    asked = ("--data", folder / "rows.jsonl", "--method", "importance", "-n", 30, "--seed", 4)
    return "run", folder / "walk.plm", *asked


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*"))}


def code(result) -> str:
    """The one code of a command that was refused."""
    assert result.exit_code in (1, 2), result.stderr
    (found,) = re.findall(r"error\[(PLM\d+)\]", result.stderr)
    return found


def test_rows_are_answered_alike_by_any_number_of_workers_and_a_run_goes_on(tmp_path: Path) -> None:
    asked, out = walk(tmp_path), tmp_path / "out"
    many = (*asked, "--shard-rows", 3, "--out", out)
    result = plm(*many, "--workers", 2)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"8 rows in 3 shards of {out}, 8 of them now\n" and "note:" not in result.stderr
    first = shards(out)
    assert [len(lines.splitlines()) for lines in first.values()] == [3, 3, 2]
    lines = [json.loads(line) for line in plm(*asked, "--format", "jsonl").stdout.splitlines()]
    assert list(posterior_lm.results(out)) == lines and [line["row"] for line in lines] == list(range(8))

    (out / "shard-000001.jsonl").unlink()
    (out / ".shard-000001.jsonl.tmp-1234").write_text("half of it")
    with pytest.raises(DataError, match="1 of 3 shards"):
        posterior_lm.results(out)
    assert [found["row"] for found in posterior_lm.results(out, unfinished=True)] == [0, 1, 2, 6, 7]
    result = plm(*many, "--workers", 2, "--format", "json")
    assert json.loads(result.stdout)["rows"] == 8, result.stderr
    assert "note: 1 of 2 workers is used: 8 rows in shards of 3 leave no more to do" in result.stderr
    assert shards(out) == first and not list(out.glob(".*"))

    # Another seed, other rows, another program: refused by name before a worker is started.
    for more, name in (((*many, "--seed", 5), "seed"), ((*many, "--given", "start=a"), "given.start")):
        result = plm(*more)
        assert code(result) == "PLM630" and f"its `{name}` is" in result.stderr
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"start": "a", "end": "a"}\n')
    result = plm(*many)
    assert code(result) == "PLM630" and "its `data` is" in result.stderr
    walk(tmp_path)
    (out / "shard-000002.jsonl").unlink()
    table = (tmp_path / "letters.json").read_text()
    (tmp_path / "letters.json").write_text(table.replace('"max_tokens": 40', '"max_tokens": 41'))
    result = plm(*many)
    assert code(result) == "PLM630" and "its `models.base" in result.stderr
    with storage.Lock(out):
        assert code(plm(*many)) == "PLM621"


@pytest.mark.parametrize("always", [False, True])
def test_rows_of_a_killed_worker_are_answered_by_another_once(
    always: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = str(tmp_path / "killed")
    (tmp_path / "fragile.py").write_text(
        DIES.format(marker=marker, always=f"os.remove({marker!r})" if always else "")
    )
    (tmp_path / "p.plm").write_text(FRAGILE)
    (tmp_path / "rows.csv").write_text("x\n" + "".join(f"{x}\n" for x in range(8)))
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "out"
    asked = ("run", tmp_path / "p.plm", "--data", tmp_path / "rows.csv", "--allow-use", "--shard-rows", 2)
    result = plm(*asked, "--out", out, "--workers", 2)
    found = list(posterior_lm.results(out, unfinished=True))
    if always:
        assert code(result) == "PLM631" and "rows[3]" in result.stderr and "SIGKILL" in result.stderr
        assert 3 not in [one["row"] for one in found]
        return
    # One row has no answer, and says so in its place.
    assert result.exit_code == 1 and "1 have no result" in result.stdout, result.stderr
    assert [one["row"] for one in found] == list(range(8))
    assert [one["row"] for one in found if "diagnostics" in one] == [5]
    assert found[5]["diagnostics"][0]["code"] in ("PLM702", "PLM703", "PLM340")
    assert plm(*asked, "--out", out).exit_code == 1, "it is still so when nothing is left to do"


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, out, write = walk(tmp_path), tmp_path / "out", storage.write_new

    def full(path: Path, content: bytes) -> None:
        if "shard-000001" in path.name:
            path.write_bytes(content[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(storage, "write_new", full)
    result = plm(*asked, "--shard-rows", 4, "--out", out)
    assert code(result) == "PLM612" and "No space left" in result.stderr
    assert sorted(path.name for path in out.iterdir()) == ["run.json", "shard-000000.jsonl"]


@pytest.mark.parametrize(("command", "more", "asking"), [
    ("predict", ("end",), {"name": "end", "n": 20, "seed": 3, "budget": None, "vote": "soft", "abstain": None}),
    ("score", ("--value", "z=a."), {"values": {"z": "a."}}),
])  # fmt: skip
def test_a_worker_says_what_the_command_says(
    command: str, more: tuple[str, ...], asking: dict[str, object], tmp_path: Path
) -> None:
    walk(tmp_path)
    worker = Worker()
    opening = {"file": str(tmp_path / "walk.plm"), **OPENING}
    ((word, _),) = worker.open(Task(command, opening, {}, asking))
    assert word == "ready"
    said = list(worker.answer(2, ROWS[2:4]))
    assert [word for word, _ in said] == ["row", "row", "end"]
    drawing = () if command == "score" else ("-n", 20, "--seed", 3)
    shown = plm(
        command, tmp_path / "walk.plm", *more, "--data", tmp_path / "rows.jsonl", *drawing, "--format", "json"
    )
    expected = json.loads(shown.stdout)[2:4]
    assert [json.loads(line) for _, line in said[:2]] == [
        {"row": 2 + k, **one} for k, one in enumerate(expected)
    ]


def test_a_shard_begins_with_models_that_remember_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what a row comes to would depend, in its last bits, on which shards its worker had before."""
    walk(tmp_path)
    forgotten: list[str] = []
    monkeypatch.setattr(PreparedProgram, "forget", lambda self: forgotten.append("forgotten"))
    worker = Worker()
    opening = {"file": str(tmp_path / "walk.plm"), **OPENING}
    list(worker.open(Task("score", opening, {}, {"values": {"z": "a."}})))
    for first in (0, 2):
        before = len(forgotten)
        answering = worker.answer(first, ROWS[first : first + 2])
        assert next(answering)[0] == "row" and len(forgotten) == before + 1
        assert [word for word, _ in answering] == ["row", "end"] and len(forgotten) == before + 1


def test_what_many_rows_cannot_be_asked_with(tmp_path: Path) -> None:
    asked, out = walk(tmp_path), tmp_path / "out"
    for more in (
        ("--workers", 2),
        ("--out", out, "--row", 1),
        ("--out", out, "--save", tmp_path / "s"),
        ("--out", out, "--address", "a:1"),
    ):
        assert code(plm(*asked, *more)) == "PLM802", more
    assert code(plm("run", tmp_path / "walk.plm", "--out", out)) == "PLM802"
    assert code(plm("run", "-", "--data", tmp_path / "rows.jsonl", "--out", out)) == "PLM802"
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"start": "a", "end": "c"}\n')
    result = plm(*asked, "--out", out)
    assert code(result) == "PLM608" and "rows[8].end" in result.stderr and not list(out.glob("*"))
    with pytest.raises(DataError, match="PLM632"):
        posterior_lm.results(tmp_path)
