"""Densities by hand: a text between known sides."""

from posteriors.brute import LN0

LETTERS = "abcdefghijklmnopqrstuvwxyz "


def _between(m, row, low, high, chars=""):
    """A text between `opening` and `ending`."""
    for z, p in m.texts(m.after(row["opening"]), low, high, free=True, chars=chars):
        yield (m.text(z),), p + m.score(m.after(row["opening"], z), row["ending"])


def bridge_words(row, lm):
    yield from _between(lm("words"), row, 3, 5)


def bridge_letters(row, lm):
    yield from _between(lm("letters"), row, 1, 3)


def long_bridge(row, lm):
    yield from _between(lm("letters"), row, 5, 5)


def two_gaps(row, lm):
    m = lm("words")
    opening, middle, ending = row["opening"], row["middle"], row["ending"]
    for x, p in m.texts(m.after(opening), 1, 2, free=True):
        p += m.score(m.after(opening, x), middle)
        for y, q in m.texts(m.after(opening, x, middle), 1, 2, free=True) if p > LN0 else ():
            yield (m.text(x), m.text(y)), p + q + m.score(m.after(opening, x, middle, y), ending)


def word_stories(row, lm):
    yield from _between(lm("stories260k-hf"), row, 1, 1, LETTERS)


def word_tinystories(row, lm):
    yield from _between(lm("tinystories656k-hf"), row, 1, 1, LETTERS)


def word_tiny(row, lm):
    yield from _between(lm("tiny"), row, 1, 1, "abdgilost ")
