"""Three-part stories and their exact conditionals.

A story is an opening (who, where, with whom, the weather), a middle (one of the
events of `events`) and an ending. The plain document is
`opening + middle + " " + ending`; the other form puts the ending before the
middle, which then heeds it only some of the time. A one-sentence opening starts
with "One ...", a two-sentence opening does not, so the text shows where the middle
starts.
"""

from __future__ import annotations

import math
from functools import cache

import attrs

from .choice import Table, mixture, phrase, weighted
from .document import Choose, Fields, enumerate_documents
from .events import (
    ANY_ENDING,
    ANY_ENDING_PROB,
    AT_PLACE,
    ENDING,
    EVENTS,
    IN_COMPANY,
    IN_WEATHER,
    MIDDLE,
)
from .people import AT, NAMES, PLACE, TO, pronouns

FORM: Table = weighted({"one": 0.6, "two": 0.4})
TIME: Table = phrase("{day:4|morning:2|evening:1}")
COMPANY: Table = weighted({"": 0.5, "dog": 0.25, "friend": 0.25})
WEATHER: Table = phrase("{warm:3|sunny:3|cold:2|grey:1.5|windy:1}")
ORDER: Table = weighted({"plain": 0.75, "middle last": 0.25})
# With the ending given first, people of this world often write a middle that
# ignores it: what conditioning by format alone leaves to be learned.
HEED = 0.4


@attrs.frozen
class Opening:
    """What an opening says; `weather` is empty in a one-sentence opening."""

    text: str
    name: str
    place: str
    company: str
    weather: str


def write_opening(choose: Choose) -> Opening:
    """Write who was where, with whom and in what weather."""
    form = choose(FORM)
    time = choose(TIME) if form == "one" else ""
    name = choose(NAMES)
    place = choose(PLACE)
    company = choose(COMPANY)
    verb = choose(_VERBS[form])
    where = TO[place] if verb in ("went", "walked") else AT[place]
    joined = {"": "", "dog": f" with {pronouns(name)['his']} dog", "friend": " with a friend"}
    scene = f"{name} {verb} {where}{joined[company]}."
    if form == "one":
        return Opening(f"One {time}, {scene}", name, place, company, "")
    weather = choose(WEATHER)
    return Opening(f"{scene} It was a {weather} day.", name, place, company, weather)


_VERBS = {"one": phrase("{went:3|walked:2|was:2}"), "two": phrase("{was:4|played:2|sat:1}")}


@cache
def event_table(place: str, company: str, weather: str) -> Table:
    """P(event | opening)."""
    factors = (AT_PLACE[place], IN_COMPANY[company], IN_WEATHER[weather])
    return weighted({e: w * math.prod(f.get(e, 1.0) for f in factors) for e, w in EVENTS.items()})


@cache
def middle_table(event: str, he: str) -> Table:
    """P(middle | event, pronoun); every middle starts with a space and ends with a stop."""
    return phrase(MIDDLE[event], **pronouns("Tom" if he == "He" else "Anna"))


@cache
def loose_ending_table(place: str, company: str, weather: str, event: str, he: str) -> Table:
    """P(ending | opening, event) where the middle comes last: heeded with probability `HEED`."""
    events = event_table(place, company, weather)
    anything = mixture((events.prob(e), ending_table(e, he)) for e in events.texts)
    return mixture([(HEED, ending_table(event, he)), (1.0 - HEED, anything)])


@cache
def ending_table(event: str, he: str) -> Table:
    """P(ending | event, pronoun), which does not depend on the middle's wording."""
    slots = pronouns("Tom" if he == "He" else "Anna")
    own = phrase(ENDING[event], **slots)
    return mixture([(1.0 - ANY_ENDING_PROB, own), (ANY_ENDING_PROB, phrase(ANY_ENDING, **slots))])


def write_story(choose: Choose) -> tuple[str, Fields]:
    """Write one story document."""
    order = choose(ORDER)
    opening = write_opening(choose)
    he = pronouns(opening.name)["He"]
    event = choose(event_table(opening.place, opening.company, opening.weather))
    middle = choose(middle_table(event, he))
    if order == "plain":
        ending = choose(ending_table(event, he))
        text = f"{opening.text}{middle} {ending}"
    else:
        scene = (opening.place, opening.company, opening.weather)
        ending = choose(loose_ending_table(*scene, event, he))
        text = f"Beginning: {opening.text}\nEnding: {ending}\nMiddle:{middle}"
    fields = {"opening": opening.text, "middle": middle, "ending": ending, "event": event}
    return text, fields | {"order": order}


@cache
def openings() -> dict[str, Opening]:
    """Every opening, by its text."""

    def write(choose: Choose) -> tuple[str, Fields]:
        opening = write_opening(choose)
        return opening.text, {"opening": opening}

    return {d.text: d.fields["opening"] for d in enumerate_documents(write)}  # type: ignore[misc]


def middle_prior(opening: str) -> dict[str, float]:
    """Exact P(middle | opening), summing to one."""
    known = openings()[opening]
    he = pronouns(known.name)["He"]
    events = event_table(known.place, known.company, known.weather)
    return {
        text: p_event * p
        for event, p_event in zip(events.texts, events.probs, strict=True)
        for text, p in zip(middle_table(event, he).texts, middle_table(event, he).probs, strict=True)
    }


def event_of(middle: str) -> str:
    """The event that a middle tells of."""
    for event in EVENTS:
        if any(middle in middle_table(event, he) for he in ("He", "She")):
            return event
    raise KeyError(middle)


def ending_log_likelihood(opening: str, middle: str, ending: str) -> float:
    """Exact log P(ending | opening, middle) in nats; minus infinity where impossible."""
    he = pronouns(openings()[opening].name)["He"]
    p = ending_table(event_of(middle), he).prob(ending)
    return math.log(p) if p > 0.0 else -math.inf


def middle_posterior(opening: str, ending: str) -> dict[str, float]:
    """Exact P(middle | opening, ending), summing to one, likeliest first."""
    joint = {
        middle: p * math.exp(ending_log_likelihood(opening, middle, ending))
        for middle, p in middle_prior(opening).items()
    }
    total = math.fsum(joint.values())
    ranked = sorted(joint.items(), key=lambda kv: -kv[1])
    return {middle: p / total for middle, p in ranked if p > 0.0}


def prior_ess(opening: str, ending: str) -> float:
    """ESS per draw of importance sampling from the prior, (E w)^2 / E w^2, exact."""
    prior = middle_prior(opening)
    weights = {m: math.exp(ending_log_likelihood(opening, m, ending)) for m in prior}
    first = math.fsum(p * weights[m] for m, p in prior.items())
    second = math.fsum(p * weights[m] ** 2 for m, p in prior.items())
    return first * first / second
