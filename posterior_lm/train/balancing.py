"""Stage 2, balance: draws of the rows that matter, with their true log rewards.

Each row of a step has draws of four kinds: from the policy, from the policy
flattened, from the frozen model, and from the row's replay buffer. All of them count alike in the
objective, which compares log q with log reward wherever the draws came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from attrs import evolve, frozen
from torch import Tensor

from posterior_lm.infer.smc import Smc
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.target.target import Target
from posterior_lm.target.values import Value
from posterior_lm.train.adapter import check_model
from posterior_lm.train.gflownet_batch import Walked, propose, walks
from posterior_lm.train.guide import Reading
from posterior_lm.train.replay import Entry, Replay
from posterior_lm.train.rows import Rows, in_row
from posterior_lm.train.settings import Resolved
from posterior_lm.train.simulate import Pair, Simulator
from posterior_lm.train.sleep_phase import BLOCK, in_turn


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
    replayed: np.ndarray | None = None
    """(N,) bool: whether it comes from the row's buffer."""
    simulated: tuple[bool, ...] = ()
    """Whether its observation was simulated, so that its evidence is not the row's."""

    def only(self, slots: Sequence[int]) -> Behaved:
        """What belongs to these slots, which are numbered anew."""
        mine = np.isin(self.slot, slots)
        return Behaved(
            tuple(draw for draw, kept in zip(self.draws, mine, strict=True) if kept),
            np.searchsorted(slots, self.slot[mine]),
            self.log_reward[mine],
            self.on_policy[mine],
            None if self.end_log_reward is None else self.end_log_reward[mine],
            tuple(self.rows[k] for k in slots),
            None if self.replayed is None else self.replayed[mine],
            tuple(self.simulated[k] for k in slots),
        )


@frozen(eq=False)
class _Slot:
    """What one place of a step is about: a data row, or a simulated one with its exact draw."""

    row: int
    target: Target
    readings: Mapping[str, Reading]
    exact: dict[str, Value] | None = None


