"""Draws of a text that stands between others, by a masked model: how long it is, then its tokens from left to right.

A masked model gives p(token at a masked place | every token that is not masked), and no probability of a whole text:
the product over its places depends on the order in which they are filled. As a proposal it needs none but the
probability of what it does, so everything that it does can be read off the value that it made:

    log q(z) = log l(L) + Σ_t log [ p(z_t | before, z_<t, L - t masks, behind) / mass of what may stand there ]

with L tokens of z, and the places filled from left to right. The length is drawn first: a share `EVEN` of l is the same
for every length that the support has, the rest are the lengths of `TRIED` draws of the prior, which are made with random
numbers of their own, so that l is one law however often it is asked for. What may stand at a place is what a value of exactly
L tokens can have there, so no draw is lost. A
value has one length and one order of its tokens, so q is a normalised distribution over the support, and weights are
exact. An order drawn at random would have to be summed over, or kept as a part of the draw; filling the surest
places first and leaving the order out, as samplers of masked diffusion models do, has no q that anybody knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from attrs import evolve, field, frozen

from posterior_lm.graph.ops import spelled
from posterior_lm.infer.choosers import Chooser
from posterior_lm.infer.mixed_model import Ids
from posterior_lm.infer.rollout import Point, TextWalk, Walk
from posterior_lm.lang.diagnostics import InferenceError, InternalError, at
from posterior_lm.lang.source import Span
from posterior_lm.lm.protocol import Blanks, MaskedModel, same_tokens
from posterior_lm.support.base import Ending
from posterior_lm.support.text import TextSupport
from posterior_lm.support.token_automata import can_finish
from posterior_lm.target.segments import Computed, Segment, Splice, is_known
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.values import Values

TRIED = 64
"""Draws of the prior whose lengths are those of most that is proposed; a masked model alone knows few of them."""
EVEN = 0.2
"""The share of lengths that all come alike, since what is known behind may want one that the prior hardly has."""


def length_shares(lengths: Sequence[int], tried: Sequence[int]) -> np.ndarray:
    """(K,) the probability of each of K lengths, by those of draws of the prior."""
    counts = np.array([tried.count(length) for length in lengths], dtype=np.float64)
    return EVEN / len(lengths) + (1 - EVEN) * (counts / counts.sum())


# ---------------------------------------------------------------- values of a known number of tokens


@lru_cache(maxsize=64)
def by_length(support: TextSupport) -> dict[int, TextSupport]:
    """The values of a support by their number of tokens, each as a support of its own."""
    low, high = support.min_tokens, support.max_tokens
    # Whether a value of exactly `high` tokens goes on; of fewer, it is one that stands so much later.
    exact = can_finish(support.edges, support.accepting, high, high)
    lengths = [n for n in range(low, high + 1) if exact[high - n, 0]]
    return {n: evolve(support, min_tokens=n, max_tokens=n, finish=exact[high - n :]) for n in lengths}


@frozen(eq=False)
class SizedSupport:
    """The values of known lengths as one support: a state is the length, and the state of the support of that length."""

    supports: Mapping[int, TextSupport]
    ending: Ending

    def start_of(self, length: int) -> tuple[int, object]:
        return length, self.supports[length].start()

    def allowed(self, state: tuple[int, tuple[int, int]]) -> np.ndarray:
        return self.supports[state[0]].allowed(state[1])

    def may_stop(self, state: tuple[int, tuple[int, int]]) -> bool:
        return self.supports[state[0]].may_stop(state[1])

    def must_stop(self, state: tuple[int, tuple[int, int]]) -> bool:
        return self.supports[state[0]].must_stop(state[1])

    def advance(self, state: tuple[int, tuple[int, int]], token: int) -> tuple[int, object]:
        return state[0], self.supports[state[0]].advance(state[1], token)


# ---------------------------------------------------------------- a masked model as one that goes on


@frozen
class Frame:
    """What stands around a text: tokens of the masked model."""

    before: Ids
    behind: Ids


@frozen(eq=False)
class FillModel:
    """A masked model as one that a walk goes on with: a sequence is the number of a frame, a length, and the tokens filled in.

    `size` is the vocabulary of whoever asks, of which the model's may be an extension.
    """

    model: MaskedModel
    frames: Sequence[Frame]
    size: int

    def open(self, sequences: Sequence[Ids]) -> FillRollout:
        asked = []
        for number, length, *drawn in sequences:
            frame = self.frames[number]
            blanks = (*frame.before, *drawn, *(None,) * (length - len(drawn)), *frame.behind)
            asked.append(Blanks(blanks, (len(frame.before) + len(drawn),)))
        rows = [found[0, : self.size] for found in self.model.fill(asked)]
        return FillRollout(self, tuple(sequences), np.stack(rows) if rows else np.empty((0, self.size)))


@frozen(eq=False)
class FillRollout:
    """Sequences (N,) that are being filled, and (N, V) log p of the next place's token."""

    model: FillModel
    sequences: tuple[Ids, ...]
    log_probs: np.ndarray = field(repr=False)

    def extend(self, rows: np.ndarray, tokens: np.ndarray) -> FillRollout:
        pairs = zip(np.asarray(rows).tolist(), np.asarray(tokens).tolist(), strict=True)
        return self.model.open([(*self.sequences[r], t) for r, t in pairs])


