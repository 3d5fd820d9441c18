"""From a program and rows to a policy in a folder: checked, trained, certified, saved.

The folder holds, while training goes on, `metrics.jsonl` and `checkpoints/`; at the
end the files of a peft adapter and `manifest.json`, which make it a policy.

One policy answers every row, so its cost is shared by all of them; for a few rows, or little
time, importance sampling is done before a policy would be: `worth_training` says which.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from attrs import asdict, evolve, frozen

from posterior_lm.infer.auto import rather_than_a_policy
from posterior_lm.infer.methods import AUTO, OBJECTIVES
from posterior_lm.infer.request import Request
from posterior_lm.lang.diagnostics import DataError, InferenceError, ModelError, PlmError
from posterior_lm.shown import Shown
from posterior_lm.storage import Lock, folder_named
from posterior_lm.target.prepared import Data, PreparedProgram
from posterior_lm.train import checkpoint
from posterior_lm.train.adapter import check_model
from posterior_lm.train.certificate import PolicyReport
from posterior_lm.train.checkpoint import METRICS, load_same
from posterior_lm.train.course import CERTIFYING, SAVING, STAGES, Course
from posterior_lm.train.evaluate import certify
from posterior_lm.train.forecast import AGAIN, LEAST_DRAWS, SAVED, TIMING
from posterior_lm.train.guide import PolicyGuide, readings_of
from posterior_lm.train.parallel import World, join_world
from posterior_lm.train.policy import (
    MANIFEST,
    Manifest,
    data_digest,
    guide_digest,
    read_manifest,
    save_policy,
    template_digests,
)
from posterior_lm.train.progress import Interrupt, Progress, append_metrics, cut_metrics, line
from posterior_lm.train.rows import Inputs, read_inputs
from posterior_lm.train.settings import FitSettings, settings_of
from posterior_lm.train.setup import Allotment, Setup, setting_up
from posterior_lm.train.trainer import Trainer
from posterior_lm.train.turns import Turns


@frozen(eq=False)
class Fitted(Shown):
    """What came of a fit: where the policy lies, its manifest, and whether it was interrupted."""

    folder: Path
    manifest: Manifest
    interrupted: bool = False
    notes: tuple[str, ...] = ()
    """What was skipped, and why."""
    leads: bool = True
    """Whether this is the process that wrote the files; the others stay silent."""

    def __repr__(self) -> str:
        made = self.manifest
        said = []
        for one in made.programs or (made,):
            certificate = one.checked
            verdict = "Interrupted, and not certified." if certificate is None else certificate.verdict.words
            said.append(f"{one.name}: {verdict}" if made.programs else verdict)
        steps = f"{made.steps:,} step{'s' * (made.steps != 1)}"
        head = f"<Policy of {made.name} in {self.folder}: {steps} in {made.seconds:.0f} s>"
        return "\n".join([head, *said])


def fit(
    program: PreparedProgram,
    rows: Sequence[Data],
    out: str | Path,
    settings: FitSettings,
    *,
    given: Data | None = None,
    resume: bool = False,
    watch: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] | None = None,
    course: Course | None = None,
) -> Fitted:
    """Train a policy for the program on `rows`, certify it, and save it into `out`.

    `watch` is told of every step, `say` of what is skipped and why. `course` says from another thread
    too how far the whole is; it may have begun earlier, and the budget is counted from there.

    Raises DataError for rows that do not bind (PLM601–608), none at all (PLM628), a
    folder in use or holding a policy (PLM621) or that cannot be written (PLM612), and
    with `resume` for a checkpoint that is damaged (PLM622) or of another fit (PLM625), while nothing kept is a new
    beginning and a whole policy the end;
    InferenceError PLM623 or PLM624 for programs that cannot be amortised so, PLM626
    where a number is not finite, PLM628 for a budget that holds no step, PLM629 where no draw of any row has a reward. An interrupted fit leaves a
    checkpoint and the policy as it stands, uncertified.
    """
    course = course or Course()
    course.budget = settings.budget
    world = join_world()
    folder = folder_named(out)
    inputs = read_inputs(program, rows, settings, given)
    if is_whole(folder, resume):
        of = (inputs.program.graph.fingerprint, data_digest(inputs.data))
        return whole(folder, of, settings, world, say)
    if not world.is_main:
        return _fit(inputs, folder, settings, world, resume, course, None, None)
    with opened(folder, resume) as resume:
        return _fit(inputs, folder, settings, world, resume, course, watch, say)


def is_whole(folder: Path, resume: bool) -> bool:
    """Whether what is to be resumed has come to its end."""
    return resume and (folder / MANIFEST).exists() and not (folder / checkpoint.ROOM).exists()


@contextmanager
def opened(folder: Path, resume: bool) -> Iterator[bool]:
    """The folder of a fit, locked; gives whether there is something to go on from. Raises DataError PLM621.

    A fit that is refused before anything is kept leaves nothing: no measurements, and no folder that was not there.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with _locked(folder, resume) as resume:
            yield resume
    except BaseException:
        with suppress(OSError):
            for path in made:
                path.rmdir()
        raise


