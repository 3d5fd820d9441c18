"""What a `condition` can do before its latents are whole: mask tokens, end prefixes, or wait.

A condition is a conjunction of parts (`not (a or b)` is two). Each part is sorted for
each latent that it reads:

- `mask`: it is about this latent alone and can be built into its support, so nothing
  that breaks it is ever drawn;
- `prefix`: the first tokens of a value can already make it false, whatever follows;
- `end`: it is tested on whole values.

A text is masked by what an automaton can follow: `contains`, `starts_with`, `ends_with`,
`matches`, `==` and their negations, with an argument that no latent changes. A finite
latent is masked by any expression of it alone. What stands under an `if` is no mask.

How far the first tokens of a latent settle an expression, whatever follows them, is what
`Directions` finds. For each side of a number (its lower, its upper bound) and of a truth
value (false, true) there is one of three answers: NEVER, KNOWN without these tokens, or by
the TOKENS. `words(z)` only grows with z, so its lower bound is by the tokens and its upper
bound is never known; `words(z) <= 16` can therefore be settled as false. What latents drawn
earlier hold is known; of a later one only that counts are at least 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import IntEnum
from functools import lru_cache
from typing import Literal

from attrs import frozen

from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.nodes import (
    Apply,
    Constant,
    Input,
    Latent,
    Node,
    PlateSum,
    Pool,
    RowField,
    Segments,
    Sum,
    Test,
)  # fmt: skip
from posterior_lm.graph.ops import OPS, spelled
from posterior_lm.lang.automaton import automaton
from posterior_lm.lang.regex import PatternError
from posterior_lm.lang.source import Span

Kind = Literal["mask", "prefix", "end"]

TEXT_TESTS = ("contains", "starts_with", "ends_with", "matches")
"""Functions of a text and a known argument that an automaton can follow."""
EQUAL = {"==": False, "!=": True}
"""Comparisons that are one too, and whether each is a negation."""


@frozen
class Reading:
    """What a part is for one of the latents that it reads, and why."""

    latent: str
    kind: Kind
    why: str


@frozen
class Conjunct:
    """A part of a condition: the expression `node`, which has to be true, or false where `negated`.

    `term` is the place of the statement among the terms of the graph's total.
    """

    term: int
    node: int
    negated: bool
    statement: Span
    readings: tuple[Reading, ...]

    def kind(self, latent: str) -> Kind | None:
        """What it is for a latent; None where it does not read it."""
        return next((r.kind for r in self.readings if r.latent == latent), None)


@frozen
class TextTest:
    """A part about one text latent: `op` of its whole text and `other`, negated or not."""

    latent: int
    op: str
    other: int
    negated: bool


@lru_cache(maxsize=16)
def conjuncts(graph: RewardGraph) -> tuple[Conjunct, ...]:
    """The parts of every condition, in the order of the statements."""
    latents, directions = dict(graph.latents()), Directions(graph)
    sink = graph.sink
    found: list[Conjunct] = []
    for term, (root, info) in enumerate(zip(sink.inputs, sink.terms, strict=True)):
        if info.keyword != "condition":
            continue
        for test in _tests(graph, root):
            for node, negated in _split(graph, graph[test].inputs[0], negated=False):
                readings = _readings(graph, latents, node, negated, directions)
                found.append(Conjunct(term, node, negated, info.span, readings))
    return tuple(found)


def _tests(graph: RewardGraph, i: int) -> Iterator[int]:
    """The `Test` nodes of a condition's term: one, or one per row of a plate."""
    match graph[i]:
        case Test():
            yield i
        case PlateSum(inputs=(_, body)):
            yield from _tests(graph, body)
        case Sum(inputs=rows):
            for row in rows:
                yield from _tests(graph, row)


def _split(graph: RewardGraph, i: int, *, negated: bool) -> Iterator[tuple[int, bool]]:
    """The parts that all have to hold: `and` is split, and a negated `or` by De Morgan's law."""
    match graph[i]:
        case Apply(op="unary not", inputs=(inner,)):
            yield from _split(graph, inner, negated=not negated)
        case Apply(op=op, inputs=parts) if op == ("or" if negated else "and"):
            for part in parts:
                yield from _split(graph, part, negated=negated)
        case Pool(op=op, inputs=(_, row)) if op == ("or" if negated else "and"):  # before data are bound
            yield from _split(graph, row, negated=negated)
        case _:
            yield i, negated


