"""Rows of the tasks, drawn from the world of the packaged model: to train on by seed, to test on fixed.

Test rows are the same for every seed and method, and no training row is among them, so
the spread over seeds is that of training and drawing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.paper.task import Row
from training.tiny.world import Document, sample_task

TEST = 901
"""The seed of test rows; those of training rows are pairs that end in another number."""


def documents(task: str, rng: np.random.Generator, keep: Callable[[Document], bool]) -> Iterator[Document]:
    """Endless documents of one task of the world that `keep` accepts."""
    while True:
        document = sample_task(task, rng)
        if keep(document):
            yield document


def key_of(row: Row, names: tuple[str, ...] = ()) -> str:
    """What makes two rows the same: the columns named, or all."""
    return json.dumps({k: v for k, v in row.items() if not names or k in names}, sort_keys=True)


def distinct(rows: Iterator[dict[str, object]], count: int, *, names: tuple[str, ...] = (),
             without: frozenset[str] = frozenset()) -> list[dict[str, object]]:  # fmt: skip
    """The first `count` rows that differ in the columns named, and whose keys are not in `without`.

    Gives fewer where 200 rows for each one asked for have not brought them.
    """
    found: dict[str, dict[str, object]] = {}
    for tries, row in enumerate(rows):
        key = key_of(row, names)
        if key not in without:
            found.setdefault(key, row)
        if len(found) >= count or tries > 200 * count:
            break
    return list(found.values())[:count]


def stories(rng: np.random.Generator) -> Iterator[dict[str, object]]:
    """Openings and endings, and the middle that the world wrote."""
    for document in documents("story", rng, lambda d: d.fields["order"] == "plain"):
        yield {k: str(document.fields[k]) for k in ("opening", "ending", "middle")}


def pairs_of_sentences(rng: np.random.Generator) -> Iterator[dict[str, object]]:
    """What comes after a first sentence, and that sentence."""
    for document in documents("plain", rng, lambda d: len(d.fields["rest"]) >= 1):  # type: ignore[arg-type]
        rest = document.fields["rest"]
        yield {"after": str(rest[0]).strip(), "before": str(document.fields["first"])}  # type: ignore[index]


def prompts(rng: np.random.Generator) -> Iterator[dict[str, object]]:
    """First sentences, and where the world wrote one, the sentence that came next."""
    for document in documents("plain", rng, lambda d: True):
        rest = document.fields["rest"]
        after = {"next": str(rest[0])} if rest else {}  # type: ignore[index]
        yield {"prompt": str(document.fields["first"]), **after}


def split(
    rows: Callable[[np.random.Generator], Iterator[dict[str, object]]], *, train: int, test: int, seed: int,
    names: tuple[str, ...],
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:  # fmt: skip
    """Rows to train on, by seed, and the test rows, which share no key with them."""
    kept = distinct(rows(np.random.default_rng([TEST, 0])), test, names=names)
    without = frozenset(key_of(row, names) for row in kept)
    return distinct(rows(np.random.default_rng([seed, 1])), train, names=names, without=without), kept
