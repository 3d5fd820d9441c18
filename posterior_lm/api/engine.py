"""From a program to draws: preparing it once, drawing from its targets, and scoring values that are given.

Everything that draws goes through `draw`, whoever asks: a query, a command, a prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import asdict, frozen

from posterior_lm.api.posterior import Posterior
from posterior_lm.graph import lower, optimize, verify
from posterior_lm.infer.auto import infer
from posterior_lm.infer.base import Offer
from posterior_lm.infer.methods import METHODS
from posterior_lm.infer.request import Request
from posterior_lm.lang.check.lint import unended
from posterior_lm.lang.diagnostics import DataError, InferenceError, error, meant, shown
from posterior_lm.lang.typed import CheckedModule
from posterior_lm.lm.protocol import threads_of
from posterior_lm.storage import plain
from posterior_lm.target.prepared import PreparedProgram
from posterior_lm.target.resources import Named

if TYPE_CHECKING:
    from posterior_lm.graph.nodes import TermInfo
    from posterior_lm.infer.base import Info
    from posterior_lm.infer.guide import Guide
    from posterior_lm.target.target import Target
    from posterior_lm.target.values import Datum, Value

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
        lm=target.prepared.identities,
        draws=draws,
        seed=seed,
        reason=draws.reason,
        types={info.name: info.type for info in target.latents},
        threads=threads_of(target.models),
        notes=_notes(target),
    )


def _notes(target: Target) -> tuple[str, ...]:
    checked = target.prepared.checked
    found = [] if checked is None else unended(checked, target.data)
    return tuple(f"Mind that {d.message}: {d.notes[0]} (plm explain {d.code})." for d in found)


# ------------------------------------------------------------------------------- scoring


@frozen
class Score:
    """The log reward of given values, one number a statement: `log_reward` is the sum of the terms; nats."""

    program: str
    fingerprint: str
    log_reward: float
    terms: tuple[tuple[TermInfo, float], ...]

    def to_json(self) -> dict[str, Any]:
        """The stable shape of `plm score --format json`; −inf becomes None."""
        terms = [{"statement": info.label, "line": info.span.line, "log_reward": x} for info, x in self.terms]
        found: dict[str, Any] = plain({**asdict(self, recurse=False), "terms": terms})
        return found


def score(target: Target, values: Mapping[str, Datum]) -> Score:
    """See `Query.score`. Raises DataError PLM601, PLM602 or PLM610 for the values."""
    names = target.names
    listed = f"its latents are {', '.join(names) or 'none'}"
    found = [
        error(
            "PLM602", f"`{target.program.name}` has no latent `{name}`", where=name,
            help=meant(name, names, listed),
        )
        for name in values
        if name not in names
    ]  # fmt: skip
    found += [
        error(
            "PLM601", f"the latent `{info.name}` has no value to score", info.span, where=info.name,
            help=f"give it with `--value {info.name}=TEXT`",
        )
        for info in target.latents
        if info.name not in values
    ]  # fmt: skip
    if found:
        raise DataError(found)
    column = {name: [_value(target, name, values[name])] for name in names}
    terms = target.terms(column)[0]
    pairs = tuple(zip(target.statements, map(float, terms), strict=True))
    return Score(target.program.name, target.program.fingerprint, float(terms.sum()), pairs)


def _value(target: Target, name: str, given: Datum) -> Value:
    """The value; of a text that a tool would have written otherwise its plain tokens, whose log reward is −∞."""
    try:
        return target.value(name, given)
    except DataError as problem:
        lm = target.latent(name).lm
        if lm is None or any(d.code != "PLM766" for d in problem.diagnostics):
            raise
        return target.value_of(name, target.models[lm].tokenizer.encode(str(given)))
