"""GFlowNet objectives: losses that are zero where the guide draws from the posterior.

All of them look at u = log q − log R of values: one value that all draws of a row share,
−log evidence, exactly where q ∝ R. They differ in which values they compare, as the table
`infer.methods.OBJECTIVES` says.

A dead draw (log reward −∞) has no finite residual. It stands for one of `DEAD` nats,
whatever log q is, and its gradient, 2 · DEAD · ∇log q, lowers log q; it says nothing of
the log evidence. That force never ends. It dies out together with the dead draws where
the guide makes them, tempered or not; dead draws that another behaviour keeps delivering
(replay, the prior) would ruin the fit and have to be left out. One that the guide cannot
make (log q = −∞) counts for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from inspect import signature
from typing import ClassVar, Protocol

import torch
from attrs import asdict, field, frozen
from torch import Tensor

from posterior_lm.amortize.settings import FitSettings
from posterior_lm.amortize.trajectories import (
    DEAD,
    Loss,
    Trajectories,
    cut,
    dead_squares,
    log_mean_weight,
    log_ratio,
    mean_of,
)
from posterior_lm.infer.methods import OBJECTIVES, losses

__all__ = [
    "DEAD",
    "Loss",
    "Objective",
    "TrajectoryBalance",
    "Trajectories",
    "VarGrad",
    "objective",
    "objective_of",
]


class Objective(Protocol):
    """A loss of trajectories. Raises ValueError, naming the argument, for NaN and other misfits."""

    @property
    def name(self) -> str: ...

    @property
    def needs_log_z(self) -> bool:
        """Whether it reads `log_z`, (R,) float64 nats: the log evidence of each row, to be learned too."""
        ...

    def loss(self, trajectories: Trajectories, log_z: Tensor | None = None) -> Loss: ...


@frozen
class VarGrad:
    """Trajectory balance with the log evidence estimated from the row's own draws.

    For a row with n draws, K of them alive, with residuals r = log Ẑ + log q − log R and
    log Ẑ = mean of log R − log q over the alive ones, held constant:

        loss = 1/n · [ K/(K−1) · Σ alive r² + Σ dead DEAD² ]

    averaged over the rows with at least two alive draws or a dead one. With `clip` (nats), log Ẑ
    is the log of the mean weight R/q, and residuals are cut to ±clip and centred again before they
    are squared: one draw of a hopeless value, or of a value the guide all but misses, then moves
    the guide no more than any other. Without one the choice of log Ẑ cancels, and with
    one the loss is still zero exactly where all u of a row agree. With nothing dead it is
    the sample variance of u: dividing by K−1, not K, makes it and its gradient unbiased for
    every K, so rows of unequal K agree. On-policy the expected gradient is 2 ∇KL(q‖posterior).
    A lone alive draw has no residual. Sources: the log-variance loss of Richter et al. 2020;
    the balance of Malkin et al. 2022; the two together, Zhang et al. 2023, section 3.2.
    """

    name: ClassVar[str] = "vargrad"
    needs_log_z: ClassVar[bool] = False
    clip: float = field(default=math.inf, kw_only=True)

    def loss(self, trajectories: Trajectories, log_z: Tensor | None = None) -> Loss:
        t = trajectories.checked()
        alive = t.alive
        k = t.per_row(alive)
        several = k >= 2
        u = log_ratio(alive, t.log_prob, t.log_reward)
        counted = alive & several[t.row]
        squares = torch.where(counted, self._residuals(t, u, alive, k), 0.0).square()
        dead, penalty = dead_squares(t)
        n = t.per_row(alive | dead).clamp(min=1)
        bessel = k / (k - 1).clamp(min=1)
        by_row = (bessel * t.per_row(squares) + t.per_row(penalty)) / n
        return mean_of(by_row, several | (t.per_row(dead) > 0))

    def _residuals(self, t: Trajectories, u: Tensor, alive: Tensor, k: Tensor) -> Tensor:
        """(N,) residuals with the gradient of u."""
        fixed = u.detach()
        if math.isfinite(self.clip):
            fixed = (fixed + log_mean_weight(t, fixed)[t.row]).clamp(-self.clip, self.clip)
        fixed = torch.where(alive, fixed, 0.0)
        centred = fixed - (t.per_row(fixed) / k.clamp(min=1))[t.row]
        return centred + u - u.detach()


@frozen
class TrajectoryBalance:
    """Mean over draws of (log Z of the row + log q − log R)², log Z learned (Malkin et al. 2022).

    A dead draw counts DEAD² and says nothing of log Z. With `clip` (nats) residuals are cut
    to ±clip.
    """

    name: ClassVar[str] = "tb"
    needs_log_z: ClassVar[bool] = True
    clip: float = field(default=math.inf, kw_only=True)

    def loss(self, trajectories: Trajectories, log_z: Tensor | None = None) -> Loss:
        t = trajectories.checked()
        if log_z is None:
            raise ValueError("log_z: this objective needs one for each row")
        if log_z.shape != (len(log_z),) or len(log_z) < t.rows or log_z.dtype != torch.float64:
            raise ValueError(f"log_z: (R,) float64 with R at least {t.rows}, not {tuple(log_z.shape)}")
        if not bool(log_z.isfinite().all()):
            raise ValueError("log_z: not finite")
        u = log_ratio(t.alive, t.log_prob, t.log_reward)
        residuals = cut(torch.where(t.alive, log_z[t.row] + u, 0.0), self.clip)
        dead, penalty = dead_squares(t)
        return mean_of(residuals.square() + penalty, t.alive | dead)


def objective(name: str, **options: object) -> Objective:
    """The objective of that name; ValueError for an unknown name, option or value."""
    if name not in losses():
        raise ValueError(f"there is no objective {name!r}: {', '.join(losses())}")
    make: Callable[..., Objective] = OBJECTIVES[name].load()
    known = signature(make).parameters
    for option in options:
        if option not in known:
            raise ValueError(f"the objective {name!r} has no option {option!r}")
    return make(**options)


def objective_of(settings: FitSettings) -> Objective:
    """The objective of a fit, told what it asks for by the names of the settings."""
    known = signature(OBJECTIVES[settings.objective].load()).parameters
    return objective(settings.objective, **{k: v for k, v in asdict(settings).items() if k in known})
