"""Densities by hand: texts that a tool writes a part of."""

import itertools


def _sums():
    """Text, what is drawn up to the trigger, the output, and what is drawn behind it: a digit more, or none, and the stop."""
    for a, b in itertools.product(range(10), repeat=2):
        for more in ("", *"0123456789"):
            yield f"{a}+{b}={a + b}{more}.", f"{a}+{b}=", f"{a + b}", f"{more}."


def sum_observed(row, lm):
    m = lm("digits")
    for text, drawn, output, rest in _sums():
        yield (text,), m.score(m.after(), m.encode(drawn) + m.encode(output) + m.encode(rest))


def sum_intervened(row, lm):
    m = lm("digits")
    for text, drawn, output, rest in _sums():
        before, written = m.encode(drawn), m.encode(output)
        yield (text,), m.score(m.after(), before) + m.score(m.after(before, written), m.encode(rest))


def answer_of_seven(row, lm):
    m = lm("digits")
    for text, drawn, output, rest in _sums():
        if output == "7" and rest == ".":
            yield (text,), m.score(m.after(), m.encode(drawn) + m.encode(output) + m.encode(rest))


def price_looked_up(row, lm):
    m = lm("prices")
    for fruit, price in (("apple", "4"), ("pear", "1"), ("plum", "")):
        head = f" The {fruit} costs"
        own = 3 if price else 4
        for more in itertools.chain.from_iterable(itertools.product("0147", repeat=k) for k in range(4)):
            digits = "".join(more)
            if not (price + digits) or not 4 <= own + len(digits) + 1 <= 6:
                continue
            # After a price that the table wrote what is drawn begins anew; without one the space is drawn too.
            written, rest = (f" {price}", f"{digits}.") if price else ("", f" {digits}.")
            tokens = m.encode(head) + m.encode(written) + m.encode(rest)
            yield (m.text(tokens),), m.score(m.after(), tokens)


def sum_tiny(row, lm):
    m = lm("tiny")
    context = m.after(f"Question: {row['question']} Answer:")
    for a, sign, b in itertools.product(range(10), "+-", range(10)):
        output = f" {a + b if sign == '+' else a - b}"
        tokens = m.encode(f" {a} {sign} {b} =") + m.encode(output) + m.encode(".")
        yield (f" {a} {sign} {b} ={output}.",), m.score(context, tokens)