@contextmanager
def _locked(folder: Path, resume: bool) -> Iterator[bool]:
    with Lock(folder):
        checkpoint.clean(folder)
        resume = (
            resume and (folder / checkpoint.ROOM).exists()
        )  # of what was kept; else there is nothing but a beginning
        kept = {MANIFEST: "a policy", checkpoint.ROOM: "an unfinished fit"}
        checkpoint.check_unused(folder, resume, kept)
        try:
            yield resume
        except PlmError:
            if not any((folder / name).exists() for name in kept):
                (folder / METRICS).unlink(missing_ok=True)
            raise


def _fit(
    inputs: Inputs, folder: Path, settings: FitSettings, world: World, resume: bool, course: Course,
    watch: Callable[[Progress], None] | None, say: Callable[[str], None] | None,
) -> Fitted:  # fmt: skip
    tell = say or (lambda text: None)
    with setting_up(inputs, settings, world, course) as setup:
        trainer, adapter, settings = setup.trainer, setup.adapter, setup.settings
        identity = identity_of(inputs, settings, setup.lm)
        allotted = setup.allot(course, world)
        if world.broadcast(resume):
            go_on(trainer, folder, identity, tell, world)
        for note in setup.notes:
            tell(note)
        interrupted = train(trainer, folder, settings, identity, course, allotted.after, watch, world)
        certificate, left_out, found = None, "", []
        if not interrupted and not OBJECTIVES[settings.objective].peer:
            found = [*trainer.without_rewards(trainer.check_rewards(trainer.balanced)), trainer.settle()]
            for note in filter(None, found):
                tell(note)
        if not interrupted and world.is_main:
            certificate, left_out = certificate_of(setup, course, allotted)
            if left_out:
                tell(left_out)
        course.enter(SAVING)
        note = f"interrupted at step {trainer.steps_done}" if interrupted else ""
        manifest = Manifest.new(
            inputs.program, setup.lm, inputs.data,
            settings=settings.to_json(), seed=settings.seed, steps=trainer.steps_done,
            seconds=round(trainer.seconds, 3), certificate=certificate,
            own_contexts=adapter.reads == "own", outlined=adapter.reads == "outline",
            stop=adapter.stop, powered=adapter.powered,
            note="; ".join(n for n in (note, *setup.notes, *trainer.notes, *found, left_out) if n),
        )  # fmt: skip
        manifest, said = noted(manifest, setup)
        if said:
            tell(said)
        if world.is_main:
            manifest = save_policy(folder, adapter, manifest)
            if not interrupted:
                checkpoint.remove(folder)
        world.wait()
        return Fitted(folder, manifest, interrupted, tuple(setup.notes), world.is_main)


def whole(
    folder: Path, of: tuple[str, str], settings: FitSettings, world: World, say: Callable[[str], None] | None
) -> Fitted:
    """What a fit left that came to its end; `of` are the digests of program and rows. Raises DataError PLM625 where they differ."""
    manifest = read_manifest(folder)
    if (manifest.fingerprint, manifest.data, manifest.seed) != (*of, settings.seed):
        raise DataError.of(
            "PLM625",
            f"the policy in {folder} is of another fit: program, rows or seed differ",
            where=str(folder),
            help="resume with the same program, rows and settings, or begin anew in another folder",
        )
    if say is not None:
        say(f"nothing is left to do: {folder} holds the whole policy")
    return Fitted(folder, manifest, leads=world.is_main)


