"""Three planted faults, and what calibration says of each.

    python examples/07_calibrate.py

A guide that never draws two of the values, a weight with the wrong sign, and a term that is
missing: none of them shows in the effective sample size. Exact posterior draws, which the
program itself simulates, show all three. Prints what stands in 07_calibrate.out, up to
rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from attrs import evolve

import posterior_lm as plm
from posterior_lm.infer.draws import Draws
from posterior_lm.target.target import Target
from posterior_lm.validate.calibration import calibration_of
from posterior_lm.validate.exact_draws import exact_draws
from posterior_lm.validate.measures import MethodUnderTest, method_under_test

NUMBER = plm.loads("""
program number(seen: int(0..9), again: int(0..9)) {
  latent n: int(0..7) ~ categorical([0.3, 0.05, 0.2, 0.02, 0.25, 0.08, 0.06, 0.04])
  observe seen ~ binomial(9, 0.1 + 0.1 * n)
  observe again ~ poisson(0.5 + n / 2)
}
""").using("importance")


def changed(change: Callable[[Target, Draws], np.ndarray]) -> MethodUnderTest:
    """Importance sampling whose log weights are changed."""
    right = method_under_test(NUMBER.prepared, NUMBER.request)

    def draw(target: Target, n: int, rng: np.random.Generator) -> Draws:
        draws = right.draw(target, n, rng)
        return evolve(draws, log_weights=change(target, draws))

    return evolve(right, draw=draw)


def blind(target: Target, draws: Draws) -> np.ndarray:
    numbers = np.array([v.datum for v in draws.values["n"]])
    return np.where((numbers == 2) | (numbers == 3), -np.inf, draws.log_weights)


def upside_down(target: Target, draws: Draws) -> np.ndarray:
    return -draws.log_weights


def forgetful(target: Target, draws: Draws) -> np.ndarray:
    last = target.terms(draws.values)[:, -1]
    return draws.log_weights - last


known = exact_draws(NUMBER.prepared, (), 100, 0)
ways = {
    "right": method_under_test(NUMBER.prepared, NUMBER.request),
    "blind to n = 2 and 3": changed(blind),
    "weights with the wrong sign": changed(upside_down),
    "without its last term": changed(forgetful),
}
for name, way in ways.items():
    found = calibration_of(way, known, draws=200, seed=0)
    print(f"{name}: median ESS {found.ess:.0f} of {found.draws}")
    print(f"  {found.verdict}\n")
