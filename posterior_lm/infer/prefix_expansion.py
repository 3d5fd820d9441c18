"""What may follow a partial assignment: tokens of a text, values of a finite type."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import compress

import numpy as np
from attrs import evolve, field, frozen

from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.nodes import Apply, ChoiceScore, LmScore
from posterior_lm.infer.drawing import drawing
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.infer.schedule import Prior
from posterior_lm.infer.weights import logsumexp
from posterior_lm.lang.diagnostics import at
from posterior_lm.lm.protocol import eos_log_probs
from posterior_lm.support.base import uncounted
from posterior_lm.target.restrict import PrefixTests
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.values import ABSENT, Value

SMALL = 20_000
"""Values that are listed whole, in a second or two with a small model, and without looking ahead."""
MANY = 100_000
"""Values that are listed whole in a few seconds where no term asks a model."""
LARGE = f"the support has more than {SMALL} values"

SCORED = 1 << 14
"""Values of a finite latent that are scored at a time, after several beginnings."""
KEPT = 4096
"""Children kept per prefix; the mass of the rest is added to the certificate's bound."""


def support_size(target: Target, limit: int = SMALL) -> int | None:
    """The number of joint values, of branches that exclude each other that of the larger one; None above `limit`."""
    sizes = []
    for info in target.latents:
        if (size := info.support.count_values(limit)) is None:
            return None
        sizes.append((_tests(target.graph, info.when), size))
    total = _most(sizes)
    return total if total <= limit else None


def _tests(graph: RewardGraph, when: int | None) -> frozenset[tuple[int, bool]]:
    """The tests that have to come out so for a latent to exist."""
    node = None if when is None else graph[when]
    match node:
        case None:
            return frozenset()
        case Apply(op="and", inputs=inputs):
            return frozenset().union(*(_tests(graph, i) for i in inputs))
        case Apply(op="unary not", inputs=(test,)):
            return frozenset({(test, False)})
    return frozenset({(when, True)})  # type: ignore[arg-type]


def _most(sizes: Sequence[tuple[frozenset[tuple[int, bool]], int]]) -> int:
    """The most values that latents of these sizes have together, whatever their tests say."""
    total = math.prod(size for tests, size in sizes if not tests)
    rest = [(tests, size) for tests, size in sizes if tests]
    while rest:
        test = min(rest[0][0])[0]
        sides = [
            [(tests - {(test, side)}, size) for tests, size in rest if (test, side) in tests]
            for side in (True, False)
        ]
        total *= max(map(_most, sides))
        rest = [one for one in rest if not {(test, True), (test, False)} & one[0]]
    return total


def is_wide(target: Target, limit: int) -> bool:
    """Whether a latent of a finite type has more values than `limit`; each is scored before one of them is taken."""
    finite = [info.support for info in target.latents if hasattr(info.support, "ids_of")]
    return any(support.count_values(limit) is None for support in finite)


def is_model_free(target: Target) -> bool:
    """Whether no term that a latent changes asks a language model."""
    changed = target.graph.dependents(*(i for i, _ in target.graph.latents()))
    return not any(isinstance(target.graph[i], LmScore | ChoiceScore) for i in changed)


@frozen(eq=False)
class Partial:
    """Finished latents, and the tokens so far of the next one.

    `bound` is the log of its tempered prior mass: at least the sum over its completions.
    """

    values: tuple[Value, ...] = ()
    ids: tuple[int, ...] = ()
    state: object = None
    bound: float = 0.0


@frozen(eq=False)
class Family:
    """The children of one partial assignment, best first.

    `tails[r]` is the log-sum of the bounds from rank r on; `lost` that of children
    that were not kept.
    """

    bounds: np.ndarray
    child: Callable[[int], Partial]
    """By rank."""
    lost: float = -math.inf
    tails: np.ndarray = field(init=False)

    @tails.default
    def _tails(self) -> np.ndarray:
        return np.logaddexp.accumulate(self.bounds[::-1])[::-1] if len(self.bounds) else self.bounds

    def __len__(self) -> int:
        return len(self.bounds)

    def tail(self, rank: int) -> float:
        return float(self.tails[rank])


