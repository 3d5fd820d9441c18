"""Five targets whose exact posterior can be listed, with rows to train on and rows held out.

The rows of each come from the generator of the packaged model's world, or from the
table itself; training and held-out rows are drawn with different seeds, and a
held-out row is never among the training rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from attrs import frozen

from posterior_lm.api.query import Query, loads
from training.tiny.world import Document, sample_task

Row = dict[str, object]
DIGITS = "0123456789"
NOISE = 0.55
"""Probability that a noisy digit is the true one; the rest falls off to one side."""

PROGRAMS = {
    "tabular": """
lm noisy = tabular("TABLE")
lm base = "tiny"
program tabular(first: text, second: text, third: text) {
  latent n: int(0..9, lead=" ") ~ categorical([0.22, 0.04, 0.13, 0.02, 0.16, 0.05, 0.18, 0.03, 0.06, 0.11])
  observe first ~ noisy(n)
  observe second ~ noisy(n)
  observe third ~ noisy(n)
  guide n ~ base("Seen: ", first, " ", second, " ", third, "\\nDigit:")
}
""",
    "first_sentence": """
lm base = "tiny"
program first_sentence(rest: text) {
  latent first: text(tokens=1..25, stop=".") ~ base()
  observe [" ", rest] ~ base(first)
}
""",
    "middle": """
lm base = "tiny"
program middle(opening: text, ending: text) {
  latent middle: text(tokens=1..25, stop=".") ~ base(opening)
  observe [" ", ending] ~ base(opening, middle)
  guide middle ~ base("Beginning: ", opening, "\\nEnding: ", ending, "\\nMiddle:")
}
""",
    "tempered": """
lm base = "tiny"
program tempered(prompt: text, beta: real = 1.5) {
  latent next: text(tokens=1..30, stop=".") ~ base(prompt) ^ beta
}
""",
    "plate": """
lm base = "tiny"
program plate_of_examples(examples: table(input: text, output: text)) {
  latent rule: text(tokens=1..20, stop="\\n") ~ base("Instruction:")
  plate e in examples {
    observe [" ", e.output] ~ base("Instruction:", rule, "Input: ", e.input, "\\nOutput:")
  }
}
""",
}


@frozen(eq=False)
class KnownTarget:
    """A program with rows to train on and rows whose posterior will be compared."""

    name: str
    query: Query
    train: tuple[Row, ...]
    held_out: tuple[Row, ...]


def known_target(name: str, *, train: int = 400, held_out: int = 6, seed: int = 0) -> KnownTarget:
    """The target of that name; the same seed gives the same rows."""
    text = PROGRAMS[name]
    if name == "tabular":
        text = text.replace("TABLE", str(write_table(Path(mkdtemp(prefix="plm-table-")))))
    make = ROWS[name]
    kept = list(_distinct(make(np.random.default_rng([seed, 1])), held_out))
    rows: list[Row] = []
    for row in _distinct(make(np.random.default_rng([seed, 2])), train + held_out):
        if row not in kept and len(rows) < train:
            rows.append(row)
    return KnownTarget(name, loads(text, f"<{name}>"), tuple(rows), tuple(kept))


def _distinct(rows: Iterator[Row], count: int) -> Iterator[Row]:
    seen: set[str] = set()
    for tries, row in enumerate(rows):
        key = json.dumps(row, sort_keys=True)
        if key not in seen:
            seen.add(key)
            yield row
        if len(seen) == count or tries > 50 * count:
            return


def _documents(task: str, rng: np.random.Generator, keep: Callable[[Document], bool]) -> Iterator[Document]:
    while True:
        document = sample_task(task, rng)
        if keep(document):
            yield document


def _tabular(rng: np.random.Generator) -> Iterator[Row]:
    noise = _noise()
    prior = np.array([0.22, 0.04, 0.13, 0.02, 0.16, 0.05, 0.18, 0.03, 0.06, 0.11])
    while True:
        n = rng.choice(10, p=prior)
        yield {k: str(rng.choice(10, p=noise[n])) for k in ("first", "second", "third")}


def _first_sentence(rng: np.random.Generator) -> Iterator[Row]:
    for document in _documents("plain", rng, lambda d: len(d.fields["rest"]) == 2):
        yield {"rest": "".join(document.fields["rest"]).strip()}


def _middle(rng: np.random.Generator) -> Iterator[Row]:
    for document in _documents("story", rng, lambda d: d.fields["order"] == "plain"):
        yield {k: str(document.fields[k]) for k in ("opening", "ending")}


def _tempered(rng: np.random.Generator) -> Iterator[Row]:
    for document in _documents("plain", rng, lambda d: True):
        yield {"prompt": str(document.fields["first"])}


def _plate(rng: np.random.Generator) -> Iterator[Row]:
    for document in _documents("instruction", rng, lambda d: len(d.fields["pairs"]) == 2):
        yield {"examples": [{"input": a, "output": b} for a, b in document.fields["pairs"]]}


ROWS: Mapping[str, Callable[[np.random.Generator], Iterator[Row]]] = {
    "tabular": _tabular,
    "first_sentence": _first_sentence,
    "middle": _middle,
    "tempered": _tempered,
    "plate": _plate,
}


def _noise() -> np.ndarray:
    """(10, 10) p(seen | true): skewed, so that a swapped row or a flipped sign shows."""
    table = np.zeros((10, 10))
    for n in range(10):
        for step in range(1, 10):
            table[n, (n + step) % 10] = 0.5**step
        table[n] *= (1 - NOISE) / table[n].sum()
        table[n, n] = NOISE
    return table


def write_table(folder: Path) -> Path:
    """A table in which a noisy copy of n follows " n"."""
    noise = _noise()
    contexts = [
        {"after": [" ", str(n)], "next": {d: float(noise[n, int(d)]) for d in DIGITS}} for n in range(10)
    ]
    table = {
        "tokens": [*DIGITS, " "],
        "order": 2,
        "max_tokens": 8,
        "bos": False,
        "rows": {"": dict.fromkeys(DIGITS, 0.1)},
        "contexts": contexts,
    }
    path = folder / "noisy_digits.json"
    path.write_text(json.dumps(table), encoding="utf-8")
    return path
