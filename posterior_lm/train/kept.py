"""The best of a fit's weights: what it began with, what it passed through and where it ended, by one measure.

A fit may end worse than it began. What it knows of the posteriors of its rows are the draws in its
replay buffer with their log rewards, from every proposal that it tried; restricted to them the posterior is
R / ΣR, and the cross-entropy of a policy with that,

    −Σ_i w̄_i log q(z_i),    w̄_i = R(z_i) / Σ_j R(z_j),

is KL(restricted posterior‖q) but for a constant. It sees a mode that the policy has left, as long as the
buffer holds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from posterior_lm.infer.weights import normalize
from posterior_lm.lm.hf.threads import threads
from posterior_lm.train.adapter import Adapter, drawing_model
from posterior_lm.train.gflownet_batch import Walked, score_draws, walk
from posterior_lm.train.parallel import World
from posterior_lm.train.replay import Replay
from posterior_lm.train.rows import Rows, in_row

KEEP = (0.4, 0.6, 0.8)
"""Shares of the training after which the weights are kept."""
ROWS = 8
"""Rows that the measure looks at, those with the most draws."""
FEWEST = 4
"""Draws of a row with fewer of which nothing is said."""

Weights = Mapping[str, Tensor]


def best_of(
    kept: Mapping[int, Weights],
    adapter: Adapter,
    rows: Rows,
    replay: Replay,
    draws: int,
    columns: int,
    world: World,
) -> int | None:
    """The step of the best of the `kept` weights, which the adapter then has; None where nothing can be compared.

    At most `draws` draws are scored, in passes of at most `columns` token columns.
    """
    sample, weights = _sample(rows, replay, draws)
    if not world.all_reduce([len(sample)])[0]:
        return None
    best, least = None, np.inf
    for step in sorted(kept, reverse=True):  # of equals the latest
        adapter.restore(kept[step])
        total, count = world.all_reduce([_cross_entropy(adapter, sample, weights, columns), weights.sum()])
        if total / count < least:
            best, least = step, total / count
    if best is not None:
        adapter.restore(kept[best])
    return best


def _sample(rows: Rows, replay: Replay, draws: int) -> tuple[list[Walked], np.ndarray]:
    """The heaviest draws of some rows and their shares of the restricted posteriors, which sum to the number of rows."""
    sizes = {row: len(replay.entries(row)) for row in replay.rows()}
    chosen = sorted((row for row in sizes if sizes[row] >= FEWEST), key=lambda row: (-sizes[row], row))[:ROWS]
    found: list[Walked] = []
    shares: list[np.ndarray] = []
    for row in sorted(chosen):
        entries = sorted(replay.entries(row), key=lambda e: (-e.log_reward, e.ids))[
            : max(FEWEST, draws // len(chosen))
        ]
        target, readings = rows.target(row), rows.readings(row)
        with in_row(row):
            for entry in entries:
                found.append(walk(target, readings, target.drawn(entry.ids)))
        shares.append(normalize(np.array([e.log_reward for e in entries])))
    return found, np.concatenate([np.zeros(0), *shares])


def _cross_entropy(adapter: Adapter, sample: Sequence[Walked], weights: np.ndarray, columns: int) -> float:
    """Σ −w̄ log q, nats; −log 0 where a draw cannot be made any more counts as infinite."""
    if not sample:
        return 0.0
    with torch.inference_mode(), threads(adapter.base._forward, None):
        log_prob = score_draws(drawing_model(adapter), sample, columns=columns).log_prob.cpu().numpy()
    return float(-(weights * log_prob).sum())
