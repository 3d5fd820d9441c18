"""Densities by hand: ends that the limit forces, and early ones that are rare."""


def early_stop(row, lm):
    m = lm("late")
    for z, p in m.texts(m.after(), 1, 8, chars="abde"):
        yield (m.text(z),), p


def early_full_stop(row, lm):
    m = lm("late")
    for z, p in m.texts(m.after(), 2, 9, stop=".", chars="abde"):
        yield (m.text(z),), p


def three_words(row, lm):
    m = lm("words")
    for z, p in m.texts(m.after(row["opening"]), 2, 3, stop="."):
        yield (m.text(z),), p


def exactly_six(row, lm):
    m = lm("letters")
    for z, p in m.texts(m.after(), 6, 6, stop="."):
        yield (m.text(z),), p


def stop_of_two_tokens(row, lm):
    m = lm("letters")
    for z, p in m.texts(m.after("c"), 2, 5, stop="ab"):
        yield (m.text(z),), p


def what_follows_likes_short(row, lm):
    m, says = lm("late"), lm("channel")
    for z, p in m.texts(m.after(), 1, 7, stop=".", chars="abcde"):
        yield (m.text(z),), p + says.score(says.after("D" if len(z) < 4 else "A"), row["seen"])
