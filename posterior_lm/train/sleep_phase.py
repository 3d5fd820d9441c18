"""Stage 1, the sleep phase: batches of simulated pairs, to be fitted by maximum likelihood.

    minimise − Σ_i w̄_i log q(z_i | what the guide reads of y_i, x_i)

with w̄ the weights of a row's pairs, normalised (`simulate`). The gradient is that of
the forward KL, which covers modes. A row has one pair where the simulation is exact,
and several to weigh where it is not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen

from posterior_lm.infer.weights import normalize
from posterior_lm.train.gflownet_batch import Walked, walk
from posterior_lm.train.rows import Rows, in_row
from posterior_lm.train.simulate import Pair, Simulator

BLOCK = 4
"""Steps simulated at a time: a rollout's cost is mostly its number of tokens, not of draws."""

TOGETHER_AT_MOST = 2048
"""Pairs simulated at a time, but for those of one step: above it the cost is that of the draws."""

LONG = 1.0
"""Seconds of a step's pairs from which a model is too slow to simulate several steps ahead under a budget."""

PER_ROW = 32
"""Pairs of one row where they have to be weighed."""

TOGETHER = 8
"""Pairs of one row that a step has, where each is exact."""

TRIES = 12
"""Pairs simulated at most for each that is kept, where many are unlike the rows."""

MOST = float(np.log(10))
"""Log of the most that a lone pair counts: a rare one of great weight must not rule a step."""

LEAST_ESS = 0.02
"""Effective share of a row's pairs below which their weights are noise and the phase is skipped."""

LEAST = 1e-3
"""Weights below this share are left out: they cost a pass and move nothing."""


@frozen(eq=False)
class WeightedBatch:
    """Pairs of this process's slots: N draws, their weights (N,), and the number of rows that they are for."""

    draws: tuple[Walked, ...]
    weights: np.ndarray
    rows: int
    ess: float
    """Mean effective share of a row's pairs; 1 where the simulation is exact."""