def certificate_of(
    setup: Setup, course: Course, allotted: Allotment
) -> tuple[Mapping[str, object] | None, str]:
    """The certificate as JSON values, None where there is no time for one; and what the budget left out.

    One that took much less time than foretold is measured again with more draws.
    """
    settings, numbers = setup.settings, setup.certified
    course.enter(CERTIFYING)
    whole = (settings.certify_draws, len(numbers), setup.shown)
    if course.budget is None:
        course.expect(allotted.after)
        report = _certified(setup, course, settings.certify_draws, len(numbers), settings.certify_rows)
        return report.to_json(), ""
    saving = SAVED * course.budget
    setup.late(course, saving)
    pace = allotted.pace
    if pace is None or pace.row(LEAST_DRAWS) < TIMING * (course.left - saving):
        pace = setup.pace_now(course.left - saving, pace)  # the policy may draw longer texts by now
    plan, before, kept, full = setup.planned(pace, course.left - saving), 0.0, None, False
    while plan is not None and plan.size >= AGAIN * before:
        course.expect(plan.seconds + saving)
        began = course.elapsed
        report = _certified(setup, course, plan.draws, plan.rows, plan.simulated)
        shown = 0 if report.simulated is None else report.simulated.rows
        made = evolve(plan, rows=len(report.rows), simulated=shown)
        if made.size > before:
            before, kept = made.size, report
        full = (plan.draws, made.rows, plan.simulated) == whole
        if full:
            break
        # A row that took longer than it was given time for has left out those behind it.
        pace = pace.scaled((course.elapsed - began) / pace.certificate(made.draws, made.rows, made.simulated))
        plan = setup.planned(pace, course.left - saving)
    if kept is None:
        return None, "the budget left no time to certify the policy"
    wanted = "{} draws, {} rows and {} simulated ones".format(*whole)
    return kept.to_json(), "" if full else f"the budget cut the certificate, which was to be of {wanted}"


def noted(manifest: Manifest, setup: Setup) -> tuple[Manifest, str]:
    """The manifest, where the prior is the better proposal with a note of that and of what to change; and that note."""
    if not manifest.is_prior:
        return manifest, ""
    changes, rate = ["more steps or a larger budget"], setup.settings.balance_learning_rate / 3
    if setup.settings.scope == "program":
        changes.append("`--for rows`, where these rows are all that it is for")
    changes.append(f"a lower rate (`--set balance_learning_rate={rate:.1g}`)")
    said = (
        f"after {manifest.steps} step{'s' * (manifest.steps != 1)} the policy is a worse proposal than the prior, so that is what draws with it: "
        f"try {'; or '.join(changes)}"
    )
    return evolve(manifest, note="; ".join(filter(None, [manifest.note, said]))), said


def _certified(setup: Setup, course: Course, draws: int, rows: int, simulated: int) -> PolicyReport:
    saving = None if course.budget is None else SAVED * course.budget
    return certify(
        setup.inputs.program, setup.inputs.data, setup.certified[:rows],
        lambda target: PolicyGuide.of(target, setup.adapter), simulator=setup.simulator, draws=draws,
        simulated=simulated, seed=setup.settings.seed, move=course.move,
        note="it is of the rows trained on" if setup.settings.scope == "rows" else "",
        left=None if saving is None else lambda: course.left - saving,
        held_out=setup.held_out, training=round(setup.trainer.seconds, 3),
    )  # fmt: skip


def train(
    trainer: Trainer | Turns, folder: Path, settings: FitSettings, identity: Mapping[str, object], course: Course,
    ahead: float, watch: Callable[[Progress], None] | None, world: World,
) -> bool:  # fmt: skip
    """Step until done. Returns whether it was interrupted; there is then a checkpoint of the last step.

    `ahead` are the seconds that come after the training.
    """
    path, saved = folder / METRICS, trainer.steps_done
    with Interrupt() as interrupt:
        while not world.broadcast(trainer.finished):
            course.enter(STAGES[trainer.stage()])
            progress = trainer.step()
            share = trainer.progress()
            course.expect(trainer.seconds * (1 - share) / share + ahead)
            course.move(
                trainer.stage_share() if STAGES[trainer.stage()] == course.phase else 1.0, line(progress)
            )
            if world.is_main:
                append_metrics(
                    path, progress.step, {k: v for k, v in asdict(progress).items() if k != "step"}
                )
                if watch is not None:
                    watch(progress)
            stop = world.all_reduce([float(interrupt.wanted)])[0] > 0
            if stop or (trainer.steps_done - saved >= settings.checkpoint_every and not trainer.trying):
                _save(trainer, folder, identity, world)
                saved = trainer.steps_done
            if stop:
                return not trainer.finished
    return False


