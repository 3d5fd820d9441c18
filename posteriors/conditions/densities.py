"""Densities by hand: what nearly every draw fails."""

import itertools
import math
import re
from collections import Counter

from posteriors.brute import geometric, poisson


def equal_texts(row, lm):
    m = lm("letters")
    for x, p in m.texts(m.after(), 3, 3, free=True):
        for y in m.spellings(m.text(x), 3, 3):
            yield (m.text(x), m.text(x)), p + m.score(m.after("c"), y)


def sum_of_three(row, lm):
    for a, b in itertools.product(range(21), repeat=2):
        if (c := 20 - a - b) >= 0:
            yield (a, b, c), poisson(3, a) + poisson(3, b) + poisson(3, c)


def many_of_one(row, lm):
    m = lm("letters")
    for z, p in m.texts(m.after(), 6, 6, free=True):
        if m.text(z).count(row["letter"]) >= 5:
            yield (m.text(z),), p


def like_a_sentence(row, lm):
    m = lm("words")
    like = Counter(re.findall(r"\w+", row["like"].lower()))
    for z, p in m.texts(m.after(), 4, 8, stop="."):
        own = Counter(re.findall(r"\w+", m.text(z).lower()))
        dot = sum(own[w] * like[w] for w in own)
        if dot / (math.hypot(*own.values()) * math.hypot(*like.values())) > 0.85:
            yield (m.text(z),), p


def product_is(row, lm):
    for a in range(1, 200):
        if 1200 % a == 0 and 1200 // a < 200:
            yield (a, 1200 // a), geometric(0.04, a) + geometric(0.04, 1200 // a)


def masked_and_not(row, lm):
    m = lm("words")
    for z, p in m.texts(m.after(), 3, 7, stop="."):
        if "bird" in m.text(z) and len(m.text(z)) in (14, 29):
            yield (m.text(z),), p
