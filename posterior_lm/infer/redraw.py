"""Redrawing latents for many chains at once, with the probability of the way there and back.

The old values and the new ones go through the model side by side: the first half of a batch
follows the old tokens, the second half draws new ones. So the probability of the way back is
never a remembered number, which a change of what the latent reads would make wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen

from posterior_lm.infer.choose import Chooser, Follow
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.infer.walk import finished
from posterior_lm.target.target import LatentInfo
from posterior_lm.target.values import Value, Values


@frozen(eq=False)
class Redrawn:
    """C new values of every latent, and (C,) log probabilities of what was redrawn, in nats.

    `forth` is that of the new tokens where the old values stood, `back` that of the old
    tokens where the new values stand.
    """

    values: dict[str, tuple[Value, ...]]
    forth: np.ndarray
    back: np.ndarray


@frozen(eq=False)
class BackAndForth:
    """Draws below `half` follow old values; the others, counted from there, are chosen anew."""

    half: int
    back: Chooser
    forth: Chooser

    def tokens(self, draws: np.ndarray, point: np.ndarray, step: int, probs: np.ndarray) -> np.ndarray:
        picked = np.empty(len(draws), dtype=np.int64)
        old = draws < self.half
        picked[old] = self.back.tokens(draws[old], point[old], step, probs)
        picked[~old] = self.forth.tokens(draws[~old] - self.half, point[~old], step, probs)
        return picked

    def values(self, draws: np.ndarray, probs: np.ndarray, ids: Sequence[tuple[int, ...]]) -> np.ndarray:
        picked = np.empty(len(draws), dtype=np.int64)
        old = draws < self.half
        picked[old] = self.back.values(draws[old], probs, ids)
        picked[~old] = self.forth.values(draws[~old] - self.half, probs, ids)
        return picked


def decisions(info: LatentInfo, value: Value) -> int:
    """How many choices were made to draw a text: one per token, and one to stop where that is a choice.

    At the longest length the stop is forced, and a stop string is made of tokens.
    """
    support = info.support
    stops = support.ending in ("eos", "free") and len(value.ids) < support.max_tokens
    return max(1, len(value.ids) + stops)


def redraw(
    prior: PriorGuide, choose: Chooser, names: Sequence[str], values: Values, cuts: np.ndarray
) -> Redrawn:
    """New values of the latents `names`, drawn in order from their priors under their supports.

    The first of them keeps its first `cuts` (C,) tokens where it is a text; a value of a finite
    type is redrawn whole. `choose` picks for draws 0 to C − 1. The latents not named stay.
    """
    size = len(cuts)
    new = {name: tuple(column) for name, column in values.items()}
    forth, back = np.zeros(size), np.zeros(size)
    for info in prior.target.latents:
        if info.name not in names:
            continue
        both = {name: (*values[name], *new[name]) for name in prior.target.names}
        old = [v.ids for v in values[info.name]]
        keeps = info.name == names[0] and info.type == "text"
        kept = [v[:t] if keeps else () for v, t in zip(old, cuts, strict=True)]
        rest = Follow([v[len(k) :] for v, k in zip(old, kept, strict=True)])
        pick = BackAndForth(size, rest, choose)
        walk = finished(prior.begin(info, both, 2 * size, begun=[*kept, *kept]), pick)
        new[info.name] = tuple(prior.target.value_of(info.name, one) for one in walk.values[size:])
        back, forth = back + walk.log_q[:size], forth + walk.log_q[size:]
    return Redrawn(new, forth, back)
