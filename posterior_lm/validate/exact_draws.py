"""Rows with one exact posterior draw each, which is what a method can be tested with.

A program that is simulated as it stands gives them for nothing: z ~ p(z), y ~ p(y | z),
so z is an exact draw of p(z | y) (Talts et al. 2018, §2). Where it cannot be, the
observation may still come from anywhere, and z is drawn from the listed posterior; or
simulated draws are kept with a probability in proportion to their weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from attrs import frozen

from posterior_lm.infer.base import run
from posterior_lm.infer.exact import Exact
from posterior_lm.infer.prefix_expansion import support_size
from posterior_lm.lang.diagnostics import DataError, InferenceError
from posterior_lm.target.prepared import Data, PreparedProgram
from posterior_lm.target.target import Target
from posterior_lm.target.values import Value
from posterior_lm.train.observable import observables
from posterior_lm.train.simulate import Pair, Simulator, equally_weighted

ROUNDS = 16
"""Times as many pairs are simulated as rows are wanted, before it counts as too seldom that one is kept."""
LISTED = 4096
"""Values that a support may have for each row's posterior to be listed: a second a row with a small model."""
FEWEST = 16
"""Exact draws below which nothing is said: a mode of a sixth would show in 95 % of the cases."""
CHEAP = 1000
"""Values that a support may have for the evidence of a row to be listed beside what a method says of it."""
EQUAL = 1e-6
"""Nats. Log weights that differ by no more are equal but for rounding."""

How = Literal["simulated", "listed", "weighed"]


@frozen(eq=False)
class KnownRow:
    """A row as a bound program, and one exact draw of its posterior: a value of every latent.

    `log_evidence` is the listed one, nats; None where there are too many values to list.
    """

    target: Target
    values: Mapping[str, Value]
    log_evidence: float | None = None


@frozen(eq=False)
class ExactDraws:
    """Rows with an exact draw each, how they were had, and in words what that assumes.

    `apart` is the mean of |log reward − log probability that the simulator gives the same values|, nats, two
    computations of one number; None where not every term is simulated.
    """

    rows: tuple[KnownRow, ...]
    how: How
    assumed: str
    apart: float | None = None


def exact_draws(
    program: PreparedProgram, rows: Sequence[Data], wanted: int, seed: int, given: Data | None = None
) -> ExactDraws:
    """About `wanted` rows with an exact draw each; `rows` are cases of the program's parameters, `given` holds in all.

    What a row gives of an observed parameter says only how long such a text is. Raises
    DataError PLM730 where a text is observed and no row gives one, InferenceError PLM731
    where too few exact draws can be had.
    """
    simulator = simulator_of(program, rows, given or {})
    if not simulator.exact and (listed := _listed(simulator, wanted, seed)) is not None:
        _check_enough(listed, wanted, simulator)
        return ExactDraws(tuple(listed), "listed", LISTING)
    kept, spread = equally_weighted(simulator, range(len(simulator.rows)), wanted, seed, 11, ROUNDS)
    _check_enough(kept, wanted, simulator)
    exact = simulator.exact or spread <= EQUAL
    found = _bound(simulator, kept)
    apart = _apart(found, kept) if simulator.exact else None
    return ExactDraws(found, "simulated" if exact else "weighed", SIMULATED if exact else WEIGHED, apart)


SIMULATED = "the rows were simulated from the program, so each has one exact posterior draw"
LISTING = "not every term of the program can be simulated, so the exact draw of each row is from its listed posterior"
WEIGHED = (
    "not every term of the program can be simulated, so the exact draws are simulated ones kept by weight, "
    "which is approximate"
)