class Balancer:
    """Makes the draws of a step; the replay buffer goes in and comes out.

    With a `simulator` that is exact, a share of a step's rows is simulated: rows
    that nobody trained on before, one of whose draws is an exact draw of the
    posterior, so a mode that the policy misses is shown to it.
    """

    def __init__(
        self, rows: Rows, numbers: Sequence[int], settings: Resolved, prefixes: bool,
        simulator: Simulator | None = None,
    ) -> None:  # fmt: skip
        self.rows, self.numbers, self.settings, self.prefixes = rows, list(numbers), settings, prefixes
        self.seeds, self.draws = settings.seeds, settings.draws
        self.blamed: dict[int, str] = {}
        """The statement that ruled out most draws of a row when none of them had a reward."""
        self._block: tuple[int, tuple[int, ...], dict[tuple[int, int], Pair]] | None = None
        self._unguided: dict[int, tuple[int, list[dict[str, Value]]]] = {}
        self.simulator = (
            simulator if simulator is not None and simulator.exact and simulator.observed else None
        )

    def rows_of(self, step: int) -> list[int]:
        """The data rows of a step: each row once in every pass over the data, in a new order each time."""
        count = min(self.settings.rows, len(self.numbers))
        return in_turn(self.numbers, step * count, count, [self.settings.seed, 3])

    def draw(
        self, model: TransformersModel, step: int, slots: Sequence[int], replay: Replay
    ) -> tuple[Behaved, Replay]:
        """The draws of a step for these slots under the adapted `model`; and the buffer with the new ones."""
        s = self.settings
        rngs = [np.random.default_rng([s.seed, 2, step, k]) for k in slots]
        mine = self._slots(step, slots)
        for rng, slot in zip(rngs, mine, strict=True):
            if self.seeds and slot.exact is None and not replay.entries(slot.row):
                replay = replay.add(slot.row, self._seeds(rng, slot.row))
        again = round(s.replayed * self.draws)
        old = [
            replay.draw(rng, slot.row, again) if slot.exact is None else []
            for rng, slot in zip(rngs, mine, strict=True)
        ]
        flat = round(s.tempered * self.draws)
        values: list[list[dict[str, Value]]] = [[] for _ in mine]
        exponent = float(np.random.default_rng([s.seed, 4, step]).uniform(s.flattest, 1.0))
        free = self._from_model(step, dict(zip(slots, mine, strict=True)))
        counts = [
            self.draws - flat - len(kept) - len(own) - (slot.exact is not None)
            for kept, own, slot in zip(old, free, mine, strict=True)
        ]
        # One rollout for both kinds: its cost is mostly its number of steps. A row's own draws come first.
        owner = [
            (k, p)
            for p, many in ((1.0, counts), (exponent, [flat] * len(mine)))
            for k, n in enumerate(many)
            for _ in range(n)
        ]
        each = [
            g for many in (counts, [flat] * len(mine)) for k, n in enumerate(many) for g in rngs[k].spawn(n)
        ]
        targets = [mine[k].target for k, _ in owner]
        readings = [mine[k].readings for k, _ in owner]
        for (k, _), drawn in zip(
            owner, propose(model, targets, readings, each, [p for _, p in owner]), strict=True
        ):
            values[k].append(drawn)
        values = [[*some, *own] for some, own in zip(values, free, strict=True)]
        parts = [self._row(slot, values[k], counts[k], old[k]) for k, slot in enumerate(mine)]
        for slot, part in zip(mine, parts, strict=True):
            if slot.exact is None:
                replay = replay.add(slot.row, part[4])
        joined = self._joined([slot.row for slot in mine], parts)
        return evolve(joined, simulated=tuple(slot.exact is not None for slot in mine)), replay

    def _from_model(self, step: int, mine: Mapping[int, _Slot]) -> list[list[dict[str, Value]]]:
        """Draws of the frozen model for each slot, made for several visits of a row in one rollout: its cost is mostly
        its length. Which these are hangs on the row and the number of the visit alone."""
        each = round(self.settings.unguided * self.draws)
        if not each:
            return [[] for _ in mine]
        count, many = min(self.settings.rows, len(self.numbers)), each * BLOCK
        visits = {k: divmod((step * count + k) // len(self.numbers), BLOCK) for k in mine}
        new = [k for k, slot in mine.items() if self._unguided.get(slot.row, (-1, []))[0] != visits[k][0]]
        if new:
            seeds = [[self.settings.seed, 9, visits[k][0], mine[k].row] for k in new]
            rngs = [g for seed in seeds for g in np.random.default_rng(seed).spawn(many)]
            targets = [mine[k].target for k in new for _ in range(many)]
            readings = [own for k in new for own in [self.rows.own_readings_of(mine[k].target)] * many]
            lm = next(iter(mine[new[0]].readings.values())).lm
            found = propose(check_model(targets[0].models[lm]), targets, readings, rngs, [1.0] * len(targets))
            for place, k in enumerate(new):
                self._unguided[mine[k].row] = visits[k][0], found[place * many : (place + 1) * many]
        return [
            self._unguided[slot.row][1][each * visits[k][1] : each * (visits[k][1] + 1)]
            for k, slot in mine.items()
        ]

    def _kept_rows(self, rows: int) -> int:
        """How many slots of a step with so many rows no simulated pair takes."""
        return rows if self.simulator is None else rows - round(self.settings.simulated * rows)

    def drawn_rows(self, steps: int) -> set[int]:
        """The data rows that were drawn for in so many steps."""
        found: set[int] = set()
        for step in range(steps):
            rows = self.rows_of(step)
            found.update(rows[: self._kept_rows(len(rows))])
            if len(found) == len(self.numbers):
                break
        return found

    def _slots(self, step: int, slots: Sequence[int]) -> list[_Slot]:
        rows = self.rows_of(step)
        found = {k: _Slot(rows[k], self.rows.target(rows[k]), self.rows.readings(rows[k])) for k in slots}
        if self.simulator is None:
            return list(found.values())
        first = self._kept_rows(len(rows))
        for k, pair in self._pairs(step, tuple(k for k in slots if k >= first)).items():
            with in_row(pair.row):
                target = self.rows.program.bind_valid(pair.data)
                found[k] = _Slot(pair.row, target, self.rows.readings_of(target), dict(pair.values))
        return list(found.values())

    def _pairs(self, step: int, slots: tuple[int, ...]) -> dict[int, Pair]:
        """The simulated pair of each of these slots; one without a pair keeps its data row."""
        assert self.simulator is not None
        block = step // BLOCK
        if self._block is None or self._block[:2] != (block, slots):
            tags = [(s, k) for s in range(block * BLOCK, (block + 1) * BLOCK) for k in slots]
            rngs = [np.random.default_rng([self.settings.seed, 5, s, k]) for s, k in tags]
            order = {s: self.rows_of(s) for s, _ in tags}
            pairs = self.simulator.draw(rngs, [order[s][k] for s, k in tags])
            self._block = (block, slots, dict(zip(self.simulator.kept(tags), pairs, strict=True)))
        return {k: self._block[2][step, k] for k in slots if (step, k) in self._block[2]}

    def forget(self) -> None:
        """Simulate and draw ahead again from now on."""
        self._block = None
        self._unguided.clear()

    def _row(
        self, slot: _Slot, fresh: Sequence[dict[str, Value]], on_policy: int, old: Sequence[Entry]
    ) -> tuple[list[Walked], np.ndarray, np.ndarray, list[np.ndarray], list[Entry], np.ndarray]:
        target, names = slot.target, slot.target.names
        fresh = [*fresh, *([slot.exact] if slot.exact is not None else [])]
        kept = [target.drawn(e.ids) for e in old]
        columns = {n: [v[n] for v in fresh] for n in names}
        ends: list[np.ndarray] = []
        with in_row(slot.row):
            terms = target.terms(columns) if fresh else np.zeros((0, 1))
            log_reward = terms.sum(axis=1)
            if fresh and np.isneginf(log_reward).all():
                self._blame(slot.row, target, terms)
            if self.prefixes and fresh:
                block = target.log_reward_prefixes(columns)
                ends = [block[d, : len(v[names[0]].ids) + 1] for d, v in enumerate(fresh)]
        entries = self._entries(fresh, names, log_reward, ends)
        ends += [np.array(e.end_log_reward or ()) for e in old] if self.prefixes else []
        draws = walks(target, slot.readings, [*fresh, *kept])
        rewards = np.concatenate([log_reward, [e.log_reward for e in old]])
        flags = np.arange(len(draws)) < on_policy
        return draws, rewards, flags, ends, entries, np.arange(len(draws)) >= len(fresh)

    def _blame(self, row: int, target: Target, terms: np.ndarray) -> None:
        self.blamed[row] = target.statements[int(np.isneginf(terms).sum(axis=0).argmax())].label

    def blame(self, row: int, ids: Sequence[tuple[int, ...]]) -> None:
        """Say what rules out these values of the row's only latent, none of which has a reward."""
        target = self.rows.target(row)
        (name,) = target.names
        with in_row(row):
            self._blame(row, target, target.terms({name: [target.value_of(name, one) for one in ids]}))

    def _entries(
        self, values: Sequence[Mapping[str, Value]], names: Sequence[str], log_reward: np.ndarray,
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

    def scored(self, row: int, values: Sequence[Mapping[str, Value]], *, pinned: bool = False) -> list[Entry]:
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
        """What smc finds without a policy; nothing where all its particles die."""
        target = self.rows.target(row)
        smc = Smc()
        with in_row(row):
            try:
                draws = smc.sample(rng, smc.init(rng, target, None), self.seeds)
            except InferenceError as problem:
                if any(d.code not in ("PLM702", "PLM710") for d in problem.diagnostics):
                    raise
                return []
        alive = np.flatnonzero(np.isfinite(draws.log_weights))
        return self.scored(row, [{n: draws.values[n][d] for n in target.names} for d in alive])

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
            np.concatenate([p[5] for p in parts]) if parts else np.zeros(0, dtype=bool),
        )


def reward_temperature(settings: Resolved, share: float) -> float:
    """The temperature after this share of the balancing steps: linear down to 1, then 1."""
    start = settings.reward_temperature or 1.0
    if settings.anneal == 0 or share >= settings.anneal:
        return 1.0
    return start + (1.0 - start) * share / settings.anneal


def tensors_of(
    behaved: Behaved, device: torch.device, temperature: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """log reward / temperature (N,), slot (N,), and the same of the end points."""
    log_reward = torch.as_tensor(behaved.log_reward / temperature, dtype=torch.float64, device=device)
    slot = torch.as_tensor(behaved.slot, dtype=torch.int64, device=device)
    if behaved.end_log_reward is None:
        return log_reward, slot, None
    ends = torch.as_tensor(behaved.end_log_reward / temperature, dtype=torch.float64, device=device)
    return log_reward, slot, ends
