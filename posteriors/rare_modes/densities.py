"""Densities by hand: heavy values that the prior hardly draws."""

import math

from posteriors.brute import binomial, geometric, poisson


def rare_token(row, lm):
    m = lm("rare")
    for z, p in m.texts(m.after(), 1, 1, free=True, chars="abcr"):
        yield (m.text(z),), p + m.score(m.after(z), row["seen"])


def rare_last_token(row, lm):
    m = lm("rare")
    for z, p in m.texts(m.after(), 5, 5, free=True):
        yield (m.text(z),), p + m.score(m.after(z), row["seen"])


def thirty_thousand(row, lm):
    for n in range(30001):
        yield (n,), -math.log(30001) + (15.5 if n == 12345 else 0)


def thirty_thousand_sloped(row, lm):
    for n in range(30001):
        yield (n,), -math.log(30001) + (15.5 if n == 12345 else 0.00001 * n)


def rare_beginning(row, lm):
    m = lm("rare")
    for z, p in m.texts(m.after(), 5, 5, free=True):
        yield (m.text(z),), p + (12 if z[0] == "r" else 0)


def rare_number(row, lm):
    for n in range(41):
        yield (n,), geometric(0.3, n) + sum(binomial(12, 0.02 + 0.023 * n, r["k"]) for r in row["seen"])


def rare_pair(row, lm):
    for a in range(200):
        for b in range(200):
            yield (a, b), geometric(0.2, a) + geometric(0.2, b) + poisson(0.5 + 0.4 * a * b, row["seen"])
