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

Balance within a draw: every end point of it says the same of the log evidence.

At an end point, u = log q − log R of the value that stops there. The flow of a state
that may stop is F(s) = R(s) / q(stop | s), so flows cancel and u_i = u_j remains
(Deleu et al. 2022; Hu et al. 2024). States that may not stop are passed over, and log q
accumulates across them. At the length cap the stop is forced, log q(stop) = 0: that
anchor, not the loss, rules out policies whose flow leaks past the cap at zero loss.

Draws whose empty value is no end point have no state in common that may stop, and
each branch could keep a u of its own, again at zero loss. So they share the root, as a
vertex at t = 0 whose flow is the evidence: u = −log Ẑ, the value at which the row's loss
is smallest, held constant as in VarGrad (at a minimum the gradient through it is 0). That
takes two such draws of a row. Where each has one end point, `vargrad` is left, without
Bessel's correction.

A draw's loss is averaged over its links, then over the draws that have one or are dead.
Pooling the links of all draws would weigh a draw by the square of its length.

Most prefixes of a text are hopeless end points: stopping there has next to no
probability under the guide or the target, yet its u can be off by tens of nats, and
plain squares spend the whole gradient on it. With `clip` (nats) an end point counts by
ω = how probable it is beside the draw itself, by the larger of q and R/Ẑ, at most `MOST` and at
least `LEAST`; the draw's own end, its last, counts by 1. (Beside the likeliest end point of
its draw, a hopeless long draw would count for nothing as soon as a short beginning of it is
likelier, and all of them together keep a lot of the guide's mass.) u is cut to ±clip around
the log of the row's mean weight; and every row has the root as a vertex, at the value where its loss is smallest. (With the
root at the log mean weight all draws of a row are pushed one way, those of a replay buffer
too.) As ω > 0, the loss is still zero exactly where all u of a row agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from inspect import signature
from typing import ClassVar, Protocol

import torch
from attrs import asdict, field, frozen
from torch import Tensor

from posterior_lm.infer.methods import OBJECTIVES, losses
from posterior_lm.train.gflownet_batch import (
    DEAD,
    Loss,
    Trajectories,
    cut,
    dead_squares,
    log_mean_weight,
    log_ratio,
    mean_of,
)
from posterior_lm.train.settings import FitSettings

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


# ------------------------------------------------------------------------------- within a draw

LEAST = 1e-6
"""The weight of the most hopeless end point: above 0, so that no end point is free."""
MOST = 0.5
"""The weight of the likeliest one but a draw's own: below 1, since in `db` what stands between two vertices at 1
parts them, and a hopeless end in front of a hopeless draw, cut at the same place, would hide it from the root."""


