"""Scoring rows that stand on one cached prompt: micro-batches, and the numbers picked from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from attrs import frozen
from torch import Tensor
from transformers.cache_utils import Cache

from posterior_lm.lm.base import Scores
from posterior_lm.lm.forward import Forward
from posterior_lm.lm.kv_cache import expanded
from posterior_lm.lm.packed import Row, stacked, visible


@frozen
class Limits:
    """How large a micro-batch may be, so that memory does not grow with the number of requests."""

    logits: int = 2**24  # kept columns x vocabulary: 64 MB in float32
    columns: int = 2**13  # new columns of all rows
    attention: int = 2**24  # new columns x (cached and new) columns of all rows
    padding: int = 2**9  # padded columns that cost less than another call


def score_rows(
    forward: Forward, rows: Sequence[Row], eos_ids: tuple[int, ...], cache: Cache | None, limits: Limits
) -> Iterator[tuple[Row, Scores]]:
    """The scores of rows that all follow the same `cache` (one row; None: no prompt), in any order."""
    for plain in (True, False):
        chosen = [row for row in rows if row.has_branches != plain]
        # Neighbours in length waste the least padding.
        for batch in _batches(sorted(chosen, key=lambda r: r.width), forward.vocabulary_size, limits):
            yield from zip(batch, _score_batch(forward, batch, eos_ids, cache), strict=True)


def _batches(rows: Sequence[Row], vocabulary: int, limits: Limits) -> Iterator[list[Row]]:
    """Rows in order of width, cut where a batch would grow too large or hold too much padding."""
    batch: list[Row] = []
    first, filled = 0, 0
    for row in rows:
        first, filled = min(first, row.first) if batch else row.first, filled + row.width
        count, width = len(batch) + 1, row.width
        columns = count * width
        too_big = (
            count * (width - first) * vocabulary > limits.logits
            or columns > limits.columns
            or columns * (width + row.past) > limits.attention
            or columns - filled > max(limits.padding, filled // 4)
        )
        if batch and too_big:
            yield batch
            batch, first, filled = [], row.first, row.width
        batch.append(row)
    if batch:
        yield batch


def _score_batch(
    forward: Forward, rows: Sequence[Row], eos_ids: tuple[int, ...], cache: Cache | None
) -> list[Scores]:
    ids = forward.tensor(stacked(rows, "tokens", 0))
    first = min(row.first for row in rows)
    options: dict[str, Tensor] = {}
    if rows[0].has_branches:
        options["positions"] = forward.tensor(stacked(rows, "positions", rows[0].past))
        options["mask"] = forward.additive(visible(rows, forward.device))
    past = None if cache is None else expanded(cache, len(rows))
    logits = forward(ids, cache=past, keep=ids.shape[1] - first, **options)
    with torch.inference_mode():
        return _pick(logits, rows, first, eos_ids)


def _pick(logits: Tensor, rows: Sequence[Row], first: int, eos_ids: tuple[int, ...]) -> list[Scores]:
    """Gather what each span asks for: token t of a span is predicted by its column t."""
    log_probs = torch.log_softmax(logits, dim=-1)
    eos = torch.full_like(log_probs[:, :, 0], -torch.inf)
    if eos_ids:
        eos = torch.logsumexp(log_probs[:, :, list(eos_ids)], dim=-1)
    eos_table = eos.double().cpu().numpy()
    spans = [(i, columns - first, targets) for i, row in enumerate(rows) for columns, targets in row.spans]
    at_row = np.concatenate([np.full(len(t), i, dtype=np.int64) for i, _, t in spans])
    at_column = np.concatenate([c[:-1] for _, c, _ in spans])
    at_token = np.concatenate([t for _, _, t in spans])
    index = [torch.as_tensor(a, device=logits.device) for a in (at_row, at_column, at_token)]
    found = log_probs[index[0], index[1], index[2]].double().cpu().numpy()
    scores: list[list[Scores]] = [[] for _ in rows]
    at = 0
    for i, columns, targets in spans:
        scores[i].append(Scores(found[at : at + len(targets)].copy(), eos_table[i, columns]))
        at += len(targets)
    return [Scores(s[0].tokens, s[0].eos, tuple(s[1:])) for s in scores]
