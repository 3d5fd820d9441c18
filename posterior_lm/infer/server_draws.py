"""Texts of a served model that tells no whole rows of the vocabulary: made of what its own sampler draws.

At each place the server names a token x ~ p that it drew and the k likeliest, S. Where many others are allowed, x is kept
if it is allowed; a disallowed x of S is drawn again from what is allowed of S (mass A), and any other leaves the support:

    q(v) = p(v) p(S) / A  for v in S,    q(v) = p(v)  for others,    and the rest of q belongs to draws that are dead

Where few others are allowed, v is drawn from what is allowed, by p in S and with one small mass for each of the others. Either
way q is known without the mass of what is allowed, and the log reward is scored by the server: weights are exact. Dead draws
weigh nothing, and stay among the N of the mean weight, which is an unbiased estimate of the evidence. Of a given text q is known
too, since the server tells S at each place of a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import numpy as np
from attrs import define, evolve, field, frozen

from posterior_lm.infer.choosers import Chooser
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.rollout import Point, Walk
from posterior_lm.lang.diagnostics import InferenceError, at
from posterior_lm.lang.source import Span
from posterior_lm.lm.protocol import DrawingModel, Drawn, Request
from posterior_lm.support.base import Ending, Support, tokens_left
from posterior_lm.target.target import LatentInfo, Target

Ids = tuple[int, ...]
FIRST = 16
"""Tokens that are asked for at first; after that twice as many as were of use the last time."""
FEW = 256
"""Up to so many tokens beside the likeliest are drawn by a guess of their mass: of more the guess would take too much."""
END = -1
"""Stands for end-of-text, whichever of its ids."""


def keeps_rows(model: object) -> bool:
    """Whether a model is a server's that does not tell the log-probs of all next tokens; it is asked the first time."""
    return not getattr(model, "whole_rows", True)


def cost(target: Target, latents: Sequence[LatentInfo], draws: Draws) -> str:
    """What drawing these latents so has cost, in words that follow a semicolon."""
    names = ", ".join(f"`{info.name}`" for info in latents)
    models = [target.models[info.lm or ""] for info in latents]
    told = min(int(getattr(model, "told", 0)) for model in models)
    what = f"no more than {told} next tokens" if told else "no next tokens but those that it draws"
    lost = f": {draws.left} of {len(draws)} draws left what the type allows and weigh nothing"
    return f"the server tells {what}, so it draws {names} itself{lost if draws.left else ''}"


def all_left(info: LatentInfo, n: int) -> InferenceError:
    return InferenceError.of(
        "PLM702",
        f"every draw has weight zero: all {n} that the server made of `{info.name}` left what its type allows",
        info.span,
        "this latent",
        help="draw more with -n, say in the context what is wanted, or let the server tell whole rows: "
        "vLLM with --max-logprobs -1, or plm serve",
    )


# ------------------------------------------------------------------------------- texts


@define
class _Text:
    """One text on its way, along `given` tokens where there are some; `drawn` is what is known behind its tokens so far.

    `lean` is about the log of what the target has of it beyond q; −inf where it has left its support.
    """

    context: Ids
    state: Any
    ids: Ids
    given: Ids | None = None
    log_q: float = 0.0
    lean: float = 0.0
    drawn: list[Drawn] = field(factory=list)
    done: bool = False
    end: tuple[float, float] | None = None
    """Of an end whose mass is to be scored: the part of it that S has, and what that was raised by."""

    def leave(self) -> None:
        """It is none of the support: a draw that weighs nothing, or given tokens that cannot be drawn."""
        self.done, self.lean = True, -math.inf
        self.log_q = 0.0 if self.given is None else -math.inf

    def advance(self, walk: ServedWalk, rng: np.random.Generator) -> None:
        """Go on as far as what is known tells."""
        support = walk.support
        while not self.done:
            may_stop = support.may_stop(self.state)
            if support.must_stop(self.state):
                self.done = True
                if not may_stop or self.given not in (None, self.ids):
                    self.leave()
                return
            mask = support.allowed(self.state)
            ends = walk.eos_ids if may_stop and walk.ending == "eos" else ()
            forced = not ends and np.count_nonzero(mask) == 1
            whole = self.given == self.ids
            if not self.drawn and not forced and not whole:
                return
            if may_stop and walk.ending == "free":
                left = tokens_left(support, self.state, len(self.ids))
                self.done = whole if self.given is not None else bool(rng.random() * (left + 1) < 1)
                self.log_q += math.log((1 if self.done else left) / (left + 1))
                if self.done:
                    return
            token: int | None = None
            if forced:
                token = int(np.argmax(mask))
            elif self.drawn:
                token, log_q, log_mass, self.end = choose(
                    self.drawn[0], mask, ends, rng, kept=self.given is not None
                )
                if token is not None:
                    self.log_q += log_q
                    self.lean += log_mass + (walk.power - 1.0) * (log_q + log_mass)
            along = self.given is None or token == (END if whole else self.given[len(self.ids)])
            if token is None or not along:
                return self.leave()
            if token == END:
                self.done = True
                return
            # Behind another token than the one that was drawn there the rest says nothing.
            self.drawn = self.drawn[1:] if self.drawn and self.drawn[0].token == token else []
            self.state = support.advance(self.state, token)
            self.ids += (token,)


