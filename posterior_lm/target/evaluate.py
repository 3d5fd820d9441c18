"""Evaluating a grounded graph over N draws at once.

Nodes are computed level by level, where a level holds what needs equally many
rounds of language-model calls; nodes that depend on no latent are computed once
and kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from attrs import define, field

from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.nodes import (
    Apply,
    ChoiceScore,
    Constant,
    DistScore,
    Latent,
    LmScore,
    Marker,
    Mix,
    Node,
    Power,
    Role,
    Segments,
    Sum,
    TermInfo,
    Test,
    Total,
)
from posterior_lm.graph.ops import spelled
from posterior_lm.graph.passes import mark
from posterior_lm.lang.diagnostics import CompileError, InferenceError, InternalError, at
from posterior_lm.lang.values import FiniteSpec, finite_spec
from posterior_lm.lm.protocol import LanguageModel
from posterior_lm.support.base import Support
from posterior_lm.target.functions import Column, add, apply, dist, is_nan, mixed, power
from posterior_lm.target.scores import (
    Batch,
    Picked,
    Scored,
    ScorePlan,
    ask_choice,
    ask_group,
    hosts_and_riders,
)
from posterior_lm.target.segments import (
    Computed,
    Known,
    Segment,
    Special,
    Speller,
    Splice,
    Turn,
    Unspellable,
    join,
)
from posterior_lm.target.values import ABSENT, Value, Values, take


@define(eq=False)
class Evaluator:
    """A grounded graph with its models; caches what no draw changes, nothing else."""

    graph: RewardGraph
    models: Mapping[str, LanguageModel]
    spellers: Mapping[str, Speller]
    supports: Mapping[str, Support]
    uses: Mapping[str, Callable[..., object]] = field(factory=dict)
    levels: list[list[int]] = field(init=False)
    plans: dict[int, ScorePlan] = field(factory=dict)
    sides: Mapping[int, frozenset[tuple[int, bool]]] = field(init=False)
    """Of what nothing but a branch reads: the `Mix` nodes, and whether it is in the first part of each."""
    _fixed: dict[int, object] = field(factory=dict)
    _optional: tuple[Latent, ...] = field(init=False)
    """The latents that not every draw has."""

    def __attrs_post_init__(self) -> None:
        self.graph = mark(self.graph)
        self._optional = tuple(node for _, node in self.graph.latents() if node.when is not None)
        self.sides = _sides(self.graph)
        level: dict[int, int] = {}
        for i in _tests_first(self.graph, self.sides) if self.sides else self.graph.order():
            node = self.graph[i]
            tests = (self.graph[mix].inputs[0] for mix, _ in self.sides.get(i, ()))
            below = max((level[j] for j in (*node.inputs, *tests)), default=0)
            level[i] = below + isinstance(node, LmScore | ChoiceScore)
        self.levels = [[] for _ in range(max(level.values(), default=0) + 1)]
        for i in level:
            self.levels[level[i]].append(i)
        self._settle()

    # ------------------------------------------------------------- the walk

    def _settle(self) -> None:
        """Compute what depends on no latent, once."""
        fixed = [[i for i in nodes if i in self.graph.fixed] for nodes in self.levels]
        columns = self._walk(fixed, {}, 1, {})
        self._fixed = {i: column[0] for i, column in columns.items()}

    def columns(self, values: Values, n: int, given: Mapping[int, Column] | None = None) -> dict[int, Column]:
        """N values of every node that the total reads; `given` holds score columns that are known already."""
        needed = self._beyond(given or {})
        moving = [[i for i in nodes if i in needed] for nodes in self.levels]
        return self._walk(moving, values, n, given or {})

    def _beyond(self, given: Mapping[int, Column]) -> set[int]:
        """What has to be computed of the total where some columns are known: parts of those are asked of no model."""
        found: set[int] = set()
        stack = [self.graph.total]
        while stack:
            if (i := stack.pop()) not in found and i not in self.graph.fixed and i not in given:
                found.add(i)
                stack += self.graph[i].inputs
        return found

    def node(self, i: int, values: Values, n: int) -> Column:
        """The N values of one node; only what it reads is computed, so later latents may be absent."""
        return self.some((i,), values, n)[i]

    def some(self, nodes: Sequence[int], values: Values, n: int) -> dict[int, Column]:
        """The N values of these nodes and of what they read; what no draw changes only where it is asked for."""
        needed = self.graph.ancestors(*nodes) - self.graph.fixed
        columns = self._walk([[j for j in level if j in needed] for level in self.levels], values, n, {})
        return columns | {i: [self._fixed[i]] * n for i in nodes if i in self.graph.fixed}

    def readers(self, i: int, values: Values, n: int) -> Sequence[int]:
        """The draws in which something reads a node: those that take the branches it stands in."""
        tests = {self.graph[mix].inputs[0] for mix, _ in self.sides.get(i, ())}
        return self._read(i, self.some(sorted(tests), values, n), n)

    def fixed_value(self, i: int) -> object:
        """The value of a node that depends on no latent."""
        return self._fixed[i]

    def terms(self, values: Values, n: int, given: Mapping[int, Column] | None = None) -> np.ndarray:
        """(N, K) float64 nats: the terms of the log reward; −inf outside the support.

        Raises InferenceError PLM701 (NaN) or PLM704 (+inf) naming the statement.
        """
        held = [k for k, fits in enumerate(self._fits(values, n)) if fits]
        if len(held) == n:
            return self._terms(values, n, given)
        out = np.full((n, len(self.graph.sink.inputs)), -math.inf)
        if held:
            some = {i: [column[d] for d in held] for i, column in (given or {}).items()}
            out[held] = self._terms(take(values, held), len(held), some)
        return out

    def _fits(self, values: Values, n: int) -> np.ndarray:
        """(N,) whether draws hold a value of each latent of a branch that they take, and of no other."""
        out = np.ones(n, dtype=bool)
        for node in self._optional:
            assert node.when is not None
            there = self.node(node.when, values, n)
            out &= [(v != ABSENT) == (t is True) for v, t in zip(values[node.name], there, strict=True)]
        return out

    def _terms(self, values: Values, n: int, given: Mapping[int, Column] | None) -> np.ndarray:
        columns = self.columns(values, n, given)
        sink = self.graph.sink
        out = np.empty((n, len(sink.inputs)))
        for k, i in enumerate(sink.inputs):
            out[:, k] = self._column(columns, i, n)
        for k, info in enumerate(sink.terms):
            for name, support in self.supports.items():
                if info.draws(name):
                    inside = [v == ABSENT or support.accepts(v.ids) for v in values[name]]
                    out[~np.array(inside, dtype=bool), k] = -math.inf
        refuse_nonsense(out, sink.terms)
        return out

    def _column(self, columns: Mapping[int, Column], i: int, n: int) -> Column:
        return columns[i] if i in columns else [self._fixed[i]] * n

    def _at(self, columns: Mapping[int, Column], i: int, d: int) -> Any:
        return columns[i][d] if i in columns else self._fixed[i]

    def _walk(
        self, levels: Sequence[Sequence[int]], values: Values, n: int, given: Mapping[int, Column]
    ) -> dict[int, Column]:
        columns: dict[int, Column] = dict(given)
        for nodes in levels:
            todo = [i for i in nodes if i not in columns]
            scores = [i for i in todo if isinstance(self.graph[i], LmScore | ChoiceScore)]
            columns.update(self._score(scores, columns, values, n))
            for i in todo:
                if i in columns:
                    continue
                rows = self._read(i, columns, n)
                if len(rows) == n:
                    columns[i] = self._node(self.graph[i], columns, values, n)
                else:  # nothing reads it of the other draws
                    some = {j: [columns[j][d] for d in rows] for j in self.graph[i].inputs if j in columns}
                    found = iter(
                        self._node(self.graph[i], some, take(values, rows), len(rows)) if rows else ()
                    )
                    columns[i] = [next(found) if d in set(rows) else math.nan for d in range(n)]
        return columns

    def _read(self, i: int, columns: Mapping[int, Column], n: int) -> Sequence[int]:
        """The draws of which something reads a node, as far as the tests around it are known."""
        rows: Sequence[int] = range(n)
        for mix, first in self.sides.get(i, ()):
            test = self.graph[mix].inputs[0]
            if test in columns or test in self._fixed:
                rows = [d for d in rows if self._at(columns, test, d) != (0 if first else 1)]
        return rows

    # ------------------------------------------------------------- plain nodes

    def _node(self, node: Node, columns: Mapping[int, Column], values: Values, n: int) -> Column:
        match node:
            case Constant(value=value):
                return [value] * n
            case Latent(name=name):
                return [math.nan if v.datum is None else v.datum for v in values[name]]
            case Marker() | Role():
                return [""] * n
        inputs = [self._column(columns, i, n) for i in node.inputs]
        match node:
            case Segments():
                texts = [
                    self._texts(i, column, values) for i, column in zip(node.inputs, inputs, strict=True)
                ]
                return ["".join(t[d] for t in texts) for d in range(n)]
            case Apply():
                return self._apply(node, inputs, values, n)
            case DistScore():
                return dist(node, inputs, n)
            case Test():
                return [math.nan if is_nan(v) else 0.0 if v else -math.inf for v in inputs[0]]
            case Power():
                span = self.graph[node.inputs[0]].span
                return [power(b, t, span) for b, t in zip(*inputs, strict=True)]
            case Mix():
                return [mixed(w, a, b, node.span) for w, a, b in zip(*inputs, strict=True)]
            case Sum() | Total():
                return [add([c[d] for c in inputs]) for d in range(n)]
        raise InternalError(f"cannot evaluate {node.KIND}")

    def _texts(self, i: int, column: Column, values: Values) -> list[str]:
        node = self.graph[i]
        if isinstance(node, Latent):
            return [v.text for v in values[node.name]]
        return [spelled(v) for v in column]

    def _apply(self, node: Apply, inputs: list[Column], values: Values, n: int) -> Column:
        if node.op == "holds":  # a place of a list: an item, rather than the end or nothing
            place = self.graph[node.inputs[0]]
            assert isinstance(place, Latent)
            return [v.datum is not None for v in values[place.name]]
        if node.op == "tokens":
            source = self.graph[node.inputs[0]]
            if isinstance(source, Latent) and source.type == "text":
                return [len(v.ids) for v in values[source.name]]
            speller = next(iter(self.spellers.values()), None)
            if speller is None:
                raise InferenceError.of(
                    "PLM540",
                    "`tokens` counts a model's tokens, and the program declares no model",
                    node.span,
                    help="declare one with `lm`, or count with `words` or `chars`",
                )
            return [len(speller.text(str(t), first=False)) for t in inputs[0]]
        return apply(node, inputs, n, self.uses)

    # ------------------------------------------------------------- scores

    def segments(self, node: int) -> tuple[Segment, ...]:
        """The segments of a `Segments` node; what depends on no latent is known text."""
        found: list[Segment] = []
        for i in self.graph[node].inputs:
            match self.graph[i]:
                case Latent(name=name):
                    found.append(Splice(name))
                case Role(role=role):
                    found.append(Turn(role))
                case Marker(kind=kind, span=span):
                    found.append(Special(kind, span))
                case Constant(value=value):
                    found.append(Known(spelled(value)))
                case _ if i in self.graph.fixed and i in self._fixed:
                    found.append(Known(spelled(self._fixed[i])))  # type: ignore[arg-type]
                case _:
                    found.append(Computed(i))
        return join(found)

    def plan(self, i: int) -> ScorePlan:
        """The compiled form of a score node."""
        if i not in self.plans:
            node = self.graph[i]
            assert isinstance(node, LmScore)
            text = self.segments(node.inputs[1])
            ends = node.bare and self.supports[text[0].latent].ending == "eos"  # type: ignore[union-attr]
            if text and isinstance(text[-1], Special) and text[-1].kind == "eos":
                text, ends = text[:-1], True  # end-of-text may be several tokens, so it is read, not spelled
            context, left_out = self.segments(node.inputs[0]), self._left_out(node, text)
            with at(node.span, "this conversation"):
                laid_out = self.spellers[node.lm].laid_out(context)
                turn = self.spellers[node.lm].turn_ids(context) if ends else ()
            self.plans[i] = ScorePlan(
                i, node.lm, laid_out, text, ends and not turn, node.rides, left_out, turn
            )
        return self.plans[i]

    def _left_out(
        self, node: LmScore, text: Sequence[Segment]
    ) -> Callable[[Sequence[int]], tuple[bool, ...]] | None:
        """What says which tokens of a scored text do not count; None where all do.

        Of a bare latent the outputs of tools with `output="intervene"` are left out. Such an output is
        set from outside, as `do` sets a variable (Pearl 2009): nothing says how likely it was, but all
        that follows is after it. Raises CompileError PLM346 where the model that scores it has other
        tokens than the latent.
        """
        name = text[0].latent if node.bare and isinstance(text[0], Splice) else None
        latent = next((n for _, n in self.graph.latents() if n.name == name), None)
        if latent is None or all(tool.output == "observe" for tool in latent.tools):
            return None
        if latent.name not in self.spellers[node.lm].own:
            message = (
                f"`{node.lm}` has other tokens than `{name}`, so what its tools wrote cannot be left out"
            )
            help = 'give the tools output="observe", or score it with the model that it is drawn from'
            raise CompileError.of("PLM346", message, node.span, "this model's tokens", help=help)
        support: Any = self.supports[latent.name]
        return support.left_out  # type: ignore[no-any-return]

    def _score(
        self, nodes: Sequence[int], columns: Mapping[int, Column], values: Values, n: int
    ) -> dict[int, Column]:
        out: dict[int, Column] = {i: [0.0] * n for i in nodes}
        batches = {lm: Batch(model) for lm, model in self.models.items()}
        plans = {i: self.plan(i) for i in nodes if isinstance(self.graph[i], LmScore)}
        longest: dict[str, tuple[int, int]] = dict.fromkeys(batches, (0, -1))  # tokens, score node
        read = {i: {*self._read(i, columns, n)} for i in nodes}
        spellings: dict[int, Callable[..., Scored]] = {}
        for host, riders in hosts_and_riders(plans):
            speller = self.spellers[host.lm]
            with at(self.graph[host.node].span, "the model reads this"):
                for d in range(n):
                    readers = self._readers(columns, values, d)
                    spelt: list[tuple[ScorePlan, Scored]] = []
                    for plan in (host, *riders):
                        if d not in read[plan.node]:
                            continue
                        if plan.node not in spellings:
                            spellings[plan.node] = plan.spelling(speller)
                        try:
                            spelt.append((plan, spellings[plan.node](*readers)))
                        except Unspellable:
                            out[plan.node][d] = -math.inf
                    if not spelt:
                        continue
                    (first, tokens), *others = spelt
                    longest[host.lm] = max(longest[host.lm], (len(tokens.ids), host.node))

                    def put(node: int, value: float, d: int = d) -> None:
                        out[node][d] = value

                    ask_group(batches[host.lm], first, tokens, others, put)
        choices: list[Callable[[], None]] = []
        for i in nodes:
            node = self.graph[i]
            if isinstance(node, ChoiceScore):
                choices += self._choice(i, node, batches[node.lm], columns, values, sorted(read[i]), out)
        for lm, batch in batches.items():
            asked = longest[lm][1] if longest[lm][1] >= 0 else next(iter(nodes), self.graph.total)
            with at(self.graph[asked].span, "the model reads this"):
                batch.run()
        for finish in choices:
            finish()
        return out

    def _readers(
        self, columns: Mapping[int, Column], values: Values, d: int
    ) -> tuple[Callable[[str], Value], Callable[[int], str]]:
        return (lambda name: values[name][d]), (lambda node: spelled(self._at(columns, node, d)))

    def _choice(
        self, i: int, node: ChoiceScore, batch: Batch, columns: Mapping[int, Column], values: Values,
        read: Sequence[int], out: dict[int, Column],
    ) -> list[Callable[[], None]]:  # fmt: skip
        """Ask for every candidate after each draw's context; what to do once the answers are in."""
        speller = self.spellers[node.lm]
        with at(node.span, "this conversation"):
            context = speller.laid_out(self.segments(node.inputs[0]))
        drawn = isinstance(self.graph[node.inputs[1]], Latent)  # never has a dummy prefix
        lists: dict[tuple[int, ...], FiniteSpec] = {}
        groups: dict[tuple[tuple[int, ...], bool, tuple[int, ...]], list[Picked]] = {}
        for d in read:
            try:
                ids, empty = speller.context(context, *self._readers(columns, values, d))
            except Unspellable:
                out[i][d] = -math.inf
                continue
            ends = self._ends(node, columns, d)
            if ends not in lists:
                lists[ends] = self.candidates(node, columns, d)
            picked = lists[ends].number(self._at(columns, node.inputs[1], d))
            asked = (ids, empty and not drawn, ends)
            groups.setdefault(asked, []).append((picked, partial(out[i].__setitem__, d)))
        # It depends on no latent, so it is the same for all draws.
        power = float(self._at(columns, node.inputs[-1], 0)) if node.powered else 1.0
        finish = []
        for (ids, first, ends), draws in groups.items():  # the values are asked for once after each context
            listed = lists[ends]
            texts = [speller.text(listed.spelling(k), first=first) for k in range(listed.size)]
            finish.append(ask_choice(batch, ids, texts, power, draws))
        return finish

    def _ends(self, node: ChoiceScore, columns: Mapping[int, Column], d: int) -> tuple[int, ...]:
        return () if node.choices else tuple(int(self._at(columns, j, d)) for j in node.inputs[2:4])

    def candidates(self, node: ChoiceScore, columns: Mapping[int, Column], d: int) -> FiniteSpec:
        """The values that `choice` renormalises over in draw d."""
        low, high = self._ends(node, columns, d) or (None, None)
        found = finite_spec(node.choices, low, high, node.lead)
        assert found is not None
        return found


