"""Densities by hand: latents that depend on one another."""

from posteriors.brute import LN0, binomial, ln, poisson


def topic_and_words(row, lm):
    m = lm("words")
    for topic, prior in ((" The dog", 0.5), (" A cat", 0.3), (" Then A bird", 0.2)):
        for z, p in m.texts(m.after(m.encode(topic)), 1, 5, stop="."):
            yield (topic, m.text(z)), ln(prior) + p + (2 if "and" in m.text(z) else 0)


def three_kinds(row, lm):
    m = lm("letters")
    for mode, prior in (("a", 0.6), ("b", 0.3), ("c", 0.1)):
        for z, p in m.texts(m.after(m.encode(mode)), 1, 3, free=True):
            for n in range(7):
                rate = 0.3 + n + 2 * m.text(z).count("c")
                yield (n, mode, m.text(z)), poisson(1.5, n) + ln(prior) + p + poisson(rate, row["seen"])


def garden_path(row, lm):
    m = lm("garden")
    for x, p in m.texts(m.after(), 1, 1, free=True, chars="ab"):
        p += m.score(m.after(x, " "), row["early"])
        for y, q in m.texts(m.after(x), 1, 1, free=True, chars="pqx"):
            yield (m.text(x), m.text(y)), p + q + m.score(m.after(x, y), row["late"])


def garden_of_letters(row, lm):
    other = lm("letters")
    path = [one for one in garden_path(row, lm) if one[1] > LN0]
    for w, p in other.texts(other.after(), 4, 4, free=True):
        for (x, y), q in path:
            yield (other.text(w), x, y), p + q


def chain_of_three(row, lm):
    for a in range(31):
        for b in range(a + 1):
            for c in range(b + 1):
                own = poisson(9, a) + binomial(a, 0.7, b) + binomial(b, 0.6, c)
                yield (a, b, c), own + poisson(0.2 + c, row["seen"])
