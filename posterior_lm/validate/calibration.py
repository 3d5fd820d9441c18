"""Calibration: a method on rows whose posterior is known by one exact draw each.

What was found is a value, `Calibration`, which says in words what speaks against the method.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen

from posterior_lm.api.posterior import Posterior
from posterior_lm.infer.base import Info
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.request import Request
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.shown import Shown
from posterior_lm.storage import plain
from posterior_lm.target.prepared import Data, PreparedProgram
from posterior_lm.target.values import Value
from posterior_lm.validate.exact_draws import FEWEST, ExactDraws, KnownRow, exact_draws
from posterior_lm.validate.measures import (
    Bounds,
    MethodUnderTest,
    binomial_tail,
    bounds,
    coverage,
    method_under_test,
    p_value,
    quantities,
    rank,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
ROWS, DRAWS = 100, 200
"""Of a hundred rows a mode of three in a hundred is missed once in twenty times."""


def calibrate(
    program: PreparedProgram,
    request: Request,
    rows: Sequence[Data] = (),
    *,
    given: Data | None = None,
    simulate: int = ROWS,
    draws: int = DRAWS,
    seed: int = 0,
    progress: Callable[[Info], None] | None = None,
) -> Calibration:
    """The requested method on `simulate` rows, each with an exact draw, with `draws` draws a row.

    `rows` are cases of the program's parameters; what they give of an observed parameter
    is replaced by what is simulated; `given` are parameters of every row. Raises ValueError for fewer than 16 rows or 2 draws,
    DataError and InferenceError as `exact_draws` does.
    """
    if simulate < FEWEST or draws < 2:
        raise ValueError(f"a calibration needs at least {FEWEST} rows and 2 draws a row")
    known = exact_draws(program, rows, simulate, seed, given)
    return calibration_of(
        method_under_test(program, request), known, draws=draws, seed=seed, progress=progress
    )


def calibration_of(
    method: MethodUnderTest,
    known: ExactDraws,
    *,
    draws: int,
    seed: int,
    progress: Callable[[Info], None] | None = None,
) -> Calibration:
    """Any method, on rows that are known."""
    began = time.monotonic()
    lower: list[float | None] = []
    errors: list[float] = []
    upper: list[float | None] = []
    ranks: dict[str, list[float]] = {}
    weighed: dict[str, list[float]] = {}
    ess: list[float] = []
    dead, conditional, merged = 0, True, 0.0
    for k, row in enumerate(known.rows):
        found = _drawn(method, row, draws, np.random.default_rng([seed, 21, k]))
        if progress is not None:
            progress(Info(False, f"row {k + 1} of {len(known.rows)}", (k + 1) / len(known.rows)))
        if found is None:
            dead += 1
            lower.append(-math.inf)
            upper.append(math.inf)
            errors.append(math.inf)
            continue
        held = bounds(method, row.target, found, row.values, np.random.default_rng([seed, 22, k]))
        lower.append(held.lower)
        errors.append(math.inf if found.log_evidence_se is None else found.log_evidence_se)
        upper.append(held.upper)
        ess += [] if found.ess is None else [found.ess]
        conditional &= held.share is not None or held.beside is not None or held.upper == math.inf
        merged = max(merged, _merged_apart(found))
        rng = np.random.default_rng([seed, 23, k])
        _rank(row, found, held, rng, ranks, weighed)
    return Calibration(
        method=method.name,
        draws=draws,
        seed=seed,
        lower=_whole(lower),
        upper=_whole(upper),
        ranks={name: np.array(u) for name, u in ranks.items()},
        weighed={name: np.array(u) for name, u in weighed.items()} if conditional and weighed else None,
        ess=float(np.median(ess)) if ess else None,
        rows=len(known.rows),
        dead=dead,
        assumed=known.assumed,
        listed=np.array([math.nan if row.log_evidence is None else row.log_evidence for row in known.rows]),
        errors=np.array(errors),
        apart=known.apart,
        merged=merged,
        seconds=time.monotonic() - began,
    )


def _drawn(method: MethodUnderTest, row: KnownRow, n: int, rng: np.random.Generator) -> Draws | None:
    """The method's draws; None where all of them are dead."""
    try:
        return method.draw(row.target, n, rng)
    except InferenceError as problem:
        if any(d.code not in ("PLM702", "PLM710") for d in problem.diagnostics):
            raise
        return None


