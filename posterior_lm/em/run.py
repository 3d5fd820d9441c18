"""EM from a program and rows to a folder: checked, trained in rounds, certified, saved.

A run has two adapters on one model. Round 0 fits the guide to the program as it stands. Each
later round is an M-step, then an E-step, then both bounds, so that every round measures a model
together with its own guide. The round with the best held-out bound is what is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import evolve, frozen
from torch import Tensor

from posterior_lm.api.engine import prepare
from posterior_lm.em.budget import M_STEP, Purse
from posterior_lm.em.e_step import Stand, e_step
from posterior_lm.em.m_step import lessons, m_step
from posterior_lm.em.rounds import Raised, Round, Weighted, best_of, bound_of, why_done
from posterior_lm.em.saved import (
    RECORD,
    Record,
    Restored,
    adapted,
    on,
    resume_from,
    save,
    save_round,
)
from posterior_lm.em.settings import OWN_OF_FIT, EmSettings, settings_of
from posterior_lm.em.split_model import SplitModel, check_labels, labelled, one_label, split_model
from posterior_lm.infer.request import Request
from posterior_lm.lang.driver import check
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.storage import Lock, folder_named, plain
from posterior_lm.target.prepared import Data, PreparedProgram
from posterior_lm.target.target import Target
from posterior_lm.train import checkpoint, progress
from posterior_lm.train.adapter import Adapter, check_model
from posterior_lm.train.certificate import FEWEST
from posterior_lm.train.checkpoint import METRICS
from posterior_lm.train.course import Course
from posterior_lm.train.evaluate import certify
from posterior_lm.train.forecast import SAVED, TIMING, pace_of, planned
from posterior_lm.train.guide import PolicyGuide
from posterior_lm.train.policy import Manifest, data_digest, guide_digest
from posterior_lm.train.progress import Interrupt
from posterior_lm.train.rows import Inputs, Rows, check_rows, read_inputs, split


@frozen(eq=False)
class Trained:
    """What came of EM: its rounds, and the module and models of the best of them, whose number is `best`.

    `stopped` says why EM ended, `notes` what was left out and why.
    """

    folder: Path
    restored: Restored
    rounds: tuple[Round, ...]
    best: int
    stopped: str
    interrupted: bool
    notes: tuple[str, ...]
    adapter: Adapter


def train(
    program: PreparedProgram, request: Request, rows: Sequence[Data], out: str | Path, /, *,
    given: Data | None = None, resume: bool = False, watch: Callable[[Round], None] | None = None,
    tick: Tick | None = None, say: Callable[[str], None] | None = None, course: Course | None = None,
    **options: object,
) -> Trained:  # fmt: skip
    """Train the guide of a program and the model of what it observes on `rows`, and save both in `out`.

    `given` are parameters of every row; a budget is counted from where `course` began, or from now. Rows without
    the observed value are left out. An interrupted run leaves a checkpoint and the best round,
    uncertified; before the first round ends it raises KeyboardInterrupt. Raises InferenceError
    PLM790, PLM792 and PLM793 for programs without anything to train; DataError PLM791 and PLM794
    for rows that teach nothing, PLM621 for a folder in use, PLM622 and PLM625 with `resume`; and
    what `fit` raises for rows and programs.
    """
    stated = {k: v for k, v in request.fit_settings(program).items() if k not in OWN_OF_FIT}
    settings = settings_of({**stated, **options})
    purse = Purse(course or Course())
    purse.course.budget = settings.budget
    folder, given = folder_named(out), given or {}
    assert program.checked is not None
    split = split_model(program.checked, settings.train, train_prior=settings.train_prior)
    tell = say or (lambda text: None)
    check_rows(rows, program.graph.name)
    kept, remark = labelled(rows, program.graph, split, given)
    base = check_model(program.models[split.alias])
    models = {**program.models, split.alias: base, split.trained: base}
    # What the program imports was allowed, or it would have no models by now.
    shown = prepare(
        check(split.module).without_errors(), base_dir=program.base_dir, allowed=program.allowed,
        models=models, uses_allowed=True,
    )  # fmt: skip
    inputs = read_inputs(shown, kept, settings.fit, given)
    with Lock(folder), Interrupt() as interrupt:
        checkpoint.clean(folder)
        held = {checkpoint.ROOM: "an unfinished run of EM", RECORD: "a result of EM"}
        checkpoint.check_unused(folder, resume, held)
        run = Run(Asked(program, split, base, inputs, settings, folder), tell, tick or _silent, purse)
        done = False
        try:
            if remark:
                run.note(remark)
            if resume:
                run.resume()
            stopped = run.train(watch or (lambda found: None), lambda: interrupt.wanted)
            if not run.rounds:
                raise KeyboardInterrupt
            record = run.finish(interrupted=stopped is None)
            done = True
        finally:
            run.close()
            if not done:
                run.model.close()
    return Trained(
        folder, on(split, base, run.model, folder), record.rounds, record.best,
        stopped or "it was interrupted", stopped is None, tuple(run.notes), run.model,
    )  # fmt: skip


def _silent(number: int, what: str, share: float) -> None:
    return None


# ------------------------------------------------------------------------------- rounds

Tick = Callable[[int, str, float], None]
"""Told the round's number, what it does now, and the share of that which is done."""


