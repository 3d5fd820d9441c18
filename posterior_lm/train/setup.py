"""What a fit trains with, made before its first step: rows that are split, stages, an adapter; and its time, shared out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import evolve, fields, frozen

from posterior_lm.infer.auto import choose, rather_than_a_policy
from posterior_lm.infer.methods import AUTO, OBJECTIVES
from posterior_lm.lang.diagnostics import DataError
from posterior_lm.lm.protocol import LanguageModel
from posterior_lm.target.prepared import Data
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.beginning import begin
from posterior_lm.train.certificate import FEWEST
from posterior_lm.train.course import LISTING, LOOKING, PACING, Course
from posterior_lm.train.enumerated import MOST, EnumeratedRows
from posterior_lm.train.forecast import (
    CERTIFY,
    LEAST_DRAWS,
    SAVED,
    SLOW,
    TIMING,
    Pace,
    Plan,
    pace_of,
    planned,
    too_small,
)
from posterior_lm.train.guide import PolicyGuide, Reads
from posterior_lm.train.judge import Judge
from posterior_lm.train.parallel import World
from posterior_lm.train.policy import Manifest, begun_from, read_manifest, reads_of
from posterior_lm.train.rows import Inputs, Rows, split
from posterior_lm.train.settings import FitSettings, Resolved
from posterior_lm.train.simulate import Simulator
from posterior_lm.train.sleep_phase import SleepPhase
from posterior_lm.train.trainer import Trainer

LOOKED, LISTED = 0.15, 0.25
"""Shares of what is left of the budget that may pass in looking at simulations, and in scoring the rows of tables."""
SEEDED = 0.1
"""Share of the training's seconds that draws without a policy may take, for a policy of its rows."""
FULL, FEWEST_DRAWS = 60, 16
"""Steps that a budget should hold before a step has all of its draws, and the fewest of a step."""


@frozen
class Allotment:
    """The certificate that there is time for, the seconds of the training, and of all that follows it."""

    pace: Pace | None
    plan: Plan | None
    training: float
    after: float


