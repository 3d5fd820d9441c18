"""Asking a query: its models, its target, its draws."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from posterior_lm.graph.graph import LmSpec, RewardGraph, UseSpec
from posterior_lm.graph.nodes import Apply
from posterior_lm.infer.auto import Offer, infer
from posterior_lm.infer.methods import METHODS
from posterior_lm.lang.diagnostics import CompileError, ModelError, error
from posterior_lm.lang.near import nearest
from posterior_lm.lm.base import LanguageModel
from posterior_lm.posterior import Posterior
from posterior_lm.settings import resolve
from posterior_lm.target.bind import bind
from posterior_lm.target.binding import bind_data

if TYPE_CHECKING:
    from posterior_lm.infer.base import Info
    from posterior_lm.infer.guide import Guide
    from posterior_lm.query import Query
    from posterior_lm.target.target import Target


@lru_cache(maxsize=4)
def _load(
    spec: str, base_dir: str | None, kind: str, options: tuple[tuple[str, object], ...]
) -> LanguageModel:
    # Models are frozen, so one loaded copy may serve every query of the process.
    from posterior_lm.lm.registry import load_model

    return load_model(spec, base_dir=base_dir, kind=kind, **dict(options))  # type: ignore[arg-type]


def models_of(query: Query, graph: RewardGraph) -> dict[str, LanguageModel]:
    """Every declared model that the log reward or a guide reads, loaded."""
    declared = {spec.alias: spec for spec in graph.lms}
    for alias in query.models:
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
    return {alias: _model(query, spec) for alias, spec in declared.items() if alias in used}


def _model(query: Query, spec: LmSpec) -> LanguageModel:
    override = query.models.get(spec.alias)
    if override is not None and not isinstance(override, str):
        return override
    if override is None and spec.kind == "use":
        found = use_object(query, UseSpec(spec.alias, spec.spec, spec.span))
        return found() if not isinstance(found, LanguageModel) else found  # type: ignore[return-value]
    base = None if query.base_dir is None else str(query.base_dir)
    if override is not None:
        return _load(override, None, "auto", ())
    return _load(spec.spec, base, spec.kind, spec.options)


def use_object(query: Query, use: UseSpec) -> Callable[..., object]:
    """What `use name from "module:function"` imports. Raises PLM541 where not allowed, PLM542."""
    if not query.uses_allowed:
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


def target(
    query: Query, *, graph: RewardGraph | None = None, data: Mapping[str, object] | None = None
) -> Target:
    """The query's program bound to its data and models."""
    graph = graph or query.graph
    bound = bind_data(graph, query.data) if data is None else data
    models = models_of(query, graph)
    functions = [use for use in graph.uses if use.name not in models]
    wanted = {n.op[4:] for n in graph.nodes.values() if isinstance(n, Apply) and n.op.startswith("use ")}
    wanted |= {tool.where for _, latent in graph.latents() for tool in latent.tools}
    uses = {use.where: use_object(query, use) for use in functions if use.where in wanted}
    return bind(graph, bound, models, uses)


def policy_offer(query: Query, bound: Target) -> Offer | None:
    """The query's policy for a bound program, which may be a part of the query's own.

    Raises DataError PLM622 for a folder that holds none, PLM625 for one of another program.
    """
    if query.policy_folder is None:
        return None
    from posterior_lm.amortize.manifest import read_manifest
    from posterior_lm.amortize.policy import check_policy, held_policy, level_of

    folder, graph = query.policy_folder, query.graph
    models = models_of(query, graph)
    manifest = read_manifest(folder)
    check_policy(folder, manifest, graph, models)
    certificate = manifest.checked
    return Offer(
        where=str(folder),
        level=level_of(manifest),
        beats_prior=certificate is not None and certificate.beats_prior,
        guide=lambda: held_policy(folder, manifest, graph, models).guide(bound),
    )


def draw_target(
    query: Query,
    bound: Target,
    n: int | None,
    *,
    seed: int,
    budget: float | None,
    guide: Guide | None,
    progress: Callable[[Info], None] | None,
) -> Posterior:
    """Draws from a bound target with the query's settings."""
    method, options = resolve(bound.program.infer, query.method, query.options, query.base_dir)
    if n is None:
        n = METHODS[method].draws(options)
    if n < 1:
        raise ValueError(f"n is at least 1, not {n}")
    if budget is None and options.get("budget"):
        budget = float(str(options["budget"]))
    draws = infer(
        bound,
        method=method,
        options=options,
        n=n,
        rng=np.random.default_rng(seed),
        guide=guide,
        budget=budget,
        progress=progress,
        policy=policy_offer(query, bound),
    )
    return Posterior(
        program=bound.program.name,
        fingerprint=bound.program.fingerprint,
        lm={alias: model.identity for alias, model in bound.models.items()},
        draws=draws,
        seed=seed,
        reason=draws.reason,
        types={info.name: info.type for info in bound.latents},
    )


def draw(
    query: Query,
    n: int | None,
    *,
    seed: int,
    budget: float | None,
    guide: Guide | None,
    progress: Callable[[Info], None] | None,
) -> Posterior:
    """See `Query.draw`."""
    return draw_target(query, target(query), n, seed=seed, budget=budget, guide=guide, progress=progress)
