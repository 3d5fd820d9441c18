"""From a program to draws: preparing it once, and drawing from its targets.

Everything that draws goes through `draw`, whoever asks: a query, a command, a prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from posterior_lm.api.posterior import Posterior
from posterior_lm.graph import lower, optimize, verify
from posterior_lm.infer.auto import infer
from posterior_lm.infer.base import Offer
from posterior_lm.infer.methods import METHODS
from posterior_lm.infer.request import Request
from posterior_lm.lang.diagnostics import InferenceError, shown
from posterior_lm.lang.typed import CheckedModule
from posterior_lm.lm.protocol import threads_of
from posterior_lm.target.prepared import PreparedProgram
from posterior_lm.target.resources import Named

if TYPE_CHECKING:
    from posterior_lm.infer.base import Info
    from posterior_lm.infer.guide import Guide
    from posterior_lm.target.target import Target

# ------------------------------------------------------------------------------- preparing


def prepare(
    checked: CheckedModule,
    *,
    base_dir: Path | None = None,
    allowed: tuple[Path, ...] = (),
    models: Mapping[str, object] | None = None,
    uses_allowed: bool = False,
    loading: Mapping[str, object] | None = None,
) -> PreparedProgram:
    """The program lowered and optimised; its models are loaded when a row is first bound.

    `models` replace declared ones, by alias; `loading` are options for all that are loaded; `allowed` are
    folders, beside its own, that its files may lie in.
    """
    graph = optimize(verify(lower(checked, base_dir, allowed)))
    named = Named(models or {}, uses_allowed, loading or {})
    return PreparedProgram(graph, named, checked, base_dir, allowed)


# ------------------------------------------------------------------------------- drawing


def policy_offer(program: PreparedProgram, request: Request, target: Target) -> Offer | None:
    """The policy that was asked for, offered for a target of the program or of a part of it."""
    if request.policy is None:
        return None
    from posterior_lm.train.policy import offer_of

    return offer_of(request.policy, program, target)


MOST_DRAWS = 10**8
"""Draws of one posterior: more would not fit into memory."""


def _check_whole(name: str, value: object, low: int, high: int | None) -> None:
    """Raises InferenceError PLM802 for what is no whole number between two others."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):  # type: ignore[operator]
        wanted = f"of at least {low}" if high is None else f"from {low} to {high:,}"
        raise InferenceError.of(
            "PLM802",
            f"`{name}` is a whole number {wanted}, not {shown(value)}",
            help=f"give one: {name}={low + 1}",
        )


def draw(
    program: PreparedProgram,
    target: Target,
    request: Request,
    n: int | None = None,
    *,
    seed: int = 0,
    budget: float | None = None,
    guide: Guide | None = None,
    progress: Callable[[Info], None] | None = None,
) -> Posterior:
    """Draws from a target of the program or of a part of it; `budget` is in seconds."""
    method, options = request.of(target.prepared)
    if n is None:
        n = METHODS[method].draws(options)
    _check_whole("n", n, 1, MOST_DRAWS)
    _check_whole("seed", seed, 0, None)
    if budget is None and options.get("budget"):
        budget = float(str(options["budget"]))
    draws = infer(
        target,
        method=method,
        options=options,
        n=n,
        rng=np.random.default_rng(seed),
        guide=guide,
        budget=budget,
        progress=progress,
        policy=policy_offer(program, request, target),
    )
    return Posterior(
        program=target.program.name,
        fingerprint=target.program.fingerprint,
        lm={alias: model.identity for alias, model in target.models.items()},
        draws=draws,
        seed=seed,
        reason=draws.reason,
        types={info.name: info.type for info in target.latents},
        threads=threads_of(target.models),
    )