@frozen(eq=False)
class Setup:
    """The trainer of a fit and what it was made from; `notes` say what is skipped, and why."""

    inputs: Inputs
    stated: FitSettings
    lm: str
    rows: Rows
    certified: tuple[int, ...]
    """The rows that the certificate is of."""
    held_out: bool
    """Whether none of these is trained on."""
    simulator: Simulator | None
    settings: Resolved
    adapter: Adapter
    trainer: Trainer
    notes: tuple[str, ...]

    @property
    def shown(self) -> int:
        """How many simulated rows the certificate should have."""
        many = self.settings.certify_rows
        return many if self.simulator is not None and self.simulator.exact and many >= FEWEST else 0

    def pace_now(self, left: float, before: Pace | None = None) -> Pace:
        """How fast the policy's draws are weighed as it stands; what the models remember of it is dropped."""
        target = self.inputs.program.bind_valid(self.inputs.data[self.certified[0]])
        pair = 0.0 if self.simulator is None else self.simulator.seconds
        pace = pace_of(target, PolicyGuide.of(target, self.adapter), pair, min(SLOW, TIMING * left), before)
        self.rows.forget()
        return pace

    def planned(self, pace: Pace, seconds: float) -> Plan | None:
        """The largest certificate that the settings ask for and this time holds."""
        draws, rows = self.settings.certify_draws, len(self.certified)
        return planned(pace, draws=draws, rows=rows, simulated=self.shown, seconds=seconds)

    def allot(self, course: Course, world: World) -> Allotment:
        """Share what is left of the budget between the training and what follows; without one, foretell the latter.

        Nothing is timed where nobody asks. Raises InferenceError PLM628 where not even one step fits.
        """
        budget, s = course.budget, self.settings
        if budget is None and not course.watched:
            return Allotment(None, None, math.inf, 0.0)
        plan, pace, step, least = None, None, 0.0, 0.0
        if world.is_main and course.left > 0:
            course.enter(PACING)
            pace = self.pace_now(course.left)
            together = min(s.rows, len(self.trainer.balancer.numbers))
            draws = together * (self.stated.draws or fewest_draws(together))
            step = pace.row(draws if s.scope == "rows" else max(s.pairs, s.rows * s.draws // 2))
            least = pace.certificate(LEAST_DRAWS, 1, 0)
            plan = self.planned(pace, max(CERTIFY * course.left, least))
        after = 0.0 if plan is None else plan.seconds
        if budget is None:
            return Allotment(pace, plan, math.inf, after)
        after += SAVED * budget
        spent = course.elapsed
        needed = spent + step + least + SAVED * budget
        needed, after, left = world.broadcast([needed, after, course.left])
        if needed > budget:
            raise too_small(budget, spent, needed)
        self.trainer.budget = self.trainer.seconds + left - after
        self.late(course, after)
        each = world.broadcast(0.0 if pace is None else pace.each)
        if self.trainer.looks is not None:
            # A policy that began as another one may have lost what no comparison with the prior shows.
            self.trainer.looks.sized(each, left - after, needed=s.start is not None)
        if s.scope == "rows":
            self._sized(each / 2, left - after)  # of the policy's draws or the prior's
        return Allotment(pace, plan, left - after, after)

    def late(self, course: Course, seconds: float) -> None:
        """Simulate no more once only so many seconds of the budget are left."""
        if self.simulator is not None:
            self.simulator.late = course.late_by(seconds)

    def _sized(self, each: float, seconds: float) -> None:
        """So many draws a step that there are enough steps, and so many without a policy as there is time for.

        `each` are the seconds of one draw, weighed; what a step does with it takes about as long again.
        """
        stated, balancer = self.stated, self.trainer.balancer
        if stated.draws is None:
            together = min(self.settings.rows, len(balancer.numbers))
            most = seconds / (FULL * 2 * max(each, 1e-9) * together)
            balancer.draws = int(min(self.settings.draws, max(fewest_draws(together), most)))
        if stated.seeds is None:
            most = SEEDED * seconds / (max(each, 1e-9) * len(balancer.numbers))
            balancer.seeds = int(min(self.settings.seeds, most))


def fewest_draws(rows: int) -> int:
    """The fewest draws of a row that a step of so many rows has, where nobody says how many."""
    return max(2, FEWEST_DRAWS // rows)


@contextmanager
def setting_up(
    inputs: Inputs, settings: FitSettings, world: World, course: Course, shared: Adapter | None = None
) -> Iterator[Setup]:
    """Everything before the first step, in the order of the phases; the adapter is taken off the model in the end.

    One that is `shared` with other programs is theirs too, and stays on it.
    """
    rows = Rows(inputs.program, inputs.data, _reads(settings) if shared is None else shared.reads)
    scope = settings.scope_of(len(rows))
    numbers, held_out = split(len(rows), settings.held_out if scope == "program" else 0, settings.seed)
    lm = next(iter(rows.readings(0).values())).lm
    entry = OBJECTIVES[settings.objective]
    notes: list[str] = []
    before: Manifest | Adapter | None = shared
    if shared is None and settings.start is not None:
        before = read_manifest(Path(settings.start))
    if before is not None:
        rows.stop, rows.powered = before.stop, before.powered
    apart = scope == "rows" and not entry.peer and rows.reads == "observed" and rows.told_apart()
    # What holds nearly all of the prior need not hold the posterior of the very rows that a policy is for.
    whole = scope == "rows" and not settings.listed
    if rows.stop is None:
        said = begin(rows, numbers, lm, settings.seed, course, choose=before is None and apart and whole)
        rows.stop, rows.powered, said = world.broadcast([rows.stop, rows.powered, said])
        notes += [said] if said else []
    rows.forget()
    sleeps = not entry.peer and settings.sleep != 0
    # A peer trains on no pairs, and its certificate may be asked for none.
    needless = entry.peer and settings.certify_rows == 0
    simulates = (scope == "program" and not needless) or bool(settings.sleep)
    if simulates:
        course.enter(LOOKING)
    # Several processes look at the same pairs, so that they agree; their clocks would not.
    if world.broadcast(course.left) <= 0:
        raise too_small(course.budget or 0.0, course.elapsed, course.elapsed)
    simulator, sleep_phase, why = None, None, ""
    if simulates:
        late = course.until(LOOKED) if world.size == 1 else None
        simulator = Simulator(inputs.program, inputs.data, alike=True, late=late)
    if sleeps and simulator is not None:
        sleep_phase, why = SleepPhase.of(rows, numbers, simulator, settings.pairs, settings.seed)
    enumerated = None
    if sleeps and settings.listed != 0:
        course.enter(LISTING)
        enumerated = _enumerated(rows, numbers, settings, course, world, whole)
    if apart and (enumerated is None or whole):
        rows.read_own()
    if enumerated is not None:
        count = len(enumerated.values)
        mass = f"{count} values hold {enumerated.mass:.1%} of the prior"
        held = f"all {count} values are listed" if whole else mass
        notes.append(f"{held}: rows are shown with them by their shares")
    if why:
        what = "the sleep phase is skipped" if enumerated is None else "nothing is simulated"
        notes.append(f"{what}: {why}")
    exact = sleep_phase is not None and simulator is not None and simulator.exact
    chosen = settings.resolved(
        exact=exact, listed=0 if enumerated is None else len(enumerated.numbers),
        rows=len(rows) if scope == "rows" else 0,
    )  # fmt: skip
    if settings.scope == "program" and inputs.program.graph.params and not entry.peer:
        others = (
            simulator is not None and simulator.observed and (sleep_phase is not None or chosen.simulated > 0)
        )
        notes += _alike(inputs.data, bool(others))
    if scope == "rows":
        notes.append(f"the policy is for {'this row' if len(rows) == 1 else f'these {len(rows)} rows'}")
    elif not held_out:
        some = f"of {len(rows)} row{'s' * (len(rows) != 1)} none is held out"
        notes.append(f"{some}: the certificate is of the rows trained on")
    if rather_than_a_policy(first := rows.target(numbers[0])):
        # The method's own reason, such as how few values there are.
        why = choose(first, AUTO)[1].partition(": ")[2]
        notes.append(f"`plm run` needs no policy here: {why}")
    adapter, begun = (shared, "") if shared is not None else adapter_of(inputs.program.models[lm], settings)
    chosen = evolve(chosen, rank=adapter.config.r).scaled(settings, adapter.scale)
    notes += [begun] if begun else []
    adapter.reads = rows.reads
    adapter.stop, adapter.powered = adapter.stop if rows.stop is None else rows.stop, rows.powered
    try:
        if entry.peer:
            trainer = entry.load()(inputs, rows, numbers, adapter, chosen, world)
        else:
            judge = Judge(rows, held_out or numbers, chosen.seed, world)
            trainer = Trainer(
                rows, numbers, adapter, chosen, sleep_phase, world, simulator, enumerated, judge
            )
            for row, values in inputs.known:
                trainer.replay = trainer.replay.add(row, trainer.balancer.scored(row, values, pinned=True))
        certified = tuple(held_out or numbers[: settings.held_out or 8])
        yield Setup(
            inputs,
            settings,
            lm,
            rows,
            certified,
            bool(held_out),
            simulator,
            chosen,
            adapter,
            trainer,
            tuple(notes),
        )
    finally:
        if shared is None:
            adapter.close()


def adapter_of(model: LanguageModel, settings: FitSettings) -> tuple[Adapter, str]:
    """What is trained, and what to say of where it began. Raises DataError PLM622, PLM625 for a policy that it cannot begin with."""
    if settings.start is None:
        s = settings
        return Adapter.new(model, rank=s.rank, alpha=s.alpha, targets=s.targets, seed=s.seed), ""
    adapter, before = begun_from(Path(settings.start), model)
    of = f"`{before.name}`, fingerprint {before.fingerprint[:12]}, of rank {adapter.config.r}"
    if settings.rank not in (adapter.config.r, fields(FitSettings).rank.default):
        of += f", which it keeps in place of {settings.rank}"
    return adapter, f"it began from a policy of {of}"


def _reads(settings: FitSettings) -> Reads:
    """What guides read to begin with: what those of a policy for many programs read, where it begins from one."""
    before = None if settings.start is None else reads_of(read_manifest(Path(settings.start)))
    return "outline" if before == "outline" else "observed"


def _alike(data: Sequence[Data], others: bool) -> list[str]:
    """What to say of rows that are all alike and stand for a program; DataError PLM628 where no `others` are simulated."""
    if any(row != data[0] for row in data):
        return []
    what = "there is one row" if len(data) == 1 else f"all {len(data)} rows are alike"
    if others:
        return [f"{what}: what the policy knows of others comes of simulated pairs alone"]
    raise DataError.of(
        "PLM628",
        f"{what} and nothing is simulated, so a policy for the program has no others to learn from",
        help="give rows that differ, or say `--for rows` for a policy of what is given",
    )


def _enumerated(
    rows: Rows, numbers: Sequence[int], settings: FitSettings, course: Course, world: World, whole: bool
) -> EnumeratedRows | None:
    """What lists the posteriors of rows; None where no short list holds the prior, or if it has to be the `whole` list, all values."""
    seconds = None if course.budget is None else LISTED * max(0.0, course.left)
    given = rows, numbers, settings.pairs, settings.seed, world, seconds
    if not whole:
        return EnumeratedRows.of(*given)
    return EnumeratedRows.whole(
        *given, most=min(MOST, settings.capacity or MOST)
    )  # a buffer has room for all of them