def simulator_of(program: PreparedProgram, rows: Sequence[Data], given: Data) -> Simulator:
    """A simulator over the rows; observed parameters may be left out of them where only their type matters."""
    observed = observables(program.graph)
    free = [o.spec.name for o in observed if o.table is None]
    whole = [{**row, **given} for row in rows] or [dict(given)]
    data: list[Data] = [
        program.validate(row, path=f"rows[{k}]." if rows else "", missing=free) for k, row in enumerate(whole)
    ]
    texts = [o.spec.name for o in observed if o.table is None and o.spec.type == "text"]
    unknown = [name for name in texts if not all(name in row for row in data)]
    if unknown:
        raise DataError.of(
            "PLM730",
            f"nothing says how long the simulated `{unknown[0]}` should be",
            where=unknown[0],
            help="give rows with --data FILE: lengths are theirs, and their texts are replaced",
        )
    return Simulator(program, data)


def _listed(simulator: Simulator, wanted: int, seed: int) -> list[KnownRow] | None:
    """Each row's exact draw from its whole posterior; None where a support is too large to list."""
    first = simulator.program.bind_valid(_whole(simulator))
    size = support_size(first, LISTED)
    if size is None:
        return None
    found: list[KnownRow] = []
    numbers = [k % len(simulator.rows) for k in range(wanted)]
    rngs = [np.random.default_rng([seed, 13, k]) for k in range(wanted)]
    for k, pair in enumerate(simulator.draw(rngs, numbers)):
        target = simulator.program.bind_valid(pair.data)
        rng = np.random.default_rng([seed, 14, k])
        try:
            draws = run(Exact(values=size, mass=1.0), target, n=1, rng=rng)
        except InferenceError as problem:
            if any(d.code != "PLM703" for d in problem.diagnostics):
                raise
            continue  # an observation that no value of the latents explains is no row
        if draws.certificate is None or not draws.certificate.complete:
            return None
        place = int(rng.choice(len(draws), p=draws.normalized_weights))
        values = {name: column[place] for name, column in draws.values.items()}
        found.append(KnownRow(target, values, draws.log_evidence))
    return found


def _log_evidence(target: Target) -> float | None:
    """By listing every value, where that is cheap."""
    size = support_size(target, CHEAP)
    if size is None:
        return None
    draws = run(Exact(values=size, mass=1.0), target, n=1, rng=np.random.default_rng(0))
    return draws.log_evidence if draws.certificate is not None and draws.certificate.complete else None


def _apart(rows: Sequence[KnownRow], pairs: Sequence[Pair]) -> float:
    gaps = [
        float(row.target.log_reward({name: (value,) for name, value in row.values.items()})[0])
        - pair.log_joint
        for row, pair in zip(rows, pairs, strict=True)
    ]
    return float(np.mean(np.abs(gaps)))


def _whole(simulator: Simulator) -> Data:
    """A row with every parameter: one that was simulated where the data leaves some out."""
    if all(o.table is not None or o.spec.name in simulator.rows[0] for o in simulator.observed):
        return simulator.rows[0]
    for k in range(FEWEST):
        drawn = simulator.draw([np.random.default_rng([k, 15])], [0])
        if drawn:
            return drawn[0].data
    raise _too_few(0, simulator)


def _bound(simulator: Simulator, pairs: Sequence[Pair]) -> tuple[KnownRow, ...]:
    targets = [simulator.program.bind_valid(p.data) for p in pairs]
    return tuple(
        KnownRow(target, p.values, _log_evidence(target)) for target, p in zip(targets, pairs, strict=True)
    )


def _check_enough(found: Sequence[object], wanted: int, simulator: Simulator) -> None:
    if len(found) < min(FEWEST, wanted):
        raise _too_few(len(found), simulator)


def _too_few(found: int, simulator: Simulator) -> InferenceError:
    notes = [f"`{label}` cannot be simulated" for label in simulator.unsimulated]
    return InferenceError.of(
        "PLM731",
        f"only {found} exact posterior draw{'s' * (found != 1)} could be simulated, and fewer than {FEWEST} say little",
        notes=notes,
        help="simulate more with --rows, or test a smaller program of the same statements whose "
        "posterior can be listed",
    )
