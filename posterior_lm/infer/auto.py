"""Choosing a method by name or automatically, with the reason in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from attrs import evolve

from posterior_lm.infer.base import Draws, Info, run
from posterior_lm.infer.exact import Exact
from posterior_lm.infer.guide import Guide, PriorGuide
from posterior_lm.infer.importance import Importance
from posterior_lm.lang.diagnostics import InferenceError, error
from posterior_lm.target.target import Target

SMALL = 20_000
"""Values that exact enumeration lists in a second or two with a small model."""

BUDGET_BATCH = 64
"""Draws between two looks at the clock, where there is a budget."""

LATER = ("smc", "mcmc", "gflownet")


def support_size(target: Target, limit: int = SMALL) -> int | None:
    """The number of joint values, or None above `limit`."""
    total = 1
    for info in target.latents:
        size = info.support.count_values(limit)
        if size is None or (total := total * size) > limit:
            return None
    return total


def choose(target: Target, method: str) -> tuple[str, str]:
    """The method to run and why. Raises InferenceError PLM501 for one that has no backend yet."""
    if method in LATER:
        raise InferenceError(
            error(
                "PLM501",
                f"the method `{method}` is not available yet",
                help="use `auto`, `exact` or `importance`",
            )
        )
    if method != "auto":
        return method, f"{method} was asked for"
    size = support_size(target)
    if size is not None:
        return "exact", f"exact: the support has {size} value{'s' * (size != 1)}, at most {SMALL}"
    return (
        "importance",
        f"importance: the support has more than {SMALL} values, so they are drawn from the prior",
    )


def infer(
    target: Target,
    *,
    method: str,
    options: Mapping[str, object],
    n: int,
    rng: np.random.Generator,
    guide: Guide | None = None,
    budget: float | None = None,
    progress: Callable[[Info], None] | None = None,
) -> Draws:
    """Draws by the named method; `options` are those of `signatures.METHODS[method]`."""
    name, reason = choose(target, method)
    algorithm: Any
    if name == "exact":
        values = options.get("values") or support_size(target) or Exact().values
        algorithm = Exact(values=int(str(values)), mass=float(str(options.get("mass", Exact().mass))))
    else:
        algorithm = Importance(draws=n, batch=None if budget is None else BUDGET_BATCH)
        if guide is None and options.get("proposal") == "guide":
            guide = PriorGuide(target, reads="guide")
        if guide is not None:
            reason = f"{reason}, proposing with {guide.name}"
    draws = run(algorithm, target, n=n, rng=rng, guide=guide, budget=budget, progress=progress)
    if name != "exact" and len(draws) < n:
        reason = f"{reason}; the budget of {budget:g} s ended it after {len(draws)} of {n} draws"
    return evolve(draws, reason=reason)
