"""Sequences extended token by token on a key-value cache, and two slower ways for models without one.

Every class here is a `Rollout`: `log_probs` (N, V), and `extend(rows, tokens)`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from attrs import evolve, field, frozen
from torch import Tensor
from transformers.cache_utils import Cache

from posterior_lm.lm.hf.forward import Forward
from posterior_lm.lm.hf.kv_cache import copy_rows, expanded, growing, joined, picked
from posterior_lm.lm.hf.threads import threads

COLUMNS = 2**13
"""New columns of all rows in one prefill."""

Ids = tuple[int, ...]


def log_softmax(logits: Tensor) -> np.ndarray:
    """(N, V) log-probs of (N, V) logits."""
    with torch.inference_mode():
        return torch.log_softmax(logits, dim=-1).cpu().numpy()


@frozen(eq=False)
class CachedRollout:
    """Rows of one cache. Letters: N sequences, R >= N rows of the cache, W columns.

    Rows of different lengths share columns: `filled` says which are theirs. A
    sequence that is left out keeps its row until half of the rows are idle, and one
    that goes on twice is copied once, since copying the whole cache costs more than
    a step of idle rows.
    """

    forward: Forward
    cache: Cache = field(repr=False)
    row: np.ndarray  # (N,) the row of each sequence, no row twice
    lengths: np.ndarray  # (R,) tokens of each row
    filled: Tensor | None = field(repr=False)  # (R, W) booleans; None: all of them
    log_probs: np.ndarray = field(repr=False)

    def extend(self, rows: np.ndarray, tokens: np.ndarray) -> CachedRollout:
        """Row j is sequence `rows[j]` followed by `tokens[j]`; the cache grows in place."""
        rows = np.asarray(rows, dtype=np.int64)
        if not len(rows):
            return self.pick(rows)
        return self._moved(rows).step(np.asarray(tokens, dtype=np.int64))

    def pick(self, rows: np.ndarray) -> CachedRollout:
        """The sequences `rows` (M,), nothing added."""
        return evolve(self._moved(rows), log_probs=self.log_probs[rows])

    def _moved(self, rows: np.ndarray) -> CachedRollout:
        """The rows of the sequences `rows`; a sequence that is there twice gets a second row."""
        row, total = self.row[rows], len(self.lengths)
        if not len(row) or 2 * len(row) < total:
            return self._picked(row)
        _, first = np.unique(row, return_index=True)
        again = np.setdiff1d(np.arange(len(row)), first)
        if not len(again):
            return evolve(self, row=row)
        idle = np.setdiff1d(np.arange(total), row)
        places = np.r_[idle, np.arange(total, total + max(0, len(again) - len(idle)))][: len(again)]
        count = max(total, int(places.max()) + 1)
        source, target = self.forward.tensor(row[again]), self.forward.tensor(places)
        if not copy_rows(self.cache, source, target, count):
            return self._picked(row)
        origin = np.arange(count)
        origin[places] = row[again]
        row = row.copy()
        row[again] = places
        filled = None if self.filled is None else self.filled.index_select(0, self.forward.tensor(origin))
        return evolve(self, row=row, lengths=self.lengths[origin], filled=filled)

    def _picked(self, row: np.ndarray) -> CachedRollout:
        if not len(row):
            return evolve(self, row=row)
        index = self.forward.tensor(row)
        return evolve(
            self,
            cache=picked(self.cache, index),
            row=np.arange(len(row)),
            lengths=self.lengths[row],
            filled=None if self.filled is None else self.filled.index_select(0, index),
        )

    def step(self, tokens: np.ndarray) -> CachedRollout:
        """Every sequence followed by one token (N,); idle rows are given id 0."""
        self.forward.check_window(int(self.lengths[self.row].max()) + 1)
        ids = np.zeros_like(self.lengths)
        ids[self.row] = tokens
        filled, options = self.filled, {}
        if filled is not None:
            filled = torch.cat([filled, torch.ones_like(filled[:, :1])], dim=1)
            options["mask"] = self.forward.additive(filled[:, None, :])
            # An idle row may be full already; it is given any place inside the window.
            at = np.minimum(self.lengths, self.lengths[self.row].max())
            options["positions"] = self.forward.tensor(at)[:, None]
        lengths = self.lengths.copy()
        lengths[self.row] += 1
        with threads(self.forward, len(ids)):
            logits = self.forward(self.forward.tensor(ids)[:, None], cache=self.cache, keep=1, **options)
            logits = logits[:, -1]
            if not np.array_equal(self.row, np.arange(len(ids))):
                logits = logits.index_select(0, self.forward.tensor(self.row))
            log_probs = log_softmax(logits)
        return CachedRollout(self.forward, self.cache, self.row, lengths, filled, log_probs)


def open_cached(forward: Forward, sequences: Sequence[Ids], prompt: Cache | None, past: int) -> CachedRollout:
    """A rollout after distinct sequences, which all begin with the `past` tokens of `prompt`.

    All but the last token of each is prefilled, padded on the right; the last
    token is a first step, so that sequences of any lengths end in one column.
    """
    heads = [s[past:-1] for s in sequences]
    lengths = np.asarray([len(s) - 1 for s in sequences])
    width = int(lengths.max()) - past
    caches = []
    count = max(1, COLUMNS // max(1, width))
    for at in range(0, len(heads), count):
        part = heads[at : at + count]
        cache = forward.new_cache() if prompt is None else expanded(prompt, len(part))
        if width:
            padded = [[*h, *[0] * (width - len(h))] for h in part]
            forward.fill(forward.tensor(padded), cache)
        caches.append(cache)
    filled = None
    if lengths.min() < lengths.max():
        filled = torch.arange(past + width, device=forward.device) < forward.tensor(lengths)[:, None]
    last = np.asarray([s[-1] for s in sequences])
    nothing = np.empty((len(heads), 0))
    row = np.arange(len(heads))
    if past or width:
        return CachedRollout(forward, growing(joined(caches)), row, lengths, filled, nothing).step(last)
    # A cache that is still empty learns its shape in the first step.
    opened = CachedRollout(forward, caches[0], row, lengths, filled, nothing).step(last)
    return evolve(opened, cache=growing(opened.cache))


@frozen(eq=False)
class GroupedRollout:
    """One `CachedRollout` per length, for models whose masks and positions cannot be given."""

    groups: tuple[CachedRollout, ...]
    group: np.ndarray  # (N,) which group a row is in
    place: np.ndarray  # (N,) which row of the group
    log_probs: np.ndarray = field(repr=False)

    def extend(self, rows: np.ndarray, tokens: np.ndarray) -> GroupedRollout:
        rows, tokens = np.asarray(rows, dtype=np.int64), np.asarray(tokens, dtype=np.int64)
        group = self.group[rows]
        moved = [
            g.extend(self.place[rows[group == k]], tokens[group == k]) for k, g in enumerate(self.groups)
        ]
        return gather_groups(moved, group)


def gather_groups(groups: Sequence[CachedRollout], group: np.ndarray) -> GroupedRollout:
    """Groups as one rollout; row j is the next unused row of group `group[j]`."""
    place = np.zeros(len(group), dtype=np.int64)
    log_probs = np.empty((len(group), groups[0].log_probs.shape[1]), dtype=groups[0].log_probs.dtype)
    for k, one in enumerate(groups):
        mine = group == k
        place[mine] = np.arange(mine.sum())
        log_probs[mine] = one.log_probs
    return GroupedRollout(tuple(groups), group, place, log_probs)


@frozen(eq=False)
class RecomputedRollout:
    """Whole sequences, computed anew at every step: for recurrent models and caches of other kinds."""

    forward: Forward
    sequences: tuple[Ids, ...] = field(repr=False)
    log_probs: np.ndarray = field(init=False, repr=False)

    @log_probs.default
    def _compute(self) -> np.ndarray:
        distinct = sorted(set(self.sequences), key=len)
        self.forward.check_window(len(distinct[-1]) if distinct else 0)
        found: dict[Ids, np.ndarray] = {}
        count = max(1, COLUMNS // max(map(len, distinct), default=1))
        for at in range(0, len(distinct), count):
            part = distinct[at : at + count]
            last = [i * len(part[-1]) + len(s) - 1 for i, s in enumerate(part)]
            with torch.inference_mode(), threads(self.forward, len(part) * len(part[-1])):
                places = self.forward.places(self.forward.padded(part), self.forward.tensor(last))
                found |= zip(part, log_softmax(places.logits()), strict=True)
        if not self.sequences:
            return np.empty((0, self.forward.vocabulary_size), dtype=np.float32)
        return np.stack([found[s] for s in self.sequences])

    def extend(self, rows: np.ndarray, tokens: np.ndarray) -> RecomputedRollout:
        pairs = zip(np.asarray(rows).tolist(), np.asarray(tokens).tolist(), strict=True)
        return RecomputedRollout(self.forward, tuple((*self.sequences[r], t) for r, t in pairs))
