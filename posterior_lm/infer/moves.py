"""Moves of Metropolis and Hastings over values: what is proposed, and the ratio that decides.

A move from z to z' is accepted with probability min(1, e^ρ) (Hastings 1970), where

    ρ = log reward(z') − log reward(z) + log q(z' → z) − log q(z → z')

Independence: z' is drawn from the guide, whatever z is. Suffix: a latent is picked, then
one of the D(z) choices that its tokens were drawn by, uniformly, and everything from that
choice on is redrawn from the prior under the mask. The way back has to pick the same place
among D(z') choices, so ρ holds log D(z) − log D(z'): without it short values would be drawn
too often. With `latent z ~ base(x) ^ b` alone this is the move of the power sampler of Karan
and Du (2025), whose sequences all have one length. A latent of a small finite type is drawn
from its exact conditional (Geman and Geman 1984), which accepts always.

When values are redrawn, the old ones and the new ones go through the model side by side: the
first half of a batch follows the old tokens, the second half draws new ones. So the probability
of the way back is never a remembered number, which a change of what the latent reads would make wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from attrs import frozen

from posterior_lm.graph.nodes import Latent
from posterior_lm.infer.choosers import Chooser, Follow
from posterior_lm.infer.guide import Guide, PriorGuide, Proposal, weighed
from posterior_lm.infer.rollout import finished
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.values import ABSENT, Value, Values

GIBBS = 32
"""Values of a finite type up to which all are scored in one move; as many as one text has tokens."""


@frozen
class Site:
    """Latents that a move redraws: one, and with `readers` those whose distribution reads it.

    `closed` where no other latent reads any of them.
    """

    latent: str
    readers: tuple[str, ...] = ()
    closed: bool = True


@frozen(eq=False)
class Proposed:
    """C new values of every latent, their log reward (C,), and the log ratio ρ (C,) that decides, nats.

    `gain` (C,) is how much more log probability the prior under the mask gives the new values;
    None where that was not computed on the way.
    """

    values: dict[str, tuple[Value, ...]]
    log_reward: np.ndarray
    log_ratio: np.ndarray
    gain: np.ndarray | None = None


def sites(prior: PriorGuide) -> tuple[Site, ...]:
    """Every latent alone, and every latent with its readers, which it may have made unlikely."""
    target = prior.target
    reads = {
        info.name: {
            node.name
            for i in target.graph.ancestors(prior.priors[info.name].node)
            if isinstance(node := target.graph[i], Latent)
        }
        - {info.name}
        for info in target.latents
    }
    found = []
    for place, info in enumerate(target.latents):
        moved = {info.name}
        for later in target.latents[place + 1 :]:
            if reads[later.name] & moved:
                moved.add(later.name)
        found.append(Site(info.name, closed=len(moved) == 1))
        if len(moved) > 1:
            found.append(Site(info.name, tuple(n for n in target.names if n in moved and n != info.name)))
    return tuple(found)


def small(info: LatentInfo) -> bool:
    """Whether a latent is drawn from its exact conditional."""
    size = info.support.size
    return size is not None and size <= GIBBS


def pick_cuts(rng: np.random.Generator, info: LatentInfo, column: Sequence[Value]) -> np.ndarray:
    """(C,) the choice of each value from which on it is redrawn, uniform over its choices; 0 for a finite type."""
    if info.type != "text":
        return np.zeros(len(column), dtype=np.int64)
    return rng.integers(0, [decisions(info, v) for v in column])


def suffix(
    prior: PriorGuide,
    choose: Chooser,
    site: Site,
    cuts: np.ndarray,
    values: Values,
    log_reward: np.ndarray,
) -> Proposed:
    """Redraws `site` from `cuts` on (C,), from values whose log reward is `log_reward` (C,)."""
    info = prior.target.latent(site.latent)
    found = redraw(prior, choose, (site.latent, *site.readers), values, cuts)
    rewards = _rewards(prior.target, found.values, len(log_reward))
    with np.errstate(invalid="ignore"):
        ratio = np.where(found.left, -np.inf, rewards - log_reward + found.back - found.forth)
    if info.type == "text":
        before = [decisions(info, v) for v in values[site.latent]]
        after = [decisions(info, v) for v in found.values[site.latent]]
        ratio += np.log(before) - np.log(after)
    # What is not redrawn has the probability that it had, unless it reads what was.
    return Proposed(found.values, rewards, ratio, found.forth - found.back if site.closed else None)


def conditional(target: Target, choose: Chooser, info: LatentInfo, values: Values, n: int) -> Proposed:
    """Draws a latent of a finite type from its distribution given everything else; ρ is +inf: always accepted."""
    candidates = [target.value_of(info.name, ids) for ids in info.support.values()]
    candidates += [] if info.when is None else [ABSENT]  # of which the log reward knows which are possible
    size = len(candidates)
    grid = {name: [v for v in column for _ in range(size)] for name, column in values.items()}
    grid[info.name] = candidates * n
    rewards = _rewards(target, grid, n * size).reshape(n, size)
    # The value that is held has a finite log reward, so the largest one is finite.
    probs = np.exp(rewards - rewards.max(axis=1, keepdims=True))
    picked = choose.tokens(np.arange(n), np.arange(n), 0, probs)
    drawn = {name: tuple(column) for name, column in values.items()}
    drawn[info.name] = tuple(candidates[place] for place in picked)
    return Proposed(drawn, rewards[np.arange(n), picked], np.full(n, np.inf))


def from_guide(rng: np.random.Generator, target: Target, guide: Guide, n: int) -> tuple[Proposal, np.ndarray]:
    """N draws from the guide and their log rewards (N,): what independence moves propose, whatever is held."""
    proposal = guide.sample(rng, n)
    return proposal, weighed(proposal, _rewards(target, proposal.values, n))


def independence(
    proposal: Proposal, rewards: np.ndarray, held: np.ndarray, log_reward: np.ndarray
) -> Proposed:
    """Values that `from_guide` gave, C of them, where chains hold values with `log_reward` (C,).

    `held` (C,) is the guide's log probability of the values which are held.
    """
    new = {name: tuple(column) for name, column in proposal.values.items()}
    return Proposed(new, rewards, rewards - log_reward + held - proposal.log_prob)


def accept(rng: np.random.Generator, log_ratio: np.ndarray) -> np.ndarray:
    """(C,) bool: true with probability min(1, e^ρ)."""
    # 1 − u lies in (0, 1], so its logarithm is finite, and a ρ of −inf is never accepted.
    return np.log1p(-rng.random(len(log_ratio))) < log_ratio


def _rewards(target: Target, values: Values, n: int) -> np.ndarray:
    return np.broadcast_to(target.log_reward(values), (n,)).astype(np.float64)


# ---------------------------------------------------------------- redrawing for many chains at once


@frozen(eq=False)
class Redrawn:
    """C new values of every latent, and (C,) log probabilities of what was redrawn, in nats.

    `forth` is that of the new tokens where the old values stood, `back` that of the old
    tokens where the new values stand.
    """

    values: dict[str, tuple[Value, ...]]
    forth: np.ndarray
    back: np.ndarray
    left: np.ndarray
    """(C,) bool: new values that have left their supports (`infer/server_draws.py`); the old ones stand for them."""


@frozen(eq=False)
class BackAndForth(Chooser):
    """Draws below `half` follow old values; the others, counted from there, are chosen anew."""

    half: int
    back: Chooser
    forth: Chooser

    def tokens(self, draws: np.ndarray, point: np.ndarray, step: int, probs: np.ndarray) -> np.ndarray:
        return self._each(draws, lambda one, mine, at: one.tokens(mine, point[at], step, probs))

    def along(self, draw: int) -> tuple[int, ...] | None:
        return self.back.along(draw) if draw < self.half else self.forth.along(draw - self.half)

    def generator(self) -> np.random.Generator:
        return self.forth.generator()

    def values(self, draws: np.ndarray, probs: np.ndarray, ids: Sequence[tuple[int, ...]]) -> np.ndarray:
        return self._each(draws, lambda one, mine, at: one.values(mine, probs, ids))

    def _each(
        self, draws: np.ndarray, pick: Callable[[Chooser, np.ndarray, np.ndarray], np.ndarray]
    ) -> np.ndarray:
        picked, old = np.empty(len(draws), dtype=np.int64), draws < self.half
        picked[old] = pick(self.back, draws[old], old)
        picked[~old] = pick(self.forth, draws[~old] - self.half, ~old)
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
    forth, back, left = np.zeros(size), np.zeros(size), np.zeros(size, dtype=bool)
    for info in prior.target.latents:
        if info.name not in names:
            continue
        both = {name: (*values[name], *new[name]) for name in prior.target.names}
        old = [v.ids for v in values[info.name]]
        keeps = info.name == names[0] and info.type == "text"
        kept = [v[:t] if keeps else () for v, t in zip(old, cuts, strict=True)]
        rest = Follow([v[len(k) :] for v, k in zip(old, kept, strict=True)])
        pick = BackAndForth(size, rest, choose)
        there = prior.target.there(info, both, 2 * size)
        walk = finished(prior.begin(info, both, 2 * size, begun=[*kept, *kept], alive=there), pick)
        if walk.lean is not None:
            left = left | np.isneginf(walk.lean[size:])
        kept_ids = [o if gone else v for o, v, gone in zip(old, walk.values[size:], left, strict=True)]
        new[info.name] = prior.target.made(info, kept_ids, None if there is None else there[size:])
        back, forth = back + walk.log_q[:size], forth + walk.log_q[size:]
    return Redrawn(new, forth, back, left)
