"""Rows whose posterior is all but known: those of a prior that nearly always says one of a few texts.

Where the only latent's prior is the same in every row, and L listed values hold nearly all of it,

    p(z | y) ≈ p(z) p(y | z) / Σ_{z' listed} p(z') p(y | z'),

with every term of the program in place of p(z) p(y | z). So the rows themselves can be
fitted by maximum likelihood, with their whole posterior at once and not a draw of it: the
wake phase of reweighted wake-sleep (Bornschein & Bengio 2015) without its sampling. What the list
leaves out is made up for while balancing, and by the weights of every answer.

A latent of a short finite type has a list that leaves out nothing, whatever its prior is: a policy for
its rows is shown that.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import field, frozen

from posterior_lm.infer.drawing import contexts_of
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.infer.schedule import prior_of
from posterior_lm.infer.weights import log_shares, normalize
from posterior_lm.lang.diagnostics import PlmError
from posterior_lm.target.target import Target
from posterior_lm.target.values import Value
from posterior_lm.train.gflownet_batch import Walked, walks
from posterior_lm.train.guide import Reading
from posterior_lm.train.parallel import World
from posterior_lm.train.replay import Entry, Replay
from posterior_lm.train.rows import Data, Rows, in_row
from posterior_lm.train.sleep_phase import WeightedBatch, in_turn

GLANCE, LOOK, DRAWS = 64, 256, 2048
"""Draws of the prior that show that no list is worth the trouble, that one is, and that it is made of."""

SHOWN = 64
"""Rows whose priors are compared."""

MOST = 256
"""Values of a list: each is scored on every row."""

MASS = 0.9
"""Share of the prior that a list must hold."""

TRAINED = 512
"""Rows that are listed at most."""

SCORED = 300
"""Log rewards that lists may take, as a multiple of the pairs of a step: no more than training itself."""

EACH = 5
"""Pairs of a simulated step for each row of a listed one: a row has so many likely values or more."""

LEAST = 1e-4
"""Values with a smaller share of a row's posterior are left out, if the list leaves out others, too."""

TIMED = 8
"""Values of a whole list that are scored to see what all of them would take."""

SEEN = 0.01
"""Values that are likelier than this are shown whenever their row is; of the others one stands for all."""


