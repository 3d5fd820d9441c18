"""Densities by hand: what came before."""

from posteriors.brute import ln, log_sum


def cause_letters(row, lm):
    m = lm("letters")
    for z, p in m.texts(m.after(), 1, 4, free=True):
        yield (m.text(z),), p + m.score(m.after(z), row["ending"])


def label_of_text(row, lm):
    m, says = lm("words"), lm("channel")
    for z, p in m.texts(m.after(), 2, 6, stop="."):
        text = m.text(z)
        cause = "A" if "dog" in text else "B" if "cat" in text else "D"
        yield (text,), p + says.score(says.after(cause), row["label"])


def three_witnesses(row, lm):
    m = lm("letters")
    for z, p in m.texts(m.after(), 2, 4, free=True):
        yield (m.text(z),), p + sum(m.score(m.after(z), row[k]) for k in ("first", "second", "third"))


def number_behind_digits(row, lm):
    m = lm("noisy_digits")
    prior = (0.22, 0.04, 0.13, 0.02, 0.16, 0.05, 0.18, 0.03, 0.06, 0.11)
    for n, p in enumerate(prior):
        seen = sum(m.score(m.after(f" {n}"), row[k]) for k in ("first", "second", "third"))
        yield (n,), ln(p) + seen


def sentence_tiny(row, lm):
    m = lm("tiny")
    sentences = ("Tom has a big dog.", "Kate has a red ball.", "The cat slept.", "Ben went to the park.",
                 "Tom lost his kite.", "A frog sat in the sun.")  # fmt: skip
    own = [m.score(m.after(), s) for s in sentences]
    for s, p in zip(sentences, own, strict=True):
        yield (s,), p - log_sum(own) + m.score(m.after(m.encode(s)), row["ending"])
