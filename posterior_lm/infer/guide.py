"""Guides: what an algorithm may propose with, what they read, and the prior as one.

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
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from attrs import evolve, field, frozen

from posterior_lm.infer.choosers import Chooser, Follow, Sample, otherwise_chosen
from posterior_lm.infer.drawing import Drawing, contexts_of, drawing
from posterior_lm.infer.fill import TRIED, filling
from posterior_lm.infer.rollout import TextWalk, ValueWalk, Walk, finished
from posterior_lm.infer.schedule import Prior, prior_of
from posterior_lm.infer.server_draws import ServedWalk, all_left, keeps_rows
from posterior_lm.lang.diagnostics import InferenceError, at
from posterior_lm.support.base import Support
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.values import ABSENT, Value, Values, count, distinct, take

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
    alive: np.ndarray | None = None
    """(N,) bool where some draws are none of the support: they hold another's values and weigh nothing."""


def weighed(proposal: Proposal, log_reward: np.ndarray) -> np.ndarray:
    """(N,) log rewards, −∞ for draws that are none of the support."""
    return log_reward if proposal.alive is None else np.where(proposal.alive, log_reward, -np.inf)


def joined(parts: Sequence[Proposal], names: Sequence[str]) -> Proposal:
    """Proposals one after another; of scores, those that every one of them has."""
    values = {name: tuple(v for part in parts for v in part.values[name]) for name in names}
    known = set.intersection(*(set(part.scores) for part in parts))
    scores = {i: np.concatenate([part.scores[i] for part in parts]) for i in sorted(known)}
    log_prob = np.concatenate([part.log_prob for part in parts])
    alive = [np.ones(len(part.log_prob), bool) if part.alive is None else part.alive for part in parts]
    return Proposal(values, log_prob, scores, None if all(map(np.all, alive)) else np.concatenate(alive))


class Guide(Protocol):
    """A proposal over the latents of one target."""

    @property
    def name(self) -> str: ...

    def sample(self, rng: np.random.Generator, n: int) -> Proposal: ...

    def log_prob(self, values: Values) -> np.ndarray:
        """(N,) float64 nats; −inf for a value the guide cannot draw."""
        ...


@runtime_checkable
class StepGuide(Protocol):
    """A guide that draws one latent after the other, choice by choice."""

    @property
    def name(self) -> str: ...

    def begin(
        self, info: LatentInfo, drawn: Values, n: int, *, alive: np.ndarray | None = None, late: bool = False
    ) -> Walk:
        """N values of one latent after those drawn already; `alive` (N,) and `late` as for a `TextWalk`."""
        ...

    def is_prior(self, info: LatentInfo) -> bool:
        """Whether log q + Σ log of the mass that was allowed is the log of the latent's own term."""
        ...


