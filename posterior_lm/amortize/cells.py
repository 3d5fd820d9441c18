"""Plates whose rows are exchangeable: what each row of a table says, and new tables put together from them.

Where a program reads nothing but one table, and only row by row, its log reward is a sum,

    log reward(z | c_1, …, c_m) = b(z) + Σ_k s(z | c_k),

so the rows of all tables, scored once, give the posterior of any table made of them. Tables
made anew from rows that could stand together are as good to learn from as the given ones, and there are
many more: a policy that has seen them does not know the given ones by heart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
from attrs import field, frozen

from posterior_lm.amortize.parallel import World
from posterior_lm.amortize.rows import Data, Rows, in_row
from posterior_lm.lang.diagnostics import PlmError
from posterior_lm.target.target import Target

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
        cls, rows: Rows, numbers: Sequence[int], values: Sequence[tuple[int, ...]], world: World
    ) -> Cells | None:
        """The cells of these rows; None where the program reads more than one table, or not row by row."""
        params = rows.graph.params
        if len(params) != 1 or params[0].type != "table":
            return None
        table = params[0].name
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
        if not any(len(own) > 1 for own in of_row.values()):
            return None
        try:
            base = _log_reward(rows.bind({table: ()}), values)
        except PlmError:
            return None
        tried = [n for n in numbers if len(of_row[n]) > 1][:TRIED]
        for number in tried:
            with in_row(number):
                whole = _log_reward(rows.target(number), values)
                parts = [_log_reward(rows.bind({table: (cells[c],)}), values) - base for c in of_row[number]]
            if not np.allclose(whole, base + np.sum(parts, axis=0), rtol=0, atol=CLOSE):
                return None
        mine = {
            c: _log_reward(rows.bind({table: (cells[c],)}), values) - base for c in world.share(len(cells))
        }
        scores = np.zeros((len(cells), len(values)))
        for part in world.gather([[c, s.tolist()] for c, s in mine.items()]):
            for c, said in part:
                scores[c] = said
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
        if len(own) < 2 or rng.random() >= EXCHANGED or not np.isfinite(share).all():
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


def _log_reward(target: Target, values: Sequence[tuple[int, ...]]) -> np.ndarray:
    name = target.latents[0].name
    return target.log_reward({name: [target.value_of(name, ids) for ids in values]})


def _normalised(log_reward: np.ndarray) -> np.ndarray:
    return log_reward - np.logaddexp.reduce(log_reward)
