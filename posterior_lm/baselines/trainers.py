"""The trainer of a peer: what `amortize.fit` steps in place of its own."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve

from posterior_lm.amortize.adapter import Adapter
from posterior_lm.amortize.inputs import Inputs
from posterior_lm.amortize.parallel import World
from posterior_lm.amortize.rows import Rows
from posterior_lm.amortize.settings import Resolved
from posterior_lm.amortize.train import Trainer
from posterior_lm.baselines.ppo import PpoTrainer
from posterior_lm.baselines.sft import KnownPairs


def peer_trainer(
    inputs: Inputs, rows: Rows, numbers: Sequence[int], adapter: Adapter, settings: Resolved, world: World
) -> Trainer:
    """A trainer of `settings.objective`, on the rows of these numbers. Raises DataError PLM772."""
    # An objective that the base class knows stands in for the peer's own, which it never computes.
    plain = evolve(settings, objective="vargrad")
    if settings.objective == "sft":
        pairs = KnownPairs(inputs, rows, numbers, settings)
        return Trainer(rows, numbers, adapter, evolve(plain, compile=1.0), pairs, world)
    own = evolve(plain, tempered=0.0, replayed=0.0, simulated=0.0, seeds=0)
    return PpoTrainer(rows, numbers, adapter, own, None, world)
