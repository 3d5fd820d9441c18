"""What a text is drawn from: one model after a context, or the parts of a mixture, each after its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import evolve, frozen

from posterior_lm.graph.ops import spelled
from posterior_lm.infer.mixed_model import Ids, MixedModel, Strand
from posterior_lm.infer.schedule import Part, Prior
from posterior_lm.lang.diagnostics import at
from posterior_lm.lm.protocol import LanguageModel
from posterior_lm.target.segments import Computed, Segment
from posterior_lm.target.target import Target
from posterior_lm.target.values import Values, take


@frozen(eq=False)
class Drawing:
    """What N draws of a text are drawn from: a model, and contexts of N draws with what they share."""

    model: LanguageModel | MixedModel
    contexts: list[Ids]
    shared: int
    eos_ids: Ids
    power: float


def drawing(target: Target, prior: Prior, drawn: Values, n: int) -> Drawing:
    """What the latent of a prior is drawn from after the latents that are drawn.

    A mixture that draws have in common is one context, so that they share the model's work.
    """
    if len(prior.parts) == 1:
        contexts, shared, eos_ids = _part(target, prior.parts[0], drawn, n)
        return Drawing(target.models[prior.lm or ""], contexts, shared, eos_ids, prior.power)
    log_shares = prior.log_shares(target, drawn, n)
    strands: list[list[Strand]] = [[] for _ in range(n)]
    for part, column in zip(prior.parts, log_shares.T, strict=True):
        # What draws from other parts hold may be nothing that this one's model can read.
        rows = np.flatnonzero(column > -np.inf).tolist()
        contexts, _, eos_ids = _part(target, part, take(drawn, rows), len(rows))
        power = part.exponent if part.exponent > 0 else 1.0
        for d, context in zip(rows, contexts, strict=True):
            strands[d].append(Strand(part.lm or "", context, eos_ids, power, float(column[d])))
    numbers = {mixture: k for k, mixture in enumerate(dict.fromkeys(map(tuple, strands)))}
    mixed = MixedModel(target.models, tuple(numbers))
    contexts = [(numbers[tuple(mixture)],) for mixture in strands]
    return Drawing(mixed, contexts, 0, mixed.eos_ids, prior.exponent if prior.exponent > 0 else 1.0)


def together(found: Sequence[Drawing]) -> Drawing:
    """Drawings of one statement as one, N draws after N; what they share is not looked for."""
    contexts = [context for one in found for context in one.contexts]
    if not isinstance(found[0].model, MixedModel):
        return evolve(found[0], contexts=contexts, shared=0)
    mixtures = [one.model.mixtures[n] for one in found for (n,) in one.contexts]  # type: ignore[union-attr]
    numbers = {mixture: k for k, mixture in enumerate(dict.fromkeys(mixtures))}
    mixed = MixedModel(found[0].model.models, tuple(numbers))
    return Drawing(mixed, [(numbers[one],) for one in mixtures], 0, mixed.eos_ids, found[0].power)


def _part(target: Target, part: Part, drawn: Values, n: int) -> tuple[list[Ids], int, Ids]:
    """Contexts of N draws, what they share, and what ends an answer to them."""
    evaluator, node, lm = target.evaluator, target.graph[part.node], part.lm or ""
    with at(node.span, "the model reads this"):
        segments = evaluator.segments(node.inputs[0])
        contexts, shared = contexts_of(target, lm, segments, drawn, n)
        turn = evaluator.spellers[lm].turn_ids(segments)
    return contexts, shared, turn or target.models[lm].tokenizer.eos_ids


def contexts_of(
    target: Target, lm: str, segments: Sequence[Segment], drawn: Values, n: int
) -> tuple[list[Ids], int]:
    """Each draw's context tokens, and how many leading ones are the same known prompt."""
    front = target.evaluator.spellers[lm].front(segments)
    columns = {p.node: target.evaluator.node(p.node, drawn, n) for p in segments if isinstance(p, Computed)}

    def read(d: int) -> Ids:
        return front.context(lambda name: drawn[name][d], lambda node: spelled(columns[node][d]))[0]

    if n and not front.rest:
        return [read(0)] * n, front.shared
    return [read(d) for d in range(n)], front.shared