def choose(
    drawn: Drawn, mask: np.ndarray, ends: Sequence[int], rng: np.random.Generator, *, kept: bool = False
) -> tuple[int | None, float, float, tuple[float, float] | None]:
    """A token that is allowed (V,) or END, its log q, and about log p − log q; None where the draw leaves the support.

    With `kept` it is the drawn one, if that is allowed. Where the mass of several ends has to be scored, log q is 0 and the
    last is as in `_Text.end`.
    """

    def name(token: int) -> int | None:
        return END if token in ends else token if token < len(mask) and mask[token] else None

    likeliest = {token: math.exp(p) for token, p in drawn.likeliest.items()}
    good: dict[int, float] = {}
    for token, p in likeliest.items():
        if p > 0 and (one := name(token)) is not None:
            good[one] = good.get(one, 0.0) + p
    inside, seen = math.fsum(good.values()), min(1.0, math.fsum(likeliest.values()))
    others = int(np.count_nonzero(mask)) + bool(ends) - len(good)
    picked = name(drawn.token)
    if kept and picked is None:
        return None, 0.0, 0.0, None
    if others <= FEW:
        # None has more than the least of the likeliest, and on average they have what is left: in between.
        average = max(1.0 - seen, 1e-6) / max(1, len(mask) - len(likeliest))
        fill = math.sqrt(average * max(min(likeliest.values(), default=1.0), 1e-12))
        free = [i for i in np.flatnonzero(mask).tolist() if i not in good]
        free += [END] if ends and END not in good else []
        names = [*good, *free]
        masses = np.array([*good.values(), *[fill] * len(free)])
        total = float(masses.sum())
        place = names.index(picked) if kept else int(rng.choice(len(names), p=masses / total))  # type: ignore[arg-type]
        return names[place], math.log(masses[place] / total), math.log(total), None
    if picked is None and drawn.token in likeliest and good:
        names = [*good]
        picked = names[int(rng.choice(len(names), p=np.array([*good.values()]) / inside))]
    if picked is None:
        return None, 0.0, 0.0, None
    raised = seen / inside if good else 1.0
    log_mass = -math.log(raised) if picked in good else 0.0
    if picked == END and any(e not in likeliest for e in ends) and len(ends) > 1:
        return END, 0.0, log_mass, (good.get(END, 0.0), raised)
    return (
        picked,
        math.log(good[picked] * raised) if picked in good else drawn.log_prob,
        log_mass,
        None,
    )


