"""Values as paths through their supports, and log q of given values with gradients.

A path is one value of one latent after one context. At each of its T + 1 places
the guide chooses among the allowed tokens and, where the value may stop, stopping.
A guide stops by the model's end-of-text probability wherever the support gives
stopping no token of its own, so that it can learn when to stop. One forward pass scores
a path, log-softmax over what the support allows:

    log q(z | c) = Σ_t [ l_t(z_t) − log( Σ_{v allowed} exp l_t(v) + [may stop] exp l_t(stop) ) ]

with l_t the adapted model's logits after c, z_1..z_t. A forced token or stop has
log q = 0 exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from posterior_lm.lm.hf.head import Places
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.support.base import Support

# ------------------------------------------------------------------------------- paths

STOP, FORCED, NEVER = -1, -2, -3
"""In place of a token: stopping is chosen; stopping is all that is left; stopping is not possible."""


@frozen(eq=False)
class Path:
    """The choices of one value. Letters: T tokens of the value.

    `masks` (T + 1,) one read-only (V,) array of allowed tokens per place, shared
    between paths; `may_stop` (T + 1,) whether stopping is among the choices there;
    `chosen` (T + 1,) the token taken, and at the end `STOP` or `FORCED`;
    `ends` (T + 1,) how the value that stops after t tokens does so: the token of
    the stop string, `STOP`, `FORCED`, or `NEVER` where t is no end point.
    """

    context: tuple[int, ...]
    ids: tuple[int, ...]
    masks: tuple[np.ndarray, ...] = field(repr=False)
    may_stop: tuple[bool, ...] = field(repr=False)
    chosen: tuple[int, ...] = field(repr=False)
    ends: tuple[int, ...] = field(repr=False)


def path_maker(support: Support) -> Callable[[tuple[int, ...], tuple[int, ...]], Path]:
    """A function (context, value) -> Path that remembers the values it has walked."""
    walked: dict[tuple[int, ...], Path] = {}

    def make(context: tuple[int, ...], ids: tuple[int, ...]) -> Path:
        known = walked.get(ids)
        if known is None:
            if len(walked) >= 1 << 14:
                walked.clear()
            known = walked[ids] = _walk(support, ids)
        return Path(context, ids, known.masks, known.may_stop, known.chosen, known.ends)

    return make


def _walk(support: Support, ids: Sequence[int]) -> Path:
    """The path of a value without its context. Raises ValueError for a value outside the support.

    A draw that is lost where nothing may follow (a dead draw) has a path too, and no end point there.
    """
    state = support.start()
    masks, may_stop, chosen, ends = [], [], [], []
    stop = support.stop_ids
    for t in range(len(ids) + 1):
        allowed = support.allowed(state)
        stops = support.may_stop(state)
        forced = support.must_stop(state)
        by_choice = stops and not forced and support.ending != "stop"
        masks.append(allowed)
        may_stop.append(by_choice)
        if t == len(ids):
            if not stops and not forced:
                raise ValueError(f"the tokens {tuple(ids)} are no value of the support")
            chosen.append(FORCED if forced else STOP)
            # A value that ends in the stop's own token was an end point one place earlier.
            again = support.ending == "stop" and len(stop) == 1 and tuple(ids[-1:]) == stop
            ends.append(NEVER if again or not stops else chosen[-1])
            break
        token = int(ids[t])
        if not (0 <= token < len(allowed) and allowed[token]):
            raise ValueError(f"the tokens {tuple(ids)} are no value of the support")
        chosen.append(token)
        if support.ending == "stop":
            ends.append(int(stop[0]) if len(stop) == 1 and allowed[stop[0]] else NEVER)
        else:
            ends.append(STOP if stops else NEVER)
        state = support.advance(state, token)
    return Path((), tuple(ids), tuple(masks), tuple(may_stop), tuple(chosen), tuple(ends))


def has_end_points(support: Support) -> bool:
    """Whether the log probability of stopping early is read off the same pass."""
    return support.ending != "stop" or len(support.stop_ids) == 1


# ------------------------------------------------------------------------------- log q of paths


@frozen(eq=False)
class PathScores:
    """log q of N paths, float64 with gradient, nats.

    `log_prob` (N,); `end_log_prob` (N, T + 1) of the value that stops after t
    tokens and `is_end` (N, T + 1) whether there is one; None unless asked for.
    """

    log_prob: Tensor
    end_log_prob: Tensor | None = None
    is_end: Tensor | None = None


def score_paths(
    model: TransformersModel,
    paths: Sequence[Path],
    *,
    ends: bool = False,
    columns: int = 1 << 14,
) -> PathScores:
    """log q of each path under the adapted `model`. `columns` bounds one forward pass, padding included."""
    width = max(len(p.chosen) for p in paths)
    device = model._forward.device
    log_prob = torch.zeros(len(paths), dtype=torch.float64, device=device)
    end = torch.zeros((len(paths), width), dtype=torch.float64, device=device) if ends else None
    for numbers, places in model.read([(p.context, p.ids, len(p.chosen)) for p in paths], columns=columns):
        mine = [paths[n] for n in numbers]
        found, *stop = _choices(places, mine, model.tokenizer.eos_ids, ends)
        # (P, T + 1) log q of each choice of each path, 0 past its end; then the same of stopping where it may.
        sizes = [len(p.chosen) for p in mine]
        where = (
            torch.as_tensor(np.repeat(np.arange(len(mine)), sizes), device=device),
            torch.as_tensor(np.concatenate([np.arange(size) for size in sizes]), device=device),
        )
        empty = torch.zeros((len(mine), max(sizes)), dtype=torch.float64, device=device)
        steps = empty.index_put(where, found)
        index = torch.as_tensor(numbers, device=device)
        log_prob = log_prob.index_add(0, index, steps.sum(dim=1))
        if end is not None:
            before = torch.cumsum(steps, dim=1) - steps
            place = (index[:, None], torch.arange(max(sizes), device=device)[None, :])
            end = end.index_put(place, before + empty.index_put(where, stop[0]))
    if end is None:
        return PathScores(log_prob)
    is_end = torch.zeros(end.shape, dtype=torch.bool)
    for n, path in enumerate(paths):
        is_end[n, : len(path.ends)] = torch.tensor([e != NEVER for e in path.ends])
    is_end = is_end.to(device)
    return PathScores(log_prob, torch.where(is_end, end, 0.0), is_end)


def _choices(places: Places, paths: Sequence[Path], eos_ids: tuple[int, ...], ends: bool) -> list[Tensor]:
    """(P,) float64 log q of what was chosen, and of stopping where that is an end point."""
    device = places.states.device
    masks = [mask for path in paths for mask in path.masks]
    may_stop = torch.tensor([stops for path in paths for stops in path.may_stop], device=device)
    picks = [torch.tensor([t for path in paths for t in path.chosen], device=device)]
    if ends:
        picks.append(torch.tensor([t for path in paths for t in path.ends], device=device))

    def read(logits: Tensor, part: slice) -> tuple[Tensor, ...]:
        """log q of each choice among the tokens that are allowed and, as one more, stopping."""
        eos = torch.logsumexp(logits[:, list(eos_ids)], dim=1) if eos_ids else torch.zeros_like(logits[:, 0])
        stop = torch.where(may_stop[part], eos, -torch.inf)
        allowed, which = _distinct(masks[part], device)
        masked = logits.masked_fill(~allowed[which], -torch.inf)
        # Where nothing may follow, a row of −inf has no gradient: stopping stands in, and nobody reads it.
        dead = ~(allowed.any(dim=1)[which] | may_stop[part])
        choices = torch.cat([masked, torch.where(dead, 0.0, stop)[:, None]], dim=1)
        log_q = torch.log_softmax(choices, dim=1)
        stands = logits.shape[1]
        return tuple(
            torch.where(t[part] <= FORCED, 0.0, log_q.gather(1, torch.where(t[part] >= 0, t[part], stands)[:, None])[:, 0])
            for t in picks
        )  # fmt: skip

    return [column.double() for column in places.read(read)]


def _distinct(masks: Sequence[np.ndarray], device: torch.device) -> tuple[Tensor, Tensor]:
    """(D, V) the different ones among the masks, and (n,) which is whose."""
    different = {id(mask): mask for mask in masks}
    number = {key: k for k, key in enumerate(different)}
    which = [number[id(mask)] for mask in masks]
    return torch.as_tensor(np.stack(list(different.values())), device=device), torch.as_tensor(
        which, device=device
    )
