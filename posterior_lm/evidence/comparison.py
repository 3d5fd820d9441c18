"""What a comparison of methods found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from posterior_lm.storage import plain


@frozen
class Measured:
    """One method's draws: distances to the exact posterior, what the draws say of themselves, what they cost.

    `tv` is total variation over the listed values, `error` the log evidence less the exact
    one in nats; both None without an exact posterior. `tokens` are model tokens. Where a
    method gave no draws, `failed` says why, and the numbers are None.
    """

    method: str
    tokens: int
    seconds: float
    tv: float | None = None
    log_evidence: float | None = None
    error: float | None = None
    ess: float | None = None
    ancestors: int | None = None
    khat: float | None = None
    failed: str = ""


@frozen
class Comparison:
    """Methods beside the exact posterior of one binding; `log_evidence` is None where it cannot be listed."""

    program: str
    draws: int
    seed: int
    methods: tuple[Measured, ...]
    log_evidence: float | None
    listed: str
    """What is known of the exact posterior, in words."""
    noise: float | None
    """Expected total variation of as many exact draws."""

    def to_json(self) -> dict[str, Any]:
        """The stable shape of `plm compare --format json`; what is not finite is None."""
        exact = None if self.log_evidence is None else {"log_evidence": self.log_evidence}
        return {"exact": exact, "methods": [_row(one) for one in self.methods]}

    def cells(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The head and the rows of the table for people."""
        head = ("method", "TV", "log evidence", "error", "ESS", "ancestors", "k-hat", "tokens", "seconds")
        rows: list[tuple[str, ...]] = [
            (
                m.method, _number(m.tv, 3), _number(m.log_evidence, 3), _number(m.error, 3), _number(m.ess, 1),
                "-" if m.ancestors is None else str(m.ancestors), _number(m.khat, 2), f"{m.tokens}",
                f"{m.seconds:.2f}",
            )
            for m in self.methods
        ]  # fmt: skip
        return head, rows

    def notes(self) -> list[str]:
        """What the table alone does not say."""
        found = [self.listed]
        if self.noise is not None:
            found.append(
                f"{self.draws} independent exact draws would have a TV of about {self.noise:.3f}, by chance alone"
            )
        return [*found, *(f"{m.method}: {m.failed}" for m in self.methods if m.failed)]


NUMBERS: Sequence[str] = ("tv", "log_evidence", "error", "ess", "ancestors", "khat", "tokens", "seconds")


def _row(one: Measured) -> dict[str, Any]:
    found: dict[str, Any] = plain({name: getattr(one, name) for name in ("method", *NUMBERS)})
    return found


def _number(x: float | None, digits: int) -> str:
    if x is None or math.isnan(x):
        return "-"
    return f"{x:.{digits}f}" if math.isfinite(x) else ("inf" if x > 0 else "-inf")
