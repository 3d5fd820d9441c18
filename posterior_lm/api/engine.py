"""From a program to draws: preparing it once, and drawing from its targets.

Everything that draws goes through `draw`, whoever asks: a query, a command, a prediction.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from posterior_lm.api.posterior import Posterior
from posterior_lm.graph import lower, optimize, verify
from posterior_lm.graph.graph import LmSpec, RewardGraph, UseSpec
from posterior_lm.graph.nodes import Apply
from posterior_lm.infer.auto import Offer, infer
from posterior_lm.infer.methods import METHODS
from posterior_lm.infer.request import Request
from posterior_lm.lang.diagnostics import CompileError, ModelError, error
from posterior_lm.lang.near import nearest
from posterior_lm.lang.typed import CheckedModule
from posterior_lm.lm.base import LanguageModel
from posterior_lm.target.prepared import PreparedProgram, Resources

if TYPE_CHECKING:
    from posterior_lm.infer.base import Info
    from posterior_lm.infer.guide import Guide
    from posterior_lm.target.target import Target

# ------------------------------------------------------------------------------- preparing


def prepare(
    checked: CheckedModule,
    *,
    base_dir: Path | None = None,
    models: Mapping[str, str | LanguageModel] | None = None,
    uses_allowed: bool = False,
) -> PreparedProgram:
    """The program lowered and optimised; its models are loaded when a row is first bound.

    `models` replace declared ones, by alias.
    """
    graph = optimize(verify(lower(checked, base_dir)))
    return PreparedProgram(
        graph, lambda: _resources(graph, base_dir, models or {}, uses_allowed), checked, base_dir
    )


def _resources(
    graph: RewardGraph, base_dir: Path | None, models: Mapping[str, str | LanguageModel], uses_allowed: bool
) -> Resources:
    """Every declared model that the log reward or a guide reads, and every function that it calls."""
    declared = {spec.alias: spec for spec in graph.lms}
    for alias in models:
        if alias not in declared:
            close = nearest(alias, declared)
            raise ModelError(
                error(
                    "PLM515",
                    f"the program declares no model `{alias}`",
                    where=alias,
                    help=f"did you mean `{close}`?"
                    if close
                    else f"it declares {', '.join(declared) or 'none'}",
                )
            )
    used = {getattr(n, "lm", None) for n in graph.nodes.values()} | {g.lm for g in graph.guides.values()}
    if any(isinstance(n, Apply) and n.op == "tokens" for n in graph.nodes.values()):
        used |= set(list(declared)[:1])  # `tokens` of a text counts those of the first model
    found = {
        alias: _model(spec, models.get(alias), base_dir, uses_allowed)
        for alias, spec in declared.items()
        if alias in used
    }
    called = {n.op[4:] for n in graph.nodes.values() if isinstance(n, Apply) and n.op.startswith("use ")}
    called |= {tool.where for _, latent in graph.latents() for tool in latent.tools}
    wanted = [use for use in graph.uses if use.name not in found and use.where in called]
    return Resources(found, {use.where: _imported(use, uses_allowed) for use in wanted})


def _model(
    spec: LmSpec, override: str | LanguageModel | None, base_dir: Path | None, uses_allowed: bool
) -> LanguageModel:
    if override is not None and not isinstance(override, str):
        return override
    if override is None and spec.kind == "use":
        found = _imported(UseSpec(spec.alias, spec.spec, spec.span), uses_allowed)
        return found() if not isinstance(found, LanguageModel) else found  # type: ignore[return-value]
    if override is not None:
        return _load(override, None, "auto", ())
    return _load(spec.spec, None if base_dir is None else str(base_dir), spec.kind, spec.options)


@lru_cache(maxsize=4)
def _load(
    spec: str, base_dir: str | None, kind: str, options: tuple[tuple[str, object], ...]
) -> LanguageModel:
    # Models are frozen, so one loaded copy may serve every program of the process.
    from posterior_lm.lm.registry import load_model

    return load_model(spec, base_dir=base_dir, kind=kind, **dict(options))  # type: ignore[arg-type]


def _imported(use: UseSpec, allowed: bool) -> Callable[..., object]:
    """What `use name from "module:function"` imports. Raises PLM541 where not allowed, PLM542."""
    if not allowed:
        raise CompileError(
            error(
                "PLM541",
                f"the program imports `{use.name}` from Python, which is off unless you allow it",
                use.span,
                "imported here",
                help="pass --allow-use, or call `.allow_use()`, if you trust the program",
            )
        )
    module, _, attribute = use.where.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as problem:  # the module is the user's own: it may fail in any way
        said = f"{type(problem).__name__}: {problem}".rstrip(".")
        raise CompileError(error("PLM542", f"cannot import `{use.where}` ({said})", use.span)) from None
    if not callable(found):
        message = f"`{use.where}` is a {type(found).__name__}, not a function"
        raise CompileError(error("PLM542", message, use.span))
    return found


# ------------------------------------------------------------------------------- drawing


def policy_offer(program: PreparedProgram, request: Request, target: Target) -> Offer | None:
    """The policy that was asked for, offered for a target of the program or of a part of it."""
    if request.policy is None:
        return None
    from posterior_lm.amortize.policy import offer_of

    return offer_of(request.policy, program, target)


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
    if n < 1:
        raise ValueError(f"n is at least 1, not {n}")
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
    )
