"""What the objectives see of draws, checked; and what every loss of them shares."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

DEAD = 5.0
"""Nats: far above the residuals of a guide that is nearly right, and no −99 that drowns them."""


@frozen(eq=False)
class Trajectories:
    """Draws of several rows: N draws, R rows, T tokens of the longest value. Float64, nats.

    `log_prob` (N,) is log q of the whole draw, all latents, with gradient. `log_reward` (N,) is
    divided by the reward temperature already; −∞ for a dead draw. `row` (N,) is int64 in 0..R−1.

    Only for objectives that compare prefixes, each (N, T+1): `end_log_prob` is log q of the value
    that stops after t tokens, log q(z_1:t) + log q(stop | z_1:t), with gradient; a forced stop has
    log q(stop) = 0. `end_log_reward` is its log reward. `is_end` says whether it is an end point of
    the draw: it may stop there, in the support, with a log reward above −∞, each distinct value
    once. Where that is false the other two mean nothing. Whether the empty value (t = 0) is one is
    up to the row.
    """

    log_prob: Tensor
    log_reward: Tensor
    row: Tensor
    end_log_prob: Tensor | None = None
    end_log_reward: Tensor | None = None
    is_end: Tensor | None = None

    @property
    def rows(self) -> int:
        """One more than the largest row that a draw belongs to."""
        return int(self.row.max()) + 1 if len(self.row) else 0

    @property
    def alive(self) -> Tensor:
        """(N,) whether the log reward is above −∞."""
        return self.log_reward > -torch.inf

    def per_row(self, numbers: Tensor) -> Tensor:
        """(R,) float64 sums of (N,) `numbers` over the draws of each row."""
        zeros = torch.zeros(self.rows, dtype=torch.float64, device=self.row.device)
        return zeros.index_add(0, self.row, numbers.double())

    def checked(self) -> Trajectories:
        """Itself; ValueError, naming the argument, for a shape, a type or a number that cannot be."""
        n = len(self.row)
        if self.row.shape != (n,) or self.row.dtype != torch.int64 or (n and int(self.row.min()) < 0):
            raise ValueError("row: (N,) int64, from 0 on")
        for name, column in (("log_prob", self.log_prob), ("log_reward", self.log_reward)):
            if column.shape != (n,) or column.dtype != torch.float64:
                raise ValueError(f"{name}: ({n},) float64, not {tuple(column.shape)} {column.dtype}")
            _refuse(name, "NaN or +inf", column.isnan() | (column == torch.inf))
        _refuse("log_prob", "−inf, with a log reward above it", self.alive & (self.log_prob == -torch.inf))
        return self

    def checked_prefixes(self) -> tuple[Tensor, Tensor, Tensor]:
        """`end_log_prob`, `end_log_reward` and `is_end`; ValueError as `checked`."""
        ends = self.is_end
        if self.end_log_prob is None or self.end_log_reward is None or ends is None:
            raise ValueError("end_log_prob, end_log_reward, is_end: this objective compares prefixes")
        if ends.ndim != 2 or len(ends) != len(self.row) or ends.dtype != torch.bool or not ends.shape[1]:
            raise ValueError(f"is_end: ({len(self.row)}, T+1) bool, not {tuple(ends.shape)} {ends.dtype}")
        both = (("end_log_prob", self.end_log_prob), ("end_log_reward", self.end_log_reward))
        for name, block in both:
            if block.shape != ends.shape or block.dtype != torch.float64:
                raise ValueError(
                    f"{name}: {tuple(ends.shape)} float64, not {tuple(block.shape)} {block.dtype}"
                )
            _refuse(name, "not finite at an end point", (ends & ~block.isfinite()).any(dim=1))
        return self.end_log_prob, self.end_log_reward, ends


@frozen(eq=False)
class Loss:
    """`value`, a float64 scalar in nats² with gradient, and how many `terms` (rows or draws) it averages.

    With no term the value is 0, and its gradient exists and is 0.
    """

    value: Tensor
    terms: int


def log_ratio(mask: Tensor, log_prob: Tensor, log_reward: Tensor) -> Tensor:
    """log q − log R where the mask is true, else 0; nothing behind the mask reaches the gradient."""
    return torch.where(mask, log_prob - log_reward, 0.0)


def cut(residual: Tensor, clip: float) -> Tensor:
    """The residual cut to ±clip nats, with the gradient of the residual itself."""
    return residual.detach().clamp(-clip, clip) + residual - residual.detach()


def log_mean_weight(t: Trajectories, u: Tensor) -> Tensor:
    """(R,) log of the mean of exp(−u) over a row's draws that are alive; 0 where none is."""
    alive, k = t.alive, t.per_row(t.alive)
    top = torch.full_like(k, -torch.inf).scatter_reduce(0, t.row, torch.where(alive, -u, -torch.inf), "amax")
    top = torch.where(top.isfinite(), top, 0.0)
    mean = t.per_row(torch.where(alive, torch.exp(-u - top[t.row]), 0.0)) / k.clamp(min=1)
    return torch.where(mean > 0, top + torch.log(mean.clamp(min=1e-300)), 0.0)


def dead_squares(t: Trajectories) -> tuple[Tensor, Tensor]:
    """(N,) which dead draws the guide can make, and DEAD² for each, with gradient 2 · DEAD · ∇log q."""
    dead = ~t.alive & (t.log_prob > -torch.inf)
    log_prob = torch.where(dead, t.log_prob, 0.0)
    return dead, torch.where(dead, log_prob - log_prob.detach() + DEAD, 0.0).square()


def mean_of(squares: Tensor, counted: Tensor) -> Loss:
    """The mean over what is `counted`; 0 where nothing is."""
    terms = int(counted.sum())
    return Loss(torch.where(counted, squares, 0.0).sum() / max(terms, 1), terms)


def _refuse(name: str, what: str, wrong: Tensor) -> None:
    if bool(wrong.any()):
        raise ValueError(f"{name}: {what}, at draw {int(wrong.nonzero()[0, 0])}")
