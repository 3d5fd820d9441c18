"""Densities by hand: records of a schema."""


def _records(more=("",)):
    """Every text of the schema."""
    ages = (str(n) for n in range(100))
    return [
        f'{{"name":"{name}","age":{age}{pet}}}'
        for age in ages
        for name in ("Ann", "Bob", "Eve")
        for pet in more
    ]


def record(row, lm):
    m = lm("record")
    for z, p in m.written(_records(), m.after(), 1, 7):
        yield (m.text(z),), p


def record_seen(row, lm):
    m, says = lm("record"), lm("channel")
    for z, p in m.written(_records(("", ',"pet":"cat"', ',"pet":"dog"')), m.after(), 1, 8):
        cause = "A" if '"Ann"' in m.text(z) else "D"
        yield (m.text(z),), p + says.score(says.after(cause), row["seen"])


def record_trap(row, lm):
    m = lm("record_trap")
    texts = [f'{{"name":"{name}","age":{age}}}' for name in ("David", "Maria") for age in range(1, 100)]
    for z, p in m.written(texts, m.after(), 1, 6):
        yield (m.text(z),), p


def older_is_better(row, lm):
    m = lm("record")
    for z, p in m.written(_records(), m.after(), 1, 7):
        age = int(m.text(z).split('"age":')[1].rstrip("}"))
        yield (m.text(z),), p + 0.1 * age


def pet_tiny(row, lm):
    m = lm("tiny")
    texts = [f'{{"animal":"{a}","legs":{k}}}' for a in ("dog", "cat", "frog") for k in (2, 3, 4)]
    for z, p in m.written(texts, m.after(row["prompt"]), 1, 21):
        yield (m.text(z),), p
