"""EM from a program and rows to a folder: checked, trained in rounds, certified, saved.

Round 0 fits the guide to the program as it stands. Each later round is an M-step, then an
E-step, then both bounds, so that every round measures a model together with its own guide.
The round with the best held-out bound is what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
from attrs import frozen

from posterior_lm.amortize import checkpoint
from posterior_lm.amortize.adapter import Adapter, check_model
from posterior_lm.amortize.inputs import read_inputs
from posterior_lm.amortize.interrupt import Interrupt
from posterior_lm.amortize.rows import check_rows
from posterior_lm.ask import prepare
from posterior_lm.em.folder import check_folder
from posterior_lm.em.labelled import labelled
from posterior_lm.em.rounds import Round
from posterior_lm.em.run import Asked, Run, Tick
from posterior_lm.em.saved import Restored, on
from posterior_lm.em.settings import OWN_OF_FIT, settings_of
from posterior_lm.em.split_model import split_model
from posterior_lm.infer.request import Request
from posterior_lm.lang.check import check
from posterior_lm.storage import Lock, folder_named
from posterior_lm.target.prepared import Data, PreparedProgram


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
    _model: Adapter = attrs.field(repr=False)

    def close(self) -> None:
        """Take the trained adapter out of the model's layers; `restored` cannot be used afterwards."""
        self._model.close()


def train(
    program: PreparedProgram, request: Request, rows: Sequence[Data], out: str | Path, /, *,
    given: Data | None = None, resume: bool = False, watch: Callable[[Round], None] | None = None,
    tick: Tick | None = None, say: Callable[[str], None] | None = None, **options: object,
) -> Trained:  # fmt: skip
    """Train the guide of a program and the model of what it observes on `rows`, and save both in `out`.

    `given` are parameters of every row. Rows without
    the observed value are left out. An interrupted run leaves a checkpoint and the best round,
    uncertified; before the first round ends it raises KeyboardInterrupt. Raises InferenceError
    PLM790, PLM792 and PLM793 for programs without anything to train; DataError PLM791 and PLM794
    for rows that teach nothing, PLM621 for a folder in use, PLM622 and PLM625 with `resume`; and
    what `fit` raises for rows and programs.
    """
    stated = {k: v for k, v in request.fit_settings(program).items() if k not in OWN_OF_FIT}
    settings = settings_of({**stated, **options})
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
        check(split.module).without_errors(), base_dir=program.base_dir, models=models, uses_allowed=True
    )
    inputs = read_inputs(shown, kept, settings.fit, given)
    with Lock(folder), Interrupt() as interrupt:
        checkpoint.clean(folder)
        check_folder(folder, resume)
        run = Run(Asked(program, split, base, inputs, settings, folder), tell, tick or _silent)
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
        folder,
        on(split, base, run.model),
        record.rounds,
        record.best,
        stopped or "it was interrupted",
        stopped is None,
        tuple(run.notes),
        run.model,
    )


def _silent(number: int, what: str, share: float) -> None:
    return None
