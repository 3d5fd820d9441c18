"""Documents, and the two ways of running a program that writes one.

A writer is a function `write(choose) -> (text, fields)` that makes each random
choice by calling `choose(table)`. The same writer is sampled (`run_sampled`) or
expanded into all its outcomes (`enumerate_documents`), so the probabilities that
are summed in a test are those that training draws from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import attrs
import numpy as np

from .choice import Table

Choose = Callable[[Table], str]
Fields = Mapping[str, object]
Writer = Callable[[Choose], tuple[str, Fields]]


@attrs.frozen
class Document:
    """One document: its text, exact log-probability (nats), task and parts."""

    text: str
    log_prob: float
    task: str
    fields: Fields = attrs.field(factory=dict, eq=False)


@attrs.define
class _Sampler:
    """A `choose` that draws, and keeps the log-probability of what it drew."""

    rng: np.random.Generator
    log_prob: float = 0.0

    def __call__(self, table: Table) -> str:
        i = table.at(self.rng.random())
        self.log_prob += math.log(table.probs[i])
        return table.texts[i]


@attrs.define
class _Replayer:
    """A `choose` that follows given indices, then takes option 0 and records it."""

    path: list[int]
    sizes: list[int] = attrs.field(factory=list)
    log_prob: float = 0.0

    def __call__(self, table: Table) -> str:
        depth = len(self.sizes)
        if depth == len(self.path):
            self.path.append(0)
        self.sizes.append(len(table.texts))
        self.log_prob += math.log(table.probs[self.path[depth]])
        return table.texts[self.path[depth]]


def run_sampled(write: Writer, rng: np.random.Generator, task: str = "") -> Document:
    """Draw one document from a writer."""
    choose = _Sampler(rng)
    text, fields = write(choose)
    return Document(text, choose.log_prob, task, fields)


def enumerate_documents(write: Writer, task: str = "") -> Iterator[Document]:
    """Every outcome of a writer, by depth-first replay of its choices."""
    path: list[int] = []
    while True:
        choose = _Replayer(path)
        text, fields = write(choose)
        yield Document(text, choose.log_prob, task, fields)
        path = choose.path
        while path and path[-1] + 1 == choose.sizes[len(path) - 1]:
            path.pop()
        if not path:
            return
        path[-1] += 1
