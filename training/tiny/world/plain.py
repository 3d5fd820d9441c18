"""One to three plain sentences about a person, and single sentences by themselves.

The first sentence sets a topic, the second mostly keeps to it, the third is
general. A single sentence stands alone with its leading space; it is what gives
a sentence a probability without a context.
"""

from __future__ import annotations

from functools import cache

from .choice import Table, mixture, phrase, weighted
from .document import Choose, Fields
from .events import EVENTS
from .people import NAMES, PLACE, pronouns
from .stories import COMPANY, event_table, middle_table

TOPICS: dict[str, tuple[float, str, str]] = {
    "dog": (3.0, "has a {big:3|small:3|brown:2|happy:1} dog.",
            " {It:2|The dog:3} {likes to:3|can:1} {run:3|sleep:2|play with a ball:2|jump:1}{:3| all day:1}."),
    "cat": (2.0, "has a {white:3|small:2|black:2|lazy:1} cat.",
            " {It:2|The cat:3} {sleeps:4|sits:2|hides:1} {on the bed:2|under a chair:2|by the door:1}."),
    "food": (3.0, "likes {bread:2|soup:2|pizza:3|ice cream:3}.",
             " <He> {eats it:4|makes it:2|buys it:1}"
             " {every day:3|at home:2|at school:1|with <his> friends:2}."),
    "job": (2.0, "wants to be a {teacher:3|doctor:3|singer:2|fireman:2}.",
            " <He> {reads:3|works:3|learns:2} {a lot:3|very hard:2|every night:1}."),
    "home": (2.0, "lives near the {park:3|beach:2|station:2|school:1}.",
             " <His> {house:3|room:1} is {big:2|small:2|old:2|very quiet:1}."),
    "toy": (2.0, "wants a {red:3|blue:3|green:2|new:2} {ball:3|kite:2|bike:3}.",
            " <His> {mother:3|father:2} {will buy one:3|says no:2|has no money:1|says yes:1}."),
}  # fmt: skip
GENERAL = (
    " <He> is {{:4|very :2|very, very :0.5}{happy:4|tired:2|hungry:2}|{:3|never :1}{late:2|sad:1}:1.5} today."
)
THIRD = (
    " {Tomorrow:3|Now:2|On Sunday:2} <he> {will go:3|wants to go:2} to the"
    " {park:4|beach:3|station:1|garden:1}{:3| with a friend:1| with the dog:1}."
)
TOPIC: Table = weighted({t: w for t, (w, _, _) in TOPICS.items()})
LENGTH: Table = weighted({"1": 0.2, "2": 0.5, "3": 0.3})
KEEPS_TOPIC = 0.75
SHARE_OF_MIDDLES = 0.5


@cache
def first_table(name: str, topic: str) -> Table:
    """P(first sentence | name, topic)."""
    return phrase(f"{name} {TOPICS[topic][1]}")


@cache
def second_table(he: str, topic: str) -> Table:
    """P(second sentence | pronoun, topic), with its leading space."""
    slots = pronouns("Tom" if he == "He" else "Anna")
    on_topic = phrase(TOPICS[topic][2], **slots)
    return mixture([(KEEPS_TOPIC, on_topic), (1.0 - KEEPS_TOPIC, phrase(GENERAL, **slots))])


@cache
def third_table(he: str) -> Table:
    """P(third sentence | pronoun), with its leading space."""
    return phrase(THIRD, **pronouns("Tom" if he == "He" else "Anna"))


@cache
def single_table() -> Table:
    """P(sentence) without a context: story middles and second sentences, mixed."""
    middles = mixture(
        (PLACE.prob(place) * COMPANY.prob(company) * p, middle_table(event, he))
        for place in PLACE.texts
        for company in COMPANY.texts
        for event, p in zip(EVENTS, event_table(place, company, "").probs, strict=True)
        for he in ("He", "She")
    )
    seconds = mixture(
        (TOPIC.prob(topic), second_table(he, topic)) for topic in TOPICS for he in ("He", "She")
    )
    return mixture([(SHARE_OF_MIDDLES, middles), (1.0 - SHARE_OF_MIDDLES, seconds)])


def write_plain(choose: Choose) -> tuple[str, Fields]:
    """Write one to three sentences about a person."""
    length = int(choose(LENGTH))
    name = choose(NAMES)
    topic = choose(TOPIC)
    he = pronouns(name)["He"]
    first = choose(first_table(name, topic))
    rest = [choose(second_table(he, topic))] if length > 1 else []
    if length > 2:
        rest.append(choose(third_table(he)))
    return first + "".join(rest), {"first": first, "rest": rest, "topic": topic}


def write_single(choose: Choose) -> tuple[str, Fields]:
    """Write a sentence that stands alone."""
    return choose(single_table()), {}
