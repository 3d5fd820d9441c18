"""Plates whose rows are exchangeable: what each row of a table says, and new tables put together from them.

Where a program reads nothing but one table, and only row by row, its log reward is a sum,

    log reward(z | c_1, …, c_m) = b(z) + Σ_k s(z | c_k),

so the rows of all tables, scored once, give the posterior of any table made of them. Tables
made anew from rows that could stand together are as good to learn from as the given ones, and there are
many more: a policy that has seen them does not know the given ones by heart.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence

import numpy as np
from attrs import field, frozen

from posterior_lm.amortize.parallel import World
from posterior_lm.amortize.rows import Data, Rows
from posterior_lm.lang.diagnostics import PlmError

CLOSE = 1e-3
"""Nats by which a sum may differ from the log reward of the whole: rounding of float32."""

TRIED = 4
"""Tables on which it is tried that their log reward is a sum."""

EXCHANGED = 0.75
"""Share of the tables that are made anew."""


@frozen(eq=False)
class Cells:
    """The distinct rows of all tables, C of them, and what each says of L listed values."""

    table: str
    """The only parameter."""
    cells: tuple[Mapping[str, object], ...]
    scores: np.ndarray
    """(C, L) nats: s(z | c)."""
    base: np.ndarray
    """(L,) nats: b(z)."""
    of_row: Mapping[int, tuple[int, ...]]
    """The cells of each data row."""
    _shares: Mapping[int, np.ndarray] = field(init=False, repr=False)

    @_shares.default
    def _posteriors(self) -> Mapping[int, np.ndarray]:
        return {row: np.exp(_normalised(self.log_reward(cells))) for row, cells in self.of_row.items()}

    @classmethod
    def of(
        cls, rows: Rows, numbers: Sequence[int], values: Sequence[tuple[int, ...]], world: World,
        *, most: int, seconds: float | None = None,
    ) -> Cells | None:  # fmt: skip
        """The cells of these rows; None where the program reads more than one table, or not row by row.

        None too where more than `most` scores were needed, or more than so many `seconds`.
        """
        began = time.monotonic()
        params = rows.program.graph.params
        if len(params) != 1 or params[0].type != "table":
            return None
        table = params[0].name
        cells, of_row = _distinct(rows, numbers, table)
        tried = [n for n in numbers if len(of_row[n]) > 1][:TRIED]
        if not tried or len(cells) * len(values) > most:
            return None
        base = _log_reward(rows, {table: ()}, values)
        if base is None or any(
            not _is_sum(rows, number, [{table: (cells[c],)} for c in of_row[number]], base, values)
            for number in tried
        ):
            return None
        found: list[tuple[int, list[float]]] = []
        done = True
        for c in world.share(len(cells)):
            score = _log_reward(rows, {table: (cells[c],)}, values)
            if score is None or (seconds is not None and time.monotonic() - began > seconds):
                done = False
                break
            found.append((c, (score - base).tolist()))
        parts = world.gather(found if done else None)
        if None in parts:
            return None
        scores = np.zeros((len(cells), len(values)))
        for c, score in (item for part in parts for item in part):
            scores[c] = score
        return cls(table, tuple(cells), scores, base, of_row)

    def log_reward(self, cells: Sequence[int]) -> np.ndarray:
        """(L,) nats, of a table of these cells."""
        return self.base + self.scores[list(cells)].sum(axis=0)

    def data(self, cells: Sequence[int]) -> Data:
        """The row of data with a table of these cells."""
        return {self.table: tuple(self.cells[c] for c in cells)}

    def drawn(self, row: int, rng: np.random.Generator) -> tuple[int, ...]:
        """The cells of the row, or of it and of another row that could have the same latent, in any order."""
        own = self.of_row[row]
        share = self._shares[row]
        if len(own) < 2 or rng.random() >= EXCHANGED:
            return own
        z = int(rng.choice(len(share), p=share))
        others = [r for r, cells in self.of_row.items() if len(cells) == len(own)]
        weights = np.array([self._shares[r][z] for r in others])
        other = self.of_row[others[int(rng.choice(len(others), p=weights / weights.sum()))]]
        mixed = [
            (a, b)[int(rng.integers(2))]
            for a, b in zip(rng.permutation(own), rng.permutation(other), strict=True)
        ]
        return tuple(int(c) for c in mixed)


def _distinct(
    rows: Rows, numbers: Sequence[int], table: str
) -> tuple[list[Mapping[str, object]], dict[int, tuple[int, ...]]]:
    """The different rows of the tables, and which of them each data row has."""
    found: dict[str, int] = {}
    cells: list[Mapping[str, object]] = []
    of_row: dict[int, tuple[int, ...]] = {}
    for number in numbers:
        own = []
        for cell in rows.data[number][table]:  # type: ignore[attr-defined]
            key = json.dumps(cell, sort_keys=True, default=str)
            if key not in found:
                found[key] = len(cells)
                cells.append(cell)
            own.append(found[key])
        of_row[number] = tuple(own)
    return cells, of_row


def _is_sum(
    rows: Rows, number: int, parts: Sequence[Data], base: np.ndarray, values: Sequence[tuple[int, ...]]
) -> bool:
    whole = _log_reward(rows, rows.data[number], values)
    each = [_log_reward(rows, part, values) for part in parts]
    if whole is None or any(e is None for e in each):
        return False
    return np.allclose(whole, base + sum(e - base for e in each), rtol=0, atol=CLOSE)


def _log_reward(rows: Rows, data: Data, values: Sequence[tuple[int, ...]]) -> np.ndarray | None:
    """(L,) nats; None where such a table means nothing, which its own row will say if it is a user's."""
    try:
        target = rows.program.bind_valid(data)
        name = target.latents[0].name
        found = target.log_reward({name: [target.value_of(name, ids) for ids in values]})
    except PlmError:
        return None
    return found if np.isfinite(found).all() else None


def _normalised(log_reward: np.ndarray) -> np.ndarray:
    return log_reward - np.logaddexp.reduce(log_reward)
