"""What keeps a number that is none from ruining the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from posterior_lm.lang.diagnostics import InferenceError, error


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