class SleepPhase:
    """Batches by step number: the same seed and step give the same batch, whatever came before."""

    def __init__(
        self, rows: Rows, numbers: Sequence[int], simulator: Simulator, pairs: int, seed: int
    ) -> None:
        self.rows, self.numbers, self.simulator, self.seed = rows, list(numbers), simulator, seed
        self.each = 1 if simulator.exact else min(PER_ROW, pairs)
        self.groups = max(1, pairs // self.each)
        self.together = TOGETHER if simulator.exact else 1
        self.tries = min(TRIES, int(np.ceil(1.5 / simulator.yields))) if simulator.yields < 0.9 else 1
        self.block = max(1, min(BLOCK, TOGETHER_AT_MOST // (self.groups * self.each * self.tries)))
        self._batches: tuple[tuple[int, ...], dict[int, WeightedBatch]] = ((), {})

    @classmethod
    def of(
        cls, rows: Rows, numbers: Sequence[int], simulator: Simulator, pairs: int, seed: int
    ) -> tuple[SleepPhase | None, str]:
        """The phase, or None and why there is none: nothing can be simulated, or what is would teach nothing."""
        if simulator.unsimulated:
            return None, f"`{simulator.unsimulated[0]}` cannot be simulated"
        found = cls(rows, numbers, simulator, pairs, seed)
        first = found.batch(0, range(found.groups))
        if first.rows < found.groups / 4:
            return None, "hardly any simulated observation looks like the rows'"
        if first.ess < LEAST_ESS:
            return None, f"the weights of simulated pairs have an effective share of {first.ess:.3f}"
        return found, ""

    def batch(self, step: int, slots: Sequence[int]) -> WeightedBatch:
        """The pairs of a step for these slots (of `groups`)."""
        key = tuple(slots)
        if not self.ready(step, key):
            self._batches = (key, self._simulate(self._steps(step), key))
        return self._batches[1][step]

    def ready(self, step: int, slots: Sequence[int]) -> bool:
        """Whether the pairs of a step are simulated already."""
        return self._batches[0] == tuple(slots) and step in self._batches[1]

    def _steps(self, step: int) -> range:
        """The steps that are simulated with this one.

        The first stands alone, since it says whether the phase is worth it; so does each where there is a
        clock and a step's pairs take long, since a budget may end before the others.
        """
        slow = self.simulator.late is not None and self.groups * self.each * self.simulator.seconds > LONG
        if step == 0 or slow:
            return range(step, step + 1)
        first = step // self.block * self.block
        return range(max(1, first), first + self.block)

    def forget(self) -> None:
        """Simulate again from now on."""
        self._batches = ((), {})
        self.simulator.forget()

    def _simulate(self, steps: range, slots: Sequence[int]) -> dict[int, WeightedBatch]:
        tags, rngs, rows = [], [], []
        for step in steps:
            for slot in slots:
                first = np.random.default_rng([self.seed, 1, step, slot])
                # Pairs of one row share what the guide reads of it before what was simulated.
                of_row = np.random.default_rng([self.seed, 6, step, slot // self.together])
                row = self.numbers[int(of_row.integers(len(self.numbers)))]
                for rng in first.spawn(self.each * self.tries):
                    tags.append((step, slot))
                    rngs.append(rng)
                    rows.append(row)
        pairs = self.simulator.draw(rngs, rows)
        # A draw that came out of shape is missing; the others keep their order within step and slot.
        of_slot: dict[tuple[int, int], list[Pair]] = {tag: [] for tag in tags}
        for tag, pair in zip(self.simulator.kept(tags), pairs, strict=True):
            of_slot[tag].append(pair)
        kept = {tag: pairs[: self.each] for tag, pairs in of_slot.items()}
        return {step: self._weighed([kept[step, slot] for slot in slots]) for step in steps}

    def _weighed(self, groups: Sequence[Sequence[Pair]]) -> WeightedBatch:
        draws: list[Walked] = []
        weights: list[float] = []
        shares: list[float] = []
        for group in groups:
            log_weights = np.array([p.log_weight for p in group])
            if not len(group) or np.all(np.isneginf(log_weights)):
                continue
            if self.each == 1:
                # The weight of a lone pair is that of its mask and of its end; a row's evidence is no reason to count it more.
                chosen = [(group[0], float(np.exp(min(MOST, log_weights[0]))))]
            else:
                share = normalize(log_weights)
                shares.append(float(1 / np.sum(share**2) / len(group)))
                chosen = list(_merged(group, share))
            for pair, weight in chosen:
                draws.append(self._walk(pair))
                weights.append(weight)
        found = sum(1 for g in groups if g)
        return WeightedBatch(
            tuple(draws), np.array(weights), found, float(np.mean(shares)) if shares else 1.0
        )

    def _walk(self, pair: Pair) -> Walked:
        if pair.data is self.rows.data[pair.row]:
            return walk(self.rows.target(pair.row), self.rows.readings(pair.row), pair.values)
        with in_row(pair.row):
            target = self.rows.reader(pair.row, pair.data)
            return walk(target, self.rows.readings_of(target), pair.values)


def in_turn(numbers: Sequence[int], at: int, count: int, seed: Sequence[int]) -> list[int]:
    """`count` numbers from place `at` on of passes over all of them, each pass in an order of its own."""
    found: list[int] = []
    while len(found) < count:
        turn, place = divmod(at + len(found), len(numbers))
        order = np.random.default_rng([*seed, turn]).permutation(len(numbers))
        found += [numbers[int(k)] for k in order[place : place + count - len(found)]]
    return found


def _merged(group: Sequence[Pair], share: np.ndarray):
    """Equal pairs as one, light ones left out."""
    found: dict[str, tuple[Pair, float]] = {}
    for pair, weight in zip(group, share, strict=True):
        key = repr(
            (
                sorted((k, v.ids) for k, v in pair.values.items()),
                sorted(pair.data.items(), key=lambda i: i[0]),
            )
        )
        found[key] = (pair, found[key][1] + weight if key in found else float(weight))
    return [item for item in found.values() if item[1] >= LEAST]
