"""Densities by hand: patterns, characters, grammars, spellings."""


def pairs_of_letters(row, lm):
    m = lm("letters")
    pairs = ("ab", "ba", "cc")
    texts = [f"{a}{b}." for a in pairs for b in ("", *pairs)]
    for z, p in m.written(texts, m.after(), 2, 5):
        yield (m.text(z),), p


def price(row, lm):
    m = lm("digits")
    texts = [f" {n}.{d}" for n in (*map(str, range(10)), *(f"{k:02}" for k in range(100))) for d in range(10)]
    for z, p in m.written(texts, m.after(), 4, 5):
        yield (m.text(z),), p


def two_characters(row, lm):
    m = lm("letters")
    for z, p in m.texts(m.after(), 2, 7, stop=".", chars="ab"):
        yield (m.text(z),), p


def trap_of_the_mask(row, lm):
    m = lm("mask_trap")
    for z, p in m.written(("xa.", "yb."), m.after(), 3, 3):
        yield (m.text(z),), p


def canonical_letters(row, lm):
    m = lm("letters")
    for z, p in m.texts(m.after(row["opening"]), 1, 4):
        if m.encode(m.text(z)) == z:
            yield (m.text(z),), p


def brackets(row, lm):
    m = lm("brackets")

    def closed(text):
        while "()" in text or "[]" in text:
            text = text.replace("()", "").replace("[]", "")
        return not text

    for z, p in m.texts(m.after(), 2, 7, stop="."):
        if m.text(z) != "." and closed(m.text(z)[:-1]):
            yield (m.text(z),), p


def terminals_that_overlap(row, lm):
    m = lm("letters")
    for z, p in m.written(("aba", "abb"), m.after(), 2, 3):
        yield (m.text(z),), p


def name_tiny(row, lm):
    m = lm("tiny")
    texts = [f" {name}." for name in ("Tom", "Kate", "Ben", "Leo", "Mia", "Sam")]
    for z, p in m.written(texts, m.after(row["prompt"]), 2, 4):
        yield (m.text(z),), p
