"""The trainers of several programs as one: they share the adapter and its optimiser, and take turns.

The next step is one of the program that is least far, by its own steps and its own share of the budget, so that all
come to each part of their schedules together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from attrs import evolve
from torch import Tensor

from posterior_lm.lang.diagnostics import PlmError
from posterior_lm.train.judge import Looks
from posterior_lm.train.progress import Progress
from posterior_lm.train.replay import Replay
from posterior_lm.train.trainer import Trainer


@contextmanager
def in_program(name: str) -> Iterator[None]:
    """Errors inside the block say which of several programs they are about."""
    try:
        yield
    except PlmError as problem:
        note = f"in the program `{name}`"
        problem.diagnostics = tuple(evolve(d, notes=(*d.notes, note)) for d in problem.diagnostics)
        raise


class Turns:
    """As a `Trainer`, of the programs together."""

    def __init__(self, trainers: Mapping[str, Trainer]) -> None:
        self.trainers = dict(trainers)
        self.adapter = next(iter(trainers.values())).adapter
        self.looks = Looks(
            self.adapter, [judge for one in self._all if one.looks for judge in one.looks.judges]
        )
        for trainer in trainers.values():
            trainer.optimizer = self._all[0].optimizer
            trainer.looks = trainer.trials = None  # whose best weights would be of one program

    @property
    def _all(self) -> Sequence[Trainer]:
        return list(self.trainers.values())

    @property
    def _replays(self) -> Sequence[Replay]:
        return [one.replay for one in self._all]

    @property
    def budget(self) -> float | None:
        """Seconds of all of them together."""
        found = [one.budget for one in self._all]
        return None if None in found else sum(map(float, found))  # type: ignore[arg-type]

    @property
    def _next(self) -> str:
        left = {name: one for name, one in self.trainers.items() if not one.finished} or self.trainers
        return min(left, key=lambda name: left[name].progress())

    @property
    def steps_done(self) -> int:
        return sum(one.steps_done for one in self._all)

    @property
    def seconds(self) -> float:
        return sum(one.seconds for one in self._all)

    @property
    def finished(self) -> bool:
        return all(one.finished for one in self._all)

    @property
    def trying(self) -> bool:
        return any(one.trying for one in self._all)

    def progress(self) -> float:
        """Share of the training that is behind."""
        return float(np.mean([one.progress() for one in self._all]))

    def stage(self) -> str:
        """Which stage the next step belongs to."""
        return self.trainers[self._next].stage()

    def stage_share(self) -> float:
        """Share of the stage of the next step that is behind, of its program."""
        return self.trainers[self._next].stage_share()

    def step(self) -> Progress:
        """A step of the program whose turn it is."""
        name = self._next
        trainer = self.trainers[name]
        trainer.pause()
        before = self.progress()
        with in_program(name):
            found = trainer.step()
        if self.looks.due(before, self.progress(), self.budget):
            if self.looks.worse(self.looks.risen(self.steps_done, self._replays, trainer.columns)):
                for one in self._all:
                    one.fall_back(one.stage())
            trainer.seconds += trainer.world.broadcast(self.looks.seconds)
        return evolve(found, step=self.steps_done, seconds=self.seconds, done=self.progress())

    def settle(self) -> str:
        """Take the best of the weights that were looked at, by all programs; what to say of it, where that matters."""
        return self.looks.settled(self.steps_done, self._replays, self._all[0].columns)

    # ------------------------------------------------------------- the state

    def tensors(self) -> dict[str, Tensor]:
        """Adapter and optimiser once, and the log evidences of each program."""
        found = {k: v for k, v in self._all[0].tensors().items() if k != "log_z"}
        found |= self.looks.tensors()
        return found | {f"log_z.{k}": one.tensors()["log_z"] for k, one in enumerate(self._all)}

    def arrays(self) -> dict[str, np.ndarray]:
        """The buffers, by the number of the program and by name."""
        return {f"{k}.{n}": v for k, one in enumerate(self._all) for n, v in one.arrays().items()}

    def state(self) -> dict[str, object]:
        return {
            "programs": [one.state() for one in self._all], "best": self.looks.steps,
            "threads": self.adapter.base.threads,
        }  # fmt: skip

    def restore(
        self, tensors: Mapping[str, Tensor], arrays: Mapping[str, np.ndarray], state: Mapping[str, object]
    ) -> None:
        """Stand where these were taken. ValueError where they do not fit."""
        common = {k: v for k, v in tensors.items() if not k.startswith("log_z.")}
        for k, (one, known) in enumerate(zip(self._all, state["programs"], strict=True)):  # type: ignore[call-overload]
            own = {n.removeprefix(f"{k}."): v for n, v in arrays.items() if n.startswith(f"{k}.")}
            one.restore({**common, "log_z": tensors[f"log_z.{k}"]}, own, known)
        self.looks.restore(tensors, int(str(state["best"])))

    def forget(self) -> None:
        """Drop what is remembered, so that a resumed fit and this one go on alike."""
        for one in self._all:
            one.forget()
        self.looks.forget()
