"""What each round measured, and when EM ends: bounds of the log evidence from weighted draws of a guide.

With log w_i = log R(z_i) − log q(z_i) and z_i from q:

    ELBO              mean_i log w_i              ≤ log evidence in expectation (Jordan et al. 1999);
    importance bound  log mean_i exp(log w_i)     ≤ log evidence in expectation, and never below the ELBO
                                                  of the same draws (Burda et al. 2016).

At the exact posterior every log w_i is the log evidence, and so are both bounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from attrs import frozen

from posterior_lm.infer.guide import Guide
from posterior_lm.infer.weights import ess, log_evidence
from posterior_lm.storage import Stored
from posterior_lm.target.target import Target
from posterior_lm.target.values import Value, distinct, take
from posterior_lm.train.evaluate import weigh

# ------------------------------------------------------------------------------- bounds


@frozen
class Bound:
    """Means over rows, nats: `elbo` ≤ `log_evidence`, the importance bound. −∞ where a draw (a row) is dead.

    `ess` is the mean share of draws that are effective.
    """

    elbo: Annotated[float, Stored(null=-math.inf)]
    log_evidence: Annotated[float, Stored(null=-math.inf)]
    ess: float
    rows: int


@frozen(eq=False)
class Weighted:
    """A row's distinct draws of positive weight and their weights (N,), which sum to 1.

    No draws where all had weight zero; `log_weights` are those of the draws as they were made.
    """

    target: Target
    values: dict[str, list[Value]]
    weights: np.ndarray
    log_weights: np.ndarray


def weighted(target: Target, guide: Guide, n: int, rng: np.random.Generator) -> Weighted:
    """n draws of the guide with importance weights, equal ones joined."""
    log_w, proposal = weigh(target, guide, n, rng)
    return weighted_values(target, proposal.values, log_w)


def weighted_values(target: Target, values, log_w: np.ndarray) -> Weighted:
    """Draws with these log weights, equal ones joined."""
    if not np.isfinite(log_w).any():
        return Weighted(target, {name: [] for name in target.names}, np.zeros(0), log_w)
    share = np.exp(log_w - log_w.max())
    alive = np.flatnonzero(share > 0)
    own = {name: values[name] for name in target.names}
    first, where = distinct(own, alive.tolist())
    mass = np.bincount(where, weights=share[alive])
    return Weighted(target, take(own, first), mass / sum(mass), log_w)


def bound_of(rows: Sequence[np.ndarray]) -> Bound:
    """The bound of rows of log weights, one array (N,) a row. ValueError of none."""
    if not rows:
        raise ValueError("a bound needs a row")
    kept = [ess(w) / len(w) if np.isfinite(w).any() else 0.0 for w in rows]
    return Bound(
        elbo=float(np.mean([np.mean(w) for w in rows])),
        log_evidence=float(np.mean([log_evidence(w) for w in rows])),
        ess=float(np.mean(kept)),
        rows=len(rows),
    )


# ------------------------------------------------------------------------------- rounds


@frozen
class Raised:
    """What an M-step did: Q before and after, nats a row, whether it was kept, and its steps, 0 where nobody counted."""

    before: Annotated[float, Stored(null=-math.inf)]
    after: Annotated[float, Stored(null=-math.inf)]
    kept: bool
    steps: int = 0


@frozen
class Round:
    """An M-step (none in round 0), then an E-step, then the bounds. Nats a row.

    `bound` is of the rows trained on, `held_out` of the others, None without any. `raised` is the
    M-step's; `model` is the digest of the model that the bounds are of; `seconds` are the round's.
    """

    number: int
    bound: Bound
    held_out: Bound | None
    raised: Raised | None
    model: str
    seconds: float

    @property
    def judged(self) -> float:
        """What rounds are compared by: the importance bound of the held-out rows, or without any of the others."""
        return (self.held_out or self.bound).log_evidence


def best_of(rounds: Sequence[Round]) -> Round:
    """The round with the best bound; of equal ones the first."""
    return max(rounds, key=lambda r: (r.judged, -r.number))


def why_done(rounds: Sequence[Round], most: int, patience: int) -> str | None:
    """Why EM ends after these rounds; None where it goes on."""
    if not rounds:
        return None
    last, best = rounds[-1], best_of(rounds)
    if last.raised is not None and not last.raised.kept:
        return "the M-step found nothing to raise"
    if last.held_out is not None and last.number - best.number >= patience:
        return f"the held-out bound has not risen for {patience} round{'s' * (patience != 1)}"
    if last.number >= most:
        return f"{most} round{'s' * (most != 1)} are done" if most != 1 else "1 round is done"
    return None
