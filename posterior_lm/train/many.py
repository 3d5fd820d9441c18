"""One policy for several programs: one adapter that is trained on them in turns and reads which one it is asked about.

What its guides read begins with an outline of the program (`lang/outline.py`), so that it can tell them apart, and can
be asked for a program that it has not seen. Each program is checked, trained and certified as by itself, in an equal share of the
steps or of the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from attrs import evolve, frozen

from posterior_lm.infer.methods import OBJECTIVES
from posterior_lm.lang.diagnostics import DataError
from posterior_lm.storage import folder_named
from posterior_lm.target.prepared import Data, PreparedProgram
from posterior_lm.train import checkpoint
from posterior_lm.train.adapter import Adapter, check_model
from posterior_lm.train.course import SAVING, Course
from posterior_lm.train.fit import (
    Fitted,
    certificate_of,
    go_on,
    identity_of,
    is_whole,
    noted,
    opened,
    train,
    whole,
)
from posterior_lm.train.parallel import World, join_world
from posterior_lm.train.policy import Manifest, digests_of, save_policy
from posterior_lm.train.progress import Progress
from posterior_lm.train.rows import Inputs, Rows, read_inputs
from posterior_lm.train.settings import FitSettings, wrong
from posterior_lm.train.setup import Allotment, Setup, adapter_of, setting_up
from posterior_lm.train.turns import Turns, in_program

STEPS = 300
"""Steps of each program where neither steps nor a budget are given."""


@frozen(eq=False)
class Asked:
    """A program and the rows that a policy is to draw for."""

    program: PreparedProgram
    rows: Sequence[Data]


def fit_many(
    programs: Mapping[str, Asked],
    out: str | Path,
    settings: FitSettings,
    *,
    resume: bool = False,
    watch: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] | None = None,
    course: Course | None = None,
) -> Fitted:
    """Train one policy for these programs, by name, certify it for each, and save it into `out`.

    `steps` and `budget` of the settings are of all programs together; the others hold for each. Raises what `fit`
    raises, with the name of the program, and DataError PLM625 where their guides read different models.
    """
    course = course or Course()
    course.budget = settings.budget
    world = join_world()
    folder = folder_named(out)
    if OBJECTIVES[settings.objective].peer:
        raise wrong(
            f"`{settings.objective}` trains on one program", "leave out the objective, or name one program"
        )
    parts = _checked(programs, settings)
    if is_whole(folder, resume):
        fingerprint, _, data = digests_of([one.manifest() for one in parts.values()])
        return whole(folder, (fingerprint, data), settings, world, say)
    if not world.is_main:
        return _fit(parts, folder, settings, world, resume, course, None, None)
    with opened(folder, resume) as resume:
        return _fit(parts, folder, settings, world, resume, course, watch, say)


@frozen(eq=False)
class _Part:
    """One of the programs: its name, what it is fitted on, and what of its settings is its own."""

    name: str
    inputs: Inputs
    lm: str
    settings: FitSettings

    def manifest(self, **more: object) -> Manifest:
        return evolve(Manifest.new(self.inputs.program, self.lm, self.inputs.data, **more), name=self.name)


def _checked(programs: Mapping[str, Asked], settings: FitSettings) -> dict[str, _Part]:
    """Every program over the adapted model of the first one, with rows that are checked."""
    steps = settings.steps
    if steps is not None and steps < len(programs):
        raise wrong(
            f"{steps} steps are fewer than the {len(programs)} programs",
            f"give at least --steps {len(programs)}",
        )
    found: dict[str, _Part] = {}
    for k, (name, asked) in enumerate(programs.items()):
        with in_program(name):
            own = steps and steps // len(programs) + (k < steps % len(programs))
            own = own or (None if settings.budget else STEPS)
            chosen = evolve(settings, steps=own, start=None)
            inputs = read_inputs(asked.program, asked.rows, chosen)
            lm = next(iter(Rows(inputs.program, inputs.data, "outline").readings(0).values())).lm
            model = check_model(inputs.program.models[lm])
            first = next(iter(found.values()), None)
            if first is not None:
                common = first.inputs.program.models[first.lm]
                if common.identity.digest != model.identity.digest:
                    raise DataError.of(
                        "PLM625",
                        f"the guides of `{name}` and of `{first.name}` read different models",
                        notes=[
                            f"`{part}` reads {one.name} ({one.digest[:12]})"
                            for part, one in ((first.name, common.identity), (name, model.identity))
                        ],
                        help="name the same model in all programs, or fit those of another by themselves",
                    )
                inputs = evolve(inputs, program=inputs.program.with_models({lm: common}))
            found[name] = _Part(name, inputs, lm, chosen)
    return found


def _fit(
    parts: Mapping[str, _Part], folder: Path, settings: FitSettings, world: World, resume: bool,
    course: Course, watch: Callable[[Progress], None] | None, say: Callable[[str], None] | None,
) -> Fitted:  # fmt: skip
    tell = say or (lambda text: None)
    first = next(iter(parts.values()))
    adapter, begun = adapter_of(first.inputs.program.models[first.lm], settings)
    adapter.reads = "outline"
    with ExitStack() as stack:
        stack.callback(adapter.close)
        setups = _set_up(stack, parts, adapter, world, course)
        notes = [begun] * bool(begun)
        for name, setup in setups.items():
            notes += [f"{name}: {note}" for note in setup.notes]
        allotted = _allot(setups, course, world)
        after = sum(one.after for one in allotted.values())
        for setup in setups.values():
            setup.late(course, after)  # by the clock of all, while they take turns
        turns = Turns({name: setup.trainer for name, setup in setups.items()})
        identity = {
            f"{name}.{k}": v for name, part in parts.items()
            for k, v in identity_of(part.inputs, setups[name].settings, part.lm).items()
        }  # fmt: skip
        if world.broadcast(resume):
            go_on(turns, folder, identity, tell, world)
        for note in notes:
            tell(note)
        interrupted = train(turns, folder, settings, identity, course, after, watch, world)
        if not interrupted and (kept := turns.settle()):
            notes.append(kept)
            tell(kept)
        manifests = []
        for k, (name, setup) in enumerate(setups.items()):
            own = course.part(name, 1 / (len(setups) - k))
            with in_program(name):
                certificate: Mapping[str, object] | None = None
                said: list[str] = []
                if not interrupted:
                    certificate, said = _certified(setup, own, allotted[name], world)
            for note in said:
                tell(f"{name}: {note}")
            trainer = setup.trainer
            one = parts[name].manifest(
                settings=setup.settings.to_json(), seed=settings.seed, steps=trainer.steps_done,
                seconds=round(trainer.seconds, 3), certificate=certificate,
                note="; ".join([*setup.notes, *trainer.notes, *said]),
            )  # fmt: skip
            manifest, note = noted(one, setup)
            manifests.append(manifest)
            if note:
                tell(f"{name}: {note}")
        course.enter(SAVING)
        manifest = Manifest.of_many(
            manifests, stop=adapter.stop, powered=adapter.powered, settings=settings.to_json(), seed=settings.seed, steps=turns.steps_done,
            seconds=round(turns.seconds, 3),
            note="; ".join([f"interrupted at step {turns.steps_done}"] * interrupted + notes),
        )  # fmt: skip
        if world.is_main:
            manifest = save_policy(folder, adapter, manifest)
            if not interrupted:
                checkpoint.remove(folder)
        world.wait()
        return Fitted(folder, manifest, interrupted, tuple(notes), world.is_main)


def _set_up(
    stack: ExitStack, parts: Mapping[str, _Part], adapter: Adapter, world: World, course: Course
) -> dict[str, Setup]:
    """What each program is trained with, in an equal share of the time that there is for it."""
    found = {}
    for k, (name, part) in enumerate(parts.items()):
        own = course.part(name, 1 / (len(parts) - k))
        with in_program(name):
            found[name] = stack.enter_context(setting_up(part.inputs, part.settings, world, own, adapter))
    return found


def _allot(setups: Mapping[str, Setup], course: Course, world: World) -> dict[str, Allotment]:
    """What is left of the budget, in equal shares, each between the training of a program and what follows it."""
    found = {}
    for name, setup in setups.items():
        with in_program(name):
            found[name] = setup.allot(course.part(name, 1 / len(setups)), world)
    return found


def _certified(
    setup: Setup, course: Course, allotted: Allotment, world: World
) -> tuple[Mapping[str, object] | None, list[str]]:
    """The certificate of one program as JSON values, and what to say of it."""
    trainer = setup.trainer
    said = trainer.without_rewards(trainer.check_rewards(trainer.balanced))
    if not world.is_main:
        return None, said
    certificate, left_out = certificate_of(setup, course, allotted)
    return certificate, said + [left_out] * bool(left_out)