@frozen
class PrefixBalance:
    """Σ over links of ω_i ω_j P_ij (u_i − u_j)², over Σ ω_i ω_j P_ij: what `subtb` and `db` share.

    The vertices are end points, and in front of them the root where the row needs it; ω (N, T')
    is 1 on all of them without a `clip`, and 0 elsewhere. P is the objective's own.
    """

    needs_log_z: ClassVar[bool] = False

    clip: float = field(default=math.inf, kw_only=True)

    def linked(self, weights: Tensor, x: Tensor) -> Tensor:
        """(N, T') Σ_j P_ij x_j over j ≠ i; P may look at the weights ω."""
        raise NotImplementedError

    def loss(self, trajectories: Trajectories, log_z: Tensor | None = None) -> Loss:
        t = trajectories.checked()
        end_log_prob, end_log_reward, ends = t.checked_prefixes()
        u = log_ratio(ends, end_log_prob, end_log_reward)
        if math.isfinite(self.clip):
            u, weights = self._weighed(t, u, ends)
        else:
            u, weights = self._rooted(t, u, ends)
        total = (weights * self.linked(weights, weights)).sum(dim=1) / 2
        has = total > 0
        by_draw = torch.where(has, self._squares(u, weights) / torch.where(has, total, 1.0), 0.0)
        dead, penalty = dead_squares(t)
        return mean_of(by_draw + penalty, has | dead)

    def _squares(self, u: Tensor, weights: Tensor) -> Tensor:
        """(N,) Σ over links of ω_i ω_j P_ij (u_i − u_j)² = Σ_i ω_i u_i² (Pω)_i − Σ_i ω_i u_i (P ωu)_i."""
        # Differences do not see a shift, and squares of large u would lose their digits.
        centre = (weights * u.detach()).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True).clamp(
            min=1e-300
        )
        pull = torch.where(weights > 0, weights * (u - centre), 0.0)
        own = torch.where(weights > 0, u - centre, 0.0) * pull
        return (own * self.linked(weights, weights) - pull * self.linked(weights, pull)).sum(dim=1)

    def _weighed(self, t: Trajectories, u: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """u cut around the root, and ω, with the root in front; a row with one draw alive has none."""
        alive = t.alive
        several = (t.per_row(alive) >= 2)[t.row] & alive
        ratio = log_ratio(alive, t.log_prob, t.log_reward).detach()
        root = -log_mean_weight(t, ratio)[t.row]
        shares = _shares(t, ends, -root)
        around = torch.where(
            several, root, (shares * u.detach()).sum(dim=1) / shares.sum(dim=1).clamp(min=1e-300)
        )
        weights = torch.cat([several.double()[:, None], shares], dim=1)
        kept = torch.cat([torch.zeros_like(root)[:, None], cut(u - around[:, None], self.clip)], dim=1)
        return torch.cat([self._best_root(t, kept, weights, several)[:, None], kept[:, 1:]], dim=1), weights

    def _best_root(self, t: Trajectories, u: Tensor, weights: Tensor, rooted: Tensor) -> Tensor:
        """(N,) the value of column 0 at which the loss of its row is smallest, without gradient; u's own elsewhere."""
        only = torch.zeros_like(weights)
        only[:, 0] = weights[:, 0]
        total = (weights * self.linked(weights, weights)).sum(dim=1) / 2
        links = (
            weights
            * self.linked(weights, only)
            / torch.where(rooted & (total > 0), total, torch.inf)[:, None]
        )
        mass = t.per_row(links.sum(dim=1))
        best = t.per_row((links * u.detach()).sum(dim=1)) / torch.where(mass > 0, mass, 1.0)
        return torch.where(rooted, best[t.row], u[:, 0])

    def _rooted(self, t: Trajectories, u: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """u and the vertices: end points, and at column 0 the root of rows whose draws share no end point."""
        rootless = ends.any(dim=1) & ~ends[:, 0]
        rooted = rootless & (t.per_row(rootless) >= 2)[t.row]
        vertices = torch.cat([(ends[:, 0] | rooted)[:, None], ends[:, 1:]], dim=1).double()
        root = self._best_root(t, u, vertices, rooted)
        return torch.cat([root[:, None], u[:, 1:]], dim=1), vertices


def _shares(t: Trajectories, ends: Tensor, log_z: Tensor) -> Tensor:
    """(N, T + 1) ω of end points, in `LEAST`..1, and 0 elsewhere; without gradient. `log_z` (N,) of their rows."""
    assert t.end_log_prob is not None and t.end_log_reward is not None
    own = torch.maximum(t.log_prob.detach(), t.log_reward - log_z)
    there = torch.maximum(t.end_log_prob.detach(), t.end_log_reward - log_z[:, None])
    beside = torch.where(own.isfinite()[:, None] & ends, there - own[:, None], 0.0)
    shares = torch.exp(beside.clamp(max=0.0)).clamp(min=LEAST, max=MOST)
    last = ends & (ends.flip(1).cumsum(dim=1).flip(1) == 1)
    return torch.where(ends, torch.where(last, 1.0, shares), 0.0)


def _unit(_: object, __: object, lam: object) -> None:
    if isinstance(lam, bool) or not isinstance(lam, int | float) or not 0 < lam <= 1:
        raise ValueError(f"lam: a number above 0 and at most 1, not {lam!r}")


@frozen
class SubTrajectoryBalance(PrefixBalance):
    """P_ij = λ^(|j−i|−1), with j − i counted in tokens: Σ over end points i < j of λ^(j−i−1) (u_i − u_j)².

    SubTB(λ) of Madan et al. 2023, in the form of Hu et al. 2024 for states that may stop. At λ = 1
    it is m Σu² − (Σu)² over the m(m−1)/2 pairs of m vertices: their variance, in O(T). Otherwise
    one product with a (T', T') matrix. A draw whose weights all underflow (λ = 0.01 over 160
    tokens) counts as having no link.
    """

    name: ClassVar[str] = "subtb"
    lam: float = field(default=1.0, kw_only=True, validator=_unit)

    def linked(self, weights: Tensor, x: Tensor) -> Tensor:
        if self.lam == 1:
            return x.sum(dim=1, keepdim=True) - x
        place = torch.arange(x.shape[1], device=x.device)
        distance = (place[:, None] - place).abs()
        return x @ torch.where(distance > 0, self.lam ** (distance - 1).double(), 0.0)


@frozen
class DetailedBalance(PrefixBalance):
    """P_ij = Π over vertices k between i and j of (1 − ω_k): neighbours, where every ω is 1.

    Detailed balance (Bengio et al. 2023) in the form of Deleu et al. 2022 for states that may stop;
    then it is the limit λ → 0 of `subtb` where every prefix may stop. With weights it is what a
    chain of neighbours is on average if each end point is part of it with probability ω.
    """

    name: ClassVar[str] = "db"

    def linked(self, weights: Tensor, x: Tensor) -> Tensor:
        missed = 1.0 - weights
        after, before = torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0])
        right, left = [after], [before]
        size = x.shape[1]
        for i in range(size - 1):
            before = x[:, i] + missed[:, i] * before
            left.append(before)
            j = size - 1 - i
            after = x[:, j] + missed[:, j] * after
            right.append(after)
        return torch.stack(left, dim=1) + torch.stack(right[::-1], dim=1)


# ------------------------------------------------------------------------------- a learned log evidence

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
