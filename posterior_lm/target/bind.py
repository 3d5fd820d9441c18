"""From a graph, data and models to a target that can be evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.ground import ground
from posterior_lm.graph.nodes import Constant, Latent
from posterior_lm.graph.passes import optimize
from posterior_lm.lang.diagnostics import CompileError, InternalError, error
from posterior_lm.lang.values import finite_spec
from posterior_lm.lm.base import LanguageModel
from posterior_lm.support.base import Support
from posterior_lm.support.build import build_support
from posterior_lm.support.spec import Spec, TextSpec
from posterior_lm.target.evaluate import Evaluator
from posterior_lm.target.masks import narrowed
from posterior_lm.target.pieces import Speller
from posterior_lm.target.target import LatentInfo, Target

if TYPE_CHECKING:
    from posterior_lm.target.prepared import PreparedProgram


def bind(prepared: PreparedProgram, data: Mapping[str, object]) -> Target:
    """The target of a program for one binding of its parameters.

    `data` are validated. Conditions that can be are built into the supports that draws are made from.
    Raises CompileError PLM330 for an empty support, PLM340 for a condition that leaves no
    value of one, PLM531 for a stop or choice that the tokenizer cannot spell.
    """
    program, models, functions = prepared.graph, prepared.models, prepared.functions
    grounded = optimize(ground(program, data))
    _check_used_tools(program, functions)
    supports = {n.name: support_of(grounded, n, models) for _, n in grounded.latents()}
    specs = {n.name: spec_of(grounded, n) for _, n in grounded.latents()}
    narrow = narrowed(program, grounded, specs, supports, models)
    latents = tuple(
        LatentInfo(n.name, n.type, narrow[n.name], n.lm, i, n.span) for i, n in grounded.latents()
    )
    spellers = {}
    for alias, model in models.items():
        own = frozenset(
            info.name
            for info in latents
            if info.lm is not None and models[info.lm].tokenizer.digest == model.tokenizer.digest
        )
        spellers[alias] = Speller.of(model.tokenizer, own)
    evaluator = Evaluator(grounded, models, spellers, supports, functions)
    return Target(prepared, grounded, dict(data), latents, evaluator)


def _check_used_tools(program: RewardGraph, functions: Mapping[str, object]) -> None:
    """Raises CompileError PLM541 for a tool that nobody allowed to be imported."""
    for _, latent in program.latents():
        for tool in latent.tools:
            if tool.kind == "use" and tool.where not in functions:
                message = f"the tool `{tool.name}` is imported from Python, which is off unless you allow it"
                raise CompileError(
                    error("PLM541", message, latent.span, "it writes into this", help="pass --allow-use, or call `.allow_use()`")
                )  # fmt: skip


def options_of(graph: RewardGraph, latent: Latent) -> dict[str, object]:
    """A latent's options by name; they are constants once the graph is grounded."""
    found: dict[str, object] = {}
    for name, i in zip(latent.options, latent.inputs, strict=True):
        node = graph[i]
        if not isinstance(node, Constant):
            raise InternalError(f"the option `{name}` of `{latent.name}` is not a constant")
        found[name] = node.value
    return found


def support_of(graph: RewardGraph, latent: Latent, models: Mapping[str, LanguageModel]) -> Support:
    """What the type of a latent of a grounded graph allows, over its own model's tokens."""
    tokenizer = models[latent.lm].tokenizer if latent.lm is not None else None
    spans = dict(latent.spans)
    return build_support(spec_of(graph, latent), tokenizer, spans.get("type", latent.span), spans)


def spec_of(graph: RewardGraph, latent: Latent) -> Spec:
    """What the type of a latent of a grounded graph asks of its values."""
    options = options_of(graph, latent)
    finite = finite_spec(latent.choices, options.get("low"), options.get("high"), options.get("lead"))
    return finite or TextSpec.of(options, latent.tools)
