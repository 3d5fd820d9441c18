"""Stage 2, balance: draws of the rows that matter, with their true log rewards.

Each row of a step has draws of three kinds: from the policy, from the policy
flattened, and from the row's replay buffer. All of them count alike in the
objective, which compares log q with log reward wherever the draws came from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from posterior_lm.amortize.batches import Walked, propose, walk
from posterior_lm.amortize.replay import Entry, Replay
from posterior_lm.amortize.rows import Rows, in_row
from posterior_lm.amortize.settings import FitSettings
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.lm.transformers import TransformersModel
from posterior_lm.target.values import Value


@frozen(eq=False)
class Behaved:
    """The draws of some rows: N draws, their row's slot (N,), log rewards (N,), nats, untempered.

    `on_policy` (N,) bool; `end_log_reward` (N, T + 1), −inf where a draw has no end
    point, where the objective needs it.
    """

    draws: tuple[Walked, ...]
    slot: np.ndarray
    log_reward: np.ndarray
    on_policy: np.ndarray
    end_log_reward: np.ndarray | None
    rows: tuple[int, ...]
    """The data row of each slot."""


class Balancer:
    """Makes the draws of a step; the replay buffer goes in and comes out."""

    def __init__(self, rows: Rows, numbers: Sequence[int], settings: FitSettings, prefixes: bool) -> None:
        self.rows, self.numbers, self.settings, self.prefixes = rows, list(numbers), settings, prefixes
        self.seeds = settings.seeds or 0

    def rows_of(self, step: int) -> list[int]:
        """The data rows of a step: each row once in every pass over the data, in a new order each time."""
        count = min(self.settings.rows, len(self.numbers))
        found: list[int] = []
        at = step * count
        while len(found) < count:
            epoch, place = divmod(at + len(found), len(self.numbers))
            order = np.random.default_rng([self.settings.seed, 3, epoch]).permutation(len(self.numbers))
            found += [self.numbers[int(k)] for k in order[place : place + count - len(found)]]
        return found

    def draw(
        self, model: TransformersModel, step: int, slots: Sequence[int], replay: Replay
    ) -> tuple[Behaved, Replay]:
        """The draws of a step for these slots under the adapted `model`; and the buffer with the new ones."""
        s = self.settings
        rows = self.rows_of(step)
        mine = [rows[k] for k in slots]
        rngs = [np.random.default_rng([s.seed, 2, step, k]) for k in slots]
        for rng, row in zip(rngs, mine, strict=True):
            if self.seeds and not replay.entries(row):
                replay = replay.add(row, self._seeds(rng, row))
        old = [replay.draw(rng, row, int(round(s.replayed * s.draws))) for rng, row in zip(rngs, mine, strict=True)]
        flat = int(round(s.tempered * s.draws))
        values: list[list[dict[str, Value]]] = [[] for _ in mine]
        exponent = float(np.random.default_rng([s.seed, 4, step]).uniform(s.flattest, 1.0))
        counts = [s.draws - flat - len(kept) for kept in old]
        for power, many in ((1.0, counts), (exponent, [flat] * len(mine))):
            owner = [k for k, n in enumerate(many) for _ in range(n)]
            if not owner:
                continue
            each = [g for k, n in enumerate(many) for g in rngs[k].spawn(n)]
            targets = [self.rows.target(mine[k]) for k in owner]
            readings = [self.rows.readings(mine[k]) for k in owner]
            for k, drawn in zip(owner, propose(model, targets, readings, each, power), strict=True):
                values[k].append(drawn)
        parts = [self._row(row, values[k], counts[k], old[k]) for k, row in enumerate(mine)]
        for row, part in zip(mine, parts, strict=True):
            replay = replay.add(row, part[4])
        return self._joined(mine, parts), replay

    def _row(
        self, row: int, fresh: Sequence[dict[str, Value]], on_policy: int, old: Sequence[Entry]
    ) -> tuple[list[Walked], np.ndarray, np.ndarray, list[np.ndarray], list[Entry]]:
        target, readings = self.rows.target(row), self.rows.readings(row)
        names = target.names
        kept = [{n: target.value_of(n, ids) for n, ids in zip(names, e.ids, strict=True)} for e in old]
        columns = {n: [v[n] for v in fresh] for n in names}
        ends: list[np.ndarray] = []
        with in_row(row):
            log_reward = target.log_reward(columns) if fresh else np.zeros(0)
            if self.prefixes and fresh:
                block = target.log_reward_prefixes(columns)
                ends = [block[d, : len(v[names[0]].ids) + 1] for d, v in enumerate(fresh)]
        entries = self._entries(fresh, names, log_reward, ends)
        ends += [np.array(e.end_log_reward or ()) for e in old] if self.prefixes else []
        draws = [walk(target, readings, v) for v in (*fresh, *kept)]
        rewards = np.concatenate([log_reward, [e.log_reward for e in old]])
        flags = np.arange(len(draws)) < on_policy
        return draws, rewards, flags, ends, entries

    def _entries(
        self, values: Sequence[dict[str, Value]], names: Sequence[str], log_reward: np.ndarray,
        ends: Sequence[np.ndarray], pinned: bool = False,
    ) -> list[Entry]:  # fmt: skip
        return [
            Entry(
                tuple(v[n].ids for n in names),
                float(r),
                tuple(float(x) for x in ends[d]) if self.prefixes else None,
                pinned=pinned,
            )
            for d, (v, r) in enumerate(zip(values, log_reward, strict=True))
        ]

    def scored(self, row: int, values: Sequence[dict[str, Value]], *, pinned: bool = False) -> list[Entry]:
        """Entries for values that come from elsewhere: known latents, draws from the prior."""
        target = self.rows.target(row)
        names = target.names
        columns = {n: [v[n] for v in values] for n in names}
        with in_row(row):
            log_reward = target.log_reward(columns)
            ends = []
            if self.prefixes:
                block = target.log_reward_prefixes(columns)
                ends = [block[d, : len(v[names[0]].ids) + 1] for d, v in enumerate(values)]
        return self._entries(values, names, log_reward, ends, pinned)

    def _seeds(self, rng: np.random.Generator, row: int) -> list[Entry]:
        target = self.rows.target(row)
        with in_row(row):
            drawn = PriorGuide(target).sample(rng, self.seeds).values
        return self.scored(row, [{n: drawn[n][d] for n in target.names} for d in range(self.seeds)])

    def _joined(self, rows: Sequence[int], parts: Sequence[tuple]) -> Behaved:
        ends = None
        if self.prefixes:
            flat = [e for p in parts for e in p[3]]
            ends = np.full((len(flat), max((len(e) for e in flat), default=1)), -np.inf)
            for d, e in enumerate(flat):
                ends[d, : len(e)] = e
        return Behaved(
            tuple(d for p in parts for d in p[0]),
            np.repeat(np.arange(len(parts)), [len(p[0]) for p in parts]),
            np.concatenate([p[1] for p in parts]) if parts else np.zeros(0),
            np.concatenate([p[2] for p in parts]) if parts else np.zeros(0, dtype=bool),
            ends,
            tuple(rows),
        )


def reward_temperature(settings: FitSettings, share: float) -> float:
    """The temperature after this share of the balancing steps: linear down to 1, then 1."""
    if settings.anneal == 0 or share >= settings.anneal:
        return 1.0
    return settings.reward_temperature + (1.0 - settings.reward_temperature) * share / settings.anneal


def tensors_of(behaved: Behaved, device: torch.device, temperature: float) -> tuple[Tensor, Tensor, Tensor | None]:
    """log reward / temperature (N,), slot (N,), and the same of the end points."""
    log_reward = torch.as_tensor(behaved.log_reward / temperature, dtype=torch.float64, device=device)
    slot = torch.as_tensor(behaved.slot, dtype=torch.int64, device=device)
    if behaved.end_log_reward is None:
        return log_reward, slot, None
    ends = torch.as_tensor(behaved.end_log_reward / temperature, dtype=torch.float64, device=device)
    return log_reward, slot, ends
