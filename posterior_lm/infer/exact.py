"""Exact enumeration: the likeliest values first, with a bound of what is left out.

Prefixes are opened in order of their prior mass. What is not listed is bounded:
for a power b ≥ 1 the completions of a prefix have Σ p(z)^b ≤ p(prefix)^b, and the
other terms add at most their upper bound, by interval arithmetic (`upper_bound`). For
b < 1 there is no such bound, and only a list that is complete is certain.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from attrs import define, evolve, field, frozen

from posterior_lm.graph.nodes import (
    Apply,
    ChoiceScore,
    Constant,
    DistScore,
    LmScore,
    Mix,
    Node,
    Power,
    Sum,
    Test,
)  # fmt: skip
from posterior_lm.graph.ops import OPS
from posterior_lm.infer.base import Backend, Info, Offer
from posterior_lm.infer.draws import Draws, EnumerationBound
from posterior_lm.infer.guide import Guide, PriorGuide
from posterior_lm.infer.prefix_expansion import (
    MANY,
    SMALL,
    Branching,
    Family,
    Partial,
    is_model_free,
    support_size,
)
from posterior_lm.infer.weights import all_dead, logsumexp, normalize
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.target.functions import add
from posterior_lm.target.target import Target
from posterior_lm.target.values import Value

BATCH = 256
"""Prefixes opened per model call."""
BETWEEN = 1024
"""Texts that models may score between two looks at the clock."""


@define(eq=False)
class _Frontier:
    """Families of children by the bound of their best one left; children leave in order."""

    heap: list[tuple[float, int, Family, int]] = field(factory=list)
    pushed: int = 0

    def push(self, family: Family, rank: int = 0) -> None:
        if rank < len(family):
            heapq.heappush(self.heap, (-family.bounds[rank], self.pushed, family, rank))
            self.pushed += 1

    def pop(self, most: int) -> Iterator[Partial]:
        while self.heap and most > 0:
            _, _, family, rank = heapq.heappop(self.heap)
            self.push(family, rank + 1)
            most -= 1
            yield family.child(rank)

    def mass(self) -> float:
        """log Σ of the bounds of everything not opened yet."""
        return logsumexp(np.array([family.tail(rank) for _, _, family, rank in self.heap] or [-math.inf]))


IDLE = 3
"""Beginnings that are opened for each of the `values` asked for, none of which leads to a value, before a search ends.
Where all values are listed none are too many: the search ends by itself."""

REST_DRAWS = 256
"""Draws that estimate what was not listed."""


@frozen(eq=False)
class State:
    """What is listed so far, and the frontier; `step` hands over a new state."""

    target: Target
    branching: Branching
    frontier: _Frontier
    others: float
    lost: float
    """log of the bound of children that were never kept (tails of large vocabularies)."""
    values: tuple[tuple[Value, ...], ...] = ()
    log_reward: tuple[float, ...] = ()
    dead: tuple[np.ndarray, ...] = ()
    n_dead: int = 0
    idle: int = 0
    """Beginnings opened since the last value was listed."""
    begun: int = 0
    """Beginnings opened, and values listed."""
    scored: int = 0
    """What was asked of models so far, in texts: `Branching.cost` of what was opened."""


@frozen
class Exact:
    """Lists values until they certainly cover `mass` of the posterior, or `values` are listed."""

    values: int = 2_000
    mass: float = 0.999
    patience: float = field()
    """Beginnings that may be opened in a row without a value."""
    batch: int = BATCH
    most: float = math.inf
    """Texts that models may score in a step, by `Branching.cost`; but one beginning is opened whatever it costs."""
    wary: bool = False
    """Whether the first beginning that costs more than one ends a step, so that it can be timed."""
    name: str = field(default="exact", init=False)

    @patience.default
    def _patience(self) -> float:
        return IDLE * self.values

    def init(self, rng: np.random.Generator, target: Target, guide: Guide | None) -> State:
        branching = Branching(target, PriorGuide(target))
        frontier = _Frontier()
        exponents = {p.node: p.exponent for p in branching.guide.priors.values()}
        root, finished = branching.open([Partial()])
        scored = branching.cost(Partial())
        state = State(target, branching, frontier, upper_bound(target, exponents), -math.inf, scored=scored)
        return self._take(state, root, finished)

    def step(self, rng: np.random.Generator, state: State) -> tuple[State, Info]:
        if not state.frontier.heap:
            return state, Info(done=True)
        begun, scored = [], state.scored
        for partial in state.frontier.pop(self.batch):
            begun.append(partial)
            cost = state.branching.cost(partial)
            scored += cost
            if scored - state.scored >= self.most or (self.wary and cost > 1):
                break
        families, finished = state.branching.open(begun)
        idle = 0 if finished else state.idle + len(begun)
        state = evolve(
            self._take(state, families, finished), idle=idle, scored=scored, begun=state.begun + len(begun)
        )
        listed = len(state.values) + state.n_dead
        certificate = self.certificate(state)
        done = not state.frontier.heap or listed >= self.values or state.idle > self.patience
        done = done or (listed > 0 and certificate.missing_share <= 1 - self.mass)
        return state, Info(done, f"{listed} values listed", min(1.0, listed / self.values))

    def sample(self, rng: np.random.Generator, state: State, n: int) -> Draws:
        if not state.values:
            raise self._nothing(state)
        return self.listed(state, estimated(rng, state, self.certificate(state)))

    def listed(self, state: State, certificate: EnumerationBound) -> Draws:
        """The values so far, those of most reward first."""
        log_reward = np.array(state.log_reward)
        order = np.argsort(-log_reward, kind="stable")
        columns = {
            name: tuple(state.values[i][k] for i in order) for k, name in enumerate(state.target.names)
        }
        return Draws(columns, log_reward[order], log_reward[order], self.name, certificate=certificate)

    # ------------------------------------------------------------- bookkeeping

    def _nothing(self, state: State) -> InferenceError:
        """Why there is no value with a positive reward."""
        target, open_ended = state.target, bool(state.frontier.heap) or state.lost > -math.inf
        if state.others == -math.inf:  # a statement that no latent changes is −inf, so every value is dead
            evaluator = target.evaluator
            known = [
                evaluator.fixed_value(i) if i in target.graph.fixed else 0.0 for i in target.graph.sink.inputs
            ]
            return all_dead(target, np.array([known], dtype=np.float64), listed=True)
        if state.dead:
            return all_dead(target, np.concatenate(state.dead), listed=not open_ended)
        if state.idle > self.patience:
            return InferenceError.of(
                "PLM706",
                f"none of the {state.idle:,} likeliest beginnings is one whole value",
                help="allow fewer tokens, raise `values`, or draw with --method smc or importance",
            )
        if open_ended:
            return InferenceError.of(
                "PLM706",
                "the budget ended before a single value was listed",
                help="give a larger --budget, or none",
            )
        if state.branching.pruned:  # every beginning was refused, so any completion of one shows why
            refused = state.branching.pruned[0]
            shown = state.branching.guide.complete(
                np.random.default_rng(0), [refused.values], [refused.ids]
            ).values
            return all_dead(target, target.terms(shown), listed=True)
        # No value was opened: the latents' own distributions give each of them zero.
        own = [-np.inf if info.keyword == "latent" else 0.0 for info in target.statements]
        return all_dead(target, np.array([own]), listed=True)

    def _take(self, state: State, families: list[Family], finished: list[Partial]) -> State:
        for family in families:
            state.frontier.push(family)
        lost = logsumexp(np.array([state.lost, *(f.lost for f in families)]))
        state = evolve(state, lost=lost)
        if not finished:
            return state
        names = state.target.names
        columns = {name: [p.values[k] for p in finished] for k, name in enumerate(names)}
        terms = state.target.terms(columns)
        log_reward = terms.sum(axis=1)
        alive = np.isfinite(log_reward)
        return evolve(
            state,
            values=state.values + tuple(p.values for p, ok in zip(finished, alive, strict=True) if ok),
            log_reward=state.log_reward + tuple(log_reward[alive].tolist()),
            dead=(*state.dead, terms[~alive]) if not alive.all() and len(state.dead) < 64 else state.dead,
            n_dead=state.n_dead + int((~alive).sum()),
        )

    def certificate(self, state: State) -> EnumerationBound:
        """What the values so far are sure to hold."""
        complete = not state.frontier.heap and state.lost == -math.inf
        covered = logsumexp(np.array(state.log_reward))
        if complete:
            rest = -math.inf
        elif not state.branching.bounded or state.others == math.inf:
            rest = math.inf
        else:
            rest = (
                float(np.logaddexp(state.frontier.mass(), state.lost)) + state.others + state.branching.slack
            )
        return EnumerationBound(covered, rest, complete, len(state.values) + state.n_dead)


def estimated(rng: np.random.Generator, state: State, certificate: EnumerationBound) -> EnumerationBound:
    """The certificate with an unbiased estimate of the rest.

    A point of the frontier is drawn with probability P proportional to its bound and
    completed by the prior with probability q; E[reward / (P q)] is the sum of the
    rewards below the frontier, since every value not listed lies below one point.
    """
    heap = state.frontier.heap
    if certificate.complete or not heap or not np.isfinite(certificate.covered):
        return certificate
    masses = np.array([family.tail(rank) for _, _, family, rank in heap])
    total, chances = logsumexp(masses), normalize(masses)
    groups: dict[int, list[Partial]] = {}
    for place in rng.choice(len(heap), size=REST_DRAWS, p=chances):
        _, _, family, rank = heap[place]
        shares = normalize(family.bounds[rank:])
        child = family.child(rank + int(rng.choice(len(shares), p=shares)))
        groups.setdefault(len(child.values), []).append(child)
    ratios: list[float] = []
    for partials in groups.values():
        proposal = state.branching.guide.complete(
            rng, [p.values for p in partials], [p.ids for p in partials]
        )
        log_reward = state.target.log_reward(proposal.values)
        bounds = np.array([p.bound for p in partials])
        ratios += np.exp(log_reward - (bounds - total) - proposal.log_prob - certificate.covered).tolist()
    w = np.array(ratios)
    return evolve(certificate, estimate=float(w.mean()), estimate_se=float(w.std(ddof=1) / math.sqrt(len(w))))


# ---------------------------------------------------------------- what the other terms can add


Interval = tuple[float, float]
ANY: Interval = (-math.inf, math.inf)
LOG: Interval = (-math.inf, 0.0)
COUNT: Interval = (0.0, math.inf)

FUNCTIONS: Mapping[str, Interval] = {
    "count": COUNT,
    "words": COUNT,
    "chars": COUNT,
    "tokens": COUNT,
    "similarity": (0.0, 1.0),
    "sigmoid": (0.0, 1.0),
}


def upper_bound(target: Target, exclude: Mapping[int, float]) -> float:
    """Σ over terms of the largest value each can take, in nats; +inf where there is no bound.

    `exclude` maps the nodes of the priors to their exponents; they count as 0 here.
    """
    # Another statement may read a prior's node too, and there it counts.
    return add(
        [
            _Bounds(target, set(exclude) if info.keyword == "latent" else set()).of(i)[1]
            for i, info in zip(target.graph.sink.inputs, target.statements, strict=True)
        ]
    )


class _Bounds:
    def __init__(self, target: Target, exclude: set[int]) -> None:
        self.target = target
        self.exclude = exclude
        self.known: dict[int, Interval] = {}

    def of(self, i: int) -> Interval:
        if i not in self.known:
            self.known[i] = self._bound(i, self.target.graph[i])
        return self.known[i]

    def _bound(self, i: int, node: Node) -> Interval:
        if i in self.exclude:
            return LOG  # another factor of the same product may hold it, and there it counts
        if i in self.target.graph.fixed:
            value = self.target.evaluator.fixed_value(i)
            if isinstance(value, int | float):
                return (float(value), float(value))
        match node:
            case Constant(value=value) if isinstance(value, int | float):
                return (float(value), float(value))
            case DistScore(dist="normal" | "beta", grid=0):
                return ANY  # a density
            case LmScore() | ChoiceScore() | DistScore() | Test():
                return LOG
            case Power():
                return _times(self.of(node.inputs[0]), self.of(node.inputs[1]))
            case Mix():
                a, b = (self.of(j) for j in node.inputs[1:])
                return (min(a[0], b[0]), max(a[1], b[1]))
            case Sum():
                parts = [self.of(j) for j in node.inputs]
                return (add([p[0] for p in parts]), add([p[1] for p in parts]))  # −∞ of one is −∞ of all
            case Apply():
                return self._apply(node)
        return ANY

    def _apply(self, node: Apply) -> Interval:
        if node.op in FUNCTIONS:
            return FUNCTIONS[node.op]
        args = [self.of(j) for j in node.inputs]
        if node.op in ("logsumexp", "mean"):
            items = [k for j in node.inputs for k in self._items(j)]
            ends = [_computed(node.op, *(self.of(k)[end] for k in items)) for end in (0, 1)]
            return ANY if any(map(math.isnan, ends)) else (ends[0], ends[1])
        match node.op:
            case "exp" | "softplus" | "log_sigmoid":  # which grow with their argument
                return (_computed(node.op, args[0][0]), _computed(node.op, args[0][1]))
            case "log":
                return (_computed("log", max(0.0, args[0][0])), _computed("log", max(0.0, args[0][1])))
            case "+":
                return (args[0][0] + args[1][0], args[0][1] + args[1][1])
            case "-":
                return (args[0][0] - args[1][1], args[0][1] - args[1][0])
            case "unary -":
                return (-args[0][1], -args[0][0])
            case "*":
                return _times(*args)
            case "if":
                return (min(args[1][0], args[2][0]), max(args[1][1], args[2][1]))
            case "min":
                return (min(a[0] for a in args), min(a[1] for a in args))
            case "max":
                return (max(a[0] for a in args), max(a[1] for a in args))
            case "abs":
                low, high = args[0]
                return (0.0 if low <= 0 <= high else min(abs(low), abs(high)), max(abs(low), abs(high)))
        return ANY

    def _items(self, i: int) -> Sequence[int]:
        """The nodes of the numbers that an argument stands for, which may be a list."""
        node = self.target.graph[i]
        return node.inputs if isinstance(node, Apply) and node.op == "list" else (i,)


def _computed(op: str, *numbers: float) -> float:
    return OPS[op](*numbers)  # type: ignore[return-value]


def _times(a: Interval, b: Interval) -> Interval:
    products = [0.0 if 0 in (x, y) else x * y for x in a for y in b]
    return (min(products), max(products))


# ---------------------------------------------------------------- as a method


class _Exact(Backend):
    def build(self, target: Target, options: Mapping[str, object], n: int, batch: int | None) -> Exact:
        size = support_size(target, MANY if is_model_free(target) else SMALL)
        values = int(str(options.get("values") or size or Exact().values))
        patience = IDLE * values if size is None else math.inf
        most = math.inf if batch is None else BETWEEN
        return Exact(values, float(str(options.get("mass", Exact().mass))), patience, most=most)

    def applies(self, target: Target, policy: Offer | None) -> str | None:
        most = MANY if is_model_free(target) else SMALL
        size = support_size(target, most)
        return None if size is None else f"the support has {size} value{'s' * (size != 1)}, at most {most}"


BACKEND = _Exact()