def _rank(
    row: KnownRow, draws: Draws, held: Bounds, rng: np.random.Generator,
    ranks: dict[str, list[float]], weighed: dict[str, list[float]],
) -> None:  # fmt: skip
    """Adds the exact draw's rank in each quantity, among the draws as they are and with itself among them."""
    alive, weights = _independent(draws)
    values = {name: [row.values[name], *(draws.values[name][d] for d in alive)] for name in row.target.names}
    own = 1.0 / len(alive) if draws.chains is not None else 1.0 / (draws.independent or math.inf)
    found = quantities(row.target, values)
    keys = _keys(row, values)
    if (
        draws.chains is not None
    ):  # draws that have weights of their own are equal to others in proportion to them
        found["frequency"] = _frequency(keys, weights, own)
    for name, numbers in found.items():
        ranks.setdefault(name, []).append(rank(weights, numbers[1:], numbers[0], own, rng))
    share = held.share
    if held.beside is not None:
        alive = np.union1d(0, np.flatnonzero(held.beside.normalized_weights))
        weights = held.beside.normalized_weights[alive]
        share = float(weights[0] / weights[1:].sum()) if weights[1:].any() else math.inf
        weights = weights[1:] / max(weights[1:].sum(), 1e-300)
        values = {name: [held.beside.values[name][d] for d in alive] for name in row.target.names}
        found, keys = quantities(row.target, values), _keys(row, values)
    if share is None:
        return
    # The weight itself tells most of a weight that is wrong; no unweighted draw has one to compare with.
    log_w = math.log(share) if share > 0 else -math.inf
    same = [held.beside is None and key == keys[0] for key in keys[1:]]
    with np.errstate(divide="ignore"):
        logs = np.append(log_w, np.where(same, log_w, np.log(weights)))
    found["log weight"] = np.round(logs, 6)
    found["frequency"] = _frequency(keys, weights, share)
    for name, numbers in found.items():
        weighed.setdefault(name, []).append(rank(weights, numbers[1:], numbers[0], share, rng))


def _keys(row: KnownRow, values: Mapping[str, Sequence[Value]]) -> list[tuple]:
    """What each draw holds, all latents together."""
    return [
        tuple(value.ids for value in one) for one in zip(*(values[n] for n in row.target.names), strict=True)
    ]


def _merged_apart(draws: Draws) -> float:
    """The largest difference between a weight of merged draws and the sum of what the draws have of it."""
    if not draws.values:
        return 0.0
    found = {tuple(m.values.values()): m.weight for m in Posterior("", "", {}, draws, 0).merged()}
    return max((abs(found.get(one, 0.0) - share) for one, share in draws.shares.items()), default=0.0)


