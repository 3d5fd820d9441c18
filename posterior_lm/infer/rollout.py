"""Drawing values of one latent choice by choice, under its support, all draws side by side.

A `Walk` is where N draws stand between two choices. Whoever draws may weigh and resample
there, which is what sequential Monte Carlo does; everybody else goes to the end. A text is
walked token by token (`TextWalk`), a value of a finite type is one choice (`ValueWalk`).

Draws that share every token so far share one row of the model's batch: the work
grows with the distinct prefixes, not with the draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any, Self, TypeVar

import numpy as np
from attrs import evolve, frozen

from posterior_lm.infer.choosers import Chooser
from posterior_lm.infer.mixed_model import MixedModel
from posterior_lm.infer.weights import log_shares
from posterior_lm.lang.diagnostics import InferenceError, at
from posterior_lm.lang.source import Span
from posterior_lm.lm.protocol import LanguageModel, Rollout, eos_log_probs, stopping
from posterior_lm.support.base import Ending, Support, tokens_left, uncounted


@frozen(eq=False)
class Point:
    """A distinct prefix: its support state, its tokens, the draws that stand there, and whether they end there."""

    state: object
    ids: tuple[int, ...]
    draws: np.ndarray
    ended: bool = False


@frozen(eq=False, kw_only=True)
class Walk:
    """N values of one latent on their way. Arrays (N,), nats, if nothing else is said.

    The next choice is made at U `points`; `rows` (U,) are their rows in the table that it is made from.
    """

    values: Sequence[tuple[int, ...]]
    """N values, where they are finished."""
    log_q: np.ndarray
    """Of the choices so far."""
    log_mass: np.ndarray
    """Σ log of the mass inside the support that each choice so far was made from."""
    last: np.ndarray
    """What the last choice added to both."""
    stand: Sequence[Point]
    """Where the last choice led to."""
    rows: np.ndarray
    steps: int = 0
    lean: np.ndarray | None = None
    """(N,) what the target may have of each beyond q, nats, where that is guessed on the way (`infer/server_draws.py`);
    −∞ for one that has left its support."""

    @property
    def points(self) -> list[Point]:
        return [point for point in self.stand if not point.ended]

    @property
    def goes_on(self) -> bool:
        return any(not point.ended for point in self.stand)

    def ahead(self) -> tuple[Self, np.ndarray]:
        """The same after the model has read the last tokens, and what the next choice adds to `log_mass`."""
        raise NotImplementedError

    def step(self, choose: Chooser) -> Self:
        """One more choice of every draw that goes on."""
        raise NotImplementedError

    def moved(self, ancestors: np.ndarray | None, alive: np.ndarray) -> Self:
        """Draw d goes on as draw ancestors[d], if it is alive."""
        points = self.points
        draws = descendants([p.draws for p in points], ancestors, alive)
        kept = [u for u, mine in enumerate(draws) if len(mine)]
        stand = [Point(points[u].state, points[u].ids, draws[u]) for u in kept]
        walk = evolve(self, stand=stand, rows=self.rows[kept])
        if ancestors is None:
            return walk
        values = [self.values[a] for a in ancestors]
        moved = {name: getattr(self, name)[ancestors] for name in ("log_q", "log_mass", "last")}
        return evolve(walk, values=values, **moved)


W = TypeVar("W", bound=Walk)


def finished(walk: W, choose: Chooser) -> W:
    """The walk at its end."""
    while walk.goes_on:
        walk = walk.step(choose)
    return walk


def descendants(
    groups: Sequence[np.ndarray], ancestors: np.ndarray | None, alive: np.ndarray
) -> list[np.ndarray]:
    """Each group of draws after resampling: the draws whose ancestor was in it and that are alive (N,)."""
    where = np.full(len(alive), -1)
    for k, draws in enumerate(groups):
        where[draws] = k
    if ancestors is not None:
        where = where[ancestors]
    where[~alive] = -1
    order = np.argsort(where, kind="stable")
    bounds = np.searchsorted(where[order], np.arange(len(groups) + 1))
    return [order[begin:end] for begin, end in pairwise(bounds)]


# ---------------------------------------------------------------- values of a finite type


@frozen(eq=False, kw_only=True)
class ValueWalk(Walk):
    """One choice among C values of a finite type, after each of P distinct pasts; `scores` (R, C) are log masses, of one or more pasts each."""

    candidates: Sequence[tuple[int, ...]]
    scores: np.ndarray

    @classmethod
    def begin(
        cls, candidates: Sequence[tuple[int, ...]], scores: np.ndarray, rows: np.ndarray,
        draws: Sequence[np.ndarray], n: int,
    ) -> ValueWalk:  # fmt: skip
        """N draws, of which `draws` stand at each past, whose scores are in `rows` (P,); those at none are left out."""
        return cls(
            values=[()] * n, log_q=np.zeros(n), log_mass=np.zeros(n), last=np.zeros(n),
            stand=[Point(None, (), mine) for mine in draws], rows=rows,
            candidates=candidates, scores=scores,
        )  # fmt: skip

    def ahead(self) -> tuple[ValueWalk, np.ndarray]:
        out = np.zeros(len(self.values))
        for point, mass in zip(self.points, np.logaddexp.reduce(self.scores, axis=1)[self.rows], strict=True):
            out[point.draws] = mass
        return self, out

    def step(self, choose: Chooser) -> ValueWalk:
        values, log_q, log_mass = list(self.values), self.log_q.copy(), self.ahead()[1]
        places: dict[tuple[int, ...], list[int]] = {}
        standing: dict[int, list[np.ndarray]] = {}
        for point, place in zip(self.points, self.rows.tolist(), strict=True):
            standing.setdefault(place, []).append(point.draws)
        for place, parts in standing.items():
            row, draws = self.scores[place], np.concatenate(parts)
            if np.all(np.isneginf(row)):
                row = np.zeros(len(row))  # every value is dead: any of them shows which statement killed it
            log_probs = log_shares(row)
            picked = choose.values(draws, np.exp(log_probs), self.candidates)
            for d, place in zip(draws.tolist(), picked, strict=True):
                values[d] = self.candidates[place] if place >= 0 else ()
                log_q[d] = log_probs[place] if place >= 0 else -np.inf
                places.setdefault(values[d], []).append(d)
        stand = [Point(None, ids, np.array(mine), ended=True) for ids, mine in places.items()]
        return evolve(
            self, values=values, log_q=log_q, log_mass=log_mass, last=log_q + log_mass, stand=stand, steps=1
        )


# ---------------------------------------------------------------- texts


NEAR = 1 << 16
"""Points × vocabulary that stay in a core's own cache while they are normalised: 2^16 float64 are half a megabyte."""
BLOCK = 1 << 22
"""Points × vocabulary at a time: 2^22 float64 are 32 MB per temporary."""


