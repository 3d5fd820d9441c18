"""Two plain recipes to hold a fit against: RLOO, and VarGrad with half of its draws from the prior.

A step has 64 draws, of one row or of 4, and one move of AdamW at a constant rate; the gradient's norm is
at most 1. Model, adapter, guides, supports and rewards are those of the package. Nothing is
simulated, tempered, replayed or annealed.

`rloo`: REINFORCE with a leave-one-out baseline and the KL in the reward (Ahmadian et al. 2024), so
that its optimum is the posterior: the reward of a draw is log R − log q, where a dead draw has −30 nats,
and all draws are the policy's. `rloo.py` is TRL's own trainer, for programs of one text and `tiny`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from posterior_lm.api.query import Query
from posterior_lm.infer.guide import PriorGuide, joined
from posterior_lm.target.target import Target
from posterior_lm.train.adapter import Adapter, training_model
from posterior_lm.train.gflownet_batch import Trajectories, score_draws, walk
from posterior_lm.train.guide import PolicyGuide, readings_of
from posterior_lm.train.objectives import VarGrad

KINDS = ("rloo", "vargrad")
DRAWS, ROWS = 64, 4
"""Draws of a step, and the rows that share them."""
RATE, RANK, NORM = 1e-3, 32, 1.0
DEAD = -30.0
COLUMNS = 1 << 12


def train_peer(
    query: Query, rows: Sequence[Mapping[str, object]], kind: str, seconds: float, seed: int
) -> Adapter:
    """The adapter after so many seconds of training on the rows."""
    began = time.perf_counter()
    targets = [query.given(row).target() for row in rows]
    (alias,) = {reading.lm for reading in readings_of(targets[0]).values()}
    adapter = Adapter.new(targets[0].models[alias], rank=RANK, seed=seed)
    optimizer = torch.optim.AdamW(list(adapter.parameters.values()), lr=RATE)
    rng = np.random.default_rng(seed)
    while time.perf_counter() - began < seconds:
        some = [targets[k] for k in rng.permutation(len(targets))[:ROWS]]
        for target in some:
            loss = row_loss(target, adapter, kind, DRAWS // len(some), rng) / len(some)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(adapter.parameters.values(), NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return adapter


def row_loss(target: Target, adapter: Adapter, kind: str, n: int, rng: np.random.Generator) -> Tensor:
    """The loss of n draws of one row, with gradient."""
    own = n if kind == "rloo" else n // 2
    parts = [PolicyGuide.of(target, adapter).sample(rng, own)]
    if own < n:
        parts.append(PriorGuide(target).sample(rng, n - own))
    values = joined(parts, target.names).values
    log_reward = torch.from_numpy(np.broadcast_to(target.log_reward(values), (n,)).copy())
    readings = readings_of(target)
    draws = [walk(target, readings, {name: values[name][d] for name in target.names}) for d in range(n)]
    log_prob = score_draws(training_model(adapter), draws, columns=COLUMNS).log_prob
    if kind == "rloo":
        return rloo(log_prob, log_reward)
    return VarGrad().loss(Trajectories(log_prob, log_reward, torch.zeros(n, dtype=torch.int64))).value


def rloo(log_prob: Tensor, log_reward: Tensor) -> Tensor:
    """−1/n Σ A ∇log q, with A the reward log R − log q less the mean of the others'."""
    reward = log_reward.clamp(min=DEAD) - log_prob.detach()
    n = len(reward)
    advantage = (reward - reward.mean()) * (n / (n - 1))
    return -(advantage * log_prob).mean()
