"""Language-model scores of many draws as few batched calls.

All scores of one level of the graph go out together, one batch per model; equal
requests are sent once; a score that rides on a longer one is read off its pass.

`choice(d)` is a language model renormalised over the values of a finite type:

    log p(v) = b log d(v | context) − log Σ_u d(u | context)^b,   u over the type's values,

with b the power of the model inside `choice(d ^ b)`, 1 without one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from attrs import define, field, frozen

from posterior_lm.lm.protocol import LanguageModel, Request, Scores
from posterior_lm.target.segments import Computed, Segment, Speller, Splice, TextOf, ValueOf, is_known


@frozen
class Scored:
    """The tokens of one score for one draw: context, text, and how much is a known prompt."""

    context: tuple[int, ...]
    text: tuple[int, ...]
    shared: int
    left_out: tuple[bool, ...] = ()
    """Which tokens of the text do not count; () where all do."""

    @property
    def ids(self) -> tuple[int, ...]:
        return self.context + self.text


@frozen(eq=False)
class ScorePlan:
    """A score node with its segments."""

    node: int
    lm: str
    context: tuple[Segment, ...]
    text: tuple[Segment, ...]
    ends: bool
    """Whether end-of-text after the text is scored: a bare latent that ends with it."""
    rides: int | None = None
    left_out: Callable[[Sequence[int]], tuple[bool, ...]] | None = None
    """Of a bare latent's tokens, those that tools with `output="intervene"` wrote; None without such a tool."""
    turn: tuple[int, ...] = ()
    """The token that ends the text in place of end-of-text: that of an answer to a conversation."""

    def spell(self, speller: Speller, latent: ValueOf, computed: TextOf) -> Scored:
        return self.spelling(speller)(latent, computed)

    def spelling(self, speller: Speller) -> Callable[[ValueOf, TextOf], Scored]:
        """What spells the score for one draw after another: what all of them have in common is spelled once."""
        front = speller.front(self.context)
        texts: dict[bool, tuple[int, ...]] = {}  # by whether it begins the sequence
        same = all(map(is_known, self.text))

        def text_of(latent: ValueOf, computed: TextOf, first: bool) -> tuple[int, ...]:
            if not same:
                return speller.spell(self.text, latent, computed, first=first)
            if first not in texts:
                texts[first] = speller.spell(self.text, latent, computed, first=first)
            return texts[first]

        def spell(latent: ValueOf, computed: TextOf) -> Scored:
            context, empty = front.context(latent, computed)
            text = text_of(latent, computed, empty)
            left_out = () if self.left_out is None else (*self.left_out(text), *(False for _ in self.turn))
            return Scored(context, text + self.turn, front.shared, left_out)

        return spell

    @property
    def latents(self) -> tuple[str, ...]:
        """The latents it reads as tokens, each time it does."""
        return tuple(p.latent for p in (*self.context, *self.text) if isinstance(p, Splice))

    @property
    def computed(self) -> tuple[int, ...]:
        return tuple(p.node for p in (*self.context, *self.text) if isinstance(p, Computed))


@define(eq=False)
class Batch:
    """Requests to one model, each distinct one once, and what to read from the answers."""

    model: LanguageModel
    _places: dict[Request, int] = field(factory=dict)
    _reads: list[tuple[int, Callable[[Scores], None]]] = field(factory=list)

    def ask(self, request: Request, read: Callable[[Scores], None]) -> None:
        place = self._places.setdefault(request, len(self._places))
        self._reads.append((place, read))

    def run(self) -> None:
        if not self._places:
            return
        answers = self.model.score(list(self._places))
        for place, read in self._reads:
            read(answers[place])


def total(scores: Scores, start: int, tokens: Scored, *, ends: bool) -> float:
    """Σ log p over the text's tokens from place `start` of the scored ones, and end-of-text after them."""
    length = len(tokens.text)
    value = float(np.sum(counted(scores.tokens[start : start + length], tokens.left_out)))
    return value + float(scores.eos[start + length]) if ends else value


def counted(numbers: np.ndarray, left_out: Sequence[bool]) -> np.ndarray:
    """The numbers of the tokens that count: the target may leave out what a tool wrote."""
    return numbers[~np.array(left_out)] if any(left_out) else numbers


def ask_group(
    batch: Batch,
    host: ScorePlan,
    host_tokens: Scored,
    riders: Sequence[tuple[ScorePlan, Scored]],
    put: Callable[[int, float], None],
) -> None:
    """Ask for a host and its riders in one request where the tokens agree, else apart."""
    start = len(host_tokens.context)
    fitting = []
    for plan, tokens in riders:
        if host_tokens.ids[: len(tokens.ids)] == tokens.ids:
            fitting.append((plan, tokens))
            start = min(start, len(tokens.context))
        else:
            ask_group(batch, plan, tokens, (), put)
    shared = min(start, *(t.shared for t in (host_tokens, *(t for _, t in fitting))))

    def read(scores: Scores) -> None:
        for plan, tokens in ((host, host_tokens), *fitting):
            at = len(tokens.context) - start
            put(plan.node, total(scores, at, tokens, ends=plan.ends))

    if host_tokens.text or host.ends or fitting:
        ends = host.ends or any(plan.ends for plan, _ in fitting)
        batch.ask(Request(host_tokens.ids, start, shared, ends=ends), read)
    else:
        put(host.node, 0.0)


def hosts_and_riders(
    plans: Mapping[int, ScorePlan],
) -> list[tuple[ScorePlan, list[ScorePlan]]]:
    """The plans of one level in groups: a host, and the plans that ride on it."""
    riders: dict[int, list[ScorePlan]] = {}
    for plan in plans.values():
        if plan.rides is not None and plan.rides in plans:
            riders.setdefault(plan.rides, []).append(plan)
    riding = {p.node for group in riders.values() for p in group}
    return [(p, riders.get(i, [])) for i, p in plans.items() if i not in riding]


# ----------------------------------------------------------------------------------- `choice(d)`


Picked = tuple[int | None, Callable[[float], None]]
"""Of one draw of `choice`: the place of its value, None for none, and where the log probability goes."""


def ask_choice(
    batch: Batch,
    context: tuple[int, ...],
    texts: Sequence[tuple[int, ...]],
    power: float,
    draws: Sequence[Picked],
) -> Callable[[], None]:
    """Ask for the tokens `texts` of every value; the function to call once the batch has run.

    For each draw it puts the log probability of the value that was picked.
    """
    scores = np.zeros(len(texts))
    for place, text in enumerate(texts):

        def read(answer: Scores, place: int = place, size: int = len(text)) -> None:
            scores[place] = float(np.sum(answer.tokens[:size]))

        batch.ask(Request(context + text, len(context), len(context), ends=False), read)

    def finish() -> None:
        with np.errstate(invalid="ignore"):  # 0 / 0 where every value is impossible
            tempered = np.where(np.isneginf(scores), -np.inf, power * scores)
            log_probs = tempered - np.logaddexp.reduce(tempered)
        for picked, put in draws:
            put(-math.inf if picked is None else float(log_probs[picked]))

    return finish
