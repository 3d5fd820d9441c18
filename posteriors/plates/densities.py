"""Densities by hand: rows of a table."""

import itertools
import math

from posteriors.brute import binomial, poisson


def counts(row, lm):
    for n in range(26):
        seen = sum(binomial(10, 0.02 + 0.03 * n, r["k"]) for r in row["rows"])
        yield (n,), poisson(6, n) + seen


def thirty_rows(row, lm):
    for n in range(1001):
        seen = sum(binomial(20, 0.05 + 0.0009 * n, r["k"]) for r in row["rows"])
        yield (n,), -math.log(1001) + seen


def letter_in_each_row(row, lm):
    m = lm("channel")
    own = [[(s, m.score(m.after(), s) + m.score(m.after(s), r["seen"])) for s in "ABCD"] for r in row["rows"]]
    for path in itertools.product(*own):
        yield tuple(s for s, _ in path), sum(p for _, p in path)


def rule_and_rows(row, lm):
    m = lm("letters")
    for z, p in m.texts(m.after(), 1, 4, free=True):
        yield (m.text(z),), p + sum(m.score(m.after(r["input"], z), r["output"]) for r in row["rows"])


def texts_in_three_rows(row, lm):
    m = lm("letters")
    own = [
        [
            (m.text(z), 2 * p + m.score(m.after(z), r["ending"]))
            for z, p in m.texts(m.after(), 2, 2, free=True)
        ]
        for r in row["rows"]
    ]
    for path in itertools.product(*own):
        yield tuple(z for z, _ in path), sum(p for _, p in path)
