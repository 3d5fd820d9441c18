"""Values of one latent on their way, choice by choice: what there is of N draws between two choices.

Whoever draws may weigh and resample there, which is what sequential Monte Carlo does; everybody
else goes to the end. A text is walked token by token (`rollout.TextWalk`), a value of a finite
type is one choice (`ValueWalk`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Self, TypeVar

import numpy as np
from attrs import evolve, frozen

from posterior_lm.infer.choose import Chooser


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


@frozen(eq=False, kw_only=True)
class ValueWalk(Walk):
    """One choice among C values of a finite type, after each of P distinct pasts; `scores` (P, C) are log masses."""

    candidates: Sequence[tuple[int, ...]]
    scores: np.ndarray

    @classmethod
    def begin(
        cls, candidates: Sequence[tuple[int, ...]], scores: np.ndarray, draws: Sequence[np.ndarray], n: int
    ) -> ValueWalk:
        """N draws, of which `draws` stand at each past; those at none are left out."""
        return cls(
            values=[()] * n, log_q=np.zeros(n), log_mass=np.zeros(n), last=np.zeros(n),
            stand=[Point(None, (), mine) for mine in draws], rows=np.arange(len(draws)),
            candidates=candidates, scores=scores,
        )  # fmt: skip

    def ahead(self) -> tuple[ValueWalk, np.ndarray]:
        out = np.zeros(len(self.values))
        for point, mass in zip(self.points, np.logaddexp.reduce(self.scores[self.rows], axis=1), strict=True):
            out[point.draws] = mass
        return self, out

    def step(self, choose: Chooser) -> ValueWalk:
        values, log_q, log_mass = list(self.values), self.log_q.copy(), self.ahead()[1]
        places: dict[tuple[int, ...], list[int]] = {}
        for point, row in zip(self.points, self.scores[self.rows], strict=True):
            if np.all(np.isneginf(row)):
                row = np.zeros(len(row))  # every value is dead: any of them shows which statement killed it
            log_probs = row - np.logaddexp.reduce(row)
            picked = choose.values(point.draws, np.exp(log_probs), self.candidates)
            for d, place in zip(point.draws.tolist(), picked, strict=True):
                values[d] = self.candidates[place] if place >= 0 else ()
                log_q[d] = log_probs[place] if place >= 0 else -np.inf
                places.setdefault(values[d], []).append(d)
        stand = [Point(None, ids, np.array(draws), ended=True) for ids, draws in places.items()]
        return evolve(
            self, values=values, log_q=log_q, log_mass=log_mass, last=log_q + log_mass, stand=stand, steps=1
        )
