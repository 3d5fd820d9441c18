"""Film reviews, the reason somebody gives for a label, and the label.

A review is of one of eight kinds. Each kind has a true class, its `gold` label;
the people of this world name a fitting reason only with a probability that
depends on the kind, and for two kinds (the traps) mostly an unfitting one. The
label is drawn given the reason alone. So the label that is likeliest without a
reason is wrong for the traps, and a model that learns which reasons to give can
be better than the world's own habit.
"""

from __future__ import annotations

import math
from functools import cache

import attrs

from .choice import Table, phrase, weighted
from .document import Choose, Fields

LABELS = ("objective", "subjective")
LABEL_GIVEN_GROUP: dict[str, Table] = {
    "facts": weighted({"objective": 0.94, "subjective": 0.06}),
    "views": weighted({"objective": 0.06, "subjective": 0.94}),
    "vague": weighted({"objective": 0.5, "subjective": 0.5}),
}
REASONS: dict[str, str] = {
    "facts": " {{only :1|:2}{about the plot:4|about what happens:3}|a list of {facts:2|events:2}:4"
    "|a {plain:2|short:1} summary:4|factual:3|without any opinion:1}",
    "views": " {{an opinion:3|a strong opinion:1|a personal opinion:2}:6|full of {praise:2|feeling:2}:4"
    "|personal:3|about how it feels:2|very emotional:1}",
    "vague": " {short:4|hard to say:2|about a film:3|a bit of both:1}",
}


@attrs.frozen
class Kind:
    """A kind of review: its gold label, how often it is written and its wordings.

    `groups` gives P(reason group | kind) in the order facts, views, vague.
    """

    gold: str
    weight: float
    groups: tuple[float, float, float]
    template: str


KINDS: dict[str, Kind] = {
    "plot": Kind(
        "objective", 4.0, (0.83, 0.05, 0.12),
        "{A young:3|An old:2|A poor:1} {man:3|woman:3|king:1|doctor:1} {goes:3|moves:1|comes back:1}"
        " to {a big city:2|the sea:2|a small town:2|the moon:1}.",
    ),
    "search": Kind(
        "objective", 3.0, (0.75, 0.10, 0.15),
        "{Two brothers:2|A girl:3|A soldier:2|A teacher:1} {will look for:2|must find:3|lost:1}"
        " {a dog:2|a key:2|the lost ring:1|a friend:2|a ship:1}.",
    ),
    "credits": Kind(
        "objective", 2.0, (0.66, 0.14, 0.20),
        "The film {was made in:2|opens in:1|takes place in:3} {1920|1954|1968:2|1984:2|1999:3|2001:2}.",
    ),
    "drama": Kind(
        "objective", 3.0, (0.26, 0.58, 0.16),
        "A {funny:2|lonely:3|brave:2|beautiful:2} {man:3|woman:3|king:1|boy:2} {falls in love:3"
        "|finds true love:1|lives:2} {with a thief:1|in the war:2|in a rich family:1}.",
    ),
    "praise": Kind(
        "subjective", 4.0, (0.05, 0.85, 0.10),
        "{A:3|Such a} {warm:3|funny:3|lovely:2|clever:2|very good:1} {film:4|story:2|comedy:1}"
        "{:3| with a great cast:2| that I loved:1}.",
    ),
    "blame": Kind(
        "subjective", 3.0, (0.10, 0.76, 0.14),
        "{The story:2|The acting:2|The music:1|The end:1} is {too long:2|boring:3|bad:2|very weak:2"
        "|too loud:1}.",
    ),
    "mixed": Kind(
        "subjective", 2.0, (0.16, 0.64, 0.20),
        "{I:2|You:1} {might:1|will:2} {like:3|forget:1|enjoy:1} {the songs:1|the cast:2|the jokes:2|it:3}.",
    ),
    "report": Kind(
        "subjective", 3.0, (0.57, 0.27, 0.16),
        "{The plot of:2|The story of:3|The script of} {a family:2|two thieves:2|a war:2|a trip:1}"
        " {never works:3|goes nowhere:2|makes no sense:2|comes to life:1}.",
    ),
}  # fmt: skip
KIND: Table = weighted({name: k.weight for name, k in KINDS.items()})
WITH_REASON: Table = weighted({"yes": 0.9, "no": 0.1})


@cache
def review_table(kind: str) -> Table:
    """P(review | kind)."""
    return phrase(KINDS[kind].template)


@cache
def group_table(kind: str) -> Table:
    """P(reason group | kind of review)."""
    return weighted(dict(zip(("facts", "views", "vague"), KINDS[kind].groups, strict=True)))


@cache
def reason_table(group: str) -> Table:
    """P(reason | group); a reason starts with a space and its comma is not part of it."""
    return phrase(REASONS[group])


@cache
def label_table(kind: str) -> Table:
    """P(label | kind of review), the reason summed out."""
    groups = group_table(kind)
    return weighted(
        {
            label: math.fsum(
                p * LABEL_GIVEN_GROUP[g].prob(label) for g, p in zip(groups.texts, groups.probs, strict=True)
            )
            for label in LABELS
        }
    )


def kind_of(review: str) -> str:
    """The kind of a review."""
    return next(k for k in KINDS if review in review_table(k))


def gold_label(review: str) -> str:
    """The true class of a review, which labels in documents follow only loosely."""
    return KINDS[kind_of(review)].gold


def label_given_review(review: str) -> dict[str, float]:
    """Exact P(label | review) without a reason."""
    table = label_table(kind_of(review))
    return dict(zip(table.texts, table.probs, strict=True))


def label_given_reason(reason: str) -> dict[str, float]:
    """Exact P(label | review, reason), the same for every review."""
    group = next(g for g in REASONS if reason in reason_table(g))
    table = LABEL_GIVEN_GROUP[group]
    return dict(zip(table.texts, table.probs, strict=True))


def reason_posterior(review: str, label: str) -> dict[str, float]:
    """Exact P(reason | review, label), summing to one."""
    groups = group_table(kind_of(review))
    joint = {
        reason: pg * p * LABEL_GIVEN_GROUP[g].prob(label)
        for g, pg in zip(groups.texts, groups.probs, strict=True)
        for reason, p in zip(reason_table(g).texts, reason_table(g).probs, strict=True)
    }
    total = math.fsum(joint.values())
    return {reason: p / total for reason, p in joint.items()}


def question_text(review: str) -> str:
    """The text before a reason."""
    return f'Classify this movie review as objective or subjective: "{review}" This review is'


def write_review(choose: Choose) -> tuple[str, Fields]:
    """Write one classified review."""
    kind = choose(KIND)
    review = choose(review_table(kind))
    fields = {"review": review, "kind": kind, "gold": KINDS[kind].gold}
    if choose(WITH_REASON) == "no":
        label = choose(label_table(kind))
        return f"{question_text(review)} {label}.", fields | {"label": label, "reason": None}
    group = choose(group_table(kind))
    reason = choose(reason_table(group))
    label = choose(LABEL_GIVEN_GROUP[group])
    text = f"{question_text(review)}{reason}, so it is {label}."
    return text, fields | {"label": label, "reason": reason}
