"""Testing a method on rows whose posterior is known by one exact draw each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from posterior_lm.evidence.calibration import Calibration
from posterior_lm.evidence.exact_draws import FEWEST, ExactDraws, KnownRow, exact_draws
from posterior_lm.evidence.quantities import quantities
from posterior_lm.evidence.ranks import rank
from posterior_lm.evidence.ways import Way, bounds, way_of
from posterior_lm.infer.base import Draws, Info
from posterior_lm.infer.request import Request
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.target.prepared import Data, PreparedProgram

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
    return calibration_of(way_of(program, request), known, draws=draws, seed=seed, progress=progress)


def calibration_of(
    way: Way, known: ExactDraws, *, draws: int, seed: int, progress: Callable[[Info], None] | None = None
) -> Calibration:
    """Any way to draw, on rows that are known."""
    began = time.monotonic()
    lower: list[float | None] = []
    upper: list[float | None] = []
    ranks: dict[str, list[float]] = {}
    weighed: dict[str, list[float]] = {}
    ess: list[float] = []
    dead, conditional = 0, True
    for k, row in enumerate(known.rows):
        found = _drawn(way, row, draws, np.random.default_rng([seed, 21, k]))
        if progress is not None:
            progress(Info(False, f"row {k + 1} of {len(known.rows)}", (k + 1) / len(known.rows)))
        if found is None:
            dead += 1
            lower.append(-math.inf)
            upper.append(math.inf)
            continue
        held = bounds(way, row.target, found, row.values, np.random.default_rng([seed, 22, k]))
        lower.append(held.lower)
        upper.append(held.upper)
        ess += [] if found.ess is None else [found.ess]
        conditional &= held.share is not None
        rng = np.random.default_rng([seed, 23, k])
        _rank(row, found, held.share, rng, ranks, weighed)
    return Calibration(
        method=way.name,
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
        seconds=time.monotonic() - began,
    )


def _drawn(way: Way, row: KnownRow, n: int, rng: np.random.Generator) -> Draws | None:
    """The method's draws; None where all of them are dead."""
    try:
        return way.draw(row.target, n, rng)
    except InferenceError as problem:
        if any(d.code not in ("PLM702", "PLM710") for d in problem.diagnostics):
            raise
        return None


def _rank(
    row: KnownRow, draws: Draws, share: float | None, rng: np.random.Generator,
    ranks: dict[str, list[float]], weighed: dict[str, list[float]],
) -> None:  # fmt: skip
    """Adds the exact draw's rank in each quantity, among the draws as they are and with itself among them."""
    alive, weights = _independent(draws)
    values = {name: [row.values[name], *(draws.values[name][d] for d in alive)] for name in row.target.names}
    own = 1.0 / len(alive) if draws.chains is not None else 1.0 / (draws.independent or math.inf)
    found = quantities(row.target, values)
    keys = [tuple(values[name][k].ids for name in row.target.names) for k in range(len(alive) + 1)]
    if share is None and draws.certificate is None:
        found["frequency"] = _frequency(keys, weights, own)
    for name, numbers in found.items():
        ranks.setdefault(name, []).append(rank(weights, numbers[1:], numbers[0], own, rng))
    if share is None:
        return
    # The weight itself tells most of a weight that is wrong; no unweighted draw has one to compare with.
    log_w = math.log(share) if share > 0 else -math.inf
    same = [key == keys[0] for key in keys[1:]]
    found["log weight"] = np.append(log_w, np.where(same, log_w, np.log(weights)))
    found["frequency"] = _frequency(keys, weights, share)
    for name, numbers in found.items():
        weighed.setdefault(name, []).append(rank(weights, numbers[1:], numbers[0], share, rng))


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
