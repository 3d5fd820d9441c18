"""A fit that is only forecast: its first phases as they are, three steps of each stage that are thrown away, a few timed draws.

Nothing is written, and the model is left as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import evolve, frozen

from posterior_lm.storage import plain
from posterior_lm.target.prepared import Data, PreparedProgram
from posterior_lm.train.course import BALANCE, CERTIFYING, LISTING, LOADING, LOOKING, SAVING, SLEEP, Course
from posterior_lm.train.forecast import SAVED, Plan, bytes_text, peak_memory
from posterior_lm.train.parallel import World
from posterior_lm.train.rows import read_inputs
from posterior_lm.train.settings import FitSettings
from posterior_lm.train.setup import Setup, setting_up

STEPS = 3
"""Steps of each stage that are measured."""


@frozen
class Phase:
    """What a phase of a fit will take: seconds, and the most memory, in bytes, that was seen by its end.

    A stage of training has `steps`; `measured` are the seconds of those that were tried.
    """

    name: str
    seconds: float
    memory: int | None
    steps: int | None = None
    measured: tuple[float, ...] = ()


@frozen
class Forecast:
    """The phases of a fit in their order. `budget` and the `certificate` that it leaves room for, where there is one."""

    program: str
    phases: tuple[Phase, ...]
    budget: float | None = None
    certificate: Plan | None = None
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Of the whole."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def memory(self) -> int | None:
        """The most of any phase, in bytes."""
        return max((p.memory for p in self.phases if p.memory is not None), default=None)

    @property
    def steps(self) -> int:
        """Training steps of the whole."""
        return sum(phase.steps or 0 for phase in self.phases)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        found: dict[str, Any] = plain(self)
        return {**found, "seconds": self.seconds, "memory": self.memory, "steps": self.steps}

    def lines(self) -> list[str]:
        """A table for people."""
        out = [f"{'phase':<24}{'seconds':>9}{'memory':>12}"]
        for phase in self.phases:
            each = ""
            if phase.steps is not None and phase.measured:
                each = f"  {phase.steps} steps of {phase.measured[-1]:.2f} s"
            out.append(f"{phase.name:<24}{phase.seconds:>9.1f}{bytes_text(phase.memory):>12}{each}")
        out.append(f"{'all':<24}{self.seconds:>9.1f}{bytes_text(self.memory):>12}")
        if self.budget is not None:
            c = self.certificate
            size = "no certificate"
            if c is not None:
                size = f"a certificate of {c.draws} draws, {c.rows} rows and {c.simulated} simulated ones"
            out.append(f"A budget of {self.budget:g} s holds {self.steps} steps and {size}.")
        return [*out, *self.notes]


def rehearse(
    program: PreparedProgram, rows: Sequence[Data], settings: FitSettings, *, given: Data | None = None,
    course: Course | None = None,
) -> Forecast:  # fmt: skip
    """What `fit` with the same arguments will take. Raises what it raises before its first step."""
    course = course or Course(watched=True)
    course.budget = settings.budget
    inputs = read_inputs(program, rows, settings, given)
    memory = {LOADING: peak_memory()}
    with setting_up(inputs, settings, World(), course) as setup:
        memory |= dict.fromkeys((LOOKING, LISTING), peak_memory())
        allotted = setup.allot(course, World())
        course.enter(SLEEP)
        before = [n for n in (LOADING, LOOKING, LISTING) if n in course.spent]
        phases = [Phase(n, course.spent[n], memory[n]) for n in before]
        looks, setup.trainer.looks = setup.trainer.looks, None
        sleep = _tried(setup, "sleep", course)
        course.enter(BALANCE)
        balance, looking = _tried(setup, "balance", course), 0.0
        if looks is not None:
            looks.risen(setup.trainer.steps_done, [setup.trainer.replay], setup.trainer.columns)
            looking = looks.foretold(settings.budget)
        stages = _stages(setup, sleep, balance, allotted.training - looking)
        whole = max(1e-9, sum(phase.seconds for phase in stages))
        phases += [evolve(phase, seconds=phase.seconds * (1 + looking / whole)) for phase in stages]
        plan = allotted.plan
        phases.append(Phase(CERTIFYING, 0.0 if plan is None else plan.seconds, peak_memory()))
        phases.append(Phase(SAVING, SAVED * (settings.budget or 0.0), None))
        return Forecast(program.graph.name, tuple(phases), settings.budget, plan, setup.notes)


def _tried(setup: Setup, stage: str, course: Course) -> tuple[float, ...]:
    """Seconds of some steps of a stage; none where the fit has no such stage."""
    trainer, share = setup.trainer, setup.settings.sleep if setup.trainer.sleeps else 0.0
    if share == (0.0 if stage == "sleep" else 1.0):
        return ()
    trainer.steps_done = 1  # the pairs of the first step were simulated while looking
    found = []
    for k in range(STEPS):
        before = trainer.seconds
        trainer.step(stage)
        found.append(trainer.seconds - before)
        course.move((k + 1) / STEPS, f"trying step {k + 1} of {STEPS}")
    return tuple(found)


def _stages(
    setup: Setup, sleep: tuple[float, ...], balance: tuple[float, ...], seconds: float
) -> list[Phase]:
    """The stages of training, each cut to its share of the seconds where these do not hold all of its steps."""
    settings = setup.settings
    share = settings.sleep if sleep else 0.0
    # The first step of balancing seeds the buffer; steps of the sleep phase simulate for each other.
    costs = (sum(sleep) / max(1, len(sleep)), sum(balance[1:]) / max(1, len(balance) - 1))
    extra = max(0.0, balance[0] - costs[1]) if balance else 0.0
    steps = [round(share * settings.steps), settings.steps - round(share * settings.steps)]
    if steps[0] * costs[0] + steps[1] * costs[1] + extra > seconds:
        rest = max(0.0, (1 - share) * seconds - extra)
        steps = [int(s / c) if c else 0 for s, c in ((share * seconds, costs[0]), (rest, costs[1]))]
    found = []
    memory = peak_memory()
    for name, many, cost, more, tried in (
        (SLEEP, steps[0], costs[0], 0.0, sleep), (BALANCE, steps[1], costs[1], extra, balance),
    ):  # fmt: skip
        if tried:
            found.append(Phase(name, many * cost + more, memory, many, tried))
    return found
