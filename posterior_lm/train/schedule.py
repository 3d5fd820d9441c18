"""How far a training is, which stage its next step belongs to, and at which rate: what a trainer is before it draws anything."""

from __future__ import annotations

import math

from posterior_lm.train.enumerated import EnumeratedRows
from posterior_lm.train.judge import Looks
from posterior_lm.train.parallel import World
from posterior_lm.train.settings import Resolved
from posterior_lm.train.sleep_phase import SleepPhase
from posterior_lm.train.trials import Arm

LOWER = 3.0
"""What the rate is divided by where the weights became worse."""


class Schedule:
    """The steps and seconds that are behind, and by them the stage and the rate of the next one."""

    def __init__(
        self, settings: Resolved, world: World, sleep_phase: SleepPhase | None, enumerated: EnumeratedRows | None,
        looks: Looks | None,
    ) -> None:  # fmt: skip
        self.settings, self.world, self.looks = settings, world, looks
        self.sleep_phase, self.enumerated = sleep_phase, enumerated
        self.steps_done = 0
        self.balanced = 0
        self.seconds = 0.0 if enumerated is None else float(world.broadcast(enumerated.seconds))
        self.budget = settings.budget
        """Seconds after which training ends."""
        self.lowered = 1.0
        """What the rate on rows is divided by."""
        self.asleep = settings.sleep if self.sleeps else 0.0
        """Share of the training after which its first stage ends."""
        self.returns: list[str] = []
        """What to say of where the training went back, and of what was tried."""
        self._costs: dict[tuple[str, bool], float] = {}

    def progress(self) -> float:
        """Share of the training that is behind, by steps or by the budget, whichever is further."""
        by_steps = self.steps_done / self.settings.steps
        by_time = self.seconds / self.budget if self.budget else 0.0
        return min(1.0, max(by_steps, by_time))

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or the next one and a last look would end after the budget by what such took."""
        if self.progress() >= 1.0:
            return True
        if self.budget is None or not self._costs:
            return False
        cost = self._costs.get(self._kind(self.stage()), max(self._costs.values()))
        last_look = 0.0 if self.looks is None else self.looks.seconds
        return self.seconds + cost + last_look > self.budget

    def _kind(self, stage: str) -> tuple[str, bool]:
        """The stage of the next step, and whether it has to simulate first."""
        phase = self.sleep_phase
        if stage == "balance" or phase is None:
            return stage, False
        return stage, not phase.ready(self.steps_done, tuple(self.world.share(phase.groups)))

    def stage_share(self) -> float:
        """Share of the stage of the next step that is behind."""
        return self.progress() / self.asleep if self.stage() == "sleep" else self._balanced_share()

    def stage(self) -> str:
        """Which stage the next step belongs to."""
        return "sleep" if self.progress() < self.asleep else "balance"

    @property
    def sleeps(self) -> bool:
        """Whether there is anything to show in a sleep phase."""
        return self.sleep_phase is not None or self.enumerated is not None

    def rate(self, stage: str, arm: Arm | None = None) -> float:
        """The learning rate: in each stage up during the warm-up, then down along a cosine; of what is tried by its factor."""
        s = self.settings
        high, share, step = s.balance_learning_rate / self.lowered, self._balanced_share(), self.balanced
        if stage == "sleep":
            high, share, step = s.learning_rate, self.progress() / s.sleep, self.steps_done
        warm = min(1.0, (step + 1) / (s.warmup + 1))
        if arm is not None:
            high, warm = high * arm.factor, arm.warm
        return high * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))

    def _balanced_share(self) -> float:
        return min(1.0, max(0.0, (self.progress() - self.asleep) / max(1e-9, 1.0 - self.asleep)))

    def fall_back(self, stage: str) -> None:
        """Go on from better weights than those that a stage has led to: in the first one to end it, in the second with a lower rate."""
        worse = f"after step {self.steps_done} the policy was worse than before, so the training went back"
        if stage == "sleep":
            self.asleep = self.progress()
            self.returns.append(f"{worse} and left the simulated and listed rows")
        else:
            self.lowered *= LOWER
            self.returns.append(f"{worse} and on with a third of the rate")
