"""Draws from the program itself: latents from their priors, observations from theirs.

With x what a row gives beside the simulated observation y,

    z ~ p(z | x),  y ~ p(y | z, x),   so z is an exact draw of p(z | y, x)

(Le, Baydin & Wood 2017, inference compilation; Hinton et al. 1995, the sleep
phase). Terms that this leaves out (powers, factors, conditions, known parts of an
observed text) are made up for by weights, log w = log reward − log of the
probability of the draw, and draws are resampled by them within their row.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import evolve, frozen

from posterior_lm.graph.nodes import LmScore
from posterior_lm.infer.choosers import SampleEach
from posterior_lm.infer.drawing import contexts_of, drawing, together
from posterior_lm.infer.rollout import roll_out
from posterior_lm.infer.schedule import Prior, prior_of
from posterior_lm.target.prepared import BoundRows, Data, PreparedProgram
from posterior_lm.target.segments import Known, Segment
from posterior_lm.target.target import Target, having
from posterior_lm.target.values import Value
from posterior_lm.train.observable import drawing_score, is_exact, observables, order, simulated, unsimulated
from posterior_lm.train.simulated_texts import (
    TIMES,
    Drawn,
    Shape,
    TruncatedSupport,
    draw_texts,
    low_yield_tokens,
    split_lead,
)


@frozen(eq=False)
class Pair:
    """A row whose observation was simulated, and the latents that it was simulated from."""

    row: int
    data: Data
    values: Mapping[str, Value]
    log_weight: float
    log_joint: float = math.nan
    """Log probability of the latents and what was simulated of the row, without masks; nats. Where the simulation
    is exact, the log reward has to be this."""


SPARED = 0.1
"""Of the draws of a latent that lead nowhere by their tokens, the share that goes on all the same."""

LOOK = 512
"""Pairs that are simulated first, to see how the model ends texts and how they differ from the rows'."""

ENOUGH = 128
"""The same to see which pairs are kept, where at least half of them are."""

ENDS = 64
"""The same where the rows are too few for a difference to show, which leaves how texts end."""

AT_A_TIME, SECONDS = 32, 2.0
"""Pairs that are simulated before the clock is looked at, where there is one: so many, or what takes so long."""

TOGETHER = 4096
"""Values scored at a time when draws of a finite type are made."""


