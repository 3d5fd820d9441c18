"""Latents that no term ties together: each part of a posterior is listed by itself, and draws are joined of them.

Where the log reward is a sum of terms that read disjoint sets of latents, as with one number in each row of a
plate, the posterior is the product of as many posteriors, and the evidence the product of theirs. Thirty rows of a
thousand values are thirty lists of a thousand, where the joint list has a thousand to the thirtieth.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from math import prod

import numpy as np
from attrs import frozen

from posterior_lm.infer.guide import Proposal
from posterior_lm.infer.listing import FREE
from posterior_lm.infer.prefix_expansion import MANY, is_model_free
from posterior_lm.infer.schedule import Atom, log_terms, stages
from posterior_lm.infer.weights import log_shares
from posterior_lm.infer.wider_guides import ListGuide
from posterior_lm.target.target import Target
from posterior_lm.target.values import Values


@frozen(eq=False)
class PartsGuide:
    """Draws from the posterior itself: one value of the list of each part, whatever the others are."""

    lists: tuple[ListGuide, ...]
    name: str = "the posterior"

    def sample(self, rng: np.random.Generator, n: int) -> Proposal:
        drawn = [one.sample(rng, n) for one in self.lists]
        values = {name: column for part in drawn for name, column in part.values.items()}
        return Proposal(values, np.sum([part.log_prob for part in drawn], axis=0))

    def log_prob(self, values: Values) -> np.ndarray:
        parts = [one.log_prob({name: values[name] for name in one.values}) for one in self.lists]
        return np.asarray(np.sum(parts, axis=0))


@lru_cache(maxsize=1)
def listed_parts(target: Target, n: int) -> PartsGuide | None:
    """The parts of a target of finite latents, where listing them costs no more than n draws, a thousand at most, would.

    None also where there is one part, or one that no value satisfies. Drawing from the prior scores every value of every
    latent too, so as many are free where no term asks a model.
    """
    found = [] if any(info.when is not None for info in target.latents) else parts(target)
    if len(found) < 2 or not all(hasattr(info.support, "ids_of") for info in target.latents):
        return None
    sizes = {info.name: info.support.count_values(MANY) or MANY + 1 for info in target.latents}
    n = min(n, 1000)
    limit = FREE * n + sum(sizes.values()) if is_model_free(target) else n
    listed = [prod(sizes[name] for name in names) for names, _ in found]
    if (
        max(listed) > MANY
        or sum(size * len(names) for size, (names, _) in zip(listed, found, strict=True)) > limit
    ):
        return None
    lists = []
    for names, atoms in found:
        rows = list(product(*(target.listed(name) for name in names)))
        values = dict(zip(names, zip(*rows, strict=True), strict=True))
        log_reward = log_terms(target, atoms, values, len(rows))[0].sum(axis=1)
        if not log_reward.max() > -np.inf:
            return None
        lists.append(ListGuide(values, log_shares(log_reward)))
    return PartsGuide(tuple(lists))


def parts(target: Target) -> list[tuple[Sequence[str], tuple[Atom, ...]]]:
    """The names of latents that terms tie together, in order, with these terms; what reads no latent is in none."""
    owner = list(range(len(target.latents)))
    place = {info.node: k for k, info in enumerate(target.latents)}
    reads: list[tuple[Atom, int]] = []
    for stage in stages(target):
        for atom in (stage.prior, *stage.others):
            read = [place[i] for i in target.graph.ancestors(atom.node) if i in place]
            joined = {owner[k] for k in read}
            owner = [min(joined) if mine in joined else mine for mine in owner]
            reads.append((atom, read[0]))
    return [
        (
            [info.name for info, mine in zip(target.latents, owner, strict=True) if mine == k],
            tuple(atom for atom, read in reads if owner[read] == k),
        )
        for k in sorted(set(owner))
    ]