def _readings(
    graph: RewardGraph, latents: Mapping[int, Latent], i: int, negated: bool, directions: Directions
) -> tuple[Reading, ...]:
    read = sorted(latents.keys() & graph.ancestors(i))
    found = []
    for j in read:
        kind, why = _sort(graph, i, j, latents[j], negated, read, directions)
        found.append(Reading(latents[j].name, kind, why))
    return tuple(found)


def _sort(
    graph: RewardGraph, i: int, j: int, latent: Latent, negated: bool, read: list[int], directions: Directions
) -> tuple[Kind, str]:
    if text_test(graph, i, negated) is not None:
        return "mask", "an automaton follows the text"
    if latent.type != "text" and read == [j] and _plain(graph, i):
        return "mask", "its values are listed"
    later = [str(getattr(graph[k], "name", "")) for k in read if k > j]
    if directions.settles(i, j, value=negated):
        return "prefix", "its first tokens can settle it"
    if later:
        return "end", f"it waits for {later[0]}"
    if latent.type != "text":
        return "prefix", "settled when it is drawn"
    return "end", "only the whole text settles it"


def text_test(graph: RewardGraph, i: int, negated: bool) -> TextTest | None:
    """The part as a test of one text latent that an automaton can follow, or None."""
    node = graph[i]
    if not isinstance(node, Apply):
        return None
    if node.op in TEXT_TESTS:
        pairs = [node.inputs]
    elif node.op in EQUAL:
        pairs = [node.inputs, node.inputs[::-1]]
        negated ^= EQUAL[node.op]
    else:
        return None
    for one, other in pairs:
        latent = _text_latent(graph, one)
        if latent is not None and _known(graph, other) and _regular(graph, node.op, other):
            return TextTest(latent, "equals" if node.op in EQUAL else node.op, other, negated)
    return None


def _regular(graph: RewardGraph, op: str, other: int) -> bool:
    """Whether an automaton can follow it: not where a pattern refers back or looks around."""
    pattern = known_text(graph, other)
    if op != "matches" or pattern is None:
        return True
    try:
        automaton(pattern)
    except (PatternError, re.error):
        return False
    return True


def _text_latent(graph: RewardGraph, i: int) -> int | None:
    """The text latent whose whole text the node is."""
    node = graph[i]
    if isinstance(node, Segments) and len(node.inputs) == 1:
        return _text_latent(graph, node.inputs[0])
    return i if isinstance(node, Latent) and node.type == "text" else None


def _known(graph: RewardGraph, i: int) -> bool:
    """Whether binding data makes it a constant: no latent, no model and no user function."""
    return not any(isinstance(graph[k], Latent) for k in graph.ancestors(i)) and _plain(graph, i)


def _plain(graph: RewardGraph, i: int) -> bool:
    """Whether it is built from values by functions that need no model, without an `if`."""
    for k in graph.ancestors(i):
        node = graph[k]
        if isinstance(node, Apply):
            if node.op not in OPS or node.op == "if":
                return False
        elif not isinstance(node, Constant | Input | RowField | Segments | Latent):
            return False
    return True


def known_text(graph: RewardGraph, i: int) -> str | None:
    """The text of a node of a grounded graph that is a constant, alone or in a list; else None."""
    node = graph[i]
    match node:
        case Constant(value=value):
            return spelled(value)
        case Segments(inputs=inputs):
            parts = [known_text(graph, j) for j in inputs]
            return None if None in parts else "".join(p for p in parts if p is not None)
    return None


# ------------------------------------------------------------- what the first tokens settle


class Side(IntEnum):
    """How one side is settled."""

    NEVER = 0
    KNOWN = 1
    TOKENS = 2


Sides = tuple[Side, Side]
"""Of a number (lower, upper bound); of a truth value (false, true); of a text (its beginning, its end)."""

NEVER, KNOWN, TOKENS = Side
COUNTS = frozenset(("words", "chars", "count", "tokens"))


def _all(*sides: Side) -> Side:
    """Settled where every one is."""
    return NEVER if NEVER in sides else max(sides)


