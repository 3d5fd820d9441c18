"""What each round measured, and when EM ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

from attrs import frozen

from posterior_lm.em.bound import Bound
from posterior_lm.storage import Stored, plain


@frozen
class Raised:
    """What an M-step did: Q before and after, nats a row, and whether it was kept."""

    before: Annotated[float, Stored(null=-math.inf)]
    after: Annotated[float, Stored(null=-math.inf)]
    kept: bool


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

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; −∞ is null."""
        found: dict[str, Any] = plain(self)
        return found


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
