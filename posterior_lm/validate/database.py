"""The database of known posteriors: its files, and how far draws are from what they say.

A target is two files of one name in the folder of its class: the program `NAME.plm`, and `NAME.json`, which an
`Answer` is read from. `posteriors/README.md` has the format for people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from attrs import frozen

from posterior_lm.api.engine import prepare
from posterior_lm.api.posterior import Datum, Posterior
from posterior_lm.infer.draws import cells
from posterior_lm.installed import find
from posterior_lm.lang.diagnostics import DataError, meant
from posterior_lm.lang.driver import load_module
from posterior_lm.storage import Stored, read_object, refusing, structured
from posterior_lm.target.prepared import PreparedProgram
from posterior_lm.validate.comparison import REPEATS, total_variation

Share = Annotated[float, Stored(low=0.0, high=1.0)]
HELD = 0.99
"""The share of a posterior that is listed, at least."""
LARGEST = 1 << 22
"""Bytes of one answer."""


@frozen
class Way:
    """One way to the answer: the log evidence that it gives, nats, and over how many values."""

    log_evidence: float
    values: int


@frozen(slots=False)
class Answer:
    """What `NAME.json` holds: what is given to the program, and its posterior.

    `values` are the heaviest values with their probabilities, at least `HELD` together: texts and whole
    numbers in the order of the latents, token sequences of one text taken together. `marginals` are those of
    each latent, by text, where there are several. At most `left_out` of the posterior was not summed.
    `models` are digests of the models by alias, `how` the ways that were gone.
    """

    about: str
    given: Mapping[str, Any]
    fingerprint: str
    models: Mapping[str, str]
    how: Mapping[str, Way]
    log_evidence: float
    left_out: Share
    marginals: Mapping[str, Mapping[str, Share]]
    values: tuple[tuple[tuple[int | str, ...], Share], ...]

    @cached_property
    def cells(self) -> tuple[Mapping[tuple[Datum, ...], int], np.ndarray]:
        """The cell of each listed value, and the (C,) probabilities of cells: heavy values alone, light neighbours together."""
        places, sums = cells(dict(self.values))
        return places, np.array(sums)

    def distance(self, posterior: Posterior) -> float:
        """Total variation between the cells and the weights of draws, all that is not listed being one more cell."""
        places, probs = self.cells
        q = np.zeros(len(probs))
        for one in posterior.merged():
            if (place := places.get(tuple(one.values.values()))) is not None:
                q[place] += one.weight
        return total_variation(probs, q, max(0.0, 1.0 - float(probs.sum())))

    def noise(self, n: int) -> float:
        """The expected `distance` of n independent exact draws."""
        probs = self.cells[1]
        rest = max(0.0, 1.0 - float(probs.sum()))
        whole = np.append(probs, rest)
        counts = np.random.default_rng(0).multinomial(n, whole / whole.sum(), size=REPEATS)
        return float(np.mean([total_variation(probs, c[:-1] / n, rest) for c in counts]))

    @cached_property
    def likely(self) -> tuple[frozenset[tuple[Datum, ...]], float]:
        """The fewest values that hold half of the posterior, and their probability: the event that intervals are about."""
        chosen, total = [], 0.0
        for value, prob in self.values:
            chosen.append(value)
            total += prob
            if total >= 0.5:
                break
        return frozenset(chosen), total


@frozen
class Entry:
    """One target of the database."""

    kind: str
    """Its class, the name of its folder."""
    name: str
    program: Path
    answer: Answer

    def prepared(self, models: Path | None = None) -> PreparedProgram:
        """The program with the models that it names, which may lie in the folder `models`.

        Raises ModelError PLM510 where one is absent, and DataError PLM823 where program or models are not those
        that the answer is about.
        """
        checked = load_module(self.program)
        program = prepare(checked, base_dir=self.program.resolve().parent)
        if models is not None:
            there = {lm.alias: models.resolve() / lm.spec for lm in program.graph.lms}
            here = {alias: str(path) for alias, path in there.items() if path.is_dir()}
            program = prepare(checked, base_dir=self.program.resolve().parent, models=here)
        if program.graph.fingerprint != self.answer.fingerprint:
            raise _wrong(self.program, "its answer is about another program: the fingerprints differ")
        digests = {alias: model.identity.digest for alias, model in program.models.items()}
        if digests != self.answer.models:
            raise _wrong(self.program, "its answer is about other models: the digests differ")
        return program


def _wrong(path: Path, why: str) -> DataError:
    return DataError.of(
        "PLM823",
        f"{path} is no target of the database: {why}",
        where=str(path),
        help="posteriors/README.md describes the files; `python -m posteriors.make CLASS/NAME` writes an answer anew",
    )


def read_answer(path: Path) -> Answer:
    """The answer in a file. Raises DataError PLM823 where it is not of the format."""
    with refusing(lambda why: _wrong(path, why)):
        answer: Answer = structured(Answer, read_object(path, LARGEST))
        probs = [prob for _, prob in answer.values]
        if not HELD <= sum(probs) <= 1 + 1e-6:
            raise ValueError(f"its values hold {sum(probs):.4g} of the posterior, not {HELD:g} to 1")
        if probs != sorted(probs, reverse=True) or len({value for value, _ in answer.values}) < len(probs):
            raise ValueError("its values are not different ones, the heaviest first")
        return answer


def entries(folder: Path | None = None, kinds: Sequence[str] = ()) -> list[Entry]:
    """The targets below a folder, those of some classes or all, in order; by default of the database that ships.

    Raises DataError PLM823.
    """
    folder = find("posteriors") if folder is None else folder
    found = sorted(folder.glob("*/*.plm"))
    known = sorted({path.parent.name for path in found})
    if not found:
        raise _wrong(folder, "there is no CLASS/NAME.plm in it")
    for kind in kinds:
        if kind not in known:
            help = meant(kind, known, f"the classes are {', '.join(known)}")
            raise DataError.of("PLM823", f"the database in {folder} has no class `{kind}`", help=help)
    return [
        Entry(path.parent.name, path.stem, path, read_answer(path.with_suffix(".json")))
        for path in found
        if not kinds or path.parent.name in kinds
    ]