def _sides(graph: RewardGraph) -> dict[int, frozenset[tuple[int, bool]]]:
    """The sides of mixtures that all that reads a node stands in, of what the total reads."""
    if not any(isinstance(node, Mix) for node in graph.nodes.values()):
        return {}
    found: dict[int, frozenset[tuple[int, bool]]] = {graph.total: frozenset()}
    for i in reversed(graph.order()):
        node = graph[i]
        for place, j in enumerate(node.inputs if i in found else ()):
            mine = found[i] | ({(i, place == 1)} if isinstance(node, Mix) and place else set())
            found[j] = found[j] & mine if j in found else mine
    return {i: sides for i, sides in found.items() if sides}


def _tests_first(graph: RewardGraph, sides: Mapping[int, frozenset[tuple[int, bool]]]) -> list[int]:
    """Every node after its inputs, and after the tests of the branches that it stands in."""
    placed: dict[int, None] = {}
    stack = [*reversed(graph.order())]
    while stack:
        i = stack[-1]
        tests = sorted(graph[mix].inputs[0] for mix, _ in sides.get(i, ()))
        before = [j for j in (*graph[i].inputs, *tests) if j not in placed]
        if before and i not in placed:
            stack += before
        else:
            placed[stack.pop()] = None
    return [*placed]


