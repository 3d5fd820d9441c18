"""A deterministic automaton over characters, built state by state as texts are read.

Source: the lazy subset construction of Thompson (1968). Every character costs at most
one pass over the nodes of the pattern, whatever the pattern, so reading a text is
linear in its length.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import lru_cache

from attrs import define, field, frozen

from posterior_lm.lang.regex.characters import Ranges, category, classes_of
from posterior_lm.lang.regex.nfa import Nfa, nfa
from posterior_lm.lang.regex.tree import PatternError

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
