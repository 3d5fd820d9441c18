"""Log-probs of choices: a token among those that a mask allows, or to stop there.

    log q(t) = l(t) − log( Σ_{v allowed} exp l(v) + [may stop] exp l(stop) )

with l a place's logits and l(stop) the log-sum-exp over the tokens that end a text, both times the power of the place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from posterior_lm.lm.hf.head import Places
from posterior_lm.lm.protocol import stopping

STOP = -1
"""In place of a token: stopping is chosen. What lies below it is no choice."""


@frozen(eq=False)
class Choices:
    """At each of P places the allowed tokens (V,), whether stopping is among them and which tokens it stands for.

    `picks` are columns (P,) of what was picked: a token, `STOP`, or what is no choice and has log-prob 0.
    """

    masks: Sequence[np.ndarray] = field(repr=False)
    may_stop: Sequence[bool] = field(repr=False)
    eos_ids: Sequence[tuple[int, ...]] = field(repr=False)
    picks: Sequence[Sequence[int]] = field(repr=False)
    free: Sequence[tuple[float, float] | None] = field(default=(), repr=False)
    """At each place that is a free end by how much end-of-text is raised there and how many tokens are left, else None; () for nowhere."""
    powers: Sequence[float] = field(default=(), repr=False)
    """Of the model's probabilities, at each place; () where every one is 1."""


def log_probs_of(places: Places, choices: Choices) -> list[Tensor]:
    """For each column of picks the (P,) float64 log-probs, nats, with gradients where the states have them."""
    device = places.states.device
    may_stop = torch.tensor(choices.may_stop, device=device)
    picks = [torch.tensor(column, device=device) for column in choices.picks]
    raised, chance = _free_ends(choices.free, device)
    powers = None
    if any(power != 1.0 for power in choices.powers):
        powers = torch.tensor(choices.powers, device=device)
        raised = raised * powers if choices.free else raised

    def read(logits: Tensor, part: slice) -> tuple[Tensor, ...]:
        ending = _ending(logits, choices.eos_ids[part])
        if powers is not None:
            ending, logits = ending * powers[part], logits * powers[part, None]
        stop = torch.where(may_stop[part], ending, -torch.inf)
        allowed, which = _distinct(choices.masks[part], device)
        masked = logits.masked_fill(~allowed[which], -torch.inf)
        # Where nothing may follow, a row of −inf has no gradient: stopping stands in, and nobody reads it.
        dead = ~(allowed.any(dim=1)[which] | may_stop[part])
        every = torch.cat([masked, torch.where(dead, 0.0, stop)[:, None]], dim=1)
        log_q = torch.log_softmax(every, dim=1)
        if chance is not None:
            log_q = _with_free_ends(log_q, masked, ending + raised[part], chance[part])
        last = logits.shape[1]
        return tuple(
            torch.where(t[part] < STOP, 0.0, log_q.gather(1, torch.where(t[part] >= 0, t[part], last)[:, None])[:, 0])
            for t in picks
        )  # fmt: skip

    return [column.double() for column in places.read(read)]


def _free_ends(
    free: Sequence[tuple[float, float] | None], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """(P,) by how much end-of-text is raised at free ends, and (P,) how often these stop by chance, 0 elsewhere; None where there are none."""
    ends = [one or (0.0, 0) for one in free]
    raised = torch.tensor([level - math.log(max(1, left)) for level, left in ends], device=device)
    chance = torch.tensor([1 / (left + 1) if left else 0.0 for _, left in ends], device=device)
    return raised, chance if any(free) else None


def _with_free_ends(log_q: Tensor, masked: Tensor, ending: Tensor, chance: Tensor) -> Tensor:
    """(n, V + 1) the same log-probs, but for free ends those of `stopping` and of the tokens beside it."""
    here = chance > 0
    # What is not a free end has no part in the gradient, and must not make it NaN.
    tokens = torch.where(here, torch.logsumexp(masked, dim=1), 0.0)
    stops = torch.where(here, stopping(chance, torch.sigmoid(ending - tokens)), 0.5)
    found = torch.cat([masked + (torch.log1p(-stops) - tokens)[:, None], torch.log(stops)[:, None]], dim=1)
    return torch.where(here[:, None], found, log_q)


def _ending(logits: Tensor, eos_ids: Sequence[tuple[int, ...]]) -> Tensor:
    """(n,) the log-sum-exp of (n, V) logits over the tokens that end each text; 0 where none does."""
    different = sorted(set(eos_ids))
    found = [
        torch.logsumexp(logits[:, list(ids)], dim=1) if ids else torch.zeros_like(logits[:, 0])
        for ids in different
    ]
    if len(found) == 1:
        return found[0]
    which = torch.tensor([different.index(ids) for ids in eos_ids], device=logits.device)
    return torch.stack(found).gather(0, which[None])[0]


def _distinct(masks: Sequence[np.ndarray], device: torch.device) -> tuple[Tensor, Tensor]:
    """(D, V) the different ones among the masks, and (n,) which is whose."""
    different = {id(mask): mask for mask in masks}
    number = {key: k for k, key in enumerate(different)}
    which = [number[id(mask)] for mask in masks]
    return torch.as_tensor(np.stack(list(different.values())), device=device), torch.as_tensor(
        which, device=device
    )
