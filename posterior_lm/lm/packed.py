"""Rows of a batch: a trunk and its branches side by side, and who may attend to whom.

A row holds the tokens of a request after the cached prompt, then the tokens of
each branch. A branch sees the prompt, the trunk up to where it leaves it, and
itself; its positions go on from there. So one forward pass scores a sequence and
every continuation of every prefix of it, as tree attention does in speculative
decoding (Miao et al., 2024, SpecInfer).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from posterior_lm.lm.base import Request

TRUNK, PADDING = 0, -1


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
