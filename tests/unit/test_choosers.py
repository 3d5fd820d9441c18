"""Draws side by side of which each raises the probabilities to a power of its own."""

from __future__ import annotations

import numpy as np

from posterior_lm.infer.choosers import SampleEach


def test_each_draw_takes_tokens_by_its_own_power() -> None:
    n = 6000
    probs = np.array([[0.0, 0.6, 0.3, 0.1], [0.7, 0.1, 0.2, 0.0]])
    point, powers = np.arange(n) % 2, np.where(np.arange(n) < n // 2, 1.0, 0.4)
    rngs = [np.random.default_rng([5, k]) for k in range(n)]
    picked = SampleEach(rngs, powers).tokens(np.arange(n), point, 0, probs)
    for row in (0, 1):
        for power in (1.0, 0.4):
            mine = picked[(point == row) & (powers == power)]
            wanted = np.where(probs[row] > 0, probs[row] ** power, 0.0)
            wanted /= wanted.sum()
            found = np.bincount(mine, minlength=4) / len(mine)
            error = np.sqrt(wanted * (1 - wanted) / len(mine))
            assert (np.abs(found - wanted) <= 4 * error).all(), (row, power, found, wanted)
    plain = SampleEach([np.random.default_rng([5, k]) for k in range(n)]).tokens(
        np.arange(n), point, 0, probs
    )
    assert (picked[powers == 1.0] == plain[powers == 1.0]).all()
