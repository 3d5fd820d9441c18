"""Texts of a served model that tells no whole rows of the vocabulary: made of what its own sampler draws.

At each place the server names a token x ~ p that it drew and the k likeliest, S. Where many others are allowed, x is kept
if it is allowed; a disallowed x of S is drawn again from what is allowed of S (mass A), and any other leaves the support:

    q(v) = p(v) p(S) / A  for v in S,    q(v) = p(v)  for others,    and the rest of q belongs to draws that are dead

Where few others are allowed, v is drawn from what is allowed, by p in S and with one small mass for each of the others. Either
way q is known without the mass of what is allowed, and the log reward is scored by the server: weights are exact. Dead draws
weigh nothing, and stay among the N of the mean weight, which is an unbiased estimate of the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import Factory, define, frozen

from posterior_lm.infer.choosers import Sample
from posterior_lm.infer.drawing import Drawing
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.guide import PriorGuide, Proposal
from posterior_lm.infer.rollout import finished
from posterior_lm.infer.schedule import prior_of
from posterior_lm.lang.diagnostics import InferenceError, at
from posterior_lm.lm.protocol import DrawingModel, Drawn, Request
from posterior_lm.support.base import Support, tokens_left
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.values import Value, take

FIRST = 16
"""Tokens that are asked for at first; after that twice as many as were of use the last time."""
FEW = 256
"""Up to so many tokens beside the likeliest are drawn by a guess of their mass: of more the guess would take too much."""
END = -1
"""Stands for end-of-text, whichever of its ids."""


@frozen(eq=False)
class ServerGuide(PriorGuide):
    """The prior, with the texts of models that tell no whole rows drawn by their servers."""

    def sample(self, rng: np.random.Generator, n: int) -> Proposal:
        """As of any guide; a draw that has left a support is not alive, and holds the values of another.

        Raises InferenceError PLM702 where none is alive.
        """
        drawn: Mapping[str, Sequence[Value]] = {}
        log_q, alive = np.zeros(n), np.ones(n, dtype=bool)
        for info in self.target.latents:
            if _by_server(self.target, info, self.reads):
                with at(info.span, "drawn by the server"):
                    found = self._drawing(info, drawn, n)
                    values, own = _texts(found, info.support, alive, rng)
                alive = alive & np.array([ids is not None for ids in values])
            else:
                walk = finished(self.begin(info, drawn, n, alive=alive), Sample(rng))
                values, own = list(walk.values), walk.log_q
            if not alive.any():
                raise _all_left(info, n)
            log_q = log_q + own
            keep = np.where(alive, np.arange(n), np.flatnonzero(alive)[0])
            made = {ids: self.target.value_of(info.name, ids) for d in keep if (ids := values[d]) is not None}
            drawn = {**take(drawn, keep.tolist()), info.name: [made[values[d] or ()] for d in keep]}
            log_q = log_q[keep]
        return Proposal({name: tuple(column) for name, column in drawn.items()}, log_q, alive=alive)


def without_rows(target: Target, reads: str = "prior") -> list[LatentInfo]:
    """The latents whose texts a server has to draw; it is asked here whether it tells whole rows."""
    if not any(hasattr(model, "whole_rows") for model in target.models.values()):
        return []
    return [info for info in target.latents if _by_server(target, info, reads)]


def _by_server(target: Target, info: LatentInfo, reads: str) -> bool:
    if hasattr(info.support, "ids_of"):
        return False
    guide = target.graph.guides.get(info.name) if reads == "guide" else None
    lm = (
        prior_of(target, info.name).lm if guide is None else guide.lm
    )  # a mixture of models has whole rows or nothing
    return lm is not None and not getattr(target.models[lm], "whole_rows", True)


def cost(target: Target, latents: Sequence[LatentInfo], draws: Draws) -> str:
    """What drawing these latents so has cost, in words that follow a semicolon."""
    names = ", ".join(f"`{info.name}`" for info in latents)
    models = [target.models[info.lm or ""] for info in latents]
    told = min(int(getattr(model, "told", 0)) for model in models)
    what = f"no more than {told} next tokens" if told else "no next tokens but those that it draws"
    return (
        f"the server tells {what}, so it draws {names} itself: {draws.left} of {len(draws)} draws left "
        "what the type allows and weigh nothing"
    )


def _all_left(info: LatentInfo, n: int) -> InferenceError:
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
    """One text on its way. `drawn` is what the server has drawn behind its tokens so far."""

    context: tuple[int, ...]
    state: Any
    ids: tuple[int, ...] = ()
    log_q: float = 0.0
    drawn: list[Drawn] = Factory(list)
    done: bool = False
    alive: bool = True
    end: tuple[float, float] | None = None
    """Of an end whose mass is to be scored: the part of it that S has, and what that was raised by."""

    def advance(self, support: Support, eos_ids: Sequence[int], rng: np.random.Generator) -> None:
        """Go on as far as what the server has drawn tells."""
        while not self.done:
            may_stop = support.may_stop(self.state)
            if support.must_stop(self.state):
                self.done, self.alive = True, may_stop
                return
            mask = support.allowed(self.state)
            ends = eos_ids if may_stop and support.ending == "eos" else ()
            forced = not ends and np.count_nonzero(mask) == 1
            if not self.drawn and not forced:
                return
            if may_stop and support.ending == "free":
                left = tokens_left(support, self.state, len(self.ids))
                self.done = bool(rng.random() * (left + 1) < 1)
                self.log_q += math.log((1 if self.done else left) / (left + 1))
                if self.done:
                    return
            if forced:
                token: int | None = int(np.argmax(mask))
            else:
                token, log_q, self.end = choose(self.drawn[0], mask, ends, rng)
                self.log_q += log_q
            if token is None or token == END:
                self.done, self.alive = True, token == END
                return
            # Behind another token than the one that was drawn there the rest says nothing.
            self.drawn = self.drawn[1:] if self.drawn and self.drawn[0].token == token else []
            self.state = support.advance(self.state, token)
            self.ids += (token,)


def choose(
    drawn: Drawn, mask: np.ndarray, ends: Sequence[int], rng: np.random.Generator
) -> tuple[int | None, float, tuple[float, float] | None]:
    """A token that is allowed (V,) or END, and its log q; None where the draw leaves the support.

    Where the mass of several ends has to be scored, log q is 0 and the third is as in `_Text.end`.
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
    if others <= FEW:
        # None has more than the least of the likeliest, and on average they have what is left: in between.
        average = max(1.0 - seen, 1e-6) / max(1, len(mask) - len(likeliest))
        fill = math.sqrt(average * max(min(likeliest.values(), default=1.0), 1e-12))
        free = [i for i in np.flatnonzero(mask).tolist() if i not in good]
        free += [END] if ends and END not in good else []
        names = [*good, *free]
        masses = np.array([*good.values(), *[fill] * len(free)])
        place = int(rng.choice(len(names), p=masses / masses.sum()))
        return names[place], math.log(masses[place] / masses.sum()), None
    picked = name(drawn.token)
    if picked is None and drawn.token in likeliest and good:
        names = [*good]
        picked = names[int(rng.choice(len(names), p=np.array([*good.values()]) / inside))]
    if picked is None:
        return None, 0.0, None
    raised = seen / inside if good else 1.0
    if picked == END and any(e not in likeliest for e in ends) and len(ends) > 1:
        return END, 0.0, (good.get(END, 0.0), raised)
    return picked, math.log(good[picked] * raised) if picked in good else drawn.log_prob, None


