"""Balance within a draw: every end point of it says the same of the log evidence.

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
"""

from __future__ import annotations

from typing import ClassVar

import torch
from attrs import field, frozen
from torch import Tensor

from posterior_lm.amortize.trajectories import Loss, Trajectories, dead_squares, log_ratio, mean_of


@frozen
class PrefixBalance:
    """Σ over links of weight · (u_i − u_j)², over the total weight: what `subtb` and `db` share.

    The vertices are (N, T+1) bool: end points, and in column 0 the root where the row needs it.
    """

    needs_prefixes: ClassVar[bool] = True
    needs_log_z: ClassVar[bool] = False

    def total(self, vertices: Tensor) -> Tensor:
        """(N,) the sum of the weights of all links."""
        raise NotImplementedError

    def to_root(self, vertices: Tensor) -> Tensor:
        """(N, T+1) the weight of each vertex's link to column 0, itself a vertex."""
        raise NotImplementedError

    def squares(self, u: Tensor, vertices: Tensor) -> Tensor:
        """(N,) Σ over links of weight · (u_i − u_j)²; `u` is 0 off the vertices."""
        raise NotImplementedError

    def loss(self, trajectories: Trajectories, log_z: Tensor | None = None) -> Loss:
        t = trajectories.checked()
        end_log_prob, end_log_reward, ends = t.checked_prefixes()
        u, vertices = self._rooted(t, log_ratio(ends, end_log_prob, end_log_reward), ends)
        total = self.total(vertices)
        linked = total > 0
        by_draw = torch.where(linked, self.squares(u, vertices) / torch.where(linked, total, 1.0), 0.0)
        dead, penalty = dead_squares(t)
        return mean_of(by_draw + penalty, linked | dead)

    def _rooted(self, t: Trajectories, u: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """u and the vertices: end points, and at column 0 the root of rows whose draws share no end point."""
        rootless = ends.any(dim=1) & ~ends[:, 0]
        rooted = rootless & (t.per_row(rootless) >= 2)[t.row]
        vertices = torch.cat([(ends[:, 0] | rooted)[:, None], ends[:, 1:]], dim=1)
        total = torch.where(rooted, self.total(vertices), torch.inf)
        weight = self.to_root(vertices) / total[:, None]
        mass = t.per_row(weight.sum(dim=1))
        best = t.per_row((weight * u.detach()).sum(dim=1)) / torch.where(mass > 0, mass, 1.0)
        root = torch.where(rooted, best[t.row], u[:, 0])
        return torch.cat([root[:, None], u[:, 1:]], dim=1), vertices


def _unit(_: object, __: object, lam: object) -> None:
    if isinstance(lam, bool) or not isinstance(lam, int | float) or not 0 < lam <= 1:
        raise ValueError(f"lam: a number above 0 and at most 1, not {lam!r}")


@frozen
class SubTrajectoryBalance(PrefixBalance):
    """Σ over end points i < j of λ^(j−i−1) (u_i − u_j)² / Σ λ^(j−i−1); j − i is counted in tokens.

    SubTB(λ) of Madan et al. 2023, in the form of Hu et al. 2024 for states that may stop. At λ = 1
    it is m Σu² − (Σu)² over the m(m−1)/2 pairs of m vertices: their variance, in O(T). Otherwise
    Σ_i u_i² Σ_j w_ij − Σ_ij w_ij u_i u_j: one product with a (T+1, T+1) matrix of weights. A draw
    whose weights all underflow (λ = 0.01 over 160 tokens) counts as having no link.
    """

    name: ClassVar[str] = "subtb"
    lam: float = field(default=1.0, kw_only=True, validator=_unit)

    def total(self, vertices: Tensor) -> Tensor:
        if self.lam == 1:
            m = vertices.sum(dim=1)
            return (m * (m - 1) / 2).double()
        return (vertices * (vertices.double() @ self._weights(vertices))).sum(dim=1) / 2

    def to_root(self, vertices: Tensor) -> Tensor:
        return vertices * self._weights(vertices)[0]

    def squares(self, u: Tensor, vertices: Tensor) -> Tensor:
        m = vertices.sum(dim=1, keepdim=True)
        # Differences do not see a shift, and squares of large u would lose their digits.
        centre = u.detach().sum(dim=1, keepdim=True) / m.clamp(min=1)
        u = torch.where(vertices, u - centre, 0.0)
        if self.lam == 1:
            return m[:, 0] * u.square().sum(dim=1) - u.sum(dim=1).square()
        weights = self._weights(vertices)
        return ((vertices.double() @ weights) * u.square() - u * (u @ weights)).sum(dim=1)

    def _weights(self, vertices: Tensor) -> Tensor:
        """(T+1, T+1) λ^(|i−j|−1), and 0 where i = j."""
        place = torch.arange(vertices.shape[1], device=vertices.device)
        distance = (place[:, None] - place).abs()
        return torch.where(distance > 0, self.lam ** (distance - 1).double(), 0.0)


@frozen
class DetailedBalance(PrefixBalance):
    """Mean over neighbouring end points of (u_i − u_j)²: the next place where the draw may stop.

    Detailed balance (Bengio et al. 2023) in the form of Deleu et al. 2022 for states that may stop.
    It is the limit λ → 0 of `subtb` where every prefix may stop.
    """

    name: ClassVar[str] = "db"

    def total(self, vertices: Tensor) -> Tensor:
        return (vertices.sum(dim=1) - 1).clamp(min=0).double()

    def to_root(self, vertices: Tensor) -> Tensor:
        return (vertices & (vertices.cumsum(dim=1) == 2)).double()

    def squares(self, u: Tensor, vertices: Tensor) -> Tensor:
        place = torch.arange(vertices.shape[1], device=vertices.device)
        latest = torch.where(vertices, place, -1).cummax(dim=1).values[:, :-1]
        before = u.gather(1, latest.clamp(min=0))
        return torch.where(vertices[:, 1:] & (latest >= 0), u[:, 1:] - before, 0.0).square().sum(dim=1)
