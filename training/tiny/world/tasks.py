"""The whole world: which kinds of documents there are, and how often."""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs
import numpy as np

from .choice import Table, weighted
from .document import Document, Writer, run_sampled
from .instructions import write_instruction
from .integers import write_integer
from .plain import write_plain, write_single
from .reviews import write_review
from .stories import write_story
from .sums import write_sums

WRITERS: Mapping[str, Writer] = {
    "story": write_story,
    "sums": write_sums,
    "review": write_review,
    "integer": write_integer,
    "instruction": write_instruction,
    "plain": write_plain,
    "single": write_single,
}
TASK: Table = weighted(
    {
        "story": 0.25,
        "sums": 0.30,
        "review": 0.14,
        "integer": 0.07,
        "instruction": 0.10,
        "plain": 0.10,
        "single": 0.04,
    }
)
TASKS: tuple[str, ...] = TASK.texts


def sample_task(task: str, rng: np.random.Generator) -> Document:
    """Draw a document of one task; `log_prob` (nats) is under the whole world."""
    document = run_sampled(WRITERS[task], rng, task)
    return attrs.evolve(document, log_prob=document.log_prob + math.log(TASK.prob(task)))


def sample(rng: np.random.Generator) -> Document:
    """Draw a document of any task."""
    return sample_task(TASK.texts[TASK.at(rng.random())], rng)


def entropy_rate(rng: np.random.Generator, count: int) -> tuple[float, float]:
    """Entropy of a document in nats, estimated from `count` draws, and its standard error."""
    nats = np.array([-sample(rng).log_prob for _ in range(count)])
    return float(nats.mean()), float(nats.std(ddof=1) / math.sqrt(count))