def _texts(
    found: Drawing, support: Support, alive: np.ndarray, rng: np.random.Generator
) -> tuple[list[tuple[int, ...] | None], np.ndarray]:
    """A text for each draw that is alive (N,), None for one that has left the support; and (N,) their log q."""
    model: DrawingModel = found.model  # type: ignore[assignment]
    texts = {d: _Text(found.contexts[d], support.start()) for d in np.flatnonzero(alive).tolist()}
    tokens = FIRST
    while True:
        for text in texts.values():
            text.advance(support, found.eos_ids, rng)
        going = [text for text in texts.values() if not text.done]
        if not going:
            break
        groups: dict[tuple[int, ...], list[_Text]] = {}
        for text in going:
            groups.setdefault(text.context + text.ids, []).append(text)
        before = sum(len(text.ids) for text in going)
        most = max(1, min(tokens, max(support.max_tokens - len(text.ids) for text in going) + 1))
        answers = model.sample([(ids, len(mine)) for ids, mine in groups.items()], most, rng)
        for mine, drawn in zip(groups.values(), answers, strict=True):
            for text, one in zip(mine, drawn, strict=True):
                text.drawn = one
                text.advance(support, found.eos_ids, rng)
        tokens = 2 * math.ceil((sum(len(text.ids) for text in going) - before) / len(going))
    unsaid = [text for text in texts.values() if text.end is not None]
    asked = [Request(text.context + text.ids, len(text.context + text.ids)) for text in unsaid]
    for text, scores in zip(unsaid, model.score(asked), strict=True):
        part, raised = text.end or (0.0, 1.0)
        text.log_q += math.log(part * raised + max(math.exp(scores.eos[0]) - part, 1e-300))
    values: list[tuple[int, ...] | None] = [None] * len(alive)
    log_q = np.zeros(len(alive))
    for d, text in texts.items():
        values[d], log_q[d] = (text.ids if text.alive else None), text.log_q
    return values, log_q
