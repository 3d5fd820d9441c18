"""Densities by hand: numbers and choices."""

import itertools

from posteriors.brute import binomial, geometric, ln, log_sum, poisson


def skewed_number(row, lm):
    for n, p in enumerate((0.3, 0.05, 0.2, 0.02, 0.25, 0.08, 0.06, 0.04)):
        yield (n,), ln(p) + binomial(9, 0.1 + 0.1 * n, row["seen"])


def two_dice(row, lm):
    for a in range(41):
        for b in range(41):
            yield (a, b), geometric(0.1, a) + poisson(7, b) + poisson(0.1 + a + b, row["seen"])


def choice_with_lead(row, lm):
    m = lm("digits")
    own = [m.score(m.after(), f" {n}") for n in range(10)]
    for n, p in enumerate(own):
        yield (n,), p - log_sum(own) + binomial(9, 0.05 + 0.1 * n, row["seen"])


def three_wide(row, lm):
    for a, b, c in itertools.product(range(40), repeat=3):
        own = geometric(0.25, a) + geometric(0.25, b) + geometric(0.25, c)
        yield (a, b, c), own + poisson(0.5 + a + b, row["first"]) + poisson(0.5 + b + c, row["second"])


def marked_age_tiny(row, lm):
    m = lm("tiny")
    for n in range(100):
        z = m.encode(f" {n}")
        context = m.after(row["prompt"])
        yield (n,), m.score(context, z) + m.score(context + z, row["behind"])