# ---------------------------------------------------------------- the walk


@frozen(eq=False, kw_only=True)
class LengthWalk(Walk):
    """N texts whose length is chosen first, of K with `shares` (K,); the tokens follow. `frames` (N,) are numbers."""

    model: FillModel
    support: SizedSupport
    frames: np.ndarray
    shares: np.ndarray
    span: Span

    def ahead(self) -> tuple[LengthWalk, np.ndarray]:
        return self, np.zeros(len(self.values))

    def moved(self, ancestors: np.ndarray | None, alive: np.ndarray) -> LengthWalk:
        walk = super().moved(ancestors, alive)
        return walk if ancestors is None else evolve(walk, frames=self.frames[ancestors])

    def step(self, choose: Chooser) -> TextWalk:  # type: ignore[override]
        lengths = list(self.support.supports)
        log_q, groups = np.full(len(self.values), -np.inf), dict[tuple[int, int], list[int]]()
        for point in self.points:
            picked = choose.lengths(point.draws, self.shares, lengths)
            for d, k in zip(point.draws.tolist(), picked.tolist(), strict=True):
                if k >= 0:
                    log_q[d] = np.log(self.shares[k])
                    groups.setdefault((int(self.frames[d]), lengths[k]), []).append(d)
        stand = [
            Point(self.support.start_of(length), (), np.array(mine), ended=length == 0)
            for (_, length), mine in groups.items()
        ]
        starts = [key for key, point in zip(groups, stand, strict=True) if not point.ended]
        with at(self.span, "the model reads this"):
            rollout = self.model.open(starts)
        return TextWalk(
            values=[()] * len(self.values), log_q=log_q, log_mass=self.log_mass, last=log_q, stand=stand,
            rows=np.arange(len(starts)), model=self.model, support=self.support, exponent=1.0, flat=0.0,  # type: ignore[arg-type]
            ending=self.support.ending, late=False, span=self.span, rollout=rollout, eos_ids=(),
        )  # fmt: skip


def filling(
    target: Target, info: LatentInfo, drawn: Values, n: int, tried: Sequence[int], *, alive: np.ndarray | None = None
) -> LengthWalk:  # fmt: skip
    """N values of a latent whose guide is a masked model, after those drawn already; `tried` are lengths of prior draws.

    Raises InferenceError PLM540 where the model has other tokens than the latent.
    """
    guide = target.graph.guides[info.name]
    model, own = target.masked[guide.lm], target.models[info.lm or ""].tokenizer
    if not same_tokens(own, model.tokenizer):
        raise InferenceError.of(
            "PLM540",
            f"the masked model `{guide.lm}` has other tokens than `{info.name}`, which `{info.lm}` spells",
            guide.span,
            help="a masked model fills texts of a model that it shares its vocabulary with",
        )
    support = info.support
    if not isinstance(support, TextSupport):
        raise InternalError(f"no masked model fills a {type(support).__name__}")
    segments = target.evaluator.segments(guide.context)
    place = segments.index(Splice(info.name))
    with at(guide.span, "the model reads this"):
        frames = _frames(target, guide.lm, segments[:place], segments[place + 1 :], drawn, n)
    numbers = {frame: k for k, frame in enumerate(dict.fromkeys(frames))}
    draws = np.arange(n) if alive is None else np.flatnonzero(alive)
    sized = SizedSupport(by_length(support), support.ending)
    return LengthWalk(
        values=[()] * n, log_q=np.zeros(n), log_mass=np.zeros(n), last=np.zeros(n), stand=[Point(None, (), draws)],
        rows=np.zeros(1, dtype=np.int64), model=FillModel(model, tuple(numbers), own.vocabulary_size),
        support=sized, frames=np.array([numbers[f] for f in frames]), span=guide.span,
        shares=length_shares(list(sized.supports), tried),
    )  # fmt: skip


def _frames(
    target: Target, lm: str, before: Sequence[Segment], behind: Sequence[Segment], drawn: Values, n: int
) -> list[Frame]:
    """What stands around each of N draws; the model itself puts its special tokens around that."""
    speller, evaluator = target.evaluator.spellers[lm], target.evaluator
    columns = {
        part.node: evaluator.node(part.node, drawn, n)
        for part in (*before, *behind)
        if isinstance(part, Computed)
    }

    def read(d: int) -> Frame:
        found = [
            speller.spell(
                some, lambda name: drawn[name][d], lambda node: spelled(columns[node][d]), first=first
            )
            for some, first in ((before, True), (behind, False))
        ]
        return Frame(*found)

    if n and all(map(is_known, (*before, *behind))):
        return [read(0)] * n
    return [read(d) for d in range(n)]
