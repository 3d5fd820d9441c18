"""Values as paths through their supports, and log q of given values with gradients.

A path is one value of one latent after one context. At each of its T + 1 places
the guide chooses among the allowed tokens and, where the value may stop, stopping.
A guide stops by the model's end-of-text probability wherever the support gives
stopping no token of its own, so that it can learn when to stop. One forward pass scores
a path, log-softmax over what the support allows:

    log q(z | c) = Σ_t [ l_t(z_t) − log( Σ_{v allowed} exp l_t(v) + [may stop] exp l_t(stop) ) ]

with l_t the adapted model's logits after c, z_1..z_t, times the power of the path. A forced token or stop has
log q = 0 exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from attrs import evolve, field, frozen
from torch import Tensor

from posterior_lm.lm.hf.choices import STOP, Choices, log_probs_of
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.support.base import Support, tokens_left

# ------------------------------------------------------------------------------- paths

FORCED, NEVER = -2, -3
"""In place of a token: stopping is all that is left; stopping is not possible. Neither is a choice."""


@frozen(eq=False)
class Path:
    """The choices of one value. Letters: T tokens of the value.

    `masks` (T + 1,) one read-only (V,) array of allowed tokens per place, shared
    between paths; `may_stop` (T + 1,) whether stopping is among the choices there;
    `chosen` (T + 1,) the token taken, and at the end `STOP` or `FORCED`;
    `ends` (T + 1,) how the value that stops after t tokens does so: the token of
    the stop string, `STOP`, `FORCED`, or `NEVER` where t is no end point.
    `eos_ids` are what ends a text there; (): the model's own. `left` (T + 1,) are the
    tokens that may follow where a free end is chosen, which is then by `stop` (`lm.protocol.stopping`), else 0; () without one.
    """

    context: tuple[int, ...]
    ids: tuple[int, ...]
    masks: tuple[np.ndarray, ...] = field(repr=False)
    may_stop: tuple[bool, ...] = field(repr=False)
    chosen: tuple[int, ...] = field(repr=False)
    ends: tuple[int, ...] = field(repr=False)
    eos_ids: tuple[int, ...] = ()
    left: tuple[float, ...] = field(default=(), repr=False)
    stop: float | None = None
    power: float = 1.0


def path_maker(
    support: Support, eos_ids: tuple[int, ...] = (), stop: float | None = None, power: float = 1.0
) -> Callable[[tuple[int, ...], tuple[int, ...]], Path]:
    """A function (context, value) -> Path that remembers the values it has walked; `eos_ids` as a Path has them, `stop` and `power` as a Reading."""
    walked: dict[tuple[int, ...], Path] = {}

    def make(context: tuple[int, ...], ids: tuple[int, ...]) -> Path:
        known = walked.get(ids)
        if known is None:
            if len(walked) >= 1 << 14:
                walked.clear()
            found = _walk(support, ids)
            known = walked[ids] = evolve(found, context=context, eos_ids=eos_ids, stop=stop, power=power)
        return known if known.context == context else evolve(known, context=context)

    return make


def _walk(support: Support, ids: Sequence[int]) -> Path:
    """The path of a value without its context. Raises ValueError for a value outside the support.

    A draw that is lost where nothing may follow (a dead draw) has a path too, and no end point there.
    """
    state = support.start()
    masks, may_stop, chosen, ends, left = [], [], [], [], []
    stop = support.stop_ids
    for t in range(len(ids) + 1):
        allowed = support.allowed(state)
        stops = support.may_stop(state)
        forced = support.must_stop(state)
        by_choice = stops and not forced and support.ending != "stop"
        masks.append(allowed)
        may_stop.append(by_choice)
        left.append(tokens_left(support, state, t) if by_choice and support.ending == "free" else 0)
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
    return Path((), tuple(ids), tuple(masks), tuple(may_stop), tuple(chosen), tuple(ends), left=tuple(left))


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
        found, *stop = log_probs_of(places, _choices(mine, model.tokenizer.eos_ids, ends))
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


def stop_level(model: TransformersModel, paths: Sequence[Path]) -> float | None:
    """The `stop` of readings by which the model ends these texts, before their last token, as often as a free end does.

    A free end stops with 1 / (tokens left + 1) and has no probability by the model, whose end-of-text may be thirteen nats away. So
    it is raised until its probability is that on the mean of all places, and a guide that has learnt nothing has about the
    lengths of the prior. None where no path may stop by choice.
    """
    odds, left, powers = [], [], []
    with torch.inference_mode():
        for path in paths:
            picks = tuple(STOP if stops else FORCED for stops in path.may_stop)
            asked = evolve(path, chosen=picks, stop=None)
            for _, places in model.read([(path.context, path.ids, len(picks))], columns=1 << 12):
                (found,) = log_probs_of(places, _choices([asked], model.tokenizer.eos_ids, False))
                for log_prob, tokens in zip(found.tolist(), path.left, strict=True):
                    if tokens:
                        odds.append(log_prob - math.log(max(1e-300, -math.expm1(log_prob))))
                        left.append(tokens)
                        powers.append(path.power)
    if not odds:
        return None
    wanted = sum(1 / (tokens + 1) for tokens in left)
    low, high = -100.0, 100.0
    for _ in range(60):
        level = (low + high) / 2
        share = sum(
            1 / (1 + math.exp(min(700.0, b * (math.log(n) - level) - o)))
            for o, n, b in zip(odds, left, powers, strict=True)
        )
        low, high = (level, high) if share < wanted else (low, level)
    return level


def _choices(paths: Sequence[Path], eos_ids: tuple[int, ...], ends: bool) -> Choices:
    """At every place of these paths: what was chosen, and with `ends` what stopping there would be."""
    return Choices(
        masks=tuple(mask for path in paths for mask in path.masks),
        may_stop=tuple(stops for path in paths for stops in path.may_stop),
        eos_ids=tuple(path.eos_ids or eos_ids for path in paths for _ in path.masks),
        free=tuple(
            (path.stop, left) if path.stop is not None and left else None
            for path in paths
            for left in path.left
        ),
        powers=tuple(path.power for path in paths for _ in path.masks),
        picks=(
            tuple(t for path in paths for t in path.chosen),
            *([tuple(t for path in paths for t in path.ends)] if ends else []),
        ),
    )
