"""Peers that train on the policy's own draws alone: REINFORCE with the others as a baseline, and reweighted wake-sleep.

`rloo` (Kool et al. 2019; Ahmadian et al. 2024) maximises E_q[log R − log q] = log evidence − KL(q‖posterior):

    −1/N Σ_i A_i log q(z_i),    A_i = r_i − mean of the other draws' r,    r = log R − log q

`wake` (Bornschein & Bengio 2015, section 3; Le et al. 2019, eq. 6) minimises KL(posterior‖q) with the draws
weighed as importance sampling does:

    −Σ_i w̄_i log q(z_i),    w̄_i ∝ R(z_i) / q(z_i)

Both hold only for draws of q as it stands, so nothing is flattened or replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from attrs import evolve, frozen
from torch import Tensor

from posterior_lm.train.adapter import Adapter
from posterior_lm.train.gflownet_batch import Loss, Trajectories, log_ratio, mean_of
from posterior_lm.train.objectives import Objective
from posterior_lm.train.parallel import World
from posterior_lm.train.ppo import advantages
from posterior_lm.train.rows import Inputs, Rows
from posterior_lm.train.settings import Resolved
from posterior_lm.train.trainer import Trainer

LOW = 30.0
"""Nats below the mean of a row's other draws that a dead one is rewarded with."""


@frozen
class Rloo:
    """The surrogate whose gradient is that of −E_q[log R − log q]; its value means nothing."""

    name = "rloo"
    needs_log_z = False

    def loss(self, trajectories: Trajectories, log_z: Tensor | None = None) -> Loss:
        t = trajectories.checked()
        alive = t.alive
        reward = -log_ratio(alive, t.log_prob, t.log_reward).detach()
        mean = (t.per_row(reward) / t.per_row(alive).clamp(min=1))[t.row]
        advantage = advantages(torch.where(alive, reward, mean - LOW), t.row)
        return mean_of(-advantage * t.log_prob, torch.ones_like(alive))


@frozen
class Wake:
    """The cross-entropy of q with the posterior as the row's own weighted draws show it; nats."""

    name = "wake"
    needs_log_z = False

    def loss(self, trajectories: Trajectories, log_z: Tensor | None = None) -> Loss:
        t = trajectories.checked()
        weight = torch.where(t.alive, -log_ratio(t.alive, t.log_prob, t.log_reward).detach(), -torch.inf)
        top = torch.full((t.rows,), -torch.inf, dtype=torch.float64, device=t.row.device)
        top = top.scatter_reduce(0, t.row, weight, "amax")
        share = torch.exp(weight - torch.where(top.isfinite(), top, 0.0)[t.row])
        total = t.per_row(share)
        log_prob = torch.where(t.alive, t.log_prob, 0.0)
        by_row = -t.per_row(share * log_prob) / total.clamp(min=1e-300)
        return mean_of(by_row, total > 0)


Make = Callable[[Inputs, Rows, Sequence[int], Adapter, Resolved, World], Trainer]


def _trainer(objective: Objective) -> Make:
    def trainer(
        inputs: Inputs, rows: Rows, numbers: Sequence[int], adapter: Adapter, settings: Resolved, world: World
    ) -> Trainer:
        own = evolve(settings, tempered=0.0, replayed=0.0, simulated=0.0, seeds=0, reward_temperature=1.0)
        made = Trainer(rows, numbers, adapter, own, None, world)
        made.objective = objective
        return made

    return trainer


rloo, wake = _trainer(Rloo()), _trainer(Wake())
