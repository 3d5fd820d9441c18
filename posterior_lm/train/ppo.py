"""Reward maximisation: PPO without a critic, on the same log reward, draws and adapter as a fit.

    maximise E_q[log R(z)] − kl · KL(q ‖ frozen model after the same reading)

Every step draws `draws` values of `rows` data rows from the policy, sets their rewards against
those of the row's other draws (`advantages`), and goes through them `epochs` times with
the clipped ratio (`clipped_loss`). This is the loss of TRL's RLOO trainer, which took
over from its PPO trainer. The optimum is q ∝ ref · R^(1/kl), with ref the frozen model, and the
likeliest value alone for kl = 0: never the posterior, which is what the comparison is about.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from attrs import evolve
from torch import Tensor

from posterior_lm.train.adapter import Adapter
from posterior_lm.train.balancing import Behaved
from posterior_lm.train.gflownet_batch import Scored, halving, micro_batches, score_draws
from posterior_lm.train.parallel import World
from posterior_lm.train.progress import check_finite, measured
from posterior_lm.train.replay import Replay
from posterior_lm.train.rows import Inputs, Rows
from posterior_lm.train.settings import Resolved
from posterior_lm.train.trainer import Trainer

BELOW = 5.0
"""Nats. A dead draw has the least log reward seen so far, less this: a reward that can be compared, and
no −99 that drowns the others."""


class PpoTrainer(Trainer):
    """Steps of `fit` whose balancing stage maximises the reward. `lowest` is the least log reward seen, nats."""

    lowest: float = math.inf

    def _balance(self) -> dict[str, float]:
        # Without shares of other behaviours all draws are the policy's own; nothing is replayed.
        behaved, _ = self._drawn(Replay(1, 1))
        log_q, log_ref = self._scored(behaved, adapted=True), self._scored(behaved, adapted=False)
        advantage = self._advantages(behaved, log_q, log_ref)
        total = self.world.all_reduce([len(behaved.draws)])[0]
        loss = [0.0]
        for epoch in range(self.settings.epochs):
            if epoch:  # `step` makes the last move
                self._move()
                self.optimizer.zero_grad(set_to_none=True)
            loss[0] = 0.0
            self._backward(behaved, log_q, advantage, total, loss)
        numbers = measured(behaved, log_q, self.world)
        return {**numbers, "loss": self.world.all_reduce([loss[0]])[0]}

    def _scored(self, behaved: Behaved, *, adapted: bool) -> np.ndarray:
        """(N,) log q of the draws under the policy as it is, or under the frozen model, nats."""
        if not adapted and self.settings.kl == 0:
            return np.zeros(len(behaved.draws))
        model = self.adapter.model() if adapted else self.adapter.base
        found = np.full(len(behaved.draws), np.nan)

        def score(part: Sequence[int], columns: int) -> None:
            with torch.inference_mode():
                draws = [behaved.draws[k] for k in part]
                found[list(part)] = score_draws(model, draws, columns=columns).log_prob.cpu().numpy()

        numbers = range(len(behaved.draws))
        most = self.settings.max_batch_tokens  # nothing is kept for a backward pass
        halving(score, lambda columns: micro_batches(behaved.draws, numbers, columns), most, lambda: None)
        return found

    def _advantages(self, behaved: Behaved, log_q: np.ndarray, log_ref: np.ndarray) -> Tensor:
        alive = np.isfinite(behaved.log_reward)
        # All processes have to price a dead draw alike.
        least = [float(behaved.log_reward[alive].min()) if alive.any() else None]
        seen = [x for some in self.world.gather(least) for x in some if x is not None]
        self.lowest = min([self.lowest, *seen])
        floor = self.lowest - BELOW if math.isfinite(self.lowest) else 0.0
        reward = np.where(alive, behaved.log_reward, floor)
        if self.settings.kl:
            reward = reward - self.settings.kl * (log_q - log_ref)
        device = self.parameters[0].device
        return advantages(
            torch.as_tensor(reward, dtype=torch.float64, device=device),
            torch.as_tensor(behaved.slot, dtype=torch.int64, device=device),
        )

    def _backward(
        self, behaved: Behaved, old: np.ndarray, advantage: Tensor, total: float, loss: list[float]
    ) -> None:
        def backward(index: list[int], scored: Scored) -> None:
            rows = [behaved.rows[int(behaved.slot[k])] for k in index]
            check_finite(scored.log_prob.sum(), scored.log_prob, rows, self._statement())
            before = torch.as_tensor(old[index], dtype=torch.float64, device=scored.log_prob.device)
            each = clipped_loss(scored.log_prob, before, advantage[index], self.settings.ratio)
            value = each.sum() / total
            value.backward()
            loss[0] += float(value.detach())

        self._in_parts(backward, behaved.draws, range(len(behaved.draws)), loss)

    def state(self) -> dict[str, object]:
        return {**super().state(), "lowest": self.lowest if math.isfinite(self.lowest) else None}

    def restore(
        self, tensors: Mapping[str, Tensor], arrays: Mapping[str, np.ndarray], state: Mapping[str, object]
    ) -> None:
        super().restore(tensors, arrays, state)
        self.lowest = math.inf if state["lowest"] is None else float(str(state["lowest"]))


def trainer(
    inputs: Inputs, rows: Rows, numbers: Sequence[int], adapter: Adapter, settings: Resolved, world: World
) -> PpoTrainer:
    """The trainer of a fit whose draws are all the policy's own."""
    own = evolve(settings, tempered=0.0, replayed=0.0, simulated=0.0, seeds=0)
    return PpoTrainer(rows, numbers, adapter, own, None, world)


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
