"""What whoever draws asks of a support that tools may write into; every other support has the plain answers."""

from __future__ import annotations

from collections.abc import Sequence

from posterior_lm.support.base import Support


def uncounted(support: Support, state: object) -> bool:
    """Whether the target does not count the token that is forced next: a tool with `output="intervene"` writes it."""
    found = getattr(support, "uncounted", None)
    return found is not None and bool(found(state))


def spliced(support: Support, ids: Sequence[int]) -> tuple[bool, ...]:
    """Which tokens of a value, or of its beginning, a tool wrote."""
    found = getattr(support, "spliced", None)
    return (False,) * len(ids) if found is None else tuple(found(ids))


def tokens_left(support: Support, state: object, drawn: int) -> float:
    """How many more tokens may be drawn after `drawn` tokens."""
    found = getattr(support, "left", None)
    return float(support.max_tokens - drawn if found is None else found(state))