class Directions:
    """The sides of every node of one graph, for one latent at a time."""

    def __init__(self, graph: RewardGraph) -> None:
        self.graph = graph
        self._found: dict[tuple[int, int], Sides] = {}
        self._latents: dict[int, set[int]] = {}

    def settles(self, i: int, latent: int, *, value: bool) -> bool:
        """Whether some first tokens of the latent give the truth value `value`, whatever follows."""
        return self.of(i, latent)[int(value)] is TOKENS

    def of(self, i: int, latent: int) -> Sides:
        key = (i, latent)
        if key not in self._found:
            self._found[key] = self._sides(i, self.graph[i], latent)
        return self._found[key]

    def _read(self, i: int) -> set[int]:
        if i not in self._latents:
            self._latents[i] = {j for j in self.graph.ancestors(i) if isinstance(self.graph[j], Latent)}
        return self._latents[i]

    def _sides(self, i: int, node: Node, latent: int) -> Sides:
        if all(j < latent for j in self._read(i)):
            return KNOWN, KNOWN
        match node:
            case Latent(type=type_):
                return (TOKENS, NEVER) if i == latent and type_ == "text" else (NEVER, NEVER)
            case Segments(inputs=inputs):
                return self._joined(inputs, latent)
            case Apply(op=op, inputs=inputs) if op in COUNTS:
                if op == "tokens" and inputs[0] != latent:
                    return KNOWN, NEVER
                beginning = self.of(inputs[0], latent)[0]
                known = op != "count" or self.of(inputs[1], latent) == (KNOWN, KNOWN)
                upper = KNOWN if op == "tokens" else NEVER
                return (TOKENS if beginning is TOKENS and known else KNOWN), upper
            case Apply():
                return self._apply(node, [self.of(j, latent) for j in node.inputs])
        return NEVER, NEVER

    def _joined(self, inputs: tuple[int, ...], latent: int) -> Sides:
        """A text is known up to its first part that is not."""
        beginning = KNOWN
        for j in inputs:
            sides = self.of(j, latent)
            if sides != (KNOWN, KNOWN):
                return max(beginning, sides[0]), NEVER
        return beginning, KNOWN

    def _apply(self, node: Apply, args: list[Sides]) -> Sides:
        match node.op, args:
            case "unary -" | "unary not", [a]:
                return a[1], a[0]
            case "+", [a, b]:
                return _all(a[0], b[0]), _all(a[1], b[1])
            case "min" | "or", [a, b]:
                return _all(a[0], b[0]), max(a[1], b[1])
            case "max" | "and", [a, b]:
                return max(a[0], b[0]), _all(a[1], b[1])
            case "-" | "<" | "<=", [a, b]:
                return _all(a[0], b[1]), _all(a[1], b[0])
            case ">" | ">=", [a, b]:
                return _all(a[1], b[0]), _all(a[0], b[1])
            case "*", [a, b]:
                return self._times(node, a, b)
            case "==", [a, b]:
                return self._unequal(a, b), NEVER
            case "!=", [a, b]:
                return NEVER, self._unequal(a, b)
            case "if", [test, then, orelse]:
                return _either(test, then[0], orelse[0]), _either(test, then[1], orelse[1])
            case "contains", [text, part] if part == (KNOWN, KNOWN):
                return NEVER, text[0]
            case "starts_with", [text, part] if part == (KNOWN, KNOWN):
                return text[0], text[0]
        return NEVER, NEVER

    def _times(self, node: Apply, a: Sides, b: Sides) -> Sides:
        for known, other, place in ((a, b, 0), (b, a, 1)):
            if known == (KNOWN, KNOWN):
                factor = self.graph[node.inputs[place]]
                falls = (
                    isinstance(factor, Constant)
                    and isinstance(factor.value, int | float)
                    and factor.value < 0
                )
                # A factor that data decides counts as positive here; binding makes it a constant.
                return (other[1], other[0]) if falls else other
        whole = _all(*a, *b)
        return whole, whole

    def _unequal(self, a: Sides, b: Sides) -> Side:
        """Two values are certainly different: a bound apart, or texts that begin differently."""
        return max(_all(a[0], b[1]), _all(b[0], a[1]))


def _either(test: Sides, then: Side, orelse: Side) -> Side:
    """Settled by a test that leaves one branch."""
    return max(_all(test[1], then), _all(test[0], orelse))
