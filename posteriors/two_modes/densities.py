"""Densities by hand: two modes, one of them invisible."""

import math

from posteriors.brute import geometric, log_sum


def six_times_c(row, lm):
    m = lm("late")
    for z, p in m.texts(m.after(), 6, 6, free=True):
        yield (m.text(z),), p + (11.38 if m.text(z) == "cccccc" else 0)


def half_from_another(row, lm):
    m, other = lm("late"), lm("far")
    for z, p in m.texts(m.after(), 6, 6, free=True):
        yield (m.text(z),), log_sum((math.log(0.5) + p, math.log(0.5) + other.score(other.after(), z)))


def two_spikes(row, lm):
    for n in range(25001):
        yield (n,), geometric(0.01, n) + (34.75 if n == 3000 else 2 if n < 20 else 0)


def two_causes(row, lm):
    m, says = lm("rare"), lm("channel")
    for x, p in m.texts(m.after(), 5, 5, free=True):
        rare = "r" in m.text(x)
        p += says.score(says.after("D" if rare else "A"), row["first"]) + (6.5 if rare else 0)
        yield (m.text(x),), p + says.score(says.after("B" if "b" in m.text(x) else "C"), row["second"])


def opposite_corners(row, lm):
    for a in range(300):
        for b in range(300):
            bonus = 36.3 if (a, b) == (150, 151) else 1 if a + b < 10 else 0
            yield (a, b), geometric(0.1, a) + geometric(0.1, b) + bonus
