"""How far the first tokens of one latent settle an expression, whatever follows them.

For each side of a number (its lower, its upper bound) and of a truth value (false,
true) there is one of three answers: NEVER, KNOWN without these tokens, or by the TOKENS.
`words(z)` only grows with z, so its lower bound is by the tokens and its upper
bound is never known; `words(z) <= 16` can therefore be settled as false. What latents
drawn earlier hold is known; of a later one only that counts are at least 0.
"""

from __future__ import annotations

from enum import IntEnum

from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.nodes import Apply, Constant, Latent, Node, Segments


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
            case "min", [a, b]:
                return _all(a[0], b[0]), max(a[1], b[1])
            case "max", [a, b]:
                return max(a[0], b[0]), _all(a[1], b[1])
            case "-", [a, b]:
                return _all(a[0], b[1]), _all(a[1], b[0])
            case "*", [a, b]:
                return self._times(node, a, b)
            case "<" | "<=", [a, b]:
                return _all(a[0], b[1]), _all(a[1], b[0])
            case ">" | ">=", [a, b]:
                return _all(a[1], b[0]), _all(a[0], b[1])
            case "and", [a, b]:
                return max(a[0], b[0]), _all(a[1], b[1])
            case "or", [a, b]:
                return _all(a[0], b[0]), max(a[1], b[1])
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
