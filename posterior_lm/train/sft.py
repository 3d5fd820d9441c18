"""Supervised fine-tuning: maximum likelihood of known values after what the guide reads.

    minimise − Σ_i log q(z_i | what the guide reads of row i)

It is the sleep phase of `plm fit` with known values in place of simulated ones, so it has the
same supports, forced tokens, latents, optimiser and schedule, and leaves the same kind of policy.
A trainer of another library would read the guides' prompts, and would know none of these.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import evolve

from posterior_lm.lang.diagnostics import DataError
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.gflownet_batch import Walked, walk
from posterior_lm.train.parallel import World
from posterior_lm.train.rows import Inputs, Rows, in_row
from posterior_lm.train.settings import FitSettings, Resolved
from posterior_lm.train.sleep_phase import SleepPhase, WeightedBatch, in_turn
from posterior_lm.train.trainer import Trainer


class KnownPairs(SleepPhase):
    """Batches of known values by step number: each once in every pass, in a new order each time."""

    def __init__(self, inputs: Inputs, rows: Rows, numbers: Sequence[int], settings: FitSettings) -> None:
        own = set(numbers)
        self.known = [(row, value) for row, values in inputs.known if row in own for value in values]
        if not self.known:
            latents = ", ".join(f"`{node.name}`" for _, node in inputs.program.graph.latents())
            raise DataError.of(
                "PLM772",
                f"no row to train on holds a known value of {latents}",
                help="add a column named after each latent, or train with another objective",
            )
        self.rows, self.seed = rows, settings.seed
        self.groups = min(settings.pairs, len(self.known))
        self._walked: dict[int, Walked] = {}

    def batch(self, step: int, slots: Sequence[int]) -> WeightedBatch:
        """The known values of a step for these slots (of `groups`), each with weight 1."""
        every = range(len(self.known))
        places = [in_turn(every, step * self.groups + slot, 1, [self.seed, 8])[0] for slot in slots]
        draws = tuple(map(self._known, places))
        return WeightedBatch(draws, np.ones(len(draws)), len(draws), 1.0)

    def _known(self, place: int) -> Walked:
        if place not in self._walked:
            row, values = self.known[place]
            with in_row(row):
                self._walked[place] = walk(self.rows.target(row), self.rows.readings(row), values)
        return self._walked[place]

    def ready(self, step: int, slots: Sequence[int]) -> bool:
        """Nothing has to be simulated."""
        return True

    def forget(self) -> None:
        """Walk again from now on."""
        self._walked.clear()


def trainer(
    inputs: Inputs, rows: Rows, numbers: Sequence[int], adapter: Adapter, settings: Resolved, world: World
) -> Trainer:
    """The trainer of a fit whose every step is of known values. Raises DataError PLM772."""
    pairs = KnownPairs(inputs, rows, numbers, settings)
    return Trainer(rows, numbers, adapter, evolve(settings, sleep=1.0), pairs, world)
