"""Densities by hand: likely here and not there."""

from posteriors.brute import log_sum


def against_itself(row, lm):
    m = lm("letters")
    for z, p in m.texts(m.after(row["opening"]), 1, 5):
        yield (m.text(z),), p - 0.5 * m.score(m.after(), z, ends=True)


def against_another(row, lm):
    m, other = lm("letters"), lm("ink")
    for z, p in m.texts(m.after(), 2, 5):
        yield (m.text(z),), p - 0.8 * other.score(other.after(), z, ends=True)


def both_at_once(row, lm):
    m, other = lm("letters"), lm("ink")
    for z, p in m.texts(m.after(), 1, 5):
        yield (m.text(z),), p + other.score(other.after(), z, ends=True)


def strongly_against(row, lm):
    m, other = lm("letters"), lm("ink")
    for z, p in m.texts(m.after(), 5, 5, free=True):
        yield (m.text(z),), p - 1.5 * other.score(other.after(), z)


def animal_tiny(row, lm):
    m = lm("tiny")
    animals = (" dog", " cat", " bird", " frog", " ball", " kite", " park")
    own = [m.score(m.after(row["prompt"]), a) for a in animals]
    for a, p in zip(animals, own, strict=True):
        yield (a,), p - log_sum(own) - 0.7 * m.score(m.after("Tom saw a"), a)
