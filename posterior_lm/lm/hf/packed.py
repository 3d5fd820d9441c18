"""Scoring given tokens: rows of a trunk and its branches side by side, in micro-batches, one pass for each.

A row holds the tokens of a request after the cached prompt, then the tokens of
each branch. A branch sees the prompt, the trunk up to where it leaves it, and
itself; its positions go on from there. So one forward pass scores a sequence and
every continuation of every prefix of it, as tree attention does in speculative
decoding (Miao et al., 2024, SpecInfer). Texts whose contexts begin alike are laid out
in the same way, behind one copy of that beginning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor
from transformers.cache_utils import Cache

from posterior_lm.lm.hf.forward import Forward
from posterior_lm.lm.hf.head import Places
from posterior_lm.lm.hf.kv_cache import common_length, expanded
from posterior_lm.lm.hf.threads import threads
from posterior_lm.lm.protocol import Branch, Request, Scores

TRUNK, PADDING = 0, -1
ENDLESS = 2**62
WORTH = 6
"""Tokens that a shared beginning has to save: masks cost a little too."""
WIDE, WIDEST = 192, 768
"""Columns of texts that share a beginning: their attention grows with the square, which a small model feels
from a few hundred on, so that only a long beginning, which would be read again and again, is worth more."""

Ids = tuple[int, ...]
Line = tuple[Ids, Ids, int]
"""A context, the T tokens after it, and how many of the T + 1 places behind the context are read."""


@frozen
class Limits:
    """How large a micro-batch may be, so that memory does not grow with the number of requests."""

    logits: int = 2**24  # kept columns x vocabulary, where they are made whole: 64 MB in float32
    columns: int = 2**13  # new columns of all rows
    attention: int = 2**24  # new columns x (cached and new) columns of all rows
    padding: int = 2**9  # padded columns that cost less than another call


@frozen(eq=False)
class Row:
    """One request laid out after `past` cached tokens, in L columns."""

    request: Request
    past: int
    tokens: np.ndarray = field(repr=False)
    """(L,) token ids."""
    positions: np.ndarray = field(repr=False)
    """(L,) places in the sequence."""
    owner: np.ndarray = field(repr=False)
    """(L,) 0 for the trunk, k for the k-th branch, counted from 1."""
    reach: np.ndarray = field(repr=False)
    """(L,) how many columns of the trunk a column may see, itself aside."""
    spans: tuple[tuple[np.ndarray, np.ndarray], ...] = field(repr=False)
    """For the trunk and each branch: the columns (T + 1,) that predict, and the tokens (T,) that follow."""

    @property
    def width(self) -> int:
        return len(self.tokens)

    @property
    def first(self) -> int:
        """The leftmost column whose prediction is wanted."""
        return self.request.start - 1 - self.past

    @property
    def has_branches(self) -> bool:
        return bool(self.request.branches)


def lay_out(request: Request, past: int) -> Row:
    """The row of a request; `past` tokens are cached and `past < request.start`."""
    trunk = request.ids[past:]
    if not request.branches:
        ids = np.asarray(trunk, dtype=np.int64)
        columns = np.arange(len(trunk) + 1)
        first = request.start - past
        span = columns[first - 1 : -1], ids[first:]
        return Row(request, past, ids, columns[:-1] + past, np.zeros_like(ids), columns[1:], (span,))
    tokens = [np.asarray(trunk, dtype=np.int64)]
    positions = [np.arange(past, len(request.ids))]
    owner = [np.zeros(len(trunk), dtype=np.int64)]
    reach = [np.arange(1, len(trunk) + 1)]
    spans = [
        (np.arange(request.start - 1 - past, len(trunk)), np.asarray(request.ids[request.start :], np.int64))
    ]
    column = len(trunk)
    for k, branch in enumerate(request.branches, start=1):
        length, leaves = len(branch.ids), branch.at - past
        own = np.arange(column, column + length)
        tokens.append(np.asarray(branch.ids, dtype=np.int64))
        positions.append(np.arange(branch.at, branch.at + length))
        owner.append(np.full(length, k))
        reach.append(np.full(length, leaves))
        spans.append((np.concatenate([[leaves - 1], own]).astype(np.int64), tokens[-1]))
        column += length
    return Row(
        request,
        past,
        np.concatenate(tokens),
        np.concatenate(positions),
        np.concatenate(owner),
        np.concatenate(reach),
        tuple(spans),
    )


def stacked(rows: Sequence[Row], name: str, fill: int) -> np.ndarray:
    """(B, L) one array of each row, padded on the right."""
    width = max(row.width for row in rows)
    table = np.full((len(rows), width), fill, dtype=np.int64)
    for i, row in enumerate(rows):
        table[i, : row.width] = getattr(row, name)
    return table


def visible(rows: Sequence[Row], device: torch.device) -> Tensor:
    """(B, L, P + L) booleans: which cached and new columns each new column may see.

    Padding sees the prompt and other padding before it, so that no row of
    attention scores is empty; nothing else ever sees padding.
    """
    owner = torch.as_tensor(stacked(rows, "owner", PADDING), device=device)
    reach = torch.as_tensor(stacked(rows, "reach", 0), device=device)
    count, width = owner.shape
    columns = torch.arange(width, device=device)
    of_trunk = (owner[:, None, :] == TRUNK) & (columns[None, None, :] < reach[:, :, None])
    before = columns[None, :, None] >= columns[None, None, :]
    of_own = (owner[:, :, None] == owner[:, None, :]) & before
    prompt = torch.ones((count, width, rows[0].past), dtype=torch.bool, device=device)
    return torch.cat([prompt, of_trunk | of_own], dim=2)


def micro_batches(rows: Sequence[Row], vocabulary: int, limits: Limits) -> Iterator[list[Row]]:
    """Rows in order of width, cut where a batch would grow too large or hold too much padding."""
    batch: list[Row] = []
    first, filled = 0, 0
    # Neighbours in length waste the least padding.
    for row in sorted(rows, key=lambda r: r.width):
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


def places_at(
    forward: Forward, rows: Sequence[Row], columns: Sequence[np.ndarray], cache: Cache | None = None
) -> Places:
    """What is predicted at the `columns` of each row, one row's after the other's: one pass over all rows."""
    ids = forward.tensor(stacked(rows, "tokens", 0))
    options: dict[str, Any] = {}
    if any(row.has_branches for row in rows):
        options["positions"] = forward.tensor(stacked(rows, "positions", rows[0].past))
        options["mask"] = forward.additive(visible(rows, forward.device))
    if cache is not None:
        options["cache"] = expanded(cache, len(rows))
    row_of = np.repeat(np.arange(len(rows)), [len(c) for c in columns])
    return forward.places(ids, forward.tensor(row_of * ids.shape[1] + np.concatenate(columns)), **options)


def token_log_probs(places: Places, tokens: Tensor, eos_ids: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(P,) log-prob of a token at each place, and (P,) of end-of-text there; nats."""

    def read(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        log_probs = torch.log_softmax(logits, dim=-1)
        found = log_probs.gather(1, tokens[part, None])[:, 0]
        if not eos_ids:
            return found, torch.full_like(found, -torch.inf)
        return found, torch.logsumexp(log_probs[:, list(eos_ids)], dim=-1)

    found, eos = places.read(read)
    return found, eos


def score_rows(
    forward: Forward, rows: Sequence[Row], eos_ids: tuple[int, ...], cache: Cache | None, limits: Limits
) -> Iterator[tuple[Row, Scores]]:
    """The scores of rows that all follow the same `cache` (one row; None: no prompt), in any order."""
    for plain in (True, False):
        chosen = [row for row in rows if row.has_branches != plain]
        # Behind a trunk of its own the head is bounded by itself, and only reads the places that are wanted.
        vocabulary = forward.vocabulary_size if forward.split is None else 0
        for batch in micro_batches(chosen, vocabulary, limits):
            with threads(forward, sum(row.width for row in batch)):
                scores = _score(forward, batch, eos_ids, cache)
            yield from zip(batch, scores, strict=True)


@torch.inference_mode()
def _score(
    forward: Forward, rows: Sequence[Row], eos_ids: tuple[int, ...], cache: Cache | None
) -> list[Scores]:
    spans = [[columns for columns, _ in row.spans] for row in rows]
    places = places_at(forward, rows, [np.concatenate(s) if len(s) > 1 else s[0] for s in spans], cache)
    # Place t of a span predicts its token t; after the last one only end-of-text is read.
    nothing = np.zeros(1, dtype=np.int64)
    tokens = forward.tensor(
        np.concatenate([part for row in rows for _, t in row.spans for part in (t, nothing)])
    )
    columns = token_log_probs(places, tokens, eos_ids)
    found, eos = (column.double().cpu().numpy() for column in columns)
    at, scores = 0, []
    for row in rows:
        parts = []
        for _, targets in row.spans:
            end = at + len(targets)
            parts.append(Scores(found[at:end].copy(), eos[at : end + 1]))
            at = end + 1
        scores.append(Scores(parts[0].tokens, parts[0].eos, tuple(parts[1:])))
    return scores


def read_lines(
    forward: Forward, lines: Sequence[Line], *, packed: bool, columns: int
) -> Iterator[tuple[list[int], Places]]:
    """Pass by pass, the numbers of the lines in it and what is predicted at their places, with gradients.

    `columns` bounds one pass, padding included; `packed` says whether contexts may share their beginning.
    """
    members: dict[Row, list[int]] = {}
    for shared, together in shared_beginnings(lines) if packed else ((0, [n]) for n in range(len(lines))):
        context, ids, _ = lines[together[0]]
        if len(together) == 1:
            request = Request(context + ids, len(context))
        else:
            tails = [lines[n][0][shared:] + lines[n][1] for n in together]
            request = Request(context[:shared], shared, 0, tuple(Branch(shared, tail) for tail in tails))
        members[lay_out(request, 0)] = together
    limits = Limits(logits=ENDLESS, columns=columns, attention=ENDLESS, padding=ENDLESS)
    for batch in micro_batches(list(members), forward.vocabulary_size, limits):
        numbers = [members[row] for row in batch]
        # The first columns of a branch may belong to its context.
        read = [
            np.concatenate([
                span[len(span) - len(lines[n][1]) - 1 :][: lines[n][2]]
                for n, (span, _) in zip(mine, row.spans[row.has_branches :], strict=True)
            ])
            for mine, row in zip(numbers, batch, strict=True)
        ]  # fmt: skip
        yield [n for mine in numbers for n in mine], places_at(forward, batch, read)


def shared_beginnings(lines: Sequence[Line]) -> Iterator[tuple[int, list[int]]]:
    """Lines whose contexts begin alike, with how many tokens of them are alike.

    Neighbours in order are joined while that saves tokens: a line that shares l of the k
    tokens so far saves l, and costs the others k − l each.
    """
    members: list[int] = []
    shared = width = 0
    for n in sorted(range(len(lines)), key=lambda n: lines[n][0]):
        context, length = lines[n][0], len(lines[n][0]) + len(lines[n][1])
        if members:
            alike = common_length(lines[members[0]][0][:shared], context)
            gain = alike - (len(members) - 1) * (shared - alike)
            grown = width + (len(members) - 1) * (shared - alike) + length - alike
            if alike and gain >= WORTH and grown <= max(WIDE, min(WIDEST, 3 * alike)):
                members, shared, width = [*members, n], alike, grown
                continue
            yield shared, members
        members, shared, width = [n], len(context), length
    if members:
        yield shared, members
