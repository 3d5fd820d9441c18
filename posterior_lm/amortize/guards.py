"""What keeps one draw, or one number that is none, from ruining the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from posterior_lm.amortize.batches import Scored
from posterior_lm.lang.diagnostics import InferenceError, error


def bounded(value: Tensor, scored: Scored, clip: float, n: int) -> Tensor:
    """The same value, with the gradient that reaches each log q cut to what a residual of `clip` gives.

    A mean of squares over n draws pulls one log q by 2 r / n. Over the links of one
    draw with m end points, each of them is pulled by up to 4 r / (n (m − 1)): a
    prefix where stopping is hopeless, which only log q(stop) is to blame for, then
    moves the guide no more than the draw itself.
    """
    ends = None if scored.is_end is None else scored.is_end.sum(dim=1, keepdim=True)
    total = value.detach() * 0.0
    for leaf in (scored.log_prob, scored.end_log_prob):
        if leaf is None or not leaf.requires_grad:
            continue
        (pull,) = torch.autograd.grad(value, [leaf], retain_graph=True, allow_unused=True)
        if pull is None:
            continue
        bound = torch.full_like(pull, 2.0 * clip / n)
        if leaf.ndim == 2 and ends is not None:
            bound = (4.0 * clip / (n * (ends - 1).clamp(min=1))).to(pull.dtype).expand_as(pull)
        kept = pull.clamp(-bound, bound)
        total = total + (kept * torch.where(kept == 0, torch.zeros_like(leaf), leaf)).sum()
    return value.detach() + total - total.detach()


def check_finite(value: Tensor, log_prob: Tensor, rows: Sequence[int] | None, statement: str) -> None:
    """Raises InferenceError PLM626 naming the row of the first number that is not finite."""
    if bool(torch.isfinite(value)):
        return
    bad = torch.nonzero(~torch.isfinite(log_prob.detach()))
    row = rows[int(bad[0, 0])] if rows is not None and len(bad) else None
    raise not_finite("the guide's log probability", row, statement)


def not_finite(what: str, row: float | None, statement: str) -> InferenceError:
    where = "" if row is None else f" in rows[{int(row)}]"
    return InferenceError(
        error(
            "PLM626",
            f"training stopped: {what} is not finite{where}, at `{statement}`",
            where=None if row is None else f"rows[{int(row)}]",
            help="lower the learning rate, or look at this row's log reward with `plm score`",
        )
    )