class Simulator:
    """Simulates pairs for the rows of one program. `exact` where every term is simulated as it stands.

    With `alike`, pairs whose observation is of another kind than the rows' are left out.
    `yields` is the share of pairs that is left. Once `late` says so no more pairs are simulated; those
    that were are whole.
    """

    def __init__(
        self, program: PreparedProgram, rows: Sequence[Data], *, alike: bool = False,
        late: Callable[[], bool] | None = None,
    ) -> None:  # fmt: skip
        graph = program.graph
        self.program, self.rows, self.late = program, rows, late
        self._speed: float | None = None
        self._first = 0
        self.observed = observables(graph)
        self._simulated = BoundRows(program.part(simulated(graph, self.observed)), rows)
        self._shapes: dict[str, Shape] = {}
        self._alive = np.zeros(0, dtype=bool)
        self.unsimulated = unsimulated(graph, self.observed)
        first = self.target(0)
        self.exact = not self.unsimulated and is_exact(first, {o.name for o in self.observed})
        self._seen: dict[str, list[Drawn]] | None = None
        self._latents: dict[tuple[str, int], list[tuple[int, tuple[int, ...]]]] | None = None
        self._low_yield: dict[str, np.ndarray] = {}
        self.yields = 1.0
        if not self.unsimulated:
            self._look(alike)

    def target(self, row: int) -> Target:
        """The row with its observed parameters as latents."""
        return self._simulated.target(row)

    def draw(self, rngs: Sequence[np.random.Generator], numbers: Sequence[int]) -> list[Pair]:
        """One pair for each row number, less those whose observation came out of shape.

        Each pair has a generator of its own, so it does not depend on the others.
        `log_weight` is up to a constant of the program; it is 0 but for masks where
        the simulation is exact.
        """
        if not numbers:
            self._alive = np.zeros(0, dtype=bool)
            return []
        alive = np.zeros(len(numbers), dtype=bool)
        pairs: list[Pair] = []
        for part in self._parts(len(numbers)):
            drawn = self._pairs(rngs[part], numbers[part])
            pairs += drawn if self.exact else self._weighed(drawn)
            alive[part] = self._alive
        self._alive = alive
        return pairs

    def _parts(self, count: int) -> Iterator[slice]:
        """Pairs that are simulated together: all, or where there is a clock so many that it can be looked at."""
        at = 0
        while at < count and not (at and self.late is not None and self.late()):
            many = count - at
            if self.late is not None:
                some = max(AT_A_TIME, int(SECONDS * (self._speed or 0.0)))
                many = many if many < 2 * some else some
            began = time.monotonic()
            yield slice(at, at + many)
            self._speed = many / max(1e-6, time.monotonic() - began)
            at += many

    def _pairs(self, rngs: Sequence[np.random.Generator], numbers: Sequence[int]) -> list[Pair]:
        """What `draw` returns, with log weights that do not hold the log reward yet."""
        targets = [self.target(r) for r in numbers]
        drawn: list[dict[str, Value]] = [{} for _ in numbers]
        log_q, log_mass = np.zeros(len(numbers)), np.zeros(len(numbers))
        alive = np.ones(len(numbers), dtype=bool)
        seen = {o.name for o in self.observed}
        # Rows may have tables of different lengths, so latents are drawn place by place.
        plans = [order(t, seen) for t in targets]
        for k in range(max(map(len, plans))):
            here = [d for d in range(len(numbers)) if alive[d] and k < len(plans[d])]
            for name in dict.fromkeys(plans[d][k] for d in here):
                mine = having(targets, name, drawn, [d for d in here if plans[d][k] == name])
                if not mine:
                    continue
                if name.split("[", 1)[0] in seen:
                    self._observe(rngs, name, targets, mine, drawn, log_q, log_mass, alive)
                else:
                    self._latent(rngs, name, targets, mine, drawn, log_q, log_mass, alive)
        self._alive = alive
        return [
            Pair(
                r,
                self._data(r, drawn[d]) if self.observed else self.rows[r],
                {n: drawn[d][n] for n in targets[d].names if n.split("[", 1)[0] not in seen},
                float(log_mass[d]) if self.exact else -float(log_q[d]),
                float(log_q[d] + log_mass[d]),
            )
            for d, r in enumerate(numbers)
            if alive[d]
        ]

    def _look(self, alike: bool) -> None:
        """Simulate, always the same pairs, to learn what simulated texts are like and what leads to them.

        Observations that are no texts have nothing to learn of.
        """
        if not any(one.spec.type == "text" for one in self.observed):
            return
        self._seen = {}
        self._show(0, range(LOOK if alike and len(self.rows) >= TIMES else ENDS))
        seen, self._seen = self._seen, None
        self._shapes = {base: self._shapes[base].learnt(found, alike=alike) for base, found in seen.items()}
        self._latents = {}
        lives = self._show(1, range(ENOUGH))
        if sum(lives) < len(lives) / 2 and len(lives) == ENOUGH:  # there was time for all of them
            lives += self._show(1, range(ENOUGH, LOOK))
        found, self._latents = self._latents, None
        self.yields = max(1, sum(lives)) / len(lives)
        self._low_yield = {
            name: low_yield_tokens([ids for _, ids in drawn], [lives[k] for k, _ in drawn], size)
            for (name, size), drawn in found.items()
        }

    def _show(self, seed: int, numbers: range) -> list[bool]:
        """Whether each of the pairs with these numbers, or of the first of them, comes out in shape."""
        rngs = np.random.default_rng(seed).spawn(numbers.stop)
        lives: list[bool] = []
        for part in self._parts(len(numbers)):
            self._first = numbers.start + part.start
            mine = numbers[part]
            self._pairs(rngs[mine.start : mine.stop], [k % len(self.rows) for k in mine])
            lives += self._alive.tolist()
        return lives

    @property
    def seconds(self) -> float:
        """What a pair that is kept takes, by those simulated last; 0 before any was."""
        return 0.0 if self._speed is None else 1.0 / (self._speed * self.yields)

    def kept(self, tags: Sequence[Any]) -> list[Any]:
        """Of one tag for each row number of the last `draw`, those of the pairs that it returned."""
        return [tag for tag, alive in zip(tags, self._alive, strict=True) if alive]

    def forget(self) -> None:
        """Bind rows again from now on."""
        self._simulated.forget()

    # ------------------------------------------------------------- one latent of many draws

    def _latent(
        self, rngs: Sequence[np.random.Generator], name: str, targets: Sequence[Target], mine: Sequence[int],
        drawn: list[dict[str, Value]], log_q: np.ndarray, log_mass: np.ndarray, alive: np.ndarray,
    ) -> None:  # fmt: skip
        groups: dict[tuple[int, str | None, float, bool], list[int]] = {}
        marks = self._low_yield.get(name)
        finite: list[int] = []
        for d in mine:
            info = targets[d].latent(name)
            prior = prior_of(targets[d], name)
            if hasattr(info.support, "ids_of"):
                finite.append(d)
            else:
                spared = marks is None or bool(rngs[d].random() < SPARED)
                groups.setdefault((id(info.support), prior.lm, self._power(prior), spared), []).append(d)
        priors = [prior_of(targets[d], name) for d in finite]
        nodes = [(p.node, p.exponent if p.exponent > 0 and not self.exact else 1.0) for p in priors]
        self._finite(rngs, name, targets, finite, nodes, drawn, log_q, log_mass)
        for (_, _, power, spared), draws in groups.items():
            found = together(
                [
                    drawing(targets[d], prior_of(targets[d], name), {k: (v,) for k, v in drawn[d].items()}, 1)
                    for d in draws
                ]
            )
            support = targets[draws[0]].latent(name).support
            if marks is not None and not spared:
                support = TruncatedSupport(support, marks)
            chosen = SampleEach([rngs[d] for d in draws])
            walk = roll_out(
                found.model, found.contexts, support, chosen, exponent=power, eos_ids=found.eos_ids, late=True
            )
            for d, one, q, m in zip(draws, walk.values, walk.log_q, walk.log_mass, strict=True):
                drawn[d][name] = targets[d].value_of(name, one)
                log_q[d] += q
                log_mass[d] += m
                if marks is not None and marks[list(one)].any():
                    # Most draws that come this far lead nowhere: one in ten goes on, and counts for ten.
                    alive[d] = spared
                    log_q[d] += np.log(SPARED)
                    log_mass[d] -= np.log(SPARED)
            if self._latents is not None:
                lm = targets[draws[0]].latent(name).lm or ""
                size = self.program.models[lm].tokenizer.vocabulary_size
                pairs = [(self._first + d, ids) for d, ids in zip(draws, walk.values, strict=True)]
                self._latents.setdefault((name, size), []).extend(pairs)

    def _power(self, prior: Prior) -> float:
        """What single tokens are drawn with: of a mixture that of the whole, whose parts have their own."""
        own = prior.power if len(prior.parts) == 1 else prior.exponent
        return own if own > 0 and not self.exact else 1.0

    def _finite(
        self, rngs: Sequence[np.random.Generator], name: str, targets: Sequence[Target], mine: Sequence[int],
        nodes: Sequence[tuple[int, float]], drawn: list[dict[str, Value]], log_q: np.ndarray,
        log_mass: np.ndarray,
    ) -> None:  # fmt: skip
        """Values of a finite type, drawn in proportion to exp(exponent × score); (score node, exponent) of each draw.

        Draws of one row are scored together, and those once that differ only in what the score does not read.
        """
        rows: dict[tuple[int, int, float], list[int]] = {}
        for d, (node, exponent) in zip(mine, nodes, strict=True):
            rows.setdefault((id(targets[d]), node, exponent), []).append(d)
        for (_, node, exponent), draws in rows.items():
            target = targets[draws[0]]
            candidates = target.listed(name)
            size = max(1, TOGETHER // len(candidates))
            below = target.graph.ancestors(node)
            read = [one.name for one in target.latents if one.node in below and one.name in drawn[draws[0]]]
            alike: dict[tuple, list[int]] = {}
            for d in draws:
                alike.setdefault(tuple((drawn[d][k].ids, drawn[d][k].text) for k in read), []).append(d)
            groups = list(alike.values())
            for at in range(0, len(groups), size):
                some = groups[at : at + size]
                grid: dict[str, Sequence[Value]] = {
                    k: [drawn[same[0]][k] for same in some for _ in candidates] for k in read
                }
                grid[name] = list(candidates) * len(some)
                column = target.evaluator.node(node, grid, len(grid[name]))
                scores = np.array(column, dtype=np.float64).reshape(len(some), -1)
                for same, row in zip(some, scores * exponent, strict=True):
                    for d in same:
                        place, log_share, mass = _picked(rngs[d], row)
                        drawn[d][name] = candidates[place]
                        log_q[d] += log_share
                        log_mass[d] += mass

    def _observe(
        self, rngs: Sequence[np.random.Generator], name: str, targets: Sequence[Target], mine: Sequence[int],
        drawn: list[dict[str, Value]], log_q: np.ndarray, log_mass: np.ndarray, alive: np.ndarray,
    ) -> None:  # fmt: skip
        scores = [drawing_score(targets[d], targets[d].latent(name), drawn[d]) for d in mine]
        if targets[mine[0]].latent(name).type != "text":
            nodes = [(score, 1.0) for score in scores]
            self._finite(rngs, name, targets, mine, nodes, drawn, log_q, log_mass)
            return
        score = targets[mine[0]].graph[scores[0]]
        assert isinstance(score, LmScore)
        model, contexts, heads, leads = self.program.models[score.lm], [], [], []
        for d, node in zip(mine, scores, strict=True):
            plan = targets[d].evaluator.plan(node)
            known = plan.text[0].text if isinstance(plan.text[0], Known) else ""
            head, lead = split_lead(known)
            contexts += _contexts(targets[d], plan.lm, plan.context, drawn[d])
            heads.append(head)
            leads.append(lead)
        speller = targets[mine[0]].evaluator.spellers[score.lm]
        shape = self._shape(name, score.lm, leads[0])
        found = draw_texts([rngs[d] for d in mine], model, speller, contexts, heads, leads, shape)
        if self._seen is not None:
            self._seen.setdefault(name.split("[", 1)[0], []).extend(found)
        for d, one in zip(mine, found, strict=True):
            alive[d] = one.text is not None
            if one.text is not None:
                drawn[d][name] = Value((), one.text, one.text)
                log_q[d] += one.log_prob
                log_mass[d] += one.log_mass

    # ------------------------------------------------------------- rows

    def _shape(self, name: str, lm: str, lead: str) -> Shape:
        base = name.split("[", 1)[0]
        if base not in self._shapes:
            one = next(o for o in self.observed if o.name == base)
            texts = []
            for row in self.rows:
                cells = [row] if one.table is None else row[one.table]
                texts += [str(cell[one.spec.name]) for cell in cells]  # type: ignore[attr-defined]
            self._shapes[base] = Shape.of(texts or ["."], self.target(0).evaluator.spellers[lm], lead)
        return self._shapes[base]

    def _data(self, row: int, drawn: Mapping[str, Value]) -> Data:
        """The row's data with what was simulated in place of what was observed."""
        data = dict(self.rows[row])
        for one in self.observed:
            if one.table is None:
                data[one.spec.name] = drawn[one.name].datum
            else:
                table = [dict(r) for r in data[one.table]]  # type: ignore[attr-defined]
                for k, cells in enumerate(table):
                    cells[one.spec.name] = drawn[f"{one.name}[{k}]"].datum
                data[one.table] = tuple(table)
        return data

    def _weighed(self, pairs: list[Pair]) -> list[Pair]:
        """The pairs with log weight = log reward − log q of what was drawn by chance with a known q."""
        groups: dict[str, list[int]] = {}
        for k, pair in enumerate(pairs):
            groups.setdefault(repr((pair.row, sorted(pair.data.items(), key=lambda i: i[0]))), []).append(k)
        out = list(pairs)
        for members in groups.values():
            first = pairs[members[0]]
            target = self.program.bind_valid(first.data)
            values = {n: [pairs[k].values[n] for k in members] for n in target.names}
            log_reward = target.log_reward(values)
            for k, r in zip(members, log_reward, strict=True):
                out[k] = evolve(pairs[k], log_weight=float(r) + pairs[k].log_weight)
        return out


def _picked(rng: np.random.Generator, scores: np.ndarray) -> tuple[int, float, float]:
    """A place of (C,) scores drawn in proportion to their exp, the log of its share, and of their sum; nats."""
    mass = float(np.logaddexp.reduce(scores))
    share = np.exp(scores - mass) if np.isfinite(mass) else np.full(len(scores), 1 / len(scores))
    place = int(np.searchsorted(np.cumsum(share), rng.random() * share.sum(), side="right"))
    place = min(place, len(scores) - 1)
    return place, float(np.log(share[place])) if share[place] > 0 else -math.inf, mass


def _contexts(
    target: Target, lm: str, segments: Sequence[Segment], drawn: Mapping[str, Value]
) -> list[tuple[int, ...]]:
    return contexts_of(target, lm, segments, {k: (v,) for k, v in drawn.items()}, 1)[0]


def equally_weighted(
    simulator: Simulator, numbers: Sequence[int], wanted: int, seed: int, stream: int, rounds: int
) -> tuple[list[Pair], float]:
    """Simulated pairs kept with probability exp(log weight − largest seen), and the range of their log weights, nats.

    A weight is the mass of what a pair's supports allow and the rest of its terms. Equal weights come of it, which
    ranks need (rejection; von Neumann 1951), but for weights above the largest seen. `stream` and the next number
    are those of its random numbers; at most `rounds` times `wanted` pairs are simulated.
    """
    pool: list[Pair] = []
    uniform: list[float] = []
    kept: list[Pair] = []
    for part in range(rounds):
        rows = [int(numbers[(part * wanted + k) % len(numbers)]) for k in range(wanted)]
        rngs = [np.random.default_rng([seed, stream, part, k]) for k in range(wanted)]
        drawn = [p for p in simulator.draw(rngs, rows) if p.log_weight > -math.inf]
        pool += drawn
        uniform += np.random.default_rng([seed, stream + 1, part]).random(len(drawn)).tolist()
        top = max((p.log_weight for p in pool), default=0.0)
        kept = [p for p, u in zip(pool, uniform, strict=True) if u < math.exp(p.log_weight - top)]
        if len(kept) >= wanted or (simulator.late is not None and simulator.late()):
            break
    weights = [p.log_weight for p in pool] or [0.0]
    return kept[:wanted], max(weights) - min(weights)
