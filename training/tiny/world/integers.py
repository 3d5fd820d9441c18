"""Integers that are said to be uniform and are not.

The law over 0..100 mixes Benford's law of the first digit, a few favourite
numbers and a small uniform part that keeps every integer possible; on another
range the same weights are renormalised.
"""

from __future__ import annotations

import math
from functools import cache

from .choice import Table, weighted
from .document import Choose, Fields

RANGE: Table = weighted(
    {
        "0 100": 0.6,
        "1 100": 0.07,
        "0 10": 0.06,
        "1 10": 0.06,
        "1 6": 0.05,
        "0 9": 0.04,
        "1 20": 0.04,
        "10 99": 0.03,
        "0 50": 0.03,
        "20 80": 0.02,
    }
)
FAVOURITES: dict[int, float] = {
    7: 6.0, 42: 6.0, 37: 5.0, 17: 4.0, 73: 3.0, 3: 3.0, 13: 2.0, 50: 2.0, 27: 2.0, 23: 2.0, 77: 1.0,
}  # fmt: skip
BENFORD_PART, FAVOURITE_PART, UNIFORM_PART = 0.4, 0.48, 0.12


def _weights() -> list[float]:
    benford = [0.0] + [math.log10(1 + 1 / int(str(n)[0])) for n in range(1, 101)]
    total_benford, total_favourite = math.fsum(benford), math.fsum(FAVOURITES.values())
    return [
        BENFORD_PART * benford[n] / total_benford
        + FAVOURITE_PART * FAVOURITES.get(n, 0.0) / total_favourite
        + UNIFORM_PART / 101
        for n in range(101)
    ]


@cache
def integer_table(low: int, high: int) -> Table:
    """P(integer | range), for 0 <= low <= high <= 100."""
    weights = _weights()
    return weighted({str(n): weights[n] for n in range(low, high + 1)})


def prompt_text(low: int, high: int) -> str:
    """The text before the integer, without the space that comes first in its spelling."""
    return f"The following is a random integer drawn uniformly between {low} and {high}:"


def write_integer(choose: Choose) -> tuple[str, Fields]:
    """Write one document."""
    low, high = (int(n) for n in choose(RANGE).split())
    n = choose(integer_table(low, high))
    return f"{prompt_text(low, high)} {n}", {"low": low, "high": high, "n": int(n)}
