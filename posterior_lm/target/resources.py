"""What a program names and does not contain: its models, and functions in Python."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from attrs import field, frozen

from posterior_lm.graph.graph import LmSpec, RewardGraph, UseSpec
from posterior_lm.graph.nodes import Apply
from posterior_lm.lang.diagnostics import CompileError, ModelError, meant
from posterior_lm.lang.files import below
from posterior_lm.lm.protocol import LanguageModel, MaskedModel
from posterior_lm.lm.resolve import Asked, adopt, load_masked, load_model
from posterior_lm.lm.resolve import resolve as locate


def _shut(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(mapping))


@frozen(eq=False)
class Resources:
    """Models by alias, those that fill masked places apart, and Python functions by "module:function"."""

    models: Mapping[str, LanguageModel] = field(converter=_shut)
    functions: Mapping[str, Callable[..., object]] = field(factory=dict, converter=_shut)
    masked: Mapping[str, MaskedModel] = field(factory=dict, converter=_shut)


@frozen(eq=False)
class Named:
    """Where resources come from: models that replace declared ones, by alias, and whether functions may be imported.

    `loading` are options for every transformers model that is loaded, before what the program says.
    """

    models: Mapping[str, object] = field(factory=dict)
    uses_allowed: bool = False
    loading: Mapping[str, object] = field(factory=dict)


def resolve(
    graph: RewardGraph, named: Named, base_dir: Path | None, allowed: tuple[Path, ...] = ()
) -> Resources:
    """Every declared model that the log reward or a guide reads, and every function that it calls.

    Raises ModelError for a model that cannot be had, CompileError PLM541 or PLM542 for a function.
    """
    models, uses_allowed = named.models, named.uses_allowed
    declared = {spec.alias: spec for spec in graph.lms}
    for alias in models:
        if alias not in declared:
            raise ModelError.of(
                "PLM515",
                f"the program declares no model `{alias}`",
                where=alias,
                help=meant(alias, declared, f"it declares {', '.join(declared) or 'none'}"),
            )
    used = {getattr(n, "lm", None) for n in graph.nodes.values()} | {g.lm for g in graph.guides.values()}
    scoring = [alias for alias, spec in declared.items() if spec.kind != "masked"]
    if any(isinstance(n, Apply) and n.op == "tokens" for n in graph.nodes.values()):
        used |= set(scoring[:1])  # `tokens` of a text counts those of the first model
    found = {
        alias: _replaced(models[alias], spec, named)
        if alias in models
        else _model(spec, base_dir, named, allowed)
        for alias, spec in declared.items()
        if alias in used
    }
    called = {n.op[4:] for n in graph.nodes.values() if isinstance(n, Apply) and n.op.startswith("use ")}
    called |= {tool.where for _, latent in graph.latents() for tool in latent.tools}
    wanted = [use for use in graph.uses if use.name not in found and use.where in called]
    return Resources(
        {alias: found[alias] for alias in scoring if alias in found},
        {use.where: _imported(use, uses_allowed) for use in wanted},
        {alias: model for alias, model in found.items() if alias not in scoring},
    )


def _replaced(given: object, spec: LmSpec, named: Named) -> Any:
    """The model that was given in place of the one declared, which is of the same kind."""
    if isinstance(given, str | os.PathLike):
        given = Asked(os.fspath(given))
    kind = "masked" if spec.kind == "masked" else "auto"
    if isinstance(given, Asked):
        everywhere = _everywhere(given.spec, None, kind, named)
        return _load(given.spec, None, kind, tuple({**everywhere, **dict(given.options)}.items()))
    if kind == "masked":
        if isinstance(given, MaskedModel):
            return given
        message = f"the model for `{spec.alias}`, a {type(given).__name__}, is no masked model"
        raise ModelError.of(
            "PLM514", message, help="give a folder, a name, or an object that follows plm.MaskedModel"
        )
    return given if isinstance(given, LanguageModel) else adopt(given, spec.alias)


def _model(spec: LmSpec, base_dir: Path | None, named: Named, allowed: tuple[Path, ...]) -> Any:
    if spec.kind == "use":
        used = _imported(UseSpec(spec.alias, spec.spec, spec.span), named.uses_allowed)
        made = used if isinstance(used, LanguageModel) else used()
        return made if isinstance(made, LanguageModel) else adopt(made, spec.alias)
    base = None if base_dir is None else str(base_dir)
    everywhere = _everywhere(spec.spec, base, spec.kind, named)
    try:
        return _load(spec.spec, base, spec.kind, tuple({**dict(spec.options), **everywhere}.items()))
    except ModelError as problem:
        table = locate(spec.spec, base, _place(spec.kind)).kind == "tabular"
        if (
            table
            and problem.diagnostics[0].code == "PLM514"
            and not below(Path(spec.spec), base_dir, allowed)
        ):
            # What stands in a file elsewhere is not for whoever wrote the program to read in our messages.
            help = "what is wrong with it is said where it lies in the program's folder, or with --allow-path"
            raise ModelError.of("PLM514", f"the table {spec.spec} cannot be used", help=help) from None
        raise


def _place(kind: str) -> str:
    """How a model's name is looked up: one of a masked model may be that of a folder, of the hub or of a table."""
    return "auto" if kind == "masked" else kind


def _everywhere(spec: str, base_dir: str | None, kind: str, named: Named) -> dict[str, object]:
    """The options for all models, none of which a table or a server has."""
    return {} if locate(spec, base_dir, _place(kind)).kind in ("tabular", "server") else dict(named.loading)


@lru_cache(maxsize=4)
def _load(spec: str, base_dir: str | None, kind: str, options: tuple[tuple[str, object], ...]) -> Any:
    # Models are frozen, so one loaded copy may serve every program of the process.
    if kind == "masked":
        return load_masked(spec, base_dir=base_dir, **dict(options))  # type: ignore[arg-type]
    return load_model(spec, base_dir=base_dir, kind=kind, **dict(options))  # type: ignore[arg-type]


def _imported(use: UseSpec, allowed: bool) -> Callable[..., object]:
    """What `use name from "module:function"` imports. Raises PLM541 where not allowed, PLM542."""
    if not allowed:
        raise CompileError.of(
            "PLM541",
            f"the program imports `{use.name}` from Python, which is off unless you allow it",
            use.span,
            "imported here",
            help="pass --allow-use, or call `.allow_use()`, if you trust the program",
        )
    module, _, attribute = use.where.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as problem:  # the module is the user's own: it may fail in any way
        said = f"{type(problem).__name__}: {problem}".rstrip(".")
        raise CompileError.of("PLM542", f"cannot import `{use.where}` ({said})", use.span) from None
    if not callable(found):
        message = f"`{use.where}` is a {type(found).__name__}, not a function"
        raise CompileError.of("PLM542", message, use.span)
    return found
