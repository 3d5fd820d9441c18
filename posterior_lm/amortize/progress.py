"""What a step did, in numbers that people watch."""

from __future__ import annotations

import numpy as np
from attrs import frozen

from posterior_lm.amortize.balancing import Behaved
from posterior_lm.amortize.parallel import World
from posterior_lm.infer import weights


@frozen
class Progress:
    """What a step did, for people and for `metrics.jsonl`. Nats; NaN where it does not apply."""

    step: int
    stage: str  # "compile" | "balance"
    seconds: float
    loss: float
    ess: float
    """Mean over rows of ESS/N of the draws from the policy itself; of a row's pairs while compiling."""
    log_evidence_lower: float
    """Mean over rows of E_q[log w] of those draws, the dead ones left out."""
    log_evidence_upper: float
    """Mean over rows of the log of their mean weight."""
    dead: float
    """Share of these draws that have no reward."""
    gradient_norm: float
    rate: float
    draws_per_second: float
    done: float
    """Share of the training that is behind it."""


def measured(behaved: Behaved, log_q: np.ndarray, world: World) -> dict[str, float]:
    """Means over the rows of all processes, of the draws from the policy itself; `log_q` (N,) nats."""
    ess = lower = upper = dead = rows = 0.0
    for k in range(len(behaved.rows)):
        mine = (behaved.slot == k) & behaved.on_policy
        if not mine.any():
            continue
        log_w = behaved.log_reward[mine] - log_q[mine]
        alive = np.isfinite(log_w)
        rows += 1
        dead += 1 - float(alive.mean())
        if alive.any():
            ess += weights.ess(log_w) / len(log_w)
            lower += float(log_w[alive].mean())
            upper += weights.log_evidence(log_w)
    sums = world.total([ess, lower, upper, dead, rows, len(behaved.draws)])
    n = max(1.0, sums[4])
    names = ("ess", "lower", "upper", "dead")
    return {name: sums[k] / n for k, name in enumerate(names)} | {"draws": sums[5]}