@frozen(eq=False)
class Branching:
    """Opens partial assignments of a target, many per model call."""

    target: Target
    guide: PriorGuide
    bounded: bool = field(init=False)
    """Whether the tempered prior mass, times exp(`slack`), bounds what follows: powers are ≥ 1."""

    @bounded.default
    def _bounded(self) -> bool:
        return all(
            # The values of a finite first latent are all listed at once, each with its own mass.
            self._is_mass(self.guide.priors[info.name])
            or (k == 0 and self.guide.priors[info.name].exponent > 0 and hasattr(info.support, "ids_of"))
            for k, info in enumerate(self.target.latents)
        )

    @staticmethod
    def _is_mass(prior: Prior) -> bool:
        return prior.adds_up and prior.exponent >= 1 and all(part.exponent >= 1 for part in prior.parts)

    tests: Mapping[str, PrefixTests] = field(init=False)
    """What ends beginnings early, by text latent. A small support is listed whole, dead values and all."""
    pruned: list[Partial] = field(init=False, factory=list)
    """One beginning that the tests refused, if there was one."""

    @tests.default
    def _tests(self) -> Mapping[str, PrefixTests]:
        if support_size(self.target) is not None:
            return {}
        found = {i.name: PrefixTests.of(self.target, i.name) for i in self.target.latents}
        return {n: t for n, t in found.items() if not t.empty}

    costs: tuple[int, ...] = field(init=False)
    """What it takes to open an assignment at each latent, in texts that a model scores: one, or every value of a finite type."""

    @costs.default
    def _costs(self) -> tuple[int, ...]:
        graph, found = self.target.graph, []
        for info in self.target.latents:
            below = graph.ancestors(self.guide.priors[info.name].node)
            asks = any(isinstance(graph[i], LmScore | ChoiceScore) for i in below)
            finite = asks and hasattr(info.support, "ids_of")
            found.append((info.support.count_values(MANY) or MANY) if finite else 1)
        return tuple(found)

    def cost(self, partial: Partial) -> int:
        """As `costs`; a whole one is scored once."""
        return self.costs[len(partial.values)] if len(partial.values) < len(self.costs) else 1

    @property
    def slack(self) -> float:
        """log of how many completions of a prefix may begin one another: their masses then sum to more than its own."""
        total = 0.0
        for k, info in enumerate(self.target.latents):
            if info.support.ending == "free":
                total += math.log(info.support.max_tokens - info.support.min_tokens + 1)  # type: ignore[attr-defined]
            elif (
                info.support.ending == "value"
                and k > 0
                and any(part.lm is not None for part in self.guide.priors[info.name].parts)
            ):
                total += math.log(info.support.max_tokens)
        return total

    def open(self, partials: list[Partial]) -> tuple[list[Family], list[Partial]]:
        """The families of children, and the assignments that are complete already or just became so."""
        finished: list[Partial] = []
        texts: dict[int, list[Partial]] = {}
        finite: dict[int, list[tuple[int, Partial]]] = {}
        for place, partial in enumerate(self._there(partials)):
            k = len(partial.values)
            if k == len(self.target.latents):
                finished.append(partial)
            elif hasattr(self.target.latents[k].support, "ids_of"):
                finite.setdefault(k, []).append((place, partial))
            else:
                texts.setdefault(k, []).append(partial)
        found: dict[int, Family] = {}
        for k, placed in finite.items():
            places, several = zip(*placed, strict=True)
            found.update(zip(places, self._finite(self.target.latents[k], several), strict=True))
        families = [found[place] for place in sorted(found)]
        for k, group in texts.items():
            families += self._texts(self.target.latents[k], group)
        return families, finished

    def _there(self, partials: list[Partial]) -> list[Partial]:
        """Those that end before a latent that they do not have, with what they hold of it."""
        out: list[Partial] = []
        asked: dict[int, list[Partial]] = {}
        for partial in partials:
            k = len(partial.values)
            begun = bool(partial.ids) or partial.state is not None
            certain = begun or k == len(self.target.latents) or self.target.latents[k].when is None
            (out if certain else asked.setdefault(k, [])).append(partial)
        for k, group in asked.items():
            there = self.target.there(self.target.latents[k], self._past(group), len(group))
            assert there is not None
            out += compress(group, there)
            out += self._there([evolve(one, values=(*one.values, ABSENT)) for one in compress(group, ~there)])
        return out

    def _past(self, partials: Sequence[Partial]) -> dict[str, list[Value]]:
        k = len(partials[0].values)
        return {info.name: [p.values[j] for p in partials] for j, info in enumerate(self.target.latents[:k])}

    def _finite(self, info: LatentInfo, partials: Sequence[Partial]) -> list[Family]:
        candidates = [self.target.value_of(info.name, ids) for ids in info.support.values()]
        many = max(1, SCORED // len(candidates))
        families: list[Family] = []
        for start in range(0, len(partials), many):
            some = partials[start : start + many]
            scores = self.guide.prior_scores(info, candidates, self._past(some), len(some))
            families += [
                self._listed(partial, candidates, row) for partial, row in zip(some, scores, strict=True)
            ]
        return families

    @staticmethod
    def _listed(partial: Partial, candidates: Sequence[Value], scores: np.ndarray) -> Family:
        bounds = partial.bound + scores
        order = np.argsort(-bounds, kind="stable")
        order = order[np.isfinite(bounds[order])] if np.isfinite(bounds).any() else order[:1]

        def child(rank: int) -> Partial:
            place = int(order[rank])
            return Partial((*partial.values, candidates[place]), (), None, float(bounds[place]))

        return Family(bounds[order], child)

    def _alive(self, info: LatentInfo, group: list[Partial]) -> list[Partial]:
        """Those that some completion can save: the others hold no mass of the posterior."""
        if info.name not in self.tests:
            return group
        alive = self.tests[info.name].alive([p.ids for p in group], self._past(group))
        if not alive.all() and not self.pruned:
            self.pruned.append(group[int(np.argmin(alive))])
        return [p for p, ok in zip(group, alive, strict=True) if ok]

    def _texts(self, info: LatentInfo, group: list[Partial]) -> list[Family]:
        group = self._alive(info, group)
        if not group:
            return []
        support, prior = info.support, self.guide.priors[info.name]
        states = [support.start() if p.state is None else p.state for p in group]
        # Where only stopping is left, the model is still asked how likely that is.
        asked = [i for i, s in enumerate(states) if support.ending == "eos" or not support.must_stop(s)]
        with at(self.target.graph[prior.node].span, "the model reads this"):
            found = drawing(self.target, prior, self._past(group), len(group))
            begun = [found.contexts[i] + group[i].ids for i in asked]
            rollout = found.model.open(begun, shared=found.shared) if asked else None
        row = {i: r for r, i in enumerate(asked)}
        eos = None if rollout is None else eos_log_probs(rollout.log_probs, found.eos_ids)
        families = []
        for i, (partial, state) in enumerate(zip(group, states, strict=True)):
            log_probs, stop = np.empty(0), 0.0
            if rollout is not None and eos is not None and i in row:
                log_probs = np.asarray(rollout.log_probs[row[i]], dtype=np.float64)
                stop = float(eos[row[i]]) if support.ending == "eos" else 0.0
            families.append(self._family(info, partial, state, log_probs, stop, found.power))
        return families

    def _family(
        self,
        info: LatentInfo,
        partial: Partial,
        state: object,
        log_probs: np.ndarray,
        stop: float,
        b: float,
    ) -> Family:
        """Children by token, and the finished value where the text may stop here."""
        support = info.support
        allowed = np.flatnonzero(support.allowed(state))
        # A token that the target does not count adds nothing to the mass of what follows.
        scores = np.zeros(len(allowed)) if uncounted(support, state) else b * log_probs[allowed]
        if support.may_stop(state):
            allowed, scores = np.append(allowed, -1), np.append(scores, b * stop)
        alive = np.isfinite(scores)
        allowed, scores = allowed[alive], scores[alive]
        order = np.argsort(-scores, kind="stable")
        bounds = partial.bound + scores[order]
        kept = order[:KEPT]

        def child(rank: int) -> Partial:
            token = int(allowed[kept[rank]])
            if token < 0:
                value = self.target.value_of(info.name, partial.ids)
                return Partial((*partial.values, value), (), None, float(bounds[rank]))
            return Partial(
                partial.values, (*partial.ids, token), support.advance(state, token), float(bounds[rank])
            )

        return Family(bounds[:KEPT], child, logsumexp(bounds[KEPT:]))
