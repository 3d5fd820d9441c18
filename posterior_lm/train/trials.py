"""What a fit tries before it goes on: short trainings from the same weights, each of another source or at another rate.

A trial is a share of the training (`trial` of the settings). The weights that it ends with are compared with the best before
them, as on every look (`judge.py`). All trials are equally long, so that what they gain is compared per second, or per step
where steps are what is given.

- A fit with simulated or listed rows tries these and its rows' own draws, from the same start. Where the latter are better by
  more than the standard error, the former are left out.
- On a look within that stage by which the slice before it gained nothing measurable, the rows' own draws are tried again; where
  they gain more in a second than that slice, by more than the errors of both, the stage ends.
- A stage of the rows' own draws begins with a range test: three times the rate, and a third of it where that is not better.

The best trial is where the fit goes on, so it is no cost. Where a trial has fewer than `FEWEST` steps nothing more is tried.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Protocol

from attrs import evolve, frozen
from torch import Tensor
from torch.optim import AdamW

from posterior_lm.train.adapter import Adapter
from posterior_lm.train.checkpoint import optimizer_tensors, restore_optimizer
from posterior_lm.train.judge import Gain, Looks
from posterior_lm.train.settings import Resolved

FEWEST = 6
"""Steps of a trial; the first half of so many are its warm-up."""
FACTOR = 3.0
"""Between one rate and the next."""

Tensors = Mapping[str, Tensor]


@frozen
class Arm:
    """What is tried: steps of a `stage`, in balancing at the scheduled rate times `factor`."""

    stage: str
    factor: float = 1.0
    step: int = 0
    """Its steps so far."""

    @property
    def warm(self) -> float:
        """What the warm-up leaves of the rate."""
        return min(1.0, (self.step + 1) / (FEWEST / 2 + 1))


class Trained(Protocol):
    """What trials ask of a trainer."""

    settings: Resolved
    adapter: Adapter
    optimizer: AdamW
    names: list[str]
    steps_done: int
    budget: float | None
    lowered: float
    asleep: float
    returns: list[str]

    @property
    def sleeps(self) -> bool: ...

    def progress(self) -> float: ...

    def stage(self) -> str: ...

    def look(self) -> Gain | None: ...


class Trials:
    """The trials of one trainer, which asks before every step what is tried."""

    def __init__(self, trainer: Trained, looks: Looks) -> None:
        self.trainer, self.looks = trainer, looks
        self.ranged = False
        """Whether a rate has been looked for."""
        self._running: Iterator[Arm] | None = self._first() if trainer.sleeps else None
        self._memory: Tensors = {}
        """Of the optimiser, where the best weights were those of a trial."""

    @property
    def running(self) -> bool:
        return self._running is not None

    def due(self) -> Arm | None:
        """The arm of the next step; None where nothing is tried."""
        while True:
            if self._running is None and not self.ranged and self.trainer.stage() == "balance":
                self.ranged, self._running = True, self._rates()
            if self._running is None:
                return None
            if (arm := next(self._running, None)) is not None:
                return arm
            self._running = None

    def looked(self, gain: Gain | None, share: float) -> None:
        """After a slice of the first stage, this share of the training: try to leave it, if it gained nothing measurable."""
        if gain is not None and gain[0] <= gain[1] and self.trainer.stage() == "sleep":
            self._running = self._leaving(gain, share)

    def end(self) -> None:
        """Try nothing more for now, and go on from the weights as they are."""
        self._running = None

    # ------------------------------------------------------------- what is tried when

    def _first(self) -> Iterator[Arm]:
        start = self._start()
        if (yield from self._trial(Arm("sleep"), first=True)) is None:
            return
        self._back(*start)
        gain = yield from self._trial(Arm("balance"))
        self._best()
        if gain is not None and gain[0] > gain[1]:
            self._leave("were better to begin with")

    def _leaving(self, before: Gain, share: float) -> Iterator[Arm]:
        self._start()
        gain = yield from self._trial(Arm("balance"), first=True)
        self._best()
        if gain is not None and sooner(gain, self.trainer.settings.trial, before, share):
            self._leave("gained more in their time")

    def _leave(self, why: str) -> None:
        trainer = self.trainer
        trainer.asleep = trainer.progress()
        trainer.returns.append(
            f"after step {trainer.steps_done} the rows' own draws {why}, so simulated and listed rows were left"
        )

    def _rates(self) -> Iterator[Arm]:
        start, trainer = self._start(), self.trainer
        if (yield from self._trial(Arm("balance"), first=True)) is None:
            return
        for factor in (FACTOR, 1 / FACTOR):
            self._back(*start)
            gain = yield from self._trial(Arm("balance", factor))
            if gain is None or gain[0] > gain[1]:
                break
        self._best()
        if gain is not None and gain[0] > gain[1]:
            trainer.lowered /= factor
            rate = trainer.settings.balance_learning_rate
            trainer.returns.append(
                f"a rate of {factor * rate:.1g} on rows was better than {rate:.1g}, so it is the one"
            )

    # ------------------------------------------------------------- one trial

    def _trial(self, arm: Arm, *, first: bool = False) -> Generator[Arm, None, Gain | None]:
        """Its steps; what it gained over the best weights. None where that cannot be said.

        What the `first` of several leads to counts as the best, if it is not worse by more than chance.
        """
        trainer = self.trainer
        end = trainer.progress() + trainer.settings.trial
        while trainer.progress() < end:
            yield arm
            arm = evolve(arm, step=arm.step + 1)
        if arm.step < FEWEST or not self.looks.affords(trainer.budget):
            return None
        gain = trainer.look()
        if first and not self.looks.worse(gain):
            self.looks.take(trainer.steps_done)
        if self.looks.steps == trainer.steps_done:
            self._memory = optimizer_tensors(trainer.optimizer, trainer.names)
        return gain

    def _start(self) -> tuple[Tensors, Tensors]:
        trainer = self.trainer
        self._memory = optimizer_tensors(trainer.optimizer, trainer.names)
        return trainer.adapter.tensors(), self._memory

    def _back(self, weights: Tensors, memory: Tensors) -> None:
        self.trainer.adapter.restore(weights)
        restore_optimizer(self.trainer.optimizer, memory, self.trainer.names)

    def _best(self) -> None:
        if self.looks.steps != self.trainer.steps_done:
            self._back(self.looks.weights, self._memory)


def sooner(gain: Gain, share: float, other: Gain, of: float) -> bool:
    """Whether a gain in one share of the training is more than another one in its share, by more than the errors of both."""
    return (gain[0] - gain[1]) / share > (other[0] + other[1]) / of
