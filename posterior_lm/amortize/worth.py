"""Whether a policy is worth training before many rows are drawn from, and training it.

One policy answers every row, so its cost is shared by all of them; for a few rows,
or little time, importance sampling is done before a policy would be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from posterior_lm.amortize.adapter import check_model
from posterior_lm.amortize.fit import fit
from posterior_lm.amortize.reading import readings_of
from posterior_lm.amortize.settings import settings_of
from posterior_lm.infer.auto import rather_than_a_policy
from posterior_lm.infer.methods import AUTO
from posterior_lm.infer.request import Request
from posterior_lm.lang.diagnostics import InferenceError, ModelError
from posterior_lm.target.prepared import Data, PreparedProgram

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
