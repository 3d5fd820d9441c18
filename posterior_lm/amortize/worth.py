"""Whether a policy is worth training before many rows are drawn from, and training it.

One policy answers every row, so its cost is shared by all of them; for a few rows,
or little time, importance sampling is done before a policy would be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from posterior_lm.amortize.adapter import check_model
from posterior_lm.amortize.fit import fit
from posterior_lm.amortize.reading import readings_of
from posterior_lm.amortize.settings import settings_of
from posterior_lm.ask import target
from posterior_lm.infer.auto import rather_than_a_policy
from posterior_lm.infer.methods import AUTO
from posterior_lm.lang.diagnostics import InferenceError, ModelError
from posterior_lm.settings import resolve, stated_fit

if TYPE_CHECKING:
    from posterior_lm.query import Query

FEWEST_ROWS = 32
"""Rows from which the cost of training is shared widely enough."""
LEAST_SECONDS = 120.0
"""A budget below this trains nothing that importance sampling would not outdo."""
SHARE = 0.6
"""Of the budget, for training; certifying and drawing have the rest."""


def worth_training(query: Query, rows: Sequence[Mapping[str, object]], budget: float | None) -> bool:
    """Whether auto trains first: many rows, time for it, no policy yet, and a posterior too large to list."""
    method, _ = resolve(query.graph.infer, query.method, query.options)
    if method != AUTO or query.policy_folder is not None:
        return False
    if budget is None or budget < LEAST_SECONDS or len(rows) < FEWEST_ROWS:
        return False
    first = target(query.given(rows[0]))
    if rather_than_a_policy(first):
        return False
    try:
        for reading in readings_of(first).values():
            check_model(first.models[reading.lm])
    except (InferenceError, ModelError):
        return False
    return True


def trained(
    query: Query, rows: Sequence[Mapping[str, object]], budget: float, folder: Path, *, seed: int,
    say: Callable[[str], None],
) -> tuple[Query, float]:  # fmt: skip
    """The query with a policy of its own, in `folder`, and the seconds of the budget that are left."""
    began = time.monotonic()
    say(
        f"auto: training a policy on the {len(rows)} rows for {SHARE * budget:.0f} s, since the budget allows it"
    )
    settings = settings_of({**stated_fit(query), "budget": SHARE * budget, "seed": seed})
    fitted = fit(query, rows, folder, settings, say=say)
    return query.policy(fitted.folder), max(1.0, budget - (time.monotonic() - began))
