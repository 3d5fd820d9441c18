"""The loss of a policy gradient: leave-one-out advantages, and the clipped ratio of PPO."""

from __future__ import annotations

import torch
from torch import Tensor


def advantages(reward: Tensor, row: Tensor) -> Tensor:
    """(N,) reward minus the mean reward of the other draws of the same row; 0 for a lone draw.

    Shapes: reward (N,) float64, row (N,) int64 from 0 on. Source: RLOO, Kool et al. 2019
    (Buy 4 REINFORCE samples, get a baseline for free), as Ahmadian et al. 2024 use it.
    """
    rows = int(row.max()) + 1 if len(row) else 0
    zeros = torch.zeros(rows, dtype=reward.dtype, device=reward.device)
    count = zeros.index_add(0, row, torch.ones_like(reward))[row]
    total = zeros.index_add(0, row, reward)[row]
    others = (total - reward) / (count - 1).clamp(min=1)
    return torch.where(count > 1, reward - others, 0.0)


def clipped_loss(log_prob: Tensor, old: Tensor, advantage: Tensor, ratio: float) -> Tensor:
    """(N,) −min(r A, clamp(r, 1 − ratio, 1 + ratio) A) with r = q(z) / q_old(z) of whole draws.

    `log_prob` has the gradient, `old` and `advantage` are constants; all (N,) float64. Source:
    Schulman et al. 2017, eq. 7, with a whole draw as one action (Ahmadian et al. 2024).
    """
    r = torch.exp(log_prob - old.detach())
    held = r.clamp(1 - ratio, 1 + ratio)
    return -torch.minimum(r * advantage, held * advantage)