@frozen(eq=False)
class Asked:
    """What a run is about: the program, its split, rows of the program with the trained alias, and settings."""

    program: PreparedProgram
    split: SplitModel
    base: TransformersModel
    inputs: Inputs
    settings: EmSettings
    folder: Path

    @property
    def identity(self) -> dict[str, object]:
        """What a checkpoint has to agree with, by name."""
        flat: dict[str, object] = {}
        for name, value in self.settings.to_json().items():
            inner = value.items() if isinstance(value, dict) else [(None, value)]
            flat |= {f"settings.{name}" + (f".{k}" if k else ""): v for k, v in inner}
        return {
            "program": self.program.graph.fingerprint,
            "guide": guide_digest(self.inputs.program.graph),
            "model": self.base.identity.digest,
            "rows": data_digest(self.inputs.data),
            **flat,
        }


class Run:
    """`train` does rounds until EM ends; `finish` certifies and saves the best of them."""

    def __init__(self, asked: Asked, say: Callable[[str], None], tick: Tick, purse: Purse) -> None:
        self.asked, self.say, self.tick, self.purse = asked, say, tick, purse
        self.notes: list[str] = []
        self.rounds: tuple[Round, ...] = ()
        self.best: dict[str, dict[str, Tensor]] = {}
        self.draws: int | None = None
        self.bound_seconds = 0.0
        settings, count = asked.settings, len(asked.inputs.data)
        fit = settings.fit
        self.model = Adapter.new(
            asked.base, rank=settings.m_rank, targets=settings.m_targets, seed=settings.seed
        )
        try:
            self.guide = Adapter.new(
                asked.base, rank=fit.rank, alpha=fit.alpha, targets=fit.targets, seed=settings.seed
            )
        except BaseException:
            self.model.close()
            raise
        self.stand: Stand | None = None
        self.drawn: list[Weighted] = []
        self.held: list[Weighted] = []
        first = self._stand()
        check_labels(first.rows, range(count), asked.split.trained)
        self.lm = next(iter(first.rows.readings(0).values())).lm
        self.numbers, self.held_out = split(count, settings.held_out, settings.seed)
        if self.held_out and one_label(first.rows, self.numbers, asked.split.trained):
            self.numbers, self.held_out = list(range(count)), []
        if not self.held_out:
            self.note(
                f"of {count} row{'s' * (count != 1)} none is held out: rounds are judged by the rows trained on"
            )

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.say(text)

    def close(self) -> None:
        """Take the guide's adapter out of the model; the model's own belongs to the result."""
        self.guide.close()

    # ------------------------------------------------------------- rounds

    def resume(self) -> None:
        """Stand where the newest checkpoint was taken."""
        self.rounds, weights, self.purse.before, self.draws = resume_from(
            self.asked.folder, self.asked.identity
        )
        self.model.restore(weights["model"])
        self.guide.restore(weights["guide"])
        self.best = {"model": weights["best model"], "guide": weights["best guide"]}
        self.say(f"resumed after round {self.rounds[-1].number}")

    def train(self, watch: Callable[[Round], None], stop: Callable[[], bool]) -> str | None:
        """Rounds until EM ends; why it did, None where `stop` asked for it. The last whole round is kept."""
        settings = self.asked.settings
        while True:
            reason = why_done(self.rounds, settings.rounds, settings.patience)
            if reason is None and self.rounds and self.purse.left <= self.bound_seconds:
                reason = f"the budget of {settings.budget:g} s is spent"
                if settings.rounds and self.rounds[-1].number == 0:
                    self.note("the budget left no time for an M-step, so the model is as it was")
            if reason is not None:
                return reason
            found = None if stop() else self._round(len(self.rounds), stop)
            if found is None:
                return None
            self.rounds = (*self.rounds, found)
            if best_of(self.rounds) is found:
                self.best = {"model": self.model.tensors(), "guide": self.guide.tensors()}
            progress.append_metrics(self.asked.folder / METRICS, found.number, plain(found))
            save_round(
                self.asked.folder, self.rounds,
                {
                    "model": self.model.tensors(), "guide": self.guide.tensors(),
                    "best model": self.best["model"], "best guide": self.best["guide"],
                },
                self.asked.identity, self.purse.spent, self.draws,
            )  # fmt: skip
            watch(found)

    def _round(self, number: int, stop: Callable[[], bool]) -> Round | None:
        began = time.monotonic()
        settings = self.asked.settings
        self.tick(number, "M-step" if number else "E-step", 0.0)
        raised = self._m_step(number, stop) if number else None
        if number and raised is None:
            return None
        self.tick(number, "E-step", 0.0)
        self.stand = stand = self._stand()
        self.purse.measure(lambda n: stand.drawn(self.numbers[:1], n, settings.seed))
        fit = self.purse.of_e_step(
            evolve(settings.fit, steps=settings.e_steps, seed=settings.seed + 7919 * number),
            len(self.numbers),
        )  # another seed each round, or each would see the same draws of the same rows
        whole = e_step(
            stand, self.numbers, fit, first=number == 0,
            tick=lambda p: self.tick(number, "E-step", p.done), stop=stop,
        )  # fmt: skip
        if not whole:
            return None
        middle = time.monotonic()
        self._bound(stand, number)
        self.bound_seconds = time.monotonic() - middle
        return Round(
            number,
            bound_of([w.log_weights for w in self.drawn]),
            bound_of([w.log_weights for w in self.held]) if self.held else None,
            raised,
            stand.program.models[self.asked.split.trained].identity.digest,
            round(time.monotonic() - began, 3),
        )

    def _bound(self, stand: Stand, number: int) -> None:
        """Weighted draws of the rows of a round's bound, and of those held out."""
        settings, chosen = self.asked.settings, self._chosen(number)
        rows = [*chosen, *self.held_out]
        self.tick(number, "bound", 0.0)
        if self.draws is None:
            self.draws = self.purse.draws(settings.bound_draws, len(rows))
            if self.draws < settings.bound_draws:
                self.note(f"the budget left time for {self.draws} draws of a row, not {settings.bound_draws}")
        found: list[Weighted] = []
        for k, row in enumerate(rows):
            found += stand.drawn([row], self.draws, settings.seed)
            self.tick(number, "bound", (k + 1) / len(rows))
        self.drawn, self.held = found[: len(chosen)], found[len(chosen) :]

    def _m_step(self, number: int, stop: Callable[[], bool]) -> Raised | None:
        """Raise the model on the last round's draws, which a resumed run makes once more."""
        settings = self.asked.settings
        if not self.drawn:
            self._bound(self._stand(), number - 1)
        alias = self.asked.split.trained
        taught = lessons(self.drawn, alias)
        if not taught:
            return Raised(0.0, 0.0, False)
        return m_step(
            self.model, taught, steps=settings.m_steps, rate=settings.m_rate, batch=settings.m_rows,
            draws=settings.m_draws, rng=np.random.default_rng([settings.seed, 13, number]),
            held_out=lessons(self.held, alias), columns=settings.fit.max_batch_tokens, stop=stop,
            late=self.purse.until(M_STEP),
            tick=lambda step: self.tick(number, "M-step", step / settings.m_steps),
        )  # fmt: skip

    def _stand(self) -> Stand:
        inputs = self.asked.inputs
        program = inputs.program.with_models({self.asked.split.trained: adapted(self.model)})
        return Stand(program, inputs, Rows(program, inputs.data), self.guide)

    def _chosen(self, number: int) -> list[int]:
        """The rows of a round's bound and of the M-step after it."""
        most = self.asked.settings.bound_rows
        if len(self.numbers) <= most:
            return self.numbers
        rng = np.random.default_rng([self.asked.settings.seed, 17, number])
        return sorted(int(i) for i in rng.choice(self.numbers, size=most, replace=False))

    # ------------------------------------------------------------- the end

    def _certificate(self, stand: Stand, number: int) -> dict[str, Any] | None:
        """What is known of the guide, as JSON values; None where the budget has left no time for it."""
        self.say("certifying")
        asked, fit = self.asked, self.asked.settings.fit
        rows, draws = self.held_out or self.numbers[:8], fit.certify_draws
        simulator, note, left = None, "", None

        def guide_of(target: Target) -> PolicyGuide:
            return PolicyGuide.of(target, self.guide)

        if asked.settings.budget is not None:
            purse, note = self.purse, "the budget left no time for them"
            ahead = purse.whole_left * (1 - SAVED)
            target = stand.rows.target(rows[0])
            pace = pace_of(target, guide_of(target), 0.0, TIMING * ahead)
            plan = planned(pace, draws=draws, rows=len(rows), simulated=0, seconds=(1 - TIMING) * ahead)
            if plan is None:
                self.note("the budget left no time to certify the guide")
                return None
            rows, draws, left = rows[: plan.rows], plan.draws, lambda: purse.whole_left * (1 - SAVED)
        elif fit.certify_rows >= FEWEST:
            # Looking at simulated rows takes a while, and with fewer of them nothing would be said.
            simulator = stand.simulator()
        else:
            note = f"{fit.certify_rows} were asked for, and fewer than {FEWEST} say little"
        found = certify(
            stand.program, asked.inputs.data, rows, guide_of, simulator=simulator, draws=draws,
            simulated=fit.certify_rows, seed=asked.settings.seed, note=note, held_out=bool(self.held_out),
            move=lambda share: self.tick(number, "certificate", share), left=left,
        )  # fmt: skip
        return found.to_json()

    def finish(self, interrupted: bool) -> Record:
        """The best round's weights, certified unless interrupted, and saved."""
        asked, best = self.asked, best_of(self.rounds)
        self.model.restore(self.best["model"])
        self.guide.restore(self.best["guide"])
        stand = self._stand()
        certificate = None if interrupted else self._certificate(stand, best.number)
        settings = asked.settings.to_json()
        note = "; ".join([*["interrupted"] * interrupted, *self.notes])
        manifest = Manifest.new(
            stand.program, self.lm, asked.inputs.data,
            settings=settings, seed=asked.settings.seed,
            steps=asked.settings.e_steps * (best.number + 1), seconds=round(self.purse.spent, 3),
            certificate=certificate, note=note,
        )  # fmt: skip
        record = Record(
            asked.program.text, asked.program.graph.name, asked.program.graph.fingerprint, asked.split.alias,
            asked.settings.train_prior, asked.base.identity.digest, self.rounds, best.number, settings, {}, note,
        )  # fmt: skip
        record = save(asked.folder, self.model, self.guide, manifest, record)
        if not interrupted:
            checkpoint.remove(asked.folder)
        return record
