"""Patterns as automata over characters.

From the tree of a pattern a nondeterministic automaton is made (Thompson 1968); anchors are tests on
empty edges, as in Cox, "Regular expression matching in the wild" (2010). The deterministic one is built
state by state as texts are read, by Thompson's lazy subset construction. Every character costs at most
one pass over the nodes of the pattern, whatever the pattern, so reading a text is linear in its length.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import lru_cache
from re import ASCII, LOCALE, MULTILINE, UNICODE
from typing import Any

from attrs import define, field, frozen

from posterior_lm.lang.regex import (
    UNLIMITED,
    PatternError,
    Ranges,
    category,
    characters,
    classes_of,
    parse,
    unsupported,
)

# ---------------------------------------------------------------- nondeterministic

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
        raise unsupported(self.pattern, op)

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


# ---------------------------------------------------------------- deterministic

MOST_STATES = 4_000
MOST_WORK = 4_000_000
"""Nodes visited while a whole automaton is built: some seconds. Patterns whose automata
are exponentially large, such as `(a|b)*a(a|b){30}`, end here."""

_KEPT = 2_000
"""States kept while texts are read; beyond it all are forgotten and built again."""

_NEWLINE: Ranges = ((10, 10),)
_INSIDE_OF_NOTHING = re.fullmatch(r"\B", "") is not None
r"""Whether `\B` holds of the empty text, which changed in Python 3.14; `\b` never does."""

PLAIN, LAST, DONE = 0, 1, 2
"""Modes of a node: after `$` before a final line ending, that alone may follow, then nothing."""

State = tuple[frozenset[int], int]
"""Nodes times 3 plus their modes, before empty edges are followed; and what the last character was."""

START, NEWLINE, WORD, ASCII_WORD = 1, 2, 4, 8
"""What a neighbour is, as bits; no bit is set for any other character, or where no test asks."""


@frozen(eq=False)
class CharacterDfa:
    """`table` has a row per state: the next state for each class of characters, -1 where none is.

    State 0 is the start. Characters from `starts[i]` on, up to the next, are of class
    `classes[i]`.
    """

    table: tuple[tuple[int, ...], ...]
    accepting: tuple[bool, ...]
    starts: tuple[int, ...]
    classes: tuple[int, ...]


@define(eq=False)
class Automaton:
    """The automaton of one pattern; `matches` is `re.fullmatch` of it, in linear time."""

    nfa: Nfa
    starts: list[int] = field(init=False)
    classes: list[int] = field(init=False)
    masks: list[int] = field(init=False)
    kinds: list[int] = field(init=False)
    work: int = field(init=False, default=0)
    _steps: dict[State, list[State | bool | None]] = field(init=False, factory=dict)
    _class: dict[str, int] = field(init=False, factory=dict)
    _asks: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        tests = {test for edges in self.nfa.empty for _, test in edges}
        words = [a for a in (0, re.ASCII) if any(t in (f"border{_A[a]}", f"inside{_A[a]}") for t in tests)]
        sets = dict.fromkeys([*self.nfa.sets])
        number = len(sets)
        extra: list[tuple[Ranges, int]] = []
        if tests & {"begin line", "end line", "last"}:
            extra.append((_NEWLINE, NEWLINE))
        extra += [(category("w", a), ASCII_WORD if a else WORD) for a in words]
        self.starts, self.classes, signatures = classes_of([*sets, *(ranges for ranges, _ in extra)])
        self.masks = [s & ((1 << number) - 1) for s in signatures]
        self.kinds = [sum(bit for k, (_, bit) in enumerate(extra) if s >> number + k & 1) for s in signatures]
        self._asks = bool(tests - {""})

    @property
    def start(self) -> State:
        return (frozenset((self.nfa.start * 3,)), START if self._asks else 0)

    def matches(self, text: str) -> bool:
        """Whether the whole text matches."""
        state = self.start
        for char in text:
            then = self.step(state, self.class_of(char))
            if then is None:
                return False
            state = then
        return self.accepts(state)

    def class_of(self, char: str) -> int:
        known = self._class.get(char)
        if known is None:
            known = self._class[char] = self.classes[bisect_right(self.starts, ord(char)) - 1]
        return known

    def step(self, state: State, which: int) -> State | None:
        """The state after a character of a class; None where nothing can match any more."""
        row = self._steps.get(state)
        if row is None:
            if len(self._steps) >= _KEPT:
                self._steps.clear()
            row = self._steps[state] = [False] * len(self.masks)
        then = row[which]
        if then is False:
            then = row[which] = self._step(self._closure(state, self.kinds[which]), which)
        return then  # type: ignore[return-value]

    def accepts(self, state: State) -> bool:
        """Whether a text that ends here matches."""
        return any(item // 3 == self.nfa.final for item in self._closure(state, None))

    def _step(self, closure: set[int], which: int) -> State | None:
        mask, kind = self.masks[which], self.kinds[which]
        reached = set()
        for item in closure:
            node, mode = divmod(item, 3)
            edge = self.nfa.reads[node]
            if edge is None or mode == DONE or not mask >> edge[0] & 1:
                continue
            reached.add(edge[1] * 3 + (DONE if mode == LAST else PLAIN))
        return (frozenset(reached), kind) if reached else None

    def _closure(self, state: State, following: int | None) -> set[int]:
        """The items that empty edges lead to, where a character of this kind follows, or none."""
        items, before = state
        seen, open_ = set(items), list(items)
        while open_:
            node, mode = divmod(open_.pop(), 3)
            for then, test in self.nfa.empty[node]:
                new = mode
                if test == "last":
                    if following is None:
                        pass
                    elif following & NEWLINE and mode != DONE:
                        new = LAST
                    else:
                        continue
                elif test and not _holds(test, before, following):
                    continue
                item = then * 3 + new
                if item not in seen:
                    seen.add(item)
                    open_.append(item)
        self.work += len(seen)
        return seen

    def whole(self) -> CharacterDfa:
        """Every state. Raises PatternError where there are too many."""
        self.work = 0
        numbers = {self.start: 0}
        rows: list[tuple[int, ...]] = []
        accepting: list[bool] = []
        queue = [self.start]
        for state in queue:  # grows while it is read
            row = []
            closures = {kind: self._closure(state, kind) for kind in {*self.kinds}}
            for which, kind in enumerate(self.kinds):
                then = self._step(closures[kind], which)
                self.work += len(closures[kind])
                if then is not None and then not in numbers:
                    numbers[then] = len(numbers)
                    queue.append(then)
                row.append(-1 if then is None else numbers[then])
            rows.append(tuple(row))
            accepting.append(self.accepts(state))
            if len(numbers) > MOST_STATES or self.work > MOST_WORK:
                raise PatternError("too large", "the pattern needs too many states")
        return CharacterDfa(tuple(rows), tuple(accepting), tuple(self.starts), tuple(self.classes))


_A = {0: "", re.ASCII: " ascii"}


def _holds(test: str, before: int, following: int | None) -> bool:
    """Whether an anchor holds between a neighbour and the next, None being the end."""
    first, last = bool(before & START), following is None
    match test:
        case "begin":
            return first
        case "begin line":
            return first or bool(before & NEWLINE)
        case "end":
            return last
        case "end line":
            return last or bool((following or 0) & NEWLINE)
    bit = ASCII_WORD if test.endswith("ascii") else WORD
    inside = test.startswith("inside")
    if first and last:
        return inside and _INSIDE_OF_NOTHING
    return (bool(before & bit) == bool((following or 0) & bit)) == inside


@lru_cache(maxsize=256)
def automaton(pattern: str) -> Automaton:
    """The automaton of a pattern. Raises PatternError where it has none."""
    return Automaton(nfa(pattern))


# ---------------------------------------------------------------- texts of some length, for `plm check`

MOST_STATES_SEARCHED = 300
"""States of a pattern that is worth the quick way."""

_SIZES = ((0, 0x7F, 1), (0x80, 0x7FF, 2), (0x800, 0xD7FF, 3), (0xE000, 0xFFFF, 3), (0x10000, 0x10FFFF, 4))
"""Ranges of characters by their number of bytes in UTF-8; halves of surrogate pairs have none."""

Symbol = tuple[int, int, str | None]
"""A class of characters, their number of bytes, and the character where it counts which one it is."""


def surely_some_text(pattern: str, stop: str | None, chars: str | None, low: int, high: int) -> bool:
    """Whether some text of `low` to `high` bytes matches, ends in its first `stop`, and has only `chars` before.

    False is no answer: a large pattern is not tried. Raises PatternError.
    """
    dfa = automaton(pattern).whole()
    if len(dfa.table) > MOST_STATES_SEARCHED or high > 1_000:
        return False
    symbols = _symbols(dfa, {*(stop or ""), *(chars or "")}, only_special=chars is not None)
    allowed = None if chars is None else {*chars}
    # Next pairs of a state of the pattern and of how much of the stop is spelled, by number of bytes.
    following: dict[tuple[int, int], set[tuple[int, tuple[int, int]]]] = {}
    reached: list[set[tuple[int, int]]] = [{(0, 0)}] + [set() for _ in range(high)]
    done = len(stop or "")
    for length, states in enumerate(reached):
        for state in states:
            if length >= low and dfa.accepting[state[0]] and state[1] == done:
                return True
            if state not in following:
                following[state] = _following(dfa, symbols, stop, allowed, state)
            for size, then in following[state]:
                if length + size <= high:
                    reached[length + size].add(then)
    return False


def _following(
    dfa: CharacterDfa,
    symbols: list[Symbol],
    stop: str | None,
    allowed: set[str] | None,
    state: tuple[int, int],
) -> set[tuple[int, tuple[int, int]]]:
    here, matched = state
    found: set[tuple[int, tuple[int, int]]] = set()
    if stop is not None and matched == len(stop):
        return found
    for which, size, char in symbols:
        then = dfa.table[here][which]
        spelled = (stop or "")[:matched] + (char or "\0")
        after = 0 if stop is None or char is None else _matched(stop, spelled)
        # What cannot be a part of the stop any more belongs to the body.
        body = spelled[: len(spelled) - after]
        if then >= 0 and (allowed is None or {*body} <= allowed):
            found.add((size, (then, after)))
    return found


def _matched(stop: str, spelled: str) -> int:
    """How many of the last characters are the first of the stop."""
    return next(n for n in range(min(len(stop), len(spelled)), -1, -1) if spelled.endswith(stop[:n]))


def _symbols(dfa: CharacterDfa, special: set[str], *, only_special: bool) -> list[Symbol]:
    symbols: list[Symbol] = [
        (dfa.classes[bisect_right(dfa.starts, ord(char)) - 1], len(char.encode()), char)
        for char in sorted(special)
    ]
    if only_special:
        return symbols
    taken = {ord(char) for char in special}
    others: dict[tuple[int, int], None] = {}
    for start, end, which in zip(dfa.starts, (*dfa.starts[1:], 0x110000), dfa.classes, strict=True):
        for first, last, size in _SIZES:
            points = range(max(start, first), min(end - 1, last) + 1)
            # More points than are taken leave one.
            if any(point not in taken for point in points[: len(taken) + 1]):
                others[which, size] = None
    return [*symbols, *((which, size, None) for which, size in others)]