@frozen(eq=False, kw_only=True)
class ServedWalk(Walk):
    """N texts on their way, of which a step takes as many tokens as the server draws at once: the last two lines of each are its.

    `texts` is None for draws that are left out; `tokens` is what the next step asks for.
    """

    model: DrawingModel
    support: Support
    eos_ids: Ids
    ending: Ending
    power: float
    span: Span | None
    texts: Sequence[_Text | None]
    tokens: int = FIRST

    @classmethod
    def begin(
        cls, model: DrawingModel, contexts: Sequence[Ids], support: Support, *, eos_ids: Ids, power: float = 1.0,
        ending: Ending | None = None, begun: Sequence[Ids] | None = None, alive: np.ndarray | None = None,
        span: Span | None = None, late: bool = False,
    ) -> ServedWalk:  # fmt: skip
        """N texts after N contexts, as of a `TextWalk`; `power` is the target's, which only `lean` knows of."""
        n = len(contexts)
        texts: list[_Text | None] = [None] * n
        for d in range(n) if alive is None else np.flatnonzero(alive).tolist():
            ids, state = () if begun is None else begun[d], support.start()
            for token in ids:
                state = support.advance(state, token)
            texts[d] = _Text(contexts[d], state, ids)
        walk = cls(
            values=[()] * n, log_q=np.zeros(n), log_mass=np.zeros(n), last=np.zeros(n), lean=np.zeros(n), stand=[],
            rows=np.arange(0), model=model, support=support, eos_ids=eos_ids, ending=ending or support.ending,
            power=power, span=span, texts=texts,
        )  # fmt: skip
        return walk._standing(range(n))

    def ahead(self) -> tuple[ServedWalk, np.ndarray]:
        return self, np.zeros(len(self.values))

    def moved(self, ancestors: np.ndarray | None, alive: np.ndarray) -> Self:
        walk = super().moved(ancestors, alive)
        lean = self.lean
        if ancestors is not None:
            lean = None if lean is None else lean[ancestors]
            texts = [self.texts[a] for a in ancestors]
            walk = evolve(walk, texts=[None if text is None else evolve(text) for text in texts], lean=lean)
        return evolve(walk, rows=np.arange(len(walk.stand)))

    def step(self, choose: Chooser) -> ServedWalk:
        """Asks the server once, for the draws that go on."""
        going = {d: self._copy(d) for point in self.points for d in point.draws.tolist()}
        rng, tokens = choose.generator(), self.tokens
        along = {d: ids for d in going if (ids := choose.along(d)) is not None}
        for d, ids in along.items():
            going[d].given = (*going[d].ids, *ids)
        with self._placed():
            if along:
                self._told([going[d] for d in along])
            for text in going.values():
                text.advance(self, rng)
            before = {d: len(text.ids) for d, text in going.items() if not text.done}
            if before:
                self._drawn([going[d] for d in before], rng)
                for d in before:
                    going[d].advance(self, rng)
                used = sum(len(going[d].ids) - length for d, length in before.items())
                tokens = max(1, 2 * math.ceil(used / len(before)))
            self._scored([text for text in going.values() if text.end is not None])
        texts = [going.get(d, text) for d, text in enumerate(self.texts)]
        walk = evolve(self, texts=texts, tokens=tokens, steps=self.steps + 1)
        return walk._standing(going)

    def _copy(self, d: int) -> _Text:
        text = self.texts[d]
        assert text is not None
        return evolve(text, drawn=[])

    def _standing(self, moved: Any) -> ServedWalk:
        """With what the texts say, of which some were `moved`."""
        values, log_q, lean = list(self.values), self.log_q.copy(), np.array(self.lean)
        groups: dict[tuple[Ids, Ids, bool], list[int]] = {}
        for d in moved:
            if (text := self.texts[d]) is not None:
                log_q[d], lean[d] = text.log_q, text.lean
                values[d] = text.ids if text.done and text.lean > -math.inf else ()
                groups.setdefault((text.context, text.ids, text.done), []).append(d)
        stand = [
            Point(self.texts[mine[0]].state, ids, np.array(mine), done)  # type: ignore[union-attr]
            for (_, ids, done), mine in groups.items()
        ]
        rows = np.arange(sum(not point.ended for point in stand))
        return evolve(self, values=values, log_q=log_q, lean=lean, stand=stand, rows=rows)

    def _placed(self) -> AbstractContextManager[None]:
        return nullcontext() if self.span is None else at(self.span, "drawn by the server")

    def _drawn(self, texts: Sequence[_Text], rng: np.random.Generator) -> None:
        """Asks for what comes next of texts that are not done."""
        groups: dict[Ids, list[_Text]] = {}
        for text in texts:
            groups.setdefault(text.context + text.ids, []).append(text)
        most = min(self.tokens, max(self.support.max_tokens - len(text.ids) for text in texts) + 1)
        asked = [(ids, len(mine)) for ids, mine in groups.items()]
        answers = self.model.sample(asked, max(1, most), rng)
        for mine, drawn in zip(groups.values(), answers, strict=True):
            for text, one in zip(mine, drawn, strict=True):
                text.drawn = one

    def _told(self, texts: Sequence[_Text]) -> None:
        """Asks for what is known along given tokens, and of end-of-text behind them where that is scored."""
        asked = []
        for text in texts:
            end = self.eos_ids[:1] if self.ending == "eos" else ()
            asked.append((*text.context, *(text.given or ()), *end))
        starts = [len(text.context) + len(text.ids) for text in texts]
        found = self.model.likeliest(list(zip(asked, starts, strict=True)))
        for text, drawn in zip(texts, found, strict=True):
            text.drawn = drawn

    def _scored(self, texts: Sequence[_Text]) -> None:
        """With the mass of their ends in log q."""
        asked = [Request(text.context + text.ids, len(text.context + text.ids)) for text in texts]
        for text, scores in zip(texts, self.model.score(asked) if asked else (), strict=True):
            part, raised = text.end or (0.0, 1.0)
            text.log_q += math.log(part * raised + max(math.exp(scores.eos[0]) - part, 1e-300))
            text.end = None
