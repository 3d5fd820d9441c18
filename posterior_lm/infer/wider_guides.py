"""Guides beside the prior: flatter ones, a list, other scores of the same text.

None of them is the better proposal everywhere, so they stand in a mixture, whose pilot says what each is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import field, frozen

from posterior_lm.graph.nodes import Latent, LmScore
from posterior_lm.infer.drawing import Drawing, drawing
from posterior_lm.infer.guide import PriorGuide, Proposal
from posterior_lm.infer.rollout import Walk, flattened
from posterior_lm.infer.schedule import alone, prior_of, scores_alone
from posterior_lm.infer.weights import log_shares
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.values import Value, Values, take

# ---------------------------------------------------------------- flatter than the prior

LEAST_FLAT = 0.05
"""The least share of a text's choices that are flatter."""
FEW_TOKENS = 256
"""Of more, a text made of flatter choices alone is none that anything follows from."""


@frozen(eq=False)
class FlatGuide(PriorGuide):
    """The prior with a part of its choices flatter: all, or about one in each text: a surprise, and what follows from it."""

    throughout: bool = False

    @property
    def name(self) -> str:
        return "a flat prior" if self.throughout else "the prior with a surprise"

    def _text(self, info: LatentInfo, drawn: Values, n: int, **options: Any) -> Walk:
        flat = 1.0 if self.throughout else max(LEAST_FLAT, 1.0 / (1.0 + info.support.max_tokens))
        return super()._text(info, drawn, n, flat=flat, **options)

    def _prior_rows(
        self, info: LatentInfo, candidates: Sequence[Value], past: Values, rows: int
    ) -> tuple[np.ndarray, np.ndarray]:
        found, where = super()._prior_rows(info, candidates, past, rows)
        alive = ~np.isneginf(found).all(axis=1)
        share = 1.0 if self.throughout else 0.5
        if alive.any():
            found[alive] = flattened(np.stack([log_shares(row) for row in found[alive]]), share)
        return found, where


@frozen(eq=False)
class ListGuide:
    """Draws one of some values, which are N different ones, each with its log probability (N,)."""

    values: Mapping[str, tuple[Value, ...]]
    log_probs: np.ndarray
    name: str = "the likeliest values"

    def sample(self, rng: np.random.Generator, n: int) -> Proposal:
        picked = rng.choice(len(self.log_probs), size=n, p=np.exp(self.log_probs))
        drawn = take(self.values, picked.tolist())
        return Proposal({name: tuple(column) for name, column in drawn.items()}, self.log_probs[picked])

    def log_prob(self, values: Values) -> np.ndarray:
        known = dict(zip(_ids(self.values), self.log_probs.tolist(), strict=True))
        return np.array([known.get(one, -np.inf) for one in _ids(values)])


def _ids(values: Values) -> list[tuple[tuple[int, ...], ...]]:
    return list(zip(*([v.ids for v in column] for column in values.values()), strict=True))


def flatter(target: Target) -> tuple[FlatGuide, ...]:
    """What is flatter than the prior, and of use."""
    widest = max((model.tokenizer.vocabulary_size for model in target.models.values()), default=1)
    one = FlatGuide(target)
    return (one,) if widest > FEW_TOKENS else (one, FlatGuide(target, throughout=True))


# ---------------------------------------------------------------- other scores of the same text

MOST_SCORES = 3
"""Other scores of a text that propose it; of more, such as those of a plate's rows, the first."""


@frozen(eq=False)
class ElsewhereGuide(PriorGuide):
    """Draws texts by what scores them in another term: another model, or the same one after another context.

    `scores` has a score node for some latents, by name; the others are drawn from the prior. Where a program is a mixture of
    two models, its prior draws the one half, and the other may never be seen.
    """

    scores: Mapping[str, int] = field(factory=dict)

    @property
    def name(self) -> str:
        return "what else scores it"

    def _drawing(self, info: LatentInfo, drawn: Values, n: int) -> Drawing:
        if info.name not in self.scores:
            return super()._drawing(info, drawn, n)
        return drawing(self.target, alone(self.target, self.scores[info.name]), drawn, n)


def elsewhere(target: Target) -> tuple[ElsewhereGuide, ...]:
    """What other terms score texts by, as guides: the first other score of each text, the second, …"""
    graph = target.graph
    scores = [i for i in graph.order() if isinstance(graph[i], LmScore)]
    found: dict[str, list[int]] = {}
    drawn: set[int] = set()
    for info in target.latents:
        if info.type == "text" and info.lm is not None:
            own, tokens = prior_of(target, info.name), target.models[info.lm].tokenizer.digest
            found[info.name] = [
                i
                for i in scores
                if i not in {part.node for part in own.parts}
                and scores_alone(target, graph[i], info.name)
                and target.models[graph[i].lm].tokenizer.digest == tokens  # type: ignore[attr-defined]
                and {j for j in graph.ancestors(graph[i].inputs[0]) if isinstance(graph[j], Latent)} <= drawn
            ]
        drawn.add(info.node)
    return tuple(
        ElsewhereGuide(target, scores={name: mine[k] for name, mine in found.items() if k < len(mine)})
        for k in range(min(MOST_SCORES, max(map(len, found.values()), default=0)))
    )