def _save(trainer: Trainer | Turns, folder: Path, identity: Mapping[str, object], world: World) -> None:
    trainer.forget()
    # Every process keeps a buffer of its own; only the first one's is stored.
    if world.is_main:
        checkpoint.save(
            folder,
            step=trainer.steps_done,
            tensors=trainer.tensors(),
            arrays=trainer.arrays(),
            state={**trainer.state(), "fit": dict(identity)},
        )
    world.wait()


def go_on(
    trainer: Trainer | Turns,
    folder: Path,
    identity: Mapping[str, object],
    tell: Callable[[str], None],
    world: World,
) -> None:
    """Stand where the newest checkpoint was taken. Raises DataError PLM622, PLM625 for one of another fit."""
    found = load_same(folder, "fit", "fit", identity)
    try:
        alike = trainer.adapter.base.take_threads(found.state.get("threads", {}))
        trainer.restore(found.tensors, found.arrays, found.state)
    except (KeyError, ValueError) as problem:
        raise DataError.of(
            "PLM622", f"{found.path} is no checkpoint of this fit ({problem})", where=str(found.path)
        ) from None
    if world.is_main:
        cut_metrics(folder / METRICS, trainer.steps_done)
    tell(f"resumed at step {trainer.steps_done}")
    if not alike:
        tell("the number of threads is another than before, so the weights will differ by rounding")


def identity_of(inputs: Inputs, settings: FitSettings, lm: str) -> dict[str, object]:
    """What a checkpoint has to agree with, by name."""
    flat = {f"settings.{k}": v for k, v in settings.to_json().items()}
    return {
        "program": inputs.program.graph.fingerprint,
        "guide": guide_digest(inputs.program.graph),
        "model": inputs.program.models[lm].identity.digest,
        **({"templates": " ".join(found)} if (found := template_digests(inputs.program)) else {}),
        "rows": data_digest(inputs.data),
        "known latents": data_digest(
            [{str(r): [{n: v.text for n, v in d.items()} for d in vs]} for r, vs in inputs.known]
        ),
        **{k: v if not (isinstance(v, float) and math.isinf(v)) else None for k, v in flat.items()},
    }


# ------------------------------------------------------------------------------- whether auto trains first

FEWEST_ROWS = 32
"""Rows from which the cost of training is shared widely enough."""
LEAST_SECONDS = 120.0
"""A budget below this trains nothing that importance sampling would not outdo."""
SHARE = 0.6
"""Of the budget, for training; certifying and drawing have the rest."""


def worth_training(
    program: PreparedProgram, request: Request, rows: Sequence[Data], budget: float | None
) -> bool:
    """Whether auto trains first: many rows, time for it, no policy yet, and a posterior too large to list."""
    if request.of(program)[0] != AUTO or request.policy is not None:
        return False
    if budget is None or budget < LEAST_SECONDS or len(rows) < FEWEST_ROWS:
        return False
    if rather_than_a_policy(first := program.bind(rows[0])):
        return False
    try:
        for reading in readings_of(first).values():
            check_model(first.models[reading.lm])
    except (InferenceError, ModelError):
        return False
    return True


def trained(
    program: PreparedProgram, request: Request, rows: Sequence[Data], budget: float, folder: Path, *,
    seed: int, say: Callable[[str], None], course: Course | None = None,
) -> tuple[Path | None, float]:  # fmt: skip
    """The folder of a policy trained on the rows, below `folder`, and the seconds of the budget that are left.

    No folder where the time for it holds no step.
    """
    began = time.monotonic()
    say(
        f"auto: training a policy on the {len(rows)} rows for {SHARE * budget:.0f} s, since the budget allows it"
    )
    settings = settings_of({**request.fit_settings(program), "budget": SHARE * budget, "seed": seed})
    found = None
    try:
        found = fit(program, rows, folder, settings, say=say, course=course).folder
    except InferenceError as problem:
        if problem.diagnostics[0].code != "PLM628":
            raise
        say(f"auto: no policy is trained: {problem.diagnostics[0].message}")
    return found, max(1.0, budget - (time.monotonic() - began))
