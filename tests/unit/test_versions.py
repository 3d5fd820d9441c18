"""The ranges of `pyproject.toml` end where they were tried."""

from __future__ import annotations

import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.conftest import ROOT

DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
CAPPED = ("llguidance", "peft", "tokenizers", "torch", "transformers")
"""What changes its interfaces from one minor version to the next: the models and their tokens."""


def pinned(end: str) -> dict[str, Version]:
    lines = (ROOT / f"constraints-{end}.txt").read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines if "==" in line]
    return {name: Version(version) for name, version in pairs}


@pytest.mark.parametrize("end", ["oldest", "newest"])
def test_what_is_tried_is_admitted(end: str) -> None:
    tried = pinned(end)
    for requirement in map(Requirement, DEPENDENCIES):
        assert tried[requirement.name] in requirement.specifier, str(requirement)


def test_a_range_begins_with_what_was_tried() -> None:
    tried = pinned("oldest")
    for requirement in map(Requirement, DEPENDENCIES):
        (lowest,) = (Version(s.version) for s in requirement.specifier if s.operator == ">=")
        assert tried[requirement.name].release[: len(lowest.release)] == lowest.release, str(requirement)


def test_what_was_never_tried_is_not_admitted() -> None:
    tried = pinned("newest")
    for requirement in map(Requirement, DEPENDENCIES):
        major, minor, *_ = tried[requirement.name].release
        assert (requirement.name in CAPPED) != (f"{major}.{minor + 1}" in requirement.specifier), requirement
