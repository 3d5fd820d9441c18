"""The map in CONTRIBUTING is what happens: the calls of both commands are followed, box by box.

A box names functions as `file.py` `function`. They have to be entered for the first time in the
order of the boxes, and no function may be called from a module on a lower floor than its own; a
method counts where its class answers to one of the caller's floor or below.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from attrs import field, frozen

from tests.cli import plm
from tests.conftest import ROOT
from tests.test_floors import PACKAGE, ROOMS, room_of

TEXT = """
lm base = "tiny"

program said(x: int(0..7)) {
  latent z: text(tokens=1..12, stop=".") ~ base("Digit ", x)
  observe [" So ", x, "."] ~ base("Digit ", x, z)
}
"""
NUMBER = """
lm base = "tiny"

program number(x: int(0..7)) {
  latent n: int(0..7, lead=" ") ~ uniform(0, 7)
  observe x ~ binomial(7, 0.1 + 0.1 * n)
  guide n ~ base("Seen: ", x, "\\nDigit:")
}
"""
BOXES = 10
STOPS = 18
"""Files on the way from the command to a posterior."""
TOLD = {"cli/showing.py", "cli/output.py"}
"""Modules that are told how far the work is, and so are called from below."""

HOOKS = {"train/memory.py", "lm/hf/threads.py"}
"""Modules with functions that others call for them: torch for every tensor that a computation keeps, and what is kept in
the cache folder where it is not there yet."""

Place = tuple[str, str]


@frozen
class Followed:
    """The functions in the order in which they were first entered, and calls from a file to one above it."""

    entered: list[Place] = field(factory=list)
    climbs: dict[tuple[str, str], str] = field(factory=dict)

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call" or (file := _file(frame)) is None:
            return
        place = (file, frame.f_code.co_name)
        if place not in self._seen:
            self._seen.add(place)
            self.entered.append(place)
        caller = frame.f_back
        while caller is not None and _file(caller) is None:
            caller = caller.f_back
        if caller is None or (pair := (_file(caller) or "", file)) in self.climbs:
            return
        if floor(pair[1]) > floor(pair[0]) and frame.f_code.co_name != "<module>":
            kin = type(frame.f_locals.get("self")).__mro__
            homes = [_home(one) for one in kin if one.__module__.startswith("posterior_lm.")]
            if not any(floor(home) <= floor(pair[0]) for home in homes):
                self.climbs[pair] = frame.f_code.co_name

    _seen: set[Place] = field(factory=set, init=False)


def floor(file: str) -> int:
    """The floor of a module, by its file."""
    parts = Path(file).with_suffix("").parts
    return ROOMS[room_of(".".join(parts[:-1] if parts[-1] == "__init__" else parts))].floor


def _home(kind: type) -> str:
    return Path(sys.modules[kind.__module__].__file__ or "").relative_to(PACKAGE).as_posix()


def _file(frame: FrameType) -> str | None:
    name = frame.f_code.co_filename
    return name.removeprefix(f"{PACKAGE}/") if name.startswith(f"{PACKAGE}/") else None


def boxes(command: str) -> list[list[Place]]:
    """The places of each box of a command's table."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.split(f"| | `{command}` |")[1].split("\n\n")[0]
    rows = [line.split("|")[-2] for line in table.splitlines() if re.match(r"\| \d+ \|", line)]
    return [re.findall(r"`([\w/]+\.py)` `(\w+)`", row) for row in rows]


def follow(*args: object) -> Followed:
    """What a command calls, once all its modules are imported."""
    plm(args[0], "--help")
    found = Followed()
    sys.setprofile(found)
    try:
        result = plm(*args)
    finally:
        sys.setprofile(None)
    assert result.exit_code == 0, result.stderr
    return found


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Followed]]:
    folder = tmp_path_factory.mktemp("map")
    text, number, data = folder / "text.plm", folder / "number.plm", folder / "rows.jsonl"
    text.write_text(TEXT)
    number.write_text(NUMBER)
    data.write_text('{"x": 1}\n{"x": 4}\n')
    settings = ["certify_rows=0", "certify_draws=10", "sleep=0.5", "rank=1", "pairs=8", "seeds=0"]
    more = [word for one in settings for word in ("--set", one)]
    yield {
        "plm run": follow("run", text, "--data", data, "-n", 20, "--row", 0),
        "plm fit": follow("fit", number, "--data", data, "--out", folder / "p", "--steps", 4, *more),
    }


@pytest.mark.parametrize("command", ["plm run", "plm fit"])
def test_the_boxes_are_entered_in_their_order(followed: dict[str, Followed], command: str) -> None:
    found = boxes(command)
    assert len(found) == BOXES and all(found)
    places = [place for box in found for place in box]
    entered = followed[command].entered
    assert [p for p in places if p not in entered] == []
    assert sorted(places, key=entered.index) == places


def test_a_posterior_is_few_stops_away() -> None:
    assert len({file for box in boxes("plm run") for file, _ in box}) <= STOPS


@pytest.mark.parametrize("command", ["plm run", "plm fit"])
def test_no_call_climbs(followed: dict[str, Followed], command: str) -> None:
    assert {pair: f for pair, f in followed[command].climbs.items() if pair[1] not in TOLD | HOOKS} == {}
