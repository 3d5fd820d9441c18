"""Rows of real stories: a file of JSON lines, cut into sentences.

One row a story, from its beginning, so no story is both trained on and tested on. A story
counts where its sentences are plain and what is latent has room in the type of the program
under the tokenizer of the model; how many do is said beside the figures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from attrs import frozen

from benchmarks.paper.task import Bench, Row
from posterior_lm.lang.diagnostics import DataError, error

BETWEEN = re.compile(r"(?<=[.!?])\s+")
PLAIN = re.compile(r"[^\W\d_][^.!?\"“”\n]*\.")
"""A sentence with one period, at its end, where a text with `stop="."` ends; no speech, which ends elsewhere."""
WORDS = 25
"""A longer sentence is not taken."""


@frozen
class Cut:
    """Which sentences of a story make which column, as (from, to), and the column that is latent with what stands before it."""

    columns: Mapping[str, tuple[int, int]]
    latent: str
    lead: str = " "

    def of(self, sentences: Sequence[str]) -> dict[str, object] | None:
        """The row of a story, None where a sentence that it needs is missing, long or not plain."""
        needed = sentences[: max(end for _, end in self.columns.values())]
        if len(needed) < max(end for _, end in self.columns.values()) or not all(map(plain, needed)):
            return None
        row: dict[str, object] = {name: " ".join(needed[a:b]) for name, (a, b) in self.columns.items()}
        return {**row, self.latent: f"{self.lead}{row[self.latent]}"}


CUTS = {
    "infilling": Cut({"opening": (0, 2), "ending": (3, 4), "middle": (2, 3)}, "middle"),
    "reverse": Cut({"after": (1, 2), "before": (0, 1)}, "before", ""),
    "continuation": Cut({"prompt": (0, 2), "next": (2, 3)}, "next"),
}


def plain(sentence: str) -> bool:
    """Whether it is a sentence of words that ends with its only period."""
    return PLAIN.fullmatch(sentence) is not None and len(sentence.split()) <= WORDS


@lru_cache(maxsize=2)
def read(path: Path) -> tuple[tuple[str, ...], ...]:
    """The sentences of every story of a file. Raises DataError PLM822 for anything else."""
    try:
        found = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            text = json.loads(line)["text"]
            if not isinstance(text, str):
                raise ValueError(f"line {number + 1} is no text")
            found.append(tuple(BETWEEN.split(text.strip())))
        if not any(cut.of(sentences) for cut in CUTS.values() for sentences in found):
            raise ValueError("no story begins with plain sentences")
    except (OSError, ValueError, KeyError, TypeError) as problem:
        said = f"it has no {problem}" if isinstance(problem, KeyError) else str(problem)
        raise _unread(path, said) from None
    return tuple(found)


@frozen(eq=False)
class Stories:
    """Rows of the stories that fit, of `count` in the file."""

    rows: Sequence[Row]
    count: int

    def __call__(self, rng: np.random.Generator) -> Iterator[dict[str, object]]:
        """All rows once, in an order by chance."""
        return (dict(self.rows[int(k)]) for k in rng.permutation(len(self.rows)))

    @property
    def said(self) -> str:
        return f"{len(self.rows)} of {self.count} stories fit"


def of_bench(bench: Bench, kind: str, programs: Sequence[str], test: int) -> Stories:
    """The rows of one kind whose latent is a value of each of the programs.

    Raises DataError PLM822 where they are too few for `test` rows and one to train on.
    """
    cut, told = CUTS[kind], read(bench.data["stories"])
    rows = [row for sentences in told if (row := cut.of(sentences)) is not None]
    for program in programs:
        if rows:
            fits = _room(bench, program, cut, rows[0])
            rows = [row for row in rows if fits(str(row[cut.latent]))]
    if len(rows) <= test:
        raise _unread(bench.data["stories"], f"{len(rows)} stories fit, and {test} are tested on")
    return Stories(rows, len(told))


def _room(bench: Bench, program: str, cut: Cut, row: Row) -> Callable[[str], bool]:
    """Whether a text is a value of the program's latent: the same in every row."""
    target = bench.query(program).given({k: v for k, v in row.items() if k != cut.latent}).target()

    def fits(text: str) -> bool:
        try:
            target.value(cut.latent, text)
        except DataError:
            return False
        return True

    return fits


def _unread(path: Path, said: str) -> DataError:
    return DataError(
        error(
            "PLM822",
            f"cannot read {path} as stories ({said})",
            where=str(path),
            help='each line is a JSON object with a story of several plain sentences as "text"',
        )
    )
