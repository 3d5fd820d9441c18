"""log q of given values with gradients: one forward pass, log-softmax over what the support allows.

    log q(z | c) = Σ_t [ l_t(z_t) − log( Σ_{v allowed} exp l_t(v) + [may stop] exp l_t(stop) ) ]

with l_t the adapted model's logits after c, z_1..z_t. A forced token or stop has
log q = 0 exactly. Values whose contexts begin alike share that beginning: what
differs stands side by side behind one copy, under the block mask of `lm.packed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from posterior_lm.amortize.paths import FORCED, NEVER, Path
from posterior_lm.lm.base import Branch, Request
from posterior_lm.lm.kv_cache import common_length
from posterior_lm.lm.packed import Row, lay_out, stacked, visible
from posterior_lm.lm.transformers import TransformersModel

WORTH = 6
"""Tokens that a shared beginning has to save: masks cost a little too."""
WIDEST = 768
"""Columns of one cluster: its attention grows with their square."""


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
    longest = max(len(p.ids) for p in paths)
    device = model._forward.device
    log_prob = torch.zeros(len(paths), dtype=torch.float64, device=device)
    end = torch.zeros((len(paths), longest + 1), dtype=torch.float64, device=device) if ends else None
    for places, rows in packed_batches(model, paths, columns):
        steps, stops = _steps(model, [paths[p] for group in places for p in group], places, rows, ends)
        flat = [p for group in places for p in group]
        index = torch.as_tensor(flat, device=device)
        log_prob = log_prob.index_add(0, index, steps.sum(dim=1))
        if end is not None:
            assert stops is not None
            before = torch.cumsum(steps, dim=1) - steps
            width = steps.shape[1]
            end = end.index_put((index[:, None], torch.arange(width, device=device)[None, :]), before + stops)
    if end is None:
        return PathScores(log_prob)
    is_end = torch.zeros(end.shape, dtype=torch.bool)
    for n, path in enumerate(paths):
        is_end[n, : len(path.ends)] = torch.tensor([e != NEVER for e in path.ends])
    is_end = is_end.to(device)
    return PathScores(log_prob, torch.where(is_end, end, 0.0), is_end)


def packed_batches(
    model: TransformersModel, paths: Sequence[Path], columns: int
) -> Iterator[tuple[list[list[int]], list[Row]]]:
    """Micro-batches: for each row of the batch the paths on it, and its layout."""
    laid: list[tuple[list[int], Row]] = []
    for shared, members in _clusters(paths) if model.packed else ((0, [n]) for n in range(len(paths))):
        if len(members) == 1:
            path = paths[members[0]]
            laid.append((members, lay_out(Request(path.context + path.ids, len(path.context)), 0)))
            continue
        trunk = paths[members[0]].context[:shared]
        tails = [paths[n].context[shared:] + paths[n].ids for n in members]
        request = Request(trunk, shared, 0, tuple(Branch(shared, tail) for tail in tails))
        laid.append((members, lay_out(request, 0)))
    laid.sort(key=lambda item: item[1].width)
    batch: list[tuple[list[int], Row]] = []
    for item in laid:
        if batch and (len(batch) + 1) * item[1].width > columns:
            yield [m for m, _ in batch], [r for _, r in batch]
            batch = []
        batch.append(item)
    if batch:
        yield [m for m, _ in batch], [r for _, r in batch]


def _clusters(paths: Sequence[Path]) -> Iterator[tuple[int, list[int]]]:
    """Paths whose contexts begin alike, with how many tokens of them are alike.

    Neighbours in order are joined while that saves tokens: a path that shares l of a
    cluster's k tokens saves l, and costs the others k − l each.
    """
    order = sorted(range(len(paths)), key=lambda n: paths[n].context)
    members: list[int] = []
    shared = width = 0
    for n in order:
        context, length = paths[n].context, len(paths[n].context) + len(paths[n].ids)
        if members:
            alike = common_length(paths[members[0]].context[:shared], context)
            gain = alike - (len(members) - 1) * (shared - alike)
            grown = width + (len(members) - 1) * (shared - alike) + length - alike
            if alike and gain >= WORTH and grown <= WIDEST:
                members, shared, width = [*members, n], alike, grown
                continue
            yield shared, members
        members, shared, width = [n], len(context), length
    if members:
        yield shared, members


def _steps(
    model: TransformersModel, paths: Sequence[Path], places: Sequence[Sequence[int]], rows: Sequence[Row],
    ends: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """(P, T + 1) log q of each choice of each path, 0 past its end; the same of stopping where it may."""
    forward = model._forward
    ids = forward.tensor(stacked(rows, "tokens", 0))
    first = min(row.first for row in rows)
    options: dict[str, Tensor] = {}
    if any(row.has_branches for row in rows):
        options["mask"] = forward.additive(visible(rows, forward.device))
        options["positions"] = forward.tensor(stacked(rows, "positions", 0))
    logits = forward.logits(ids, keep=ids.shape[1] - first, **options)  # type: ignore[arg-type]
    at_row, at_column = [], []
    following = iter(paths)
    for i, row in enumerate(rows):
        for columns, _ in row.spans[1:] if row.has_branches else row.spans:
            # The first columns of a branch may belong to its context.
            chosen = columns[-len(next(following).chosen) :]
            at_row.append(np.full(len(chosen), i))
            at_column.append(chosen - first)
    device = forward.device
    index = [torch.as_tensor(np.concatenate(a), device=device) for a in (at_row, at_column)]
    picked = logits[index[0], index[1]]  # (positions, V)
    if picked.dtype != torch.float64:
        picked = picked.float()
    found, stop = _choices(picked, paths, model.tokenizer.eos_ids, ends)
    width = max(len(p.chosen) for p in paths)
    rows_of = np.repeat(np.arange(len(paths)), [len(p.chosen) for p in paths])
    cols_of = np.concatenate([np.arange(len(p.chosen)) for p in paths])
    where = (torch.as_tensor(rows_of, device=device), torch.as_tensor(cols_of, device=device))
    empty = torch.zeros((len(paths), width), dtype=torch.float64, device=device)
    steps = empty.index_put(where, found)
    return steps, None if stop is None else empty.index_put(where, stop)


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