@frozen(eq=False)
class PriorGuide:
    """Draws from the latents' own distributions, or from what their `guide` statements read."""

    target: Target
    reads: Literal["prior", "guide"] = "prior"
    priors: Mapping[str, Prior] = field(init=False)
    _tried: dict[str, list[int]] = field(init=False, factory=dict)

    @priors.default
    def _priors(self) -> Mapping[str, Prior]:
        return {info.name: prior_of(self.target, info.name) for info in self.target.latents}

    @property
    def name(self) -> str:
        masked = sorted({guide.lm for guide in self.target.graph.guides.values() if guide.masked})
        if self.reads == "prior" or not masked:
            return self.reads
        return f"the masked model{'s' * (len(masked) > 1)} {' and '.join(masked)}"

    def sample(self, rng: np.random.Generator, n: int) -> Proposal:
        """Draws and their log probability; the same generator state gives the same draws."""
        parts = [self._walk(Sample(rng), len(some), None) for some in self._chunks(n)]
        return joined(parts, self.target.names)

    def log_prob(self, values: Values) -> np.ndarray:
        return self.retraced(values, scored=False).log_prob

    def retraced(self, values: Values, *, scored: bool = True) -> Proposal:
        """The values as `sample` would have returned them: with what drawing them finds out, where `scored`."""
        parts = []
        for some in self._chunks(count(values)):
            mine = take(values, some)
            part = self._walk(None, len(some), mine, scored=scored)
            inside = inside_supports(self.target, mine, len(some))
            parts.append(evolve(part, log_prob=np.where(inside, part.log_prob, -np.inf)))
        return joined(parts, self.target.names)

    def _chunks(self, n: int) -> list[range]:
        """The numbers of n draws, as many at a time as memory is meant for."""
        widest = max((m.tokenizer.vocabulary_size for m in self.target.models.values()), default=1)
        chunk = max(1, CHUNK_ELEMENTS // widest)
        return [range(start, min(n, start + chunk)) for start in range(0, max(n, 1), chunk)]

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
        *,
        scored: bool = True,
    ) -> Proposal:
        drawn: dict[str, tuple[Value, ...]] = {k: tuple(v) for k, v in (known or {}).items()}
        log_q, alive = np.zeros(n), np.ones(n, dtype=bool)
        scores: dict[int, np.ndarray] = {}
        for info in self.target.latents[len(drawn) :]:
            choose = chooser or Follow([v.ids for v in values[info.name]])  # type: ignore[index]
            # From its prior to a scored end, drawing a text adds up to its own term.
            adds_up = scored and begun is None and self.is_prior(info)
            adds_up = adds_up and info.support.ending in ("stop", "eos")
            there = self.target.there(info, drawn, n)
            going = there if alive.all() else alive if there is None else alive & there
            walk = finished(self.begin(info, drawn, n, begun=begun, late=adds_up, alive=going), choose)
            if values is None and walk.lean is not None and np.isneginf(walk.lean).any():
                alive = alive & ~np.isneginf(walk.lean)
                if not alive.any():
                    raise all_left(info, n)
            if adds_up:
                prior = self.priors[info.name]
                scores[prior.node] = (walk.log_q + walk.log_mass) / prior.exponent
            begun = None
            log_q = log_q + walk.log_q
            if values is not None:
                drawn[info.name] = tuple(values[info.name])
                continue
            # A draw that has left a support holds another's values.
            keep = [d if alive[d] else int(np.flatnonzero(alive)[0]) for d in range(n)]
            drawn = {name: tuple(column[k] for k in keep) for name, column in drawn.items()}
            here = None if there is None else there[keep]
            drawn[info.name] = tuple(self.target.made(info, [walk.values[k] for k in keep], here))
            log_q = log_q[keep]
        return Proposal(drawn, log_q, scores, alive=None if alive.all() else alive)

    def begin(
        self, info: LatentInfo, drawn: Values, n: int, *, alive: np.ndarray | None = None,
        begun: Sequence[tuple[int, ...]] | None = None, late: bool = False,
    ) -> Walk:  # fmt: skip
        """N values of one latent after those drawn already; the rest as for a `TextWalk`."""
        if hasattr(info.support, "ids_of"):
            return self._finite(info, drawn, n, alive)
        guide = self.target.graph.guides.get(info.name)
        if self.reads == "guide" and guide is not None and guide.masked:
            return filling(self.target, info, drawn, n, self._lengths(info.name), alive=alive)
        return self._text(info, drawn, n, begun=begun, late=late, alive=alive)

    def _lengths(self, name: str) -> Sequence[int]:
        """Tokens of draws of the prior, always the same ones."""
        if not self._tried:
            found = PriorGuide(self.target).sample(np.random.default_rng(0), TRIED).values
            self._tried.update({latent: [len(v.ids) for v in column] for latent, column in found.items()})
        return self._tried[name]

    def is_prior(self, info: LatentInfo) -> bool:
        """See `StepGuide`. A guide built on this one draws from something else."""
        stated = self.reads == "guide" and info.name in self.target.graph.guides
        prior = self.priors[info.name]
        own = type(self) is PriorGuide and not stated and prior.exponent > 0 and prior.adds_up
        return own and not (prior.lm is not None and keeps_rows(self.target.models[prior.lm]))

    def by_server(self) -> list[LatentInfo]:
        """The latents whose texts a server has to draw; it is asked here whether it tells whole rows."""
        found = []
        for info in self.target.latents:
            guide = self.target.graph.guides.get(info.name) if self.reads == "guide" else None
            lm = self.priors[info.name].lm if guide is None or guide.masked else guide.lm
            # A mixture of models has no one of them, and takes whole rows.
            if not hasattr(info.support, "ids_of") and lm is not None and keeps_rows(self.target.models[lm]):
                found.append(info)
        return found

    def _text(self, info: LatentInfo, drawn: Values, n: int, **options: Any) -> Walk:
        span = self.target.graph[self.priors[info.name].node].span
        with at(span, "the model reads this"):
            found = self._drawing(info, drawn, n)
            return text_walk(found, info.support, span=span, **options)

    def _drawing(self, info: LatentInfo, drawn: Values, n: int) -> Drawing:
        guide = self.target.graph.guides.get(info.name)
        if self.reads == "prior" or guide is None:
            return drawing(self.target, self.priors[info.name], drawn, n)
        check_guide(self.target, info)
        segments = self.target.evaluator.segments(guide.context)
        contexts, shared = contexts_of(self.target, guide.lm, segments, drawn, n)
        turn = self.target.evaluator.spellers[guide.lm].turn_ids(segments)
        model = self.target.models[guide.lm]
        return Drawing(model, contexts, shared, turn or model.tokenizer.eos_ids, 1.0)

    def _finite(self, info: LatentInfo, drawn: Values, n: int, alive: np.ndarray | None = None) -> Walk:
        """Every value is scored after each distinct past; q is the prior's power, normalised."""
        candidates = self.target.listed(info.name)
        pasts: dict[tuple, list[int]] = {}
        for d in range(n) if alive is None else np.flatnonzero(alive).tolist():
            pasts.setdefault(tuple(drawn[name][d].ids for name in drawn), []).append(d)
        first = [draws[0] for draws in pasts.values()]
        scores, rows = self._prior_rows(info, candidates, take(drawn, first), len(first))
        return ValueWalk.begin([c.ids for c in candidates], scores, rows, [*map(np.array, pasts.values())], n)

    def prior_scores(
        self, info: LatentInfo, candidates: Sequence[Value], past: Values, rows: int
    ) -> np.ndarray:
        """(rows, candidates) the tempered prior of each candidate after each past, nats."""
        scores, where = self._prior_rows(info, candidates, past, rows)
        every: np.ndarray = scores[where]
        return every

    def _prior_rows(
        self, info: LatentInfo, candidates: Sequence[Value], past: Values, rows: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same for those pasts that differ in what the prior reads, and of each past (rows,) which of them it is."""
        prior = self.priors[info.name]
        exponent = prior.exponent if prior.exponent > 0 else 1.0
        size = len(candidates)
        nodes = self.target.graph.ancestors(prior.node)
        read = {
            one.name: past[one.name] for one in self.target.latents if one.name in past and one.node in nodes
        }
        first, where = distinct(read, range(rows)) if read else ([0], [0] * rows)
        grid: dict[str, list[Value]] = {
            k: [column[d] for d in first for _ in range(size)] for k, column in read.items()
        }
        grid[info.name] = list(candidates) * len(first)
        column = np.array(self.target.evaluator.node(prior.node, grid, len(first) * size), dtype=np.float64)
        # Not a number is for the target to report; a proposal only has to go on until then.
        column = np.where(np.isneginf(column) | np.isnan(column), -np.inf, exponent * column)
        return column.reshape(len(first), size), np.array(where, dtype=np.int64)


def inside_supports(target: Target, values: Values, n: int) -> np.ndarray:
    """(N,) whether draws hold a value that can be drawn of each latent that they have, and none of the others."""
    inside = np.ones(n, dtype=bool)
    for info in target.latents:
        there = target.there(info, values, n)
        here = np.array([v != ABSENT for v in values[info.name]], dtype=bool)
        inside &= here == (True if there is None else there)
        inside &= ~here | [info.support.accepts(v.ids) for v in values[info.name]]
    return inside


def text_walk(found: Drawing, support: Support, **options: Any) -> Walk:
    """Texts of a drawing on their way: by rows of the vocabulary, or as a server draws that tells none."""
    if keeps_rows(found.model):
        if options.pop("flat", 0.0):
            raise otherwise_chosen()
        options.pop("stop", None)  # a server stops by what it says itself
        return ServedWalk.begin(
            found.model,  # type: ignore[arg-type]
            found.contexts,
            support,
            eos_ids=found.eos_ids,
            power=found.power,
            **options,
        )
    return TextWalk.begin(
        found.model, found.contexts, support, exponent=found.power, shared=found.shared, eos_ids=found.eos_ids,
        **options,
    )  # fmt: skip


# ---------------------------------------------------------------- what is read


def check_guide(target: Target, info: LatentInfo) -> None:
    """Raises InferenceError PLM540 where a `guide` statement reads a model with other tokens than the latent's."""
    guide = target.graph.guides[info.name]
    own = target.models[info.lm or guide.lm].tokenizer.digest
    if target.models[guide.lm].tokenizer.digest != own:
        raise InferenceError.of(
            "PLM540",
            f"the guide of `{info.name}` has another tokenizer than its distribution",
            guide.span,
            help="let the guide read the model that the latent is drawn from",
        )
    with at(guide.span, "this conversation"):
        target.evaluator.spellers[guide.lm].laid_out(target.evaluator.segments(guide.context))
