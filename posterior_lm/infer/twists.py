"""Twists: what particles are told on the way of what will be asked of them at the end.

A twist adds log ψ to the density that the particles follow while a latent is drawn, and is
taken back when the latent is finished, so the evidence stays unbiased whatever ψ is. The
best ψ of a prefix is the expected weight of its completions; a poor one costs particles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from attrs import field, frozen

from posterior_lm.infer.rollout import Point
from posterior_lm.infer.schedule import Stage, log_terms, stages
from posterior_lm.target.restrict import PrefixTests
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.values import Values, take

Prefix = tuple[int, ...]


class Twist(Protocol):
    """Any function of prefixes, for instance a learned one."""

    def __call__(
        self, info: LatentInfo, prefixes: Sequence[Prefix], ended: np.ndarray, earlier: Values
    ) -> np.ndarray:
        """(U,) log ψ, nats, of the first tokens of a latent; −inf where no completion can have a weight.

        Shapes: `ended` (U,) says which are whole values; `earlier` has U values of each latent before.
        """
        ...


def told(
    twists: Sequence[Twist], info: LatentInfo, stand: Sequence[Point], values: Values, twist: np.ndarray
) -> np.ndarray:
    """(N,) the sum of the twists, nats, where N particles with values of earlier latents `stand` after a choice.

    `twist` (N,) is that of those who made none; each distinct prefix and earlier value is asked for once.
    """
    groups: dict[tuple, list[int]] = {}
    for u, point in enumerate(stand):
        for d in point.draws.tolist():
            # Particles at one prefix may differ in latents that the prefix does not read.
            groups.setdefault((u, *(column[d].ids for column in values.values())), []).append(d)
    out = twist.copy()
    if groups:
        points = [stand[key[0]] for key in groups]
        prefixes, ended = [p.ids for p in points], np.array([p.ended for p in points])
        earlier = take(values, [group[0] for group in groups.values()])
        total = np.zeros(len(points))
        for one in twists:
            total = total + one(info, prefixes, ended, earlier)
        for log_psi, group in zip(total, groups.values(), strict=True):
            out[group] = log_psi
    return out


@frozen(eq=False)
class _OfStages:
    """What a twist reads of a target: what becomes known with each latent."""

    target: Target
    _stages: Mapping[str, Stage] = field(init=False)

    @_stages.default
    def _stage_of_each(self) -> Mapping[str, Stage]:
        return dict(zip(self.target.names, stages(self.target), strict=True))

    def _cut(self, info: LatentInfo, prefixes: Sequence[Prefix], rows: np.ndarray, earlier: Values) -> Values:
        """The values of the rows, with those of the latents before."""
        own = [self.target.value_of(info.name, prefixes[u]) for u in rows]
        return {**take(earlier, rows.tolist()), info.name: own}


@frozen(eq=False)
class ConditionTwist(_OfStages):
    """log ψ is −inf where no completion satisfies the conditions, else 0: it never does harm."""

    _tests: Mapping[str, PrefixTests] = field(init=False)

    @_tests.default
    def _tests_of_each(self) -> Mapping[str, PrefixTests]:
        return {
            info.name: PrefixTests.of(self.target, info.name)
            for info in self.target.latents
            if info.type == "text"
        }

    def __call__(
        self, info: LatentInfo, prefixes: Sequence[Prefix], ended: np.ndarray, earlier: Values
    ) -> np.ndarray:
        out = np.zeros(len(prefixes))
        tests, stage = self._tests.get(info.name), self._stages[info.name]
        if tests is not None and not tests.empty:
            out[~tests.alive(prefixes, earlier)] = -np.inf
        whole = np.flatnonzero(ended & np.isfinite(out))
        if len(whole) and stage.tests:
            values = self._cut(info, prefixes, whole, earlier)
            found = log_terms(self.target, stage.tests, values, len(whole))[0]
            out[whole[np.isneginf(found).any(axis=1)]] = -np.inf
        return out


@frozen(eq=False)
class LookAhead(_OfStages):
    """What is observed once the latent is finished, as if it stopped here, to a power below 1.

    The power grows with the tokens drawn, from 0 to `power` at the longest value. This is
    no default: what follows a broken sentence says little of what follows its end
    (docs/how-to/choose-a-method.md has figures).
    """

    power: float

    def __call__(
        self, info: LatentInfo, prefixes: Sequence[Prefix], ended: np.ndarray, earlier: Values
    ) -> np.ndarray:
        out = np.zeros(len(prefixes))
        stage = self._stages[info.name]
        if info.type != "text" or not stage.others:
            return out
        cuts = [p if done else info.support.cut(p, len(p)) for p, done in zip(prefixes, ended, strict=True)]
        rows = np.array([u for u, ids in enumerate(cuts) if ids is not None], dtype=np.int64)
        if not len(rows):
            return out
        values = self._cut(info, [ids or () for ids in cuts], rows, earlier)
        terms = log_terms(self.target, stage.others, values, len(rows))[0].sum(axis=1)
        drawn = np.array([len(prefixes[u]) for u in rows]) / info.support.max_tokens
        powers = self.power * np.where(ended[rows], 1.0, drawn)
        # A false condition here may become true further on: only `ConditionTwist` knows.
        out[rows] = np.where(np.isneginf(terms), 0.0, powers * terms)
        return out
