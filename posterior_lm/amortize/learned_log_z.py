"""The log evidence of each row as something to learn, for the objective `tb`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

STEP = 0.5
"""Share of the way to the mean residual's zero that a row's value goes each time it is seen."""
FARTHEST = 1.0
"""Nats that it moves at most."""


def row_log_z(known: Tensor, rows: Sequence[int | None], place: Tensor, log_weights: Tensor) -> Tensor:
    """(R,) the values of these rows, to be differentiated, nats.

    A row that is seen for the first time (NaN in `known`) begins at the log of its
    draws' mean weight, and so does a simulated one (None) every time; `place` (N,) says which of the rows each of `log_weights` (N,)
    belongs to.
    """
    index = torch.tensor([0 if row is None else row for row in rows], device=known.device)
    values = known[index].clone()
    for k, row in enumerate(rows):
        if row is None or torch.isnan(values[k]):
            u = log_weights[place == k]
            u = u[torch.isfinite(u)]
            values[k] = torch.logsumexp(u, 0) - math.log(len(u)) if len(u) else 0.0
    return values.requires_grad_(True)


def moved(known: Tensor, rows: Sequence[int | None], values: Tensor, gradient: Tensor) -> Tensor:
    """`known` with these rows at `values` (R,) moved against their `gradient` (R,).

    The loss is a mean of squares over the draws of all rows, so the gradient of one
    row's value is 2/R of its mean residual; a row is seen too seldom for averages of
    the gradient, so this is a plain step of a stated share of the residual.
    """
    residual = gradient * len(rows) / 2
    found = known.clone()
    for k, row in enumerate(rows):
        if row is None:
            continue
        found[row] = values[k] - (STEP * residual[k]).clamp(-FARTHEST, FARTHEST)
    return found
