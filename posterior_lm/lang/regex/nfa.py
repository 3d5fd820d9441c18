"""From the tree of a pattern to a nondeterministic automaton over characters.

Source: Thompson (1968); anchors are tests on empty edges, as in Cox, "Regular
expression matching in the wild" (2010).
"""

from __future__ import annotations

from re import ASCII, LOCALE, MULTILINE, UNICODE
from typing import Any

from attrs import define, field

from posterior_lm.lang.regex.characters import Ranges, characters
from posterior_lm.lang.regex.tree import UNLIMITED, PatternError, not_regular, parse

MOST_NODES = 20_000
"""Nodes of an automaton; counted repeats are written out, so `(a{100}){100}` has 10,000."""


@define
class Nfa:
    """Nodes with at most one edge that reads a character, and any number that read nothing.

    `reads[n]` is (number of a set in `sets`, next node) or None; `empty[n]` holds
    (next node, test), where a test is "" or one of `begin`, `begin line`, `end`,
    `end line`, `last` (before a final line ending), `border`, `inside`, the last two
    with " ascii" behind them where the flag is on.
    """

    pattern: str
    reads: list[tuple[int, int] | None] = field(factory=list)
    empty: list[list[tuple[int, str]]] = field(factory=list)
    sets: dict[Ranges, int] = field(factory=dict)
    start: int = 0
    final: int = 0

    def node(self) -> int:
        if len(self.reads) >= MOST_NODES:
            raise PatternError("too large", f"the pattern needs more than {MOST_NODES:,} steps")
        self.reads.append(None)
        self.empty.append([])
        return len(self.reads) - 1

    def join(self, node: int, then: int, test: str = "") -> None:
        self.empty[node].append((then, test))

    def sequence(self, parts: Any, flags: int, here: int) -> int:
        """Adds the parts one after another behind a node; the node behind the last of them."""
        for part in parts:
            here = self.part(part, flags, here)
        return here

    def part(self, part: tuple[Any, Any], flags: int, here: int) -> int:
        op, argument = str(part[0]), part[1]
        match op:
            case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN":
                which = self.sets.setdefault(characters(part, flags), len(self.sets))
                then = self.node()
                self.reads[here] = (which, then)
                # A node reads one set at most: whatever follows begins at a node of its own.
                behind = self.node()
                self.join(then, behind)
                return behind
            case "BRANCH":
                end = self.node()
                for way in argument[1]:
                    first = self.node()
                    self.join(here, first)
                    self.join(self.sequence(way, flags, first), end)
                return end
            case "SUBPATTERN":
                _, added, dropped, inside = argument
                return self.sequence(inside, _scoped(flags, added, dropped), here)
            case "MAX_REPEAT" | "MIN_REPEAT":
                low, high, inside = argument
                return self.repeat(low, high, inside, flags, here)
            case "AT":
                then = self.node()
                self.join(here, then, _test(str(argument), flags))
                return then
            case "FAILURE":
                return self.node()
        raise not_regular(self.pattern, op)

    def repeat(self, low: int, high: Any, inside: Any, flags: int, here: int) -> int:
        for _ in range(low):
            before, here = here, self.sequence(inside, flags, here)
            if here == before:  # nothing inside, which may be repeated a billion times
                break
        end = self.node()
        if high is UNLIMITED:
            loop, first = self.node(), self.node()
            self.join(here, loop)
            self.join(loop, first)
            self.join(self.sequence(inside, flags, first), loop)
            self.join(loop, end)
            return end
        self.join(here, end)
        for _ in range(high - low):
            first = self.node()
            self.join(here, first)
            here = self.sequence(inside, flags, first)
            self.join(here, end)
        return end


def _scoped(flags: int, added: int, dropped: int) -> int:
    """The flags inside a group that adds some and drops some; a new alphabet replaces the old."""
    alphabets = ASCII | LOCALE | UNICODE
    return ((flags & ~alphabets if added & alphabets else flags) | added) & ~dropped


def _test(where: str, flags: int) -> str:
    alphabet = " ascii" if flags & ASCII else ""
    return {
        "AT_BEGINNING": "begin line" if flags & MULTILINE else "begin",
        "AT_BEGINNING_STRING": "begin",
        "AT_END": "end line" if flags & MULTILINE else "last",
        "AT_END_STRING": "end",
        "AT_BOUNDARY": f"border{alphabet}",
        "AT_NON_BOUNDARY": f"inside{alphabet}",
    }[where]


def nfa(pattern: str) -> Nfa:
    """The automaton of a whole pattern. Raises PatternError."""
    tree = parse(pattern)
    built = Nfa(pattern)
    built.start = built.node()
    try:
        built.final = built.sequence(tree, tree.state.flags, built.start)
    except RecursionError:
        raise PatternError("too large", "the brackets are nested too deeply") from None
    return built