@frozen(eq=False)
class EnumeratedRows:
    """The values of a list, token ids of the only latent, and the share of the prior that they hold."""

    rows: Rows
    numbers: tuple[int, ...]
    """The rows that are listed."""
    values: tuple[tuple[int, ...], ...]
    mass: float
    groups: int
    """Rows of a step."""
    seed: int
    cells: ExchangeableRows | None = None
    """The rows of their tables, where the program is a plate."""
    seconds: float = 0.0
    """What making it took: a fit counts them as its own."""
    seen: float = SEEN
    """Share of a row's posterior from which on a value is shown whenever its row is."""

    @property
    def complete(self) -> bool:
        """Whether the list leaves nothing out."""
        return self.mass == 1.0

    @classmethod
    def whole(
        cls, rows: Rows, numbers: Sequence[int], pairs: int, seed: int, world: World | None = None,
        seconds: float | None = None, most: int = MOST,
    ) -> EnumeratedRows | None:  # fmt: skip
        """Every value of the only latent, where it is of a finite type of at most `most` values, the same ones in every row.

        None too where scoring them on every row would take more than so many `seconds`.
        """
        target = rows.target(numbers[0])
        values = _finite(target, most)
        if values is None or target.latents[0].name not in rows.readings(numbers[0]):
            return None
        if any(_finite(rows.target(n), most) != values for n in numbers[1:]):
            return None
        world = world or World()
        began, name = time.monotonic(), target.latents[0].name
        if seconds is not None:
            target.log_reward({name: [target.value_of(name, ids) for ids in values[:TIMED]]})
        foretold = (time.monotonic() - began) * max(1.0, len(values) / TIMED) * len(numbers)
        if world.broadcast(seconds is not None and foretold > seconds):
            return None
        groups = min(len(numbers), max(1, 2 * pairs // len(values)))
        return cls(rows, tuple(numbers), values, 1.0, groups, seed, seen=0.0)

    @classmethod
    def of(
        cls, rows: Rows, numbers: Sequence[int], pairs: int, seed: int, world: World | None = None,
        seconds: float | None = None,
    ) -> EnumeratedRows | None:  # fmt: skip
        """A list that serves these rows; None where no short one does, or none is made in so many `seconds`.

        That is also how long the rows of tables may be scored before that is given up.
        """
        began = time.monotonic()
        target = rows.target(numbers[0])
        if len(target.latents) != 1 or target.latents[0].name not in rows.readings(numbers[0]):
            return None
        info = target.latents[0]
        prior = prior_of(target, info.name)
        if (
            prior.lm is None
            or prior.exponent * prior.parts[0].exponent < 1
            or hasattr(info.support, "ids_of")
        ):
            return None
        first = _reads(target)
        if any(_reads(rows.target(n)) != first for n in numbers[:SHOWN]):
            return None
        world = world or World()
        guide, rng = PriorGuide(target), np.random.default_rng([seed, 8])
        if len(set(_drawn(guide, np.random.default_rng([seed, 12]), GLANCE))) > GLANCE * 7 // 8:
            return None
        looking = time.monotonic()
        if len(set(_drawn(guide, rng, LOOK))) > LOOK // 2:
            return None
        foretold = (time.monotonic() - looking) * DRAWS / LOOK
        if world.broadcast(seconds is not None and foretold > seconds):
            return None
        drawn = _drawn(guide, rng, DRAWS)
        values = tuple(ids for ids, _ in Counter(drawn).most_common(MOST))
        column = {info.name: [target.value_of(info.name, ids) for ids in values]}
        mass = float(np.exp(np.logaddexp.reduce(guide.log_prob(column))))
        if mass < MASS:
            return None
        most = SCORED * pairs
        order = np.random.default_rng([seed, 9]).permutation(len(numbers))
        kept = tuple(numbers[int(k)] for k in order[: max(1, min(TRAINED, most // len(values)))])
        cells = ExchangeableRows.of(rows, kept, values, world, most=most, seconds=seconds)
        groups = min(len(kept), max(1, pairs // EACH))
        return cls(rows, kept, values, mass, groups, seed, cells, time.monotonic() - began)

    def step_rows(self, step: int) -> list[int]:
        """The rows of a step: each row once in every pass over them, in a new order each time."""
        return in_turn(self.numbers, step * self.groups, self.groups, [self.seed, 10])

    def learn(
        self, step: int, slots: Sequence[int], replay: Replay, world: World,
        scored: Callable[[int, Sequence[dict[str, Value]]], list[Entry]],
    ) -> Replay:  # fmt: skip
        """The buffer with the listed values of the step's rows, each row scored once and by one process."""
        if self.cells is not None:
            return replay
        rows = self.step_rows(step)
        new = sorted({rows[slot] for slot in slots if not _listed(replay, rows[slot])})
        found: list[list[Any]] = []
        for row in new:
            room = replay.capacity - len(replay.entries(row))
            entries = scored(row, self._likely(row)[: max(0, room)])
            found.append([row, [[e.ids, e.log_reward, e.end_log_reward] for e in entries]])
        for part in world.gather(found):
            for row, entries in part:
                replay = replay.add(
                    row,
                    [
                        Entry(tuple(map(tuple, ids)), log_reward, None if ends is None else tuple(ends))
                        for ids, log_reward, ends in entries
                    ],
                )
        return replay

    def _likely(self, row: int) -> list[dict[str, Value]]:
        """The values of the list that the row leaves likely, the likeliest first."""
        target = self.rows.target(row)
        name = target.latents[0].name
        values = [target.value_of(name, ids) for ids in self.values]
        with in_row(row):
            log_reward = target.log_reward({name: values})
        least = (
            float(np.logaddexp.reduce(log_reward)) + float(np.log(LEAST)) if not self.complete else -np.inf
        )
        order = np.argsort(-log_reward, kind="stable")
        return [{name: values[int(k)]} for k in order if log_reward[k] > least]

    def batch(self, step: int, slots: Sequence[int], replay: Replay) -> WeightedBatch:
        """What the buffer holds of the step's rows, or tables made of theirs, by its shares of the posterior."""
        rows = self.step_rows(step)
        draws: list[Walked] = []
        weights: list[float] = []
        shown = 0
        for slot in slots:
            rng = np.random.default_rng([self.seed, 11, step, slot])
            shared = self._exchanged(rows[slot], rng) or self._row(rows[slot], replay, rng)
            for draw, weight in shared:
                draws.append(draw)
                weights.append(weight)
            shown += bool(shared)
        return WeightedBatch(tuple(draws), np.array(weights), shown, 1.0)

    def _row(self, row: int, replay: Replay, rng: np.random.Generator) -> list[tuple[Walked, float]]:
        target, entries = self.rows.target(row), replay.entries(row)
        name, readings = target.latents[0].name, self.rows.readings(row)
        values = [target.value_of(name, entry.ids[0]) for entry in entries]
        log_reward = np.array([entry.log_reward for entry in entries])
        found = shares(log_reward, rng, self.seen) if entries else []
        return _weighed(target, readings, name, [(values[k], weight) for k, weight in found])

    def _exchanged(self, row: int, rng: np.random.Generator) -> list[tuple[Walked, float]]:
        if self.cells is None:
            return []
        cells = self.cells.drawn(row, rng)
        log_reward = self.cells.log_reward(cells)
        if not np.isfinite(log_reward).any():
            return []
        with in_row(row):
            target = self.rows.reader(row, self.cells.data(cells))
            readings, name = self.rows.readings_of(target), target.latents[0].name
            found = shares(log_reward, rng)
            return _weighed(
                target,
                readings,
                name,
                [(target.value_of(name, self.values[k]), weight) for k, weight in found],
            )


def _weighed(
    target: Target, readings: Mapping[str, Reading], name: str, values: Sequence[tuple[Value, float]]
) -> list[tuple[Walked, float]]:
    paths = walks(target, readings, [{name: value} for value, _ in values])
    return [(path, weight) for path, (_, weight) in zip(paths, values, strict=True)]


def _finite(target: Target, most: int) -> tuple[tuple[int, ...], ...] | None:
    """The token ids of every value of the only latent, where there is one and they are few."""
    if len(target.latents) != 1:
        return None
    support = target.latents[0].support
    if not hasattr(support, "ids_of") or support.count_values(most) is None:
        return None
    return tuple(map(tuple, support.values()))


def _listed(replay: Replay, row: int) -> bool:
    """Whether the buffer has more of the row than what the user knew."""
    return any(not entry.pinned for entry in replay.entries(row))


def shares(log_reward: np.ndarray, rng: np.random.Generator, seen: float = SEEN) -> list[tuple[int, float]]:
    """Places and weights, which sum to 1, of values with these log rewards (N,), nats.

    Values with a share of at least `seen` have it themselves. One of the others, drawn by its share, has that of
    all of them, so the mean of any function of a value is unbiased.
    """
    share = normalize(log_reward)
    rare = np.flatnonzero(share < seen)
    found = [(int(k), float(share[k])) for k in np.flatnonzero(share >= seen)]
    rest = float(share[rare].sum())
    if rest > 0:
        found.append((int(rng.choice(rare, p=share[rare] / rest)), rest))
    return found


def _drawn(guide: PriorGuide, rng: np.random.Generator, n: int) -> list[tuple[int, ...]]:
    (column,) = guide.sample(rng, n).values.values()
    return [value.ids for value in column]


def _reads(target: Target) -> tuple[int, tuple[int, ...]]:
    """The support and the context of the only latent's prior."""
    info = target.latents[0]
    prior = prior_of(target, info.name)
    assert prior.lm is not None
    context = contexts_of(target, prior.lm, target.evaluator.plan(prior.score).context, {}, 1)[0][0]
    return id(info.support), context


# ------------------------------------------------------------------------------- tables put together anew

CLOSE = 1e-3
"""Nats by which a sum may differ from the log reward of the whole: rounding of float32."""

TRIED = 4
"""Tables on which it is tried that their log reward is a sum."""

EXCHANGED = 0.75
"""Share of the tables that are made anew."""


@frozen(eq=False)
class ExchangeableRows:
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
    ) -> ExchangeableRows | None:  # fmt: skip
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
    return log_shares(log_reward)
