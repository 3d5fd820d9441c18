"""From a program and rows to a policy in a folder: checked, trained, certified, saved.

The folder holds, while training goes on, `metrics.jsonl` and `checkpoints/`; at the
end the files of a peft adapter and `manifest.json`, which make it a policy.

One policy answers every row, so its cost is shared by all of them; for a few rows, or little
time, importance sampling is done before a policy would be: `worth_training` says which.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from attrs import asdict, frozen

from posterior_lm.infer.auto import rather_than_a_policy
from posterior_lm.infer.methods import AUTO, OBJECTIVES
from posterior_lm.infer.request import Request
from posterior_lm.lang.diagnostics import DataError, InferenceError, ModelError
from posterior_lm.storage import Lock, folder_named
from posterior_lm.target.prepared import Data, PreparedProgram
from posterior_lm.train import checkpoint
from posterior_lm.train.adapter import Adapter, check_model
from posterior_lm.train.checkpoint import METRICS, load_same
from posterior_lm.train.enumerated import EnumeratedRows
from posterior_lm.train.evaluate import certify
from posterior_lm.train.guide import PolicyGuide, readings_of
from posterior_lm.train.parallel import World, join_world
from posterior_lm.train.policy import (
    MANIFEST,
    Manifest,
    data_digest,
    guide_digest,
    save_policy,
    template_digests,
)
from posterior_lm.train.progress import Interrupt, Progress, append_metrics, cut_metrics
from posterior_lm.train.rows import Inputs, Rows, read_inputs, split
from posterior_lm.train.settings import FitSettings, settings_of
from posterior_lm.train.simulate import Simulator
from posterior_lm.train.sleep_phase import SleepPhase
from posterior_lm.train.trainer import Trainer

LISTING = 0.25
"""Share of the budget that may pass before the first step, in scoring the rows of tables."""


@frozen(eq=False)
class Fitted:
    """What came of a fit: where the policy lies, its manifest, and whether it was interrupted."""

    folder: Path
    manifest: Manifest
    interrupted: bool = False
    notes: tuple[str, ...] = ()
    """What was skipped, and why."""
    leads: bool = True
    """Whether this is the process that wrote the files; the others stay silent."""


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
) -> Fitted:
    """Train a policy for the program on `rows`, certify it, and save it into `out`.

    Raises DataError for rows that do not bind (PLM601–608), none at all (PLM628), a
    folder in use or holding a policy (PLM621) or that cannot be written (PLM612), and
    with `resume` for a checkpoint that is damaged (PLM622) or of another fit (PLM625);
    InferenceError PLM623 or PLM624 for programs that cannot be amortised so, PLM626
    where a number is not finite. An interrupted fit leaves a checkpoint and the
    policy as it stands, uncertified.
    """
    world = join_world()
    folder = folder_named(out)
    inputs = read_inputs(program, rows, settings, given)
    if not world.is_main:
        return _fit(inputs, folder, settings, world, resume, None, None)
    with Lock(folder):
        checkpoint.clean(folder)
        checkpoint.check_unused(folder, resume, {MANIFEST: "a policy", checkpoint.ROOM: "an unfinished fit"})
        return _fit(inputs, folder, settings, world, resume, watch, say)


def _fit(
    inputs: Inputs, folder: Path, settings: FitSettings, world: World, resume: bool,
    watch: Callable[[Progress], None] | None, say: Callable[[str], None] | None,
) -> Fitted:  # fmt: skip
    tell = say or (lambda text: None)
    program = inputs.program
    rows = Rows(program, inputs.data)
    numbers, held_out = split(len(rows), settings.held_out, settings.seed)
    lm = next(iter(rows.readings(0).values())).lm
    simulator = Simulator(program, inputs.data, alike=True)
    notes: list[str] = []
    entry = OBJECTIVES[settings.objective]
    peer = entry.peer
    enumerated = None if peer else _enumerated(rows, numbers, settings, notes, world)
    sleep_phase = None
    if not peer and settings.sleep != 0:
        sleep_phase, why = SleepPhase.of(rows, numbers, simulator, settings.pairs, settings.seed)
        if sleep_phase is None:
            what = "the sleep phase is skipped" if enumerated is None else "nothing is simulated"
            notes.append(f"{what}: {why}")
    exact = sleep_phase is not None and simulator.exact
    settings = settings.resolved(exact=exact, listed=0 if enumerated is None else len(enumerated.numbers))
    if not held_out:
        notes.append(
            f"of {len(rows)} row{'s' * (len(rows) != 1)} none is held out: the certificate is of the rows trained on"
        )
    adapter = Adapter.new(
        program.models[lm], rank=settings.rank, alpha=settings.alpha, targets=settings.targets,
        seed=settings.seed,
    )  # fmt: skip
    try:
        if peer:
            trainer = entry.load()(inputs, rows, numbers, adapter, settings, world)
        else:
            trainer = Trainer(rows, numbers, adapter, settings, sleep_phase, world, simulator, enumerated)
            for row, values in inputs.known:
                trainer.replay = trainer.replay.add(row, trainer.balancer.scored(row, values, pinned=True))
        identity = _identity(inputs, settings, lm)
        if resume:
            _resume(trainer, folder, identity, tell, world)
        for note in notes:
            tell(note)
        interrupted = _train(trainer, folder, settings, identity, watch, world)
        certificate = None
        if not interrupted and world.is_main:
            tell("certifying")
            found = certify(
                program, inputs.data, held_out or numbers[: settings.held_out or 8],
                lambda target: PolicyGuide.of(target, adapter), simulator=simulator,
                draws=settings.certify_draws, simulated=settings.certify_rows,
                seed=settings.seed,
            )  # fmt: skip
            certificate = found.to_json()
        note = f"interrupted at step {trainer.steps_done}" if interrupted else ""
        manifest = Manifest.new(
            program, lm, inputs.data,
            settings=settings.to_json(), seed=settings.seed, steps=trainer.steps_done,
            seconds=round(trainer.seconds, 3), certificate=certificate,
            note="; ".join(n for n in (note, *notes) if n),
        )  # fmt: skip
        if world.is_main:
            manifest = save_policy(folder, adapter, manifest)
            if not interrupted:
                checkpoint.remove(folder)
        world.wait()
        return Fitted(folder, manifest, interrupted, tuple(notes), world.is_main)
    finally:
        adapter.close()


def _enumerated(
    rows: Rows, numbers: Sequence[int], settings: FitSettings, notes: list[str], world: World
) -> EnumeratedRows | None:
    """What lists the posteriors of rows, and a note of it; None where no short list holds the prior."""
    if settings.sleep == 0 or settings.listed == 0:
        return None
    seconds = None if settings.budget is None else settings.budget * LISTING
    enumerated = EnumeratedRows.of(rows, numbers, settings.pairs, settings.seed, world, seconds)
    if enumerated is not None:
        notes.append(
            f"{len(enumerated.values)} values hold {enumerated.mass:.1%} of the prior: rows are shown with them by their shares"
        )
    return enumerated


def _train(
    trainer: Trainer, folder: Path, settings: FitSettings, identity: Mapping[str, object],
    watch: Callable[[Progress], None] | None, world: World,
) -> bool:  # fmt: skip
    """Step until done. Returns whether it was interrupted; there is then a checkpoint of the last step."""
    path = folder / METRICS
    with Interrupt() as interrupt:
        while not world.broadcast(trainer.finished):
            progress = trainer.step()
            if world.is_main:
                append_metrics(
                    path, progress.step, {k: v for k, v in asdict(progress).items() if k != "step"}
                )
                if watch is not None:
                    watch(progress)
            stop = world.all_reduce([float(interrupt.wanted)])[0] > 0
            if stop or trainer.steps_done % settings.checkpoint_every == 0:
                _save(trainer, folder, identity, world)
            if stop:
                return not trainer.finished
    return False


def _save(trainer: Trainer, folder: Path, identity: Mapping[str, object], world: World) -> None:
    trainer.forget()
    # Every process keeps a buffer of its own; only the first one's is stored.
    if world.is_main:
        checkpoint.save(
            folder,
            step=trainer.steps_done,
            tensors=trainer.tensors(),
            arrays=trainer.replay.to_arrays(),
            state={**trainer.state(), "fit": dict(identity)},
        )
    world.wait()


def _resume(
    trainer: Trainer, folder: Path, identity: Mapping[str, object], tell: Callable[[str], None], world: World
) -> None:
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


def _identity(inputs: Inputs, settings: FitSettings, lm: str) -> dict[str, object]:
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
    seed: int, say: Callable[[str], None],
) -> tuple[Path, float]:  # fmt: skip
    """The folder of a policy trained on the rows, below `folder`, and the seconds of the budget that are left."""
    began = time.monotonic()
    say(
        f"auto: training a policy on the {len(rows)} rows for {SHARE * budget:.0f} s, since the budget allows it"
    )
    settings = settings_of({**request.fit_settings(program), "budget": SHARE * budget, "seed": seed})
    fitted = fit(program, rows, folder, settings, say=say)
    return fitted.folder, max(1.0, budget - (time.monotonic() - began))