def step_log_probs(
    log_probs: np.ndarray, eos: np.ndarray, support: Support, states: Sequence[object], drawn: Sequence[int],
    exponent: float, ending: Ending, flat: float = 0.0, stop: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(U, V + 1) log q of each next token and, last, of stopping; and (U,) the log of the mass that it was divided by.

    Shapes: log_probs (U, at least V) and eos (U,) from the model; a support state and
    the number of tokens drawn so far for each of the U points. q is normalised over what is
    allowed. A free end has no probability of its own: it stops with 1 / (tokens left + 1). Where
    the model gives everything allowed probability zero, q is uniform over it (the weight of such a draw
    is zero). The mass is 1 of a token that the target does not count. `ending` may replace the
    support's own: with "eos" a guide stops by the model's end-of-text, and a free end by `stopping` where `stop` is given.
    A share `flat` of q is `flattened`.
    """
    size = len(support.allowed(states[0]))
    out = np.full((len(states), size + 1), -np.inf)
    of_state: dict[object, list[int]] = {}
    for u, state in enumerate(states):
        of_state.setdefault(state, []).append(u)
    free, nothing = np.zeros(len(states), dtype=bool), np.zeros(len(states), dtype=bool)
    silent = np.zeros(len(states), dtype=bool)
    for state, points in of_state.items():
        silent[points] = uncounted(support, state)
        mask = support.allowed(state)
        allowed = np.flatnonzero(mask)
        if 2 * len(allowed) > size:  # read in their order, which is faster than by places
            for u in points:
                np.multiply(exponent, log_probs[u, :size], out=out[u, :size], where=mask)
        else:
            rows = np.array(points)[:, None]
            out[rows, allowed] = exponent * log_probs[rows, allowed]
        if support.may_stop(state):
            if ending == "eos":
                if support.ending == "free" and stop is not None:
                    free[points] = True
                else:
                    out[points, size] = exponent * eos[points]
            elif ending == "free":
                free[points] = True
        dead = np.array(points)[np.isneginf(out[points]).all(axis=1)]
        if len(dead):
            nothing[dead] = True
            out[dead[:, None], allowed] = 0.0
            out[dead, size] = (
                0.0 if support.may_stop(state) and ending == "eos" and not free[dead[0]] else -np.inf
            )
    top = out.max(axis=1, keepdims=True)
    if np.isnan(top).any():
        raise InferenceError.of(
            "PLM701",
            "the probabilities that the model gives its next token are not numbers",
            help="check the model's weights, or use dtype float32",
        )
    mass = np.empty_like(top)
    count = max(1, NEAR // (size + 1))
    for begin in range(0, len(out), count):
        part = slice(begin, begin + count)
        near = out[part]
        mass[part] = top[part] + np.log(np.exp(near - top[part]).sum(axis=1, keepdims=True))
        near -= mass[part]
        if flat:
            near[:] = flattened(near, flat)
    if free.any():
        left = np.array(
            [tokens_left(support, s, d) for s, d, f in zip(states, drawn, free, strict=True) if f]
        )
        stops = 1 / (left + 1)
        if stop is not None:
            odds = exponent * (eos[free] + stop - np.log(np.maximum(left, 1))) - mass[free, 0]
            stops = stopping(stops, 1 / (1 + np.exp(-np.clip(odds, -700, 700))))
        out[free, :size] += np.log1p(-stops)[:, None]
        out[free, size] = np.log(stops)
    return out, np.where(silent, 0.0, np.where(nothing, -np.inf, mass[:, 0]))


POWERS = (0.5, 0.1)
"""Of probabilities, for flatter ones: one from which likely choices still come, and one that is nearly flat."""


LIKELIEST = 64
"""Choices that the flatter share is spread over: beyond these, of a large vocabulary, stands what makes no text."""


def flattened(log_probs: np.ndarray, share: float) -> np.ndarray:
    """(U, C) of log probabilities that sum to 1 in each row: a `share` of them is made flatter, by each power alike."""
    probs, some = (1.0 - share) * np.exp(log_probs), log_probs
    if share < 1.0 and log_probs.shape[1] > LIKELIEST:
        least = np.partition(log_probs, -LIKELIEST, axis=1)[:, -LIKELIEST, None]
        some = np.where(log_probs >= least, log_probs, -np.inf)
    for power in POWERS:
        flat = np.exp(power * some)
        probs += share / len(POWERS) * flat / flat.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(probs))


@frozen(eq=False, kw_only=True)
class TextWalk(Walk):
    """Texts on their way: the points that go on have `rows` in `rollout`, where their last token may be `unread`.

    With `late` a forced end-of-text is looked up, which costs a step: with exponent 1 and an ending that
    is scored, log q + log mass is then the model's own log probability, and `last` its last summand.
    Errors of the model belong to `span`.
    Where the model keeps a cache, a walk that was stepped may not be stepped again, as a `Rollout`.
    """

    model: LanguageModel | MixedModel
    support: Support
    exponent: float
    flat: float
    ending: Ending
    late: bool
    span: Span | None
    rollout: Rollout | None
    eos_ids: tuple[int, ...]
    stop: float | None = None
    unread: bool = False
    looked_up: tuple[np.ndarray, np.ndarray] | None = None
    """What `step_log_probs` returns for all rows, where `ahead` has asked for it and it is no more than a block."""

    @classmethod
    def begin(
        cls, model: LanguageModel | MixedModel, contexts: Sequence[tuple[int, ...]], support: Support, *,
        exponent: float = 1.0, flat: float = 0.0, shared: int = 0, begun: Sequence[tuple[int, ...]] | None = None,
        ending: Ending | None = None, eos_ids: tuple[int, ...] = (), late: bool = False,
        span: Span | None = None, alive: np.ndarray | None = None, stop: float | None = None,
    ) -> TextWalk:  # fmt: skip
        """N texts after N contexts.

        With a `Follow` chooser the tokens will be the given ones, and a value outside the support gets
        −inf. `begun` holds first tokens that the texts have already; log q is then that of the rest.
        `ending`, `flat` and `stop` as in `step_log_probs`; `eos_ids` where others than the model's end a text. Texts that are not `alive` (N,) are left out.
        """
        n, ending = len(contexts), ending or support.ending
        late = late and ending == "eos"
        groups: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
        for d in range(n) if alive is None else np.flatnonzero(alive).tolist():
            groups.setdefault((contexts[d], begun[d] if begun is not None else ()), []).append(d)
        states = [_after(support, ids) for _, ids in groups]
        stand = [
            Point(state, ids, np.array(draws), _settled(support, state, late))
            for state, ((_, ids), draws) in zip(states, groups.items(), strict=True)
        ]
        starts = [c + ids for (c, ids), point in zip(groups, stand, strict=True) if not point.ended]
        return cls(
            values=_filled([()] * n, stand), log_q=np.zeros(n), log_mass=np.zeros(n), last=np.zeros(n),
            stand=stand, rows=np.arange(len(starts)), model=model, support=support, exponent=exponent,
            flat=flat, stop=stop, ending=ending, late=late, span=span, eos_ids=eos_ids or (model if isinstance(model, MixedModel) else model.tokenizer).eos_ids,
            rollout=model.open(starts, shared=shared) if starts else None,
        )  # fmt: skip

    def _read(self) -> TextWalk:
        if not self.unread or self.rollout is None:
            return self
        points = self.points
        with self._placed():
            rollout = self.rollout.extend(self.rows, np.array([p.ids[-1] for p in points]))
        return evolve(self, rollout=rollout, rows=np.arange(len(points)), unread=False)

    def _placed(self) -> AbstractContextManager[None]:
        return nullcontext() if self.span is None else at(self.span, "the model reads this")

    def _choices(self) -> Iterator[tuple[list[Point], np.ndarray, np.ndarray, np.ndarray]]:
        """The points, a block at a time, with their rows and what `step_log_probs` returns for them."""
        assert self.rollout is not None
        points, all_probs = self.points, self.rollout.log_probs
        if points and self.looked_up is not None:
            yield points, self.rows, *(table[self.rows] for table in self.looked_up)
            return
        block = max(1, BLOCK // all_probs.shape[1])
        for begin in range(0, len(points), block):
            part, rows = points[begin : begin + block], self.rows[begin : begin + block]
            log_probs = all_probs[rows]
            eos = eos_log_probs(log_probs, self.eos_ids)
            states, drawn = [p.state for p in part], [len(p.ids) for p in part]
            with self._placed():
                q, mass = step_log_probs(
                    log_probs,
                    eos,
                    self.support,
                    states,
                    drawn,
                    self.exponent,
                    self.ending,
                    self.flat,
                    self.stop,
                )
            yield part, rows, q, mass

    def ahead(self) -> tuple[TextWalk, np.ndarray]:
        walk, out = self._read(), np.zeros(len(self.values))
        assert walk.rollout is not None
        for part, _, q, mass in walk._choices():
            out[np.concatenate([p.draws for p in part])] = np.repeat(mass, [len(p.draws) for p in part])
            if len(part) == len(walk.rollout.log_probs):
                walk = evolve(walk, looked_up=(q, mass))
        return walk, out

    def step(self, choose: Chooser) -> TextWalk:
        walk = self._read()
        log_q, log_mass, last = walk.log_q.copy(), walk.log_mass.copy(), walk.last.copy()
        parents: list[int] = []
        following: list[Point] = []
        ended: list[Point] = []
        for part, rows, q, mass in walk._choices():
            draws = np.concatenate([p.draws for p in part])
            where = np.repeat(np.arange(len(part)), [len(p.draws) for p in part])
            picked = choose.tokens(draws, where, walk.steps, np.exp(q))
            log_q[draws] += q[where, picked]
            log_mass[draws] += mass[where]
            last[draws] = q[where, picked] + mass[where]
            for place, token, mine in _families(where, picked, draws):
                point = part[place]
                if token == q.shape[1] - 1 or q[place, token] == -np.inf:
                    ended.append(Point(point.state, point.ids, mine, ended=True))
                    continue
                state = walk.support.advance(point.state, token)
                child = Point(state, (*point.ids, token), mine, _settled(walk.support, state, walk.late))
                if child.ended:
                    ended.append(child)
                else:
                    following.append(child)
                    parents.append(int(rows[place]))
        return evolve(
            walk, values=_filled(walk.values, ended), log_q=log_q, log_mass=log_mass, last=last,
            stand=ended + following, rows=np.array(parents, dtype=np.int64), steps=walk.steps + 1,
            unread=True, looked_up=None,
        )  # fmt: skip


def _filled(values: Sequence[tuple[int, ...]], stand: Sequence[Point]) -> list[tuple[int, ...]]:
    """The values, with those that are finished where draws stand and end."""
    out = list(values)
    for point in stand:
        for d in point.draws if point.ended else ():
            out[d] = point.ids
    return out


def roll_out(
    model: LanguageModel | MixedModel,
    contexts: Sequence[tuple[int, ...]],
    support: Support,
    choose: Chooser,
    **how: Any,
) -> TextWalk:
    """N texts after N contexts at their end; `how` is what `TextWalk.begin` may be told."""
    return finished(TextWalk.begin(model, contexts, support, **how), choose)


def _after(support: Support, ids: tuple[int, ...]) -> object:
    state = support.start()
    for token in ids:
        state = support.advance(state, token)
    return state


def _families(at: np.ndarray, picked: np.ndarray, draws: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
    """The draws that took the same token from the same point, points in order."""
    order = np.lexsort((draws, picked, at))
    at, picked, draws = at[order], picked[order], draws[order]
    new = np.flatnonzero(np.r_[True, (np.diff(at) != 0) | (np.diff(picked) != 0)])
    ends = np.r_[new[1:], len(at)]
    return [(int(at[b]), int(picked[b]), draws[b:e]) for b, e in zip(new, ends, strict=True)]


def _settled(support: Support, state: object, late: bool) -> bool:
    """Whether nothing may follow. With `late` only for dead ones: others have their forced end looked up first."""
    return support.must_stop(state) and not (late and support.may_stop(state))
