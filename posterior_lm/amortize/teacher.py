"""log q of given values with gradients: one forward pass, log-softmax over what the support allows.

    log q(z | c) = Σ_t [ l_t(z_t) − log( Σ_{v allowed} exp l_t(v) + [may stop] exp l_t(stop) ) ]

with l_t the adapted model's logits after c, z_1..z_t. A forced token or stop has
log q = 0 exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from posterior_lm.amortize.paths import FORCED, NEVER, Path
from posterior_lm.lm.transformers import TransformersModel


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
    for numbers, logits in model.read([(p.context, p.ids, len(p.chosen)) for p in paths], columns=columns):
        mine = [paths[n] for n in numbers]
        found, stop = _choices(logits, mine, model.tokenizer.eos_ids, ends)
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
            assert stop is not None
            before = torch.cumsum(steps, dim=1) - steps
            place = (index[:, None], torch.arange(max(sizes), device=device)[None, :])
            end = end.index_put(place, before + empty.index_put(where, stop))
    if end is None:
        return PathScores(log_prob)
    is_end = torch.zeros(end.shape, dtype=torch.bool)
    for n, path in enumerate(paths):
        is_end[n, : len(path.ends)] = torch.tensor([e != NEVER for e in path.ends])
    is_end = is_end.to(device)
    return PathScores(log_prob, torch.where(is_end, end, 0.0), is_end)


def _choices(
    logits: Tensor, paths: Sequence[Path], eos_ids: tuple[int, ...], ends: bool
) -> tuple[Tensor, Tensor | None]:
    """(positions,) float64 log q of what was chosen, and of stopping where that is an end point."""
    device = logits.device
    distinct: dict[int, int] = {}
    table: list[np.ndarray] = []
    which: list[int] = []
    stops: list[bool] = []
    chosen: list[int] = []
    enders: list[int] = []
    for path in paths:
        for mask in path.masks:
            if id(mask) not in distinct:
                distinct[id(mask)] = len(table)
                table.append(mask)
            which.append(distinct[id(mask)])
        stops += path.may_stop
        chosen += path.chosen
        enders += path.ends
    allowed = torch.as_tensor(np.stack(table), device=device)
    masked = logits.masked_fill(~allowed[torch.as_tensor(which, device=device)], -torch.inf)
    may_stop = torch.as_tensor(stops, device=device)
    eos = (
        torch.logsumexp(logits[:, list(eos_ids)], dim=-1)
        if eos_ids
        else torch.zeros(len(logits), dtype=logits.dtype, device=device)
    )
    none = torch.full_like(eos, -torch.inf)
    eos = torch.where(may_stop, eos, none)
    picks = torch.as_tensor(chosen, device=device)
    # Where nothing may follow, a row of −inf has no gradient: it is replaced before the sum.
    dead = ~(allowed.any(dim=1)[torch.as_tensor(which, device=device)] | may_stop)
    masked = torch.where(dead[:, None], torch.zeros_like(masked), masked)
    norm = torch.logsumexp(torch.cat([masked, eos[:, None]], dim=1), dim=1)
    forced = torch.zeros(len(logits), dtype=torch.float64, device=device)

    def of(picks: Tensor) -> Tensor:
        token = masked.gather(1, picks.clamp(min=0)[:, None])[:, 0]
        value = (torch.where(picks >= 0, token, eos) - norm).double()
        return torch.where(picks <= FORCED, forced, value)

    found = of(picks)
    if not ends:
        return found, None
    marks = torch.as_tensor(enders, device=device)
    return found, of(marks)