def _independent(draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """The draws to rank among, by number, and their weights, which sum to 1; chains thinned to their ESS (Talts et al. 2018, §5.1)."""
    if draws.chains is None:
        weights = draws.normalized_weights
        alive = np.flatnonzero(weights)
        return alive, weights[alive]
    size = min(len(draws), max(1, int(draws.chains.bulk_ess or draws.chains.number)))
    kept = np.unique(np.linspace(0, len(draws) - 1, size).round().astype(np.int64))
    return kept, np.full(len(kept), 1.0 / len(kept))


def _frequency(keys: Sequence[tuple], weights: np.ndarray, own: float) -> np.ndarray:
    """(N + 1,) the weight of all that equal each value, the exact draw first and with its weight `own` among them.

    A value that a method never draws is equal to nothing but the exact draw. As a function
    of all values together it is a quantity like any other (Modrák et al. 2023, §2).
    """
    total: dict[tuple, float] = {}
    for key, weight in zip(keys, [own, *weights.tolist()], strict=True):
        total[key] = total.get(key, 0.0) + weight
    return np.round([total[key] for key in keys], 12)  # equal sums are ties, whatever their order


def _whole(column: Sequence[float | None]) -> np.ndarray | None:
    return None if any(x is None for x in column) else np.array(column, dtype=np.float64)


# ------------------------------------------------------------------------------- what was found

ALPHA = 0.005
"""A p-value of the ranks that a right method has once in two hundred calibrations."""
FAR = 0.5
"""Nats between the bounds. A mode of share p that is never drawn adds p times tens of nats; without one,
half a nat is where N draws are worth two or three."""
CROSSED = 0.05
"""Nats that the upper bound of a row may be below the lower one and not count: without noise it is by 1/N at most."""
ERRORS = 4.0
"""Standard errors that a mean may be off: means of a hundred skewed ratios are no normal ones."""
LEAST, OFTEN = 0.5, 0.1
"""A standard error counts as this over √N at least, since one of a few ancestors may be 0; and how many rows may be
off by four of them: where draws are few for their weights, some are."""
ROUNDING = 1e-3
"""What a ratio that has no spread may be off, by models that compute in float32."""
APART = 0.25
"""Nats between two computations of one log probability, on average; models of bfloat16 are off by a tenth."""


@frozen(eq=False)
class Calibration(Shown):
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
    listed: np.ndarray | None = None
    """(rows,) log evidence by listing, nats; NaN where there is too much to list."""
    errors: np.ndarray | None = None
    """(rows,) standard errors that the method gives its log evidence, nats; ∞ where it gives none."""
    apart: float | None = None
    """As in `ExactDraws`."""
    merged: float = 0.0
    """The largest weight that merging draws has lost or added."""
    seconds: float = 0.0

    @property
    def mean_lower(self) -> float | None:
        return None if self.lower is None else float(np.mean(self.lower))

    @property
    def mean_upper(self) -> float | None:
        return None if self.upper is None else float(np.mean(self.upper))

    @property
    def jeffreys(self) -> float | None:
        """Nats: upper less lower bound, the symmetrised KL divergence of `bounds`; None with a bound missing."""
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
    def crossed_p(self) -> float | None:
        """Of as many rows whose upper bound is below the lower one; None with a bound missing.

        The evidence of a run with the exact draw is one without it, drawn in proportion to its size, and so at
        least as large in half of the cases.
        """
        if self.lower is None or self.upper is None or not np.isfinite(self.lower).all():
            return None
        allowed = max(CROSSED, 1.5 / self.draws)
        return binomial_tail(int(np.sum(self.upper - self.lower < -allowed)), self.rows)

    @property
    def ratio(self) -> tuple[float, float] | None:
        """Mean and standard error of estimated over listed evidence, which is 1 for an unbiased estimate; None without a list."""
        return None if self.lower is None else _mean_ratio(self.lower, self.listed, 1.0)

    @property
    def far_off(self) -> float | None:
        """The share of the listed rows whose log evidence is off by more than `ERRORS` of its own standard errors."""
        if (
            self.lower is None
            or self.listed is None
            or self.errors is None
            or not np.isfinite(self.listed).any()
        ):
            return None
        known = np.isfinite(self.listed)
        allowed = ERRORS * np.maximum(self.errors[known], LEAST / math.sqrt(self.draws))
        return float(np.mean(np.abs(self.lower[known] - self.listed[known]) > allowed))

    @property
    def inverse_ratio(self) -> tuple[float, float] | None:
        """Mean and standard error of listed evidence over that of the runs with the exact draw, which is 1 too."""
        return None if self.upper is None or self.missed else _mean_ratio(self.upper, self.listed, -1.0)

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
        if self.crossed_p is not None and self.crossed_p < ALPHA / 10:
            found.append(
                f"the upper bound of the log evidence is below the lower one, by {-(self.jeffreys or 0.0):.2f} nats"
            )
        for what, one in (
            ("evidence", self.ratio),
            ("inverse evidence beside an exact draw", self.inverse_ratio),
        ):
            if one is not None and abs(one[0] - 1.0) > ERRORS * one[1] + ROUNDING:
                found.append(
                    f"the {what} is {one[0]:.2f} ± {one[1]:.2f} times the listed one, on average, and not 1"
                )
        if self.far_off is not None and self.far_off > OFTEN:
            found.append(
                f"the log evidence is off by more than {ERRORS:g} of its standard errors on {self.far_off:.0%} of the rows"
            )
        if self.apart is not None and self.apart > APART:
            found.append(
                f"log rewards are {self.apart:.2f} nats from what the same values were simulated with"
            )
        if self.merged > ROUNDING:
            found.append(f"merging draws changes a weight by {self.merged:.2g}")
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
        if self.apart is not None and self.apart > APART:
            return "The log reward itself is wrong, whatever the method: this is a mistake of the package or of a model."
        if self.weighed_p is None:
            return "Compare with another method by `plm compare`."
        if self.weighed_p < ALPHA:
            return "The weights themselves are wrong: this is a mistake of the method, and more draws do not mend it."
        few = self.ess is not None and self.ess < self.draws / 10
        if self.missed or not few:
            return "The weights are right for what is drawn; a part of the posterior is drawn too seldom. Use another proposal."
        return f"The weights are right, but worth too few draws (median ESS {self.ess:.1f} of {self.draws}). Draw more, or use another proposal."

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """How far each quantity's ranks are from uniform, over the 99 % band; the axes. Raises DataError PLM732."""
        return self._above("plots", ax)

    def figures(self) -> list[tuple[str, str]]:
        """(name, value) of what was measured, as text for people."""
        held = "-" if self.coverage90 is None else f"{self.coverage90:.1%}"
        p = "-" if self.sbc_p is None else f"p = {self.sbc_p:.2g}"
        rows = [
            ("log evidence, at least", _bound(self.mean_lower)), ("log evidence, at most", _bound(self.mean_upper)),
            ("symmetrised KL", _bound(self.jeffreys)), ("90 % intervals hold", held),
            ("uniform ranks", f"{p}, of {len(self.ranks)} quantities together"),
        ]  # fmt: skip
        return rows + [(f"  {name}", f"p = {p:.2g}") for name, p in self.p_values.items()]

    def lines(self) -> list[str]:
        """The result as plain text for people."""
        head = f"{self.method}: {self.rows} simulated rows, {self.draws} draws each, seed {self.seed}"
        return [head, *(f"  {name:<23} {text}" for name, text in self.figures()), self.verdict]

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


def _mean_ratio(bound: np.ndarray, listed: np.ndarray | None, sign: float) -> tuple[float, float] | None:
    """Mean and standard error of (exp bound / exp listed)^sign over the rows that were listed, if they are enough."""
    known = np.zeros(len(bound), dtype=bool) if listed is None else np.isfinite(listed)
    if listed is None or known.sum() < FEWEST:
        return None
    ratios = np.exp(np.minimum(sign * (bound - listed)[known], 700.0))
    return float(np.mean(ratios)), float(np.std(ratios, ddof=1) / math.sqrt(len(ratios)))


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