def refuse_nonsense(terms: np.ndarray, statements: Sequence[TermInfo]) -> None:
    """Raises InferenceError PLM701 (NaN) or PLM704 (+inf, also of a sum) for terms (N, K) of K statements."""
    for code, bad, what in (
        ("PLM701", np.isnan(terms), "is not a number"),
        ("PLM704", terms == math.inf, "is +infinity"),
    ):
        if bad.any():
            info = statements[int(np.argmax(bad.any(axis=0)))]
            draws = int(bad.any(axis=1).sum())
            raise InferenceError.of(
                code,
                f"the term of `{info.label}` {what} for {draws} of {len(terms)} draws",
                info.span,
                "this statement",
                help="guard the expression, for example with `if … then … else …`",
            )
    with np.errstate(over="ignore", invalid="ignore"):
        lost = ~np.isfinite(terms.sum(axis=1)) & np.isfinite(terms).all(axis=1)
    if lost.any():  # −inf would pass for "outside the support"
        row = np.abs(terms[int(np.argmax(lost))])
        info = statements[int(np.argmax(row))]
        message = f"the log reward is beyond every number for {int(lost.sum())} of {len(terms)} draws"
        help = "let the statements add up to less than 1.8e308 nats"
        raise InferenceError.of("PLM704", message, info.span, "the largest term", help=help)
