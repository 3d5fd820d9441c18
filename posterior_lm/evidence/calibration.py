"""What a calibration found, and what that allows to say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from attrs import frozen

from posterior_lm.evidence.ranks import coverage, p_value
from posterior_lm.storage import plain

ALPHA = 0.005
"""A p-value of the ranks that a right method has once in two hundred calibrations."""
FAR = 0.5
"""Nats between the bounds. A mode of share p that is never drawn adds p times tens of nats; without one,
half a nat is where N draws are worth two or three."""


@frozen(eq=False)
class Calibration:
    """One method on `rows` simulated rows, each with an exact draw.

    Shapes: `lower`, `upper` (rows,) bounds of each row's log evidence in nats, None where
    the method gives none; −∞ and +∞ where every draw was dead, or the exact draw cannot
    be drawn. `ranks` has for each test quantity (rows,) numbers in 0..1, less the rows
    whose draws were all dead. `weighed` is the same with the exact draw among the draws
    by its weight; None where a method cannot weigh it.
    """

    method: str
    draws: int
    seed: int
    lower: np.ndarray | None
    upper: np.ndarray | None
    ranks: Mapping[str, np.ndarray]
    weighed: Mapping[str, np.ndarray] | None
    ess: float | None
    """Median over the rows; None for listed values."""
    rows: int
    dead: int
    """Rows whose draws all had weight zero."""
    assumed: str
    seconds: float = 0.0

    @property
    def mean_lower(self) -> float | None:
        return None if self.lower is None else float(np.mean(self.lower))

    @property
    def mean_upper(self) -> float | None:
        return None if self.upper is None else float(np.mean(self.upper))

    @property
    def jeffreys(self) -> float | None:
        """Nats: upper less lower bound, the symmetrised KL divergence of `ways.bounds`; None with a bound missing."""
        if self.lower is None or self.upper is None:
            return None
        gap = self.upper - self.lower
        return float(np.mean(gap)) if np.isfinite(gap).all() else math.inf

    @property
    def p_values(self) -> dict[str, float]:
        """Of the uniformity of each quantity's ranks."""
        return {name: p_value(u) for name, u in self.ranks.items() if len(u)}

    @property
    def sbc_p(self) -> float | None:
        """The smallest p-value times the number of quantities (Bonferroni); None where no row is left."""
        return _together(self.p_values)

    @property
    def weighed_p(self) -> float | None:
        """As `sbc_p`, of the ranks with the exact draw among the draws."""
        if self.weighed is None:
            return None
        return _together({name: p_value(u) for name, u in self.weighed.items() if len(u)})

    @property
    def coverage90(self) -> float | None:
        """How often the central 90 % interval of a quantity holds the exact draw's."""
        return coverage(list(self.ranks.values())) if any(map(len, self.ranks.values())) else None

    @property
    def missed(self) -> int:
        """Exact draws that the method cannot draw."""
        return 0 if self.upper is None else int(np.sum(self.upper == math.inf))

    @property
    def passed(self) -> bool:
        return not self.faults

    # ------------------------------------------------------------- in words

    @property
    def faults(self) -> list[str]:
        """What speaks against the method, each in a few words; empty where it passes."""
        found = []
        if self.dead:
            found.append(f"on {self.dead} of {self.rows} rows every draw has weight zero")
        if self.missed:
            found.append(f"{self.missed} of {self.rows} exact draws can never be drawn")
        elif self.jeffreys is not None and not self.jeffreys <= FAR and not self.dead:
            far = "" if math.isinf(self.jeffreys) else f"{self.jeffreys:.2f} nats apart"
            found.append(f"the bounds of the log evidence are {far or 'not both known'}, more than {FAR:g}")
        if self.sbc_p is not None and self.sbc_p < ALPHA:
            worst = min(self.p_values, key=lambda name: self.p_values[name])
            found.append(
                f"exact draws do not rank like draws of the method: {_how(worst, self.ranks[worst])} (p = {self.sbc_p:.1g})"
            )
        if self.weighed_p is not None and self.weighed_p < ALPHA:
            found.append(
                f"weighed among the draws, exact draws do not rank like them (p = {self.weighed_p:.1g})"
            )
        return found

    @property
    def verdict(self) -> str:
        """Whether it passed and why, what to do next, and what was assumed."""
        if self.faults:
            return f"Failed: {_and(self.faults)}. {self._advice()} Assumed: {self.assumed}."
        good = []
        if self.jeffreys is not None:
            # Chance can put the upper bound below the lower one; adding 0 takes the sign from a rounded -0.
            good.append(f"the bounds of the log evidence are {round(self.jeffreys, 2) + 0.0:.2f} nats apart")
        else:
            good.append("the method gives no upper bound of the log evidence, so only ranks were checked")
        if self.sbc_p is not None:
            good.append(f"exact draws rank like draws of the method (p = {self.sbc_p:.2g})")
        # Rule of three (Hanley & Lippman-Hand 1983), where an exact draw that is never drawn shows by itself.
        seen = f"A mode with less than {min(1.0, 3.0 / self.rows):.0%} of the posterior"
        unseen = f"{seen if self.weighed is not None else 'A small mode'} could still be missed. "
        unseen = "" if self.jeffreys == 0.0 else unseen  # every value is listed
        return f"Passed: {_and(good)}. {unseen}Assumed: {self.assumed}."

    def _advice(self) -> str:
        if self.weighed_p is None:
            return "Compare with another method by `plm compare`."
        if self.weighed_p < ALPHA:
            return "The weights themselves are wrong: this is a mistake of the method, and more draws do not mend it."
        few = self.ess is not None and self.ess < self.draws / 10
        if self.missed or not few:
            return "The weights are right for what is drawn; a part of the posterior is drawn too seldom. Use another proposal."
        return f"The weights are right, but worth too few draws (median ESS {self.ess:.1f} of {self.draws}). Draw more, or use another proposal."

    def lines(self) -> list[str]:
        """The result as plain text for people."""
        rows = [
            ("log evidence, at least", _bound(self.mean_lower)),
            ("log evidence, at most", _bound(self.mean_upper)),
        ]
        rows.append(("symmetrised KL", _bound(self.jeffreys)))
        covered = "-" if self.coverage90 is None else f"{self.coverage90:.1%}"
        rows.append(("90 % intervals hold", covered))
        p = "-" if self.sbc_p is None else f"p = {self.sbc_p:.2g}"
        rows.append(("uniform ranks", f"{p}, of {len(self.ranks)} quantities together"))
        out = [f"{self.method}: {self.rows} simulated rows, {self.draws} draws each, seed {self.seed}"]
        out += [f"  {name:<24}{text}" for name, text in rows]
        out += [f"    {name:<22}p = {p:.2g}" for name, p in self.p_values.items()]
        return [*out, self.verdict]

    def to_json(self) -> dict[str, Any]:
        """The stable shape of `plm calibrate --format json`; what is not finite is None."""
        whole = {
            "method": self.method,
            "rows": self.rows,
            "lower": self.mean_lower,
            "upper": self.mean_upper,
            "jeffreys": self.jeffreys,
            "sbc_p": self.sbc_p,
            "coverage90": self.coverage90,
            "verdict": self.verdict,
            "passed": self.passed,
        }
        found: dict[str, Any] = plain(whole)
        return found


def _together(p_values: Mapping[str, float]) -> float | None:
    return min(1.0, len(p_values) * min(p_values.values())) if p_values else None


def _how(name: str, u: np.ndarray) -> str:
    """In which way ranks are not uniform."""
    edge, mean = float(np.mean(np.abs(u - 0.5) > 0.45)), float(np.mean(u))
    if abs(mean - 0.5) > 0.1:
        return f"their `{name}` is too often {'high' if mean > 0.5 else 'low'}"
    if edge > 0.15:
        return f"their `{name}` is too often at the edge of the draws' or beyond"
    return f"their `{name}` is distributed otherwise"


def _and(reasons: list[str]) -> str:
    return reasons[0] if len(reasons) == 1 else f"{', '.join(reasons[:-1])}, and {reasons[-1]}"


def _bound(x: float | None) -> str:
    if x is None:
        return "-"
    return (
        f"{round(x, 3) + 0.0:.3f} nats" if math.isfinite(x) else ("infinite" if x > 0 else "minus infinity")
    )
