"""Densities by hand: powers above and below one."""

from posteriors.brute import power

LETTERS = "abcdefghijklmnopqrstuvwxyz "


def sharp_words(row, lm):
    m = lm("words")
    for z, p in m.texts(m.after(), 2, 7, stop="."):
        yield (m.text(z),), 2.0 * p


def sharp_letters(row, lm):
    m = lm("letters")
    for z, p in m.texts(m.after(), 1, 5):
        yield (m.text(z),), 3.0 * p


def flat_letters(row, lm):
    m = lm("letters")
    for z, p in m.texts(m.after(row["opening"]), 1, 4):
        yield (m.text(z),), 0.4 * p


def flat_words(row, lm):
    m = lm("words")
    for z, p in m.texts(m.after(), 2, 8, stop="."):
        yield (m.text(z),), 0.5 * p


def cool_block(row, lm):
    m = lm("letters")
    for z, p in m.texts(m.after(), 1, 4, free=True):
        yield (m.text(z),), power(2.5, p + m.score(m.after(z), row["ending"]))


def short_holds_it(row, lm):
    m = lm("branching")
    for z, p in m.texts(m.after(), 1, 6, stop="."):
        yield (m.text(z),), 2.0 * p


def sharp_stories(row, lm):
    m = lm("stories260k-hf")
    for z, p in m.texts(m.after(row["opening"]), 2, 2, free=True, chars=LETTERS):
        yield (m.text(z),), 2.0 * p
