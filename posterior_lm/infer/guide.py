"""Guides: what an algorithm may propose with, and the prior as one.

A guide draws values inside the supports and says with which log probability.
The prior guide draws each latent from its own distribution under the mask of its
support, renormalised step by step:

    log q(z) = Σ_t [ b log p(z_t | z_<t) − log Σ_{v allowed} p(v | z_<t)^b ]

with b the power that the target puts on the prior (1 where that is not positive).
A forced token or stop has log q = 0. Importance weights correct the rest, so the
power only matters for their spread, never for the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
from attrs import field, frozen

from posterior_lm.infer.choose import Chooser, Follow, Sample, Steering
from posterior_lm.infer.contexts import check_guide, contexts_of
from posterior_lm.infer.prior import Prior, prior_of
from posterior_lm.infer.rollout import descendants, roll_out, roll_out_with_mass
from posterior_lm.lang.diagnostics import at
from posterior_lm.target.pieces import Piece
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.values import Value, Values, count

CHUNK_ELEMENTS = 1 << 25
"""Draws × vocabulary proposed at a time: 2^25 float64 are 256 MB per temporary."""


@frozen(eq=False)
class Proposal:
    """N values of every latent, and the guide's log probability of each draw (N,), nats.

    `scores` holds columns (N,) of score nodes that drawing them found out, nats: they need no second pass.
    """

    values: Mapping[str, tuple[Value, ...]]
    log_prob: np.ndarray
    scores: Mapping[int, np.ndarray] = field(factory=dict)


def joined(parts: Sequence[Proposal], names: Sequence[str]) -> Proposal:
    """Proposals one after another; of scores, those that every one of them has."""
    values = {name: tuple(v for part in parts for v in part.values[name]) for name in names}
    known = set.intersection(*(set(part.scores) for part in parts))
    scores = {i: np.concatenate([part.scores[i] for part in parts]) for i in sorted(known)}
    return Proposal(values, np.concatenate([part.log_prob for part in parts]), scores)


class Guide(Protocol):
    """A proposal over the latents of one target."""

    @property
    def name(self) -> str: ...

    def sample(self, rng: np.random.Generator, n: int) -> Proposal: ...

    def log_prob(self, values: Values) -> np.ndarray:
        """(N,) float64 nats; −inf for a value the guide cannot draw."""
        ...


@frozen(eq=False)
class PriorGuide:
    """Draws from the latents' own distributions, or from what their `guide` statements read."""

    target: Target
    reads: Literal["prior", "guide"] = "prior"
    priors: Mapping[str, Prior] = field(init=False)

    @priors.default
    def _priors(self) -> Mapping[str, Prior]:
        return {info.name: prior_of(self.target, info.name) for info in self.target.latents}

    @property
    def name(self) -> str:
        return self.reads

    def sample(self, rng: np.random.Generator, n: int) -> Proposal:
        """Draws and their log probability; the same generator state gives the same draws."""
        widest = max((m.tokenizer.vocabulary_size for m in self.target.models.values()), default=1)
        chunk = max(1, CHUNK_ELEMENTS // widest)
        parts = [self._walk(Sample(rng), min(chunk, n - start), None) for start in range(0, n, chunk)]
        return joined(parts, self.target.names)

    def log_prob(self, values: Values) -> np.ndarray:
        n = count(values)
        log_q = self._walk(None, n, values).log_prob
        for info in self.target.latents:
            inside = np.fromiter(
                (info.support.accepts(v.ids) for v in values[info.name]), dtype=bool, count=n
            )
            log_q = np.where(inside, log_q, -np.inf)
        return log_q

    # ------------------------------------------------------------- one pass over the latents

    def complete(
        self,
        rng: np.random.Generator,
        finished: Sequence[tuple[Value, ...]],
        begun: Sequence[tuple[int, ...]],
    ) -> Proposal:
        """Draws that go on from partial ones: equally many finished latents, first tokens of the next.

        `log_prob` is that of what is added.
        """
        known = {
            info.name: tuple(values[k] for values in finished)
            for k, info in enumerate(self.target.latents[: len(finished[0])])
        }
        return self._walk(Sample(rng), len(finished), None, known, begun)

    def _walk(
        self,
        chooser: Chooser | None,
        n: int,
        values: Values | None,
        known: Values | None = None,
        begun: Sequence[tuple[int, ...]] | None = None,
    ) -> Proposal:
        drawn: dict[str, tuple[Value, ...]] = {k: tuple(v) for k, v in (known or {}).items()}
        log_q = np.zeros(n)
        scores: dict[int, np.ndarray] = {}
        for info in self.target.latents[len(drawn) :]:
            choose = chooser or Follow([v.ids for v in values[info.name]])  # type: ignore[index]
            if begun is None and isinstance(choose, Sample) and self._scores_itself(info):
                ids, step, score = self._text_with_score(info, drawn, n, choose)
                scores[self.priors[info.name].node] = score
            else:
                ids, step = self.latent(info, drawn, n, choose, begun)
            begun = None
            log_q = log_q + step
            made: dict[tuple[int, ...], Value] = {}
            if values is not None:
                drawn[info.name] = tuple(values[info.name])
                continue
            for one in ids:
                if one not in made:
                    made[one] = self.target.value_of(info.name, one)
            drawn[info.name] = tuple(made[one] for one in ids)
        return Proposal(drawn, log_q, scores)

    def latent(
        self,
        info: LatentInfo,
        drawn: Values,
        n: int,
        choose: Chooser,
        begun: Sequence[tuple[int, ...]] | None = None,
    ) -> tuple[list[tuple[int, ...]], np.ndarray]:
        """Tokens of N values of one latent after those drawn already, and their log probability (N,), nats."""
        if hasattr(info.support, "ids_of"):
            return self._finite(info, drawn, n, choose)
        return self._text(info, drawn, n, choose, begun)

    def is_prior(self, info: LatentInfo) -> bool:
        """See `steered.StepGuide`. A guide built on this one draws from something else."""
        stated = self.reads == "guide" and info.name in self.target.graph.guides
        return type(self) is PriorGuide and not stated and self.priors[info.name].exponent > 0

    def _text(
        self,
        info: LatentInfo,
        drawn: Values,
        n: int,
        choose: Chooser,
        begun: Sequence[tuple[int, ...]] | None = None,
    ) -> tuple[list[tuple[int, ...]], np.ndarray]:
        prior = self.priors[info.name]
        lm, pieces, exponent = self._reading(info, prior)
        with at(self.target.graph[prior.node].span, "the model reads this"):
            contexts, shared = contexts_of(self.target, lm, pieces, drawn, n)
            return roll_out(
                self.target.models[lm],
                contexts,
                info.support,
                choose,
                exponent=exponent if exponent > 0 else 1.0,
                shared=shared,
                begun=begun,
            )

    def _scores_itself(self, info: LatentInfo) -> bool:
        """Whether drawing the latent adds up to its own term: from its prior, to a scored end."""
        return self.is_prior(info) and info.support.ending in ("stop", "eos")

    def _text_with_score(
        self, info: LatentInfo, drawn: Values, n: int, choose: Chooser
    ) -> tuple[list[tuple[int, ...]], np.ndarray, np.ndarray]:
        """As `_text`, and (N,) log prior of each value: log q plus the mass that the mask let through, less the power."""
        prior = self.priors[info.name]
        lm, pieces, power = self._reading(info, prior)
        with at(self.target.graph[prior.node].span, "the model reads this"):
            contexts, shared = contexts_of(self.target, lm, pieces, drawn, n)
            model = self.target.models[lm]
            ids, log_q, log_mass, _ = roll_out_with_mass(
                model, contexts, info.support, choose, exponent=power, shared=shared
            )
        return ids, log_q, (log_q + log_mass) / power

    def _reading(self, info: LatentInfo, prior: Prior) -> tuple[str, tuple[Piece, ...], float]:
        guide = self.target.graph.guides.get(info.name)
        if self.reads == "guide" and guide is not None:
            check_guide(self.target, info)
            return guide.lm, self.target.evaluator.pieces(guide.context), 1.0
        assert prior.lm is not None
        return prior.lm, self.target.evaluator.plan(prior.node).context, prior.exponent

    def _finite(
        self, info: LatentInfo, drawn: Values, n: int, choose: Chooser
    ) -> tuple[list[tuple[int, ...]], np.ndarray]:
        """Every value is scored after each distinct past; q is the prior's power, normalised."""
        candidates = [self.target.value_of(info.name, ids) for ids in info.support.values()]
        pasts: dict[tuple, list[int]] = {}
        steer = choose if isinstance(choose, Steering) else None
        alive = np.ones(n, dtype=bool) if steer is None else steer.alive()
        for d in np.flatnonzero(alive).tolist():
            pasts.setdefault(tuple(drawn[name][d].ids for name in drawn), []).append(d)
        ids: list[tuple[int, ...]] = [()] * n
        log_q = np.zeros(n)
        rows = [draws[0] for draws in pasts.values()]
        scores = self.prior_scores(
            info, candidates, {k: [v[d] for d in rows] for k, v in drawn.items()}, len(rows)
        )
        standing = [np.array(draws) for draws in pasts.values()]
        if steer is not None:
            mass = np.logaddexp.reduce(scores, axis=1)
            ancestors = steer.before(
                np.concatenate(standing), np.repeat(mass, [len(draws) for draws in standing])
            )
            standing = descendants(standing, ancestors, steer.alive())
        for row, draws in zip(scores, standing, strict=True):
            if not len(draws):
                continue
            if np.all(np.isneginf(row)):
                row = np.zeros(len(row))  # every value is dead: any of them shows which statement killed it
            log_probs = row - np.logaddexp.reduce(row)
            picked = choose.values(draws, np.exp(log_probs), [c.ids for c in candidates])
            for d, place in zip(draws, picked, strict=True):
                ids[d] = candidates[place].ids if place >= 0 else ()
                log_q[d] = log_probs[place] if place >= 0 else -np.inf
        if steer is not None:
            whole: dict[tuple[int, ...], list[int]] = {}
            for d in np.concatenate(standing).tolist():
                whole.setdefault(ids[d], []).append(d)
            steer.after(list(whole), [True] * len(whole), [np.array(draws) for draws in whole.values()])
        return ids, log_q

    def prior_scores(
        self, info: LatentInfo, candidates: Sequence[Value], past: Values, rows: int
    ) -> np.ndarray:
        """(rows, candidates) the tempered prior of each candidate after each past, nats."""
        prior = self.priors[info.name]
        exponent = prior.exponent if prior.exponent > 0 else 1.0
        size = len(candidates)
        grid: dict[str, list[Value]] = {
            k: [v for v in column for _ in range(size)] for k, column in past.items()
        }
        grid[info.name] = list(candidates) * rows
        column = np.array(self.target.evaluator.node(prior.node, grid, rows * size), dtype=np.float64)
        # Not a number is for the target to report; a proposal only has to go on until then.
        column = np.where(np.isneginf(column) | np.isnan(column), -np.inf, exponent * column)
        return column.reshape(rows, size)
