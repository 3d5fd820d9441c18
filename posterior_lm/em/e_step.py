"""The E-step of a round: the guide is trained on the posterior of the program as its model now stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from attrs import evolve, frozen

from posterior_lm.em.rounds import Weighted, weighted
from posterior_lm.target.prepared import PreparedProgram
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.course import Course
from posterior_lm.train.guide import PolicyGuide
from posterior_lm.train.parallel import World
from posterior_lm.train.progress import Progress
from posterior_lm.train.rows import Inputs, Rows
from posterior_lm.train.settings import FitSettings
from posterior_lm.train.simulate import Simulator
from posterior_lm.train.sleep_phase import SleepPhase
from posterior_lm.train.trainer import Trainer

LOOKING = 0.3
"""Of an E-step's time for looking at what simulated rows are like."""


@frozen(eq=False)
class Stand:
    """The program bound to its rows with the model as it is in one round, and the guide's adapter."""

    program: PreparedProgram
    inputs: Inputs
    rows: Rows
    guide: Adapter

    def simulator(self, late: Callable[[], bool] | None = None) -> Simulator:
        """Simulated rows of the program as it stands. Looking at what they are like takes a while, and ends where it is `late`."""
        return Simulator(self.program, self.inputs.data, alike=True, late=late)

    def drawn(self, numbers: Sequence[int], n: int, seed: int) -> list[Weighted]:
        """n weighted draws of the guide for each row, with random numbers of the row's own.

        They are the same in every round, so that two rounds' bounds differ by less than two samples' do.
        """
        found = []
        for number in numbers:
            target = self.rows.target(number)
            rng = np.random.default_rng([seed, 11, number])
            found.append(weighted(target, PolicyGuide.of(target, self.guide), n, rng))
        return found


def e_step(
    stand: Stand, numbers: Sequence[int], settings: FitSettings, *, first: bool,
    tick: Callable[[Progress], None], stop: Callable[[], bool],
) -> bool:  # fmt: skip
    """Train the guide on these rows. Returns whether it was finished, not stopped.

    The first E-step is a whole fit: simulated pairs where the program can be simulated, then
    the rows. Later ones go on from a guide that is nearly right, on the rows alone.
    """
    sleep_phase = simulator = None
    course = Course()
    course.budget = settings.budget
    if first and settings.sleep != 0:
        simulator = stand.simulator(course.until(LOOKING))
        sleep_phase, _ = SleepPhase.of(stand.rows, numbers, simulator, settings.pairs, settings.seed)
    exact = sleep_phase is not None and simulator is not None and simulator.exact
    # A guide that is nearly right needs neither seeds from elsewhere nor a flattened reward.
    own = settings.resolved(exact=exact or not first).scaled(settings, stand.guide.scale)
    if not first:
        own = evolve(own, sleep=0.0, reward_temperature=1.0)
    if own.budget is not None:  # of which looking has taken a part
        own = evolve(own, budget=max(1.0, course.left))
    trainer = Trainer(stand.rows, numbers, stand.guide, own, sleep_phase, World(), simulator)
    for row, known in stand.inputs.known:
        trainer.replay = trainer.replay.add(row, trainer.balancer.scored(row, known, pinned=True))
    while not trainer.finished:
        tick(trainer.step())
        if stop() and not trainer.finished:
            return False
    return True
