"""Whether a fit is on its way: its weights are compared with the best before them, by fresh draws.

What is known of a row's posterior are the heaviest values B of its replay buffer, each by its reward, and of the rest
N draws each of the frozen model q₀ and of the policy with either weights q₁ and q₂, which are together one sample of
the mean m of the three (Owen & Zhou 2000):

    log evidence ≈ log [ Σ_{z∈B} R(z) + 1/3N Σ_{z_i∉B} (R/m)(z_i) ]

The shares ū of these terms give KL(posterior‖q₁) − KL(posterior‖q₂) ≈ Σ ū log (q₂/q₁). Nothing trains on the draws, so what
a policy has left counts against it as soon as one of the three, or the buffer, has seen it: an ESS would not see
it, and a buffer alone would say of the policy that was trained on it that it is better.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from attrs import define, field, frozen
from torch import Tensor

from posterior_lm.infer.mixture import mixed
from posterior_lm.infer.weights import normalize
from posterior_lm.lm.hf.threads import threads
from posterior_lm.train.adapter import Adapter, drawing_model
from posterior_lm.train.gflownet_batch import Walked, propose, score_draws, walks
from posterior_lm.train.parallel import World
from posterior_lm.train.replay import Entry, Replay
from posterior_lm.train.rows import Rows, in_row

LOOKS = 6
"""Times that a fit looks, evenly spread over its training."""
WORSE = 0.1
"""Nats by which the weights have to be worse for the fit to go back, or the standard error of that where it is larger."""
LOOKING = 0.2
"""Share of a budget that may pass in looking."""
ROWS, DRAWS, FEWEST = 8, 128, 32
"""Rows that are looked at, and draws of each of the three for all of them together, the fewest where a budget is small;
of many programs each has fewer of both."""
HEAVY = 128
"""Values of the buffers of all these rows that are looked at."""
TELLING = 4.0
"""Effective draws with fewer of which nothing is said of a row, if they have half of it."""

Weights = Mapping[str, Tensor]
Gain = tuple[float, float]
"""By how many nats weights are nearer to the posteriors than others, and the standard error of that."""
FROZEN = -1
"""Stands for the frozen model where a policy is named by the number of steps before it."""


@frozen(eq=False)
class _Sample:
    """N draws of each row, one row after the other, as either reading walks them; their log rewards (rows, N), nats."""

    walked: Sequence[Walked]
    own: Sequence[Walked]
    ids: Sequence[tuple[tuple[int, ...], ...]]
    log_reward: np.ndarray


@define(eq=False)
class Judge:
    """Compares weights on these rows; each process looks at its share of them."""

    rows: Rows
    numbers: Sequence[int]
    seed: int
    world: World
    draws: int = DRAWS
    most: int = ROWS
    """Rows that are looked at."""
    _samples: dict[int, _Sample] = field(init=False, factory=dict)
    _log_prob: dict[tuple[int, int], np.ndarray] = field(init=False, factory=dict)
    """(rows, N) of the draws of the second under the first, nats. Of a policy that is compared again nothing is done twice."""

    def rise(
        self, adapter: Adapter, before: tuple[int, Weights], after: tuple[int, Weights], replay: Replay, columns: int
    ) -> tuple[float, float] | None:  # fmt: skip
        """By how many nats KL(posterior‖policy) is smaller `after` than `before`, mean over the rows, and its standard error.

        Both are named by a number, from which come their draws; passes have at most `columns` token columns, and the
        adapter then has other weights. None where no row tells. ±∞ where one cannot draw a part that the other can.
        """
        chosen = self.numbers[: self.most]
        mine = [chosen[k] for k in self.world.share(len(chosen))]
        each = max(2, self.draws // len(chosen))
        heavy = [
            sorted(replay.entries(row), key=lambda e: (-e.log_reward, e.ids))[: HEAVY // len(chosen)]
            for row in mine
        ]
        measured = self._measured(adapter, dict([before, after]), mine, each, heavy, columns)
        found = [risen(*one) for one in measured]
        rises = [one for one in found if one is not None]
        total, error, count = self.world.all_reduce(
            [sum(rise for rise, _ in rises), sum(error**2 for _, error in rises), len(rises)]
        )
        return (total / count, math.sqrt(error) / count) if count else None

    def forget(self) -> None:
        """Draw anew for weights that were looked at before."""
        self._samples.clear()
        self._log_prob.clear()

    def _measured(
        self, adapter: Adapter, policies: Mapping[int, Weights], mine: Sequence[int], each: int,
        heavy: Sequence[Sequence[Entry]], columns: int,
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:  # fmt: skip
        """What `risen` takes, of each row."""
        if not mine:
            return []
        names = (FROZEN, *policies)
        self._samples = {name: one for name, one in self._samples.items() if name in names}
        self._log_prob = {pair: one for pair, one in self._log_prob.items() if {*pair} <= {*names}}
        known = [self._walked(row, entries) for row, entries in zip(mine, heavy, strict=True)]
        ends = np.cumsum([len(some) for some in known])[:-1]
        of_known = {name: [np.zeros(0)] * len(mine) for name in policies}
        with torch.inference_mode(), threads(adapter.base._forward, None):
            for name in names:
                if name != FROZEN:
                    adapter.restore(policies[name])
                if name not in self._samples:
                    self._samples[name] = self._drawn(adapter, name, mine, each)
            for name in names:
                new = [of for of in names if (name, of) not in self._log_prob]
                if name == FROZEN:
                    model, draws = adapter.base, [d for of in new for d in self._samples[of].own]
                else:
                    adapter.restore(policies[name])
                    model, draws = (
                        drawing_model(adapter),
                        [d for of in new for d in self._samples[of].walked],
                    )
                    draws += [d for some in known for d in some]
                if not draws:
                    continue
                found = score_draws(model, draws, columns=columns).log_prob.cpu().numpy()
                drawn, rest = np.split(found, [len(new) * len(mine) * each])
                for of, block in zip(new, drawn.reshape(len(new), len(mine), each), strict=True):
                    self._log_prob[name, of] = block
                of_known[name] = np.split(rest, ends)
        out = []
        for k, entries in enumerate(heavy):
            values = {entry.ids for entry in entries}
            rewards = np.stack([self._samples[of].log_reward[k] for of in names])
            inside = [
                [ids in values for ids in self._samples[of].ids[k * each : (k + 1) * each]] for of in names
            ]
            log_prob = np.stack([[self._log_prob[name, of][k] for of in names] for name in names])
            exact = np.array([entry.log_reward for entry in entries])
            exact_log_prob = np.stack([of_known[name][k] for name in policies])
            out.append((np.where(inside, -np.inf, rewards), log_prob, exact, exact_log_prob))
        return out

    def _walked(self, row: int, entries: Sequence[Entry]) -> list[Walked]:
        target, readings = self.rows.target(row), self.rows.readings(row)
        with in_row(row):
            return walks(target, readings, [target.drawn(entry.ids) for entry in entries])

    def _drawn(self, adapter: Adapter, name: int, mine: Sequence[int], each: int) -> _Sample:
        """Draws of the frozen model, or of the policy as it stands."""
        targets = [self.rows.target(row) for row in mine]
        readings = [self.rows.readings(row) for row in mine]
        own = [self.rows.own_readings_of(target) for target in targets]
        model, reads = (adapter.base, own) if name == FROZEN else (drawing_model(adapter), readings)
        where = [k for k in range(len(mine)) for _ in range(each)]
        rngs = [g for row in mine for g in np.random.default_rng([self.seed, 11, name + 1, row]).spawn(each)]
        found = propose(
            model, [targets[k] for k in where], [reads[k] for k in where], rngs, [1.0] * len(where)
        )
        walked: list[Walked] = []
        frozen: list[Walked] = []
        rewards = []
        ids: list[tuple[tuple[int, ...], ...]] = []
        for k, row in enumerate(mine):
            values = found[k * each : (k + 1) * each]
            with in_row(row):
                rewards.append(targets[k].log_reward({n: [v[n] for v in values] for n in targets[k].names}))
                ids += [tuple(v[n].ids for n in targets[k].names) for v in values]
                walked += walks(targets[k], readings[k], values)
                frozen += walks(targets[k], own[k], values)
        return _Sample(walked, frozen, ids, np.stack(rewards))


def risen(
    log_reward: np.ndarray, log_prob: np.ndarray, exact: np.ndarray, exact_log_prob: np.ndarray
) -> tuple[float, float] | None:
    """Of one row KL(posterior‖q₁) − KL(posterior‖q₂) and its standard error, nats; None where it does not tell.

    `log_reward` (3, N) of N draws of q₀, q₁ and q₂, −∞ for those in B, `log_prob` (3, 3, N) under the three; `exact` (B,)
    log rewards, `exact_log_prob` (2, B) under q₁ and q₂. The error is by the delta method within the three strata.
    """
    count = log_reward.size
    log_u = log_reward - mixed(np.moveaxis(log_prob, 0, -1), np.full(len(log_prob), 1 / len(log_prob)))
    every = np.concatenate([log_u.ravel() - math.log(count), exact])
    if not np.isfinite(every).any():
        return None
    share = normalize(every)
    drawn = share[:count]
    if drawn.sum() > 0.5 and drawn.sum() ** 2 / np.sum(drawn**2) < TELLING:
        return None
    steps = np.concatenate([log_prob[1:].reshape(2, -1), exact_log_prob], axis=1)
    with np.errstate(invalid="ignore"):
        each = np.where(share > 0, steps[1] - steps[0], 0.0)
    rise = float(np.sum(share[share > 0] * each[share > 0]))
    if not math.isfinite(rise):
        return rise, 0.0
    spread = (drawn * (each[:count] - rise)).reshape(log_reward.shape).var(axis=1, ddof=1)
    return rise, math.sqrt(log_reward.shape[1] * float(spread.sum()))


class Looks:
    """The best weights of a fit so far, on the CPU, and the number of `steps` before them; by the rows of all its judges."""

    def __init__(self, adapter: Adapter, judges: Sequence[Judge]) -> None:
        self.adapter, self.judges = adapter, judges
        self.most = max(FEWEST, DRAWS // max(1, round(math.sqrt(len(judges)))))
        """Draws of a judge."""
        for judge in judges:
            judge.draws, judge.most = min(judge.draws, self.most), max(1, ROWS // len(judges))
        self.off = False
        """Whether no look is afforded, so that the weights at the end are taken."""
        self.weights: Weights = adapter.tensors()
        self.steps = 0
        self._looked = 0
        self._took = [0.0]
        """Seconds of each look, before them what one should take."""

    @property
    def seconds(self) -> float:
        """Of a look, by the last one."""
        return self._took[-1]

    def sized(self, each: float, seconds: float, *, needed: bool = True) -> None:
        """As many draws as a training of so many seconds has time for, where a draw of the policy and one of the frozen
        model, weighed, take `each`; a first look takes twice that, the others half as long. Looks that are not `needed`
        are switched off where one would take more than their share."""
        for judge in self.judges:
            judge.draws = int(min(self.most, max(FEWEST, LOOKING * seconds / (4 * max(each, 1e-9)))))
        self._took = [2 * each * max(judge.draws for judge in self.judges)]
        self.off = not needed and not self.steps and self.seconds > LOOKING * seconds
        if self.off:
            self._took = [0.0]

    def due(self, before: float, now: float, budget: float | None) -> bool:
        """Whether to look after a step between these shares of the training, of which `settled` looks at the end."""
        if math.floor(before * LOOKS) == math.floor(now * LOOKS) or now >= 1:
            return False
        return self.affords(budget)

    def affords(self, budget: float | None) -> bool:
        """Whether there is time to look, and once more at the end."""
        spent = self.off or (budget is not None and sum(self._took[1:]) + 2 * self.seconds > LOOKING * budget)
        return not self.judges[0].world.broadcast(spent)

    def foretold(self, budget: float | None) -> float:
        """Seconds of all looks by the first one, after which half of each is known."""
        found = self._took[-1] * (LOOKS + 1) / 2
        return found if budget is None else min(found, LOOKING * budget / 2)

    def risen(self, steps: int, replays: Sequence[Replay], columns: int) -> Gain | None:
        """How much nearer the weights of now are than the best, which they are from now on where that is positive."""
        began, now = time.monotonic(), self.adapter.tensors()
        best = (self.steps, self.weights)
        each = [
            judge.rise(self.adapter, best, (steps, now), replay, columns)
            for judge, replay in zip(self.judges, replays, strict=True)
        ]
        self.adapter.restore(now)
        self._took.append(time.monotonic() - began)
        self._looked = steps
        known = [one for one in each if one is not None]
        if not known:
            return None
        rise = sum(rise for rise, _ in known) / len(known)
        error = math.sqrt(sum(error**2 for _, error in known)) / len(known)
        if rise > 0:
            self.weights, self.steps = now, steps
        return rise, error

    def worse(self, gain: Gain | None) -> bool:
        """Whether weights that gained so much are worse than the best by more than chance, which the adapter then has."""
        if gain is None or gain[0] > -max(WORSE, gain[1]):
            return False
        self.adapter.restore(self.weights)
        return True

    def take(self, steps: int) -> None:
        """Let the weights of now, after so many steps, be the best ones."""
        self.weights, self.steps = self.adapter.tensors(), steps

    def settled(self, steps: int, replays: Sequence[Replay], columns: int) -> str:
        """Take the best of the weights, those of now among them; what to say of it, where that matters."""
        if self.off:
            return "the budget left no time to compare the policy with what it began as: only the certificate does"
        if (steps != self._looked and self.risen(steps, replays, columns) is None) or self.steps == steps:
            return ""
        self.adapter.restore(self.weights)
        if not self.steps:
            return "no step made the policy better than it began, so it is saved as it began"
        return (
            f"the weights after step {self.steps} are saved, which were better than those after step {steps}"
        )

    def tensors(self) -> dict[str, Tensor]:
        """The best weights, by name."""
        return {f"best.{k}": v for k, v in self.weights.items()}

    def restore(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Stand where `tensors` gave these, after so many steps; others are left alone."""
        self.weights = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
        self.steps = steps

    def forget(self) -> None:
        """Drop the draws of before."""
        for judge in self.judges:
            judge.forget()
