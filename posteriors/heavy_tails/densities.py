"""Densities by hand: weights of very different sizes."""

import itertools
import math

from posteriors.brute import binomial, geometric, poisson


def slow_decay(row, lm):
    for n in range(25001):
        yield (n,), geometric(0.05, n) + 0.045 * n


def growing_poisson(row, lm):
    for a in range(200):
        for b in range(200):
            yield (a, b), poisson(3, a) + poisson(3, b) + 1.3 * a + 0.9 * b


def letters_that_pay(row, lm):
    m = lm("late")
    for z, p in m.texts(m.after(), 6, 6, free=True):
        yield (m.text(z),), p + 2.2 * m.text(z).count("c")


def seven_uneven_rows(row, lm):
    m = lm("channel")
    own = [[(s, m.score(m.after(), s) + m.score(m.after(s), r["seen"])) for s in "ABCD"] for r in row["rows"]]
    for path in itertools.product(*own):
        yield tuple(s for s, _ in path), sum(p for _, p in path)


def log_normal_weights(row, lm):
    for a in range(150):
        for b in range(150):
            yield (a, b), binomial(99, 0.5, a) + binomial(99, 0.5, b) + 0.4 * a - 0.4 * b


def tail_of_a_binomial(row, lm):
    for n in range(401):
        for p in range(100):
            yield (n, p), poisson(10, n) - math.log(100) + binomial(n, 0.01 * p, row["seen"])
