"""The support of a text that tools write into: after a trigger the tokens of an output are forced.

While an output is pending exactly one token is allowed. So whoever draws, scores or trains
gives it log q = 0 by the rule for any forced token, a value holds its outputs, and every
position and cache is what it is for any other token. Given texts are read as drawing would make
them: drawn parts and outputs are tokenised apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from attrs import field, frozen

from posterior_lm.lang.diagnostics import InferenceError, ModelError
from posterior_lm.lm.protocol import Tokenizer
from posterior_lm.support.base import Stepwise, follow, keep
from posterior_lm.support.byte_automata import DEAD
from posterior_lm.support.text import AroundText, TextSupport
from posterior_lm.support.text import State as PlainState
from posterior_lm.support.token_automata import can_finish, count_paths, edges_of
from posterior_lm.support.tool_reach import completes, inside, may_fire, tail
from posterior_lm.tools import ToolSpec, shown_end
from posterior_lm.tools.answers import MOST_TOKENS, Answers, answers_of

Ids = tuple[int, ...]

_KEPT = 1 << 14
"""Answers whose tokens are remembered."""


@frozen(eq=False)
class Spliced:
    """One tool of a text: its trigger as bytes, and its answers as tokens."""

    spec: ToolSpec
    trigger: bytes
    answers: Answers
    tokenizer: Tokenizer = field(repr=False)
    _tokens: dict[str, Ids] = field(init=False, factory=dict, repr=False)

    @classmethod
    def of(cls, spec: ToolSpec, tokenizer: Tokenizer) -> Spliced:
        return cls(spec, spec.trigger.encode(), answers_of(spec), tokenizer)

    def __call__(self, text: str) -> Ids:
        """The tokens that it writes after a text; () where it declines. Raises InferenceError PLM760 to PLM765."""
        answer = self.answers(text)
        if answer is None:
            return ()
        if answer not in self._tokens:
            keep(self._tokens, answer, self._encoded(answer, text), _KEPT)
        return self._tokens[answer]

    def _encoded(self, answer: str, text: str) -> Ids:
        try:
            ids = tuple(self.tokenizer.encode(answer))
            spelled = b"".join(self.tokenizer.token_bytes[i] or b"" for i in ids)
            same = spelled == answer.encode()
        except (ModelError, UnicodeEncodeError):
            same = False
        if not same:
            raise InferenceError.of(
                "PLM763",
                f"the tokenizer cannot spell {shown_end(answer)}, which the tool `{self.spec.name}` writes after {shown_end(text)}",
                help="let the tool write plain characters, or choose a model whose tokens spell them",
            )
        if len(ids) > MOST_TOKENS:
            raise InferenceError.of(
                "PLM764",
                f"the tool `{self.spec.name}` writes {len(ids)} tokens after {shown_end(text)}, more than {MOST_TOKENS}",
                help="let it write less",
            )
        return ids


_MASKS = 4096
"""Masks kept; with GPT-2's vocabulary one takes 50 kB."""

_WORK = 10_000
"""States that are walked to count values: less than a second with a built-in tool."""


class State(NamedTuple):
    """Where a text stands. `plain` and `text` are those after the whole output that is `pending`.

    `plain` is None where a tool wrote what the type does not allow: nothing saves such a text.
    `uncounted` says whether the pending output is one that the target does not count, `closed` whether the next drawn token may
    not go on with the word or number that an output ended with.
    """

    plain: PlainState | None
    text: bytes
    pending: Ids = ()
    uncounted: bool = False
    closed: bool = False


def _in_word(byte: int) -> bool:
    """Whether a byte is of a letter or a digit; every character beyond ASCII counts as a letter, since a token may hold half of one."""
    return byte >= 0x80 or chr(byte).isalnum()


@frozen(eq=False)
class ToolSupport(AroundText, Stepwise):
    """The values of a text support with tools: drawn tokens within its limits, and what tools wrote between.

    After every drawn token whose text ends with a trigger the tool is called with the text so
    far, and the tokens of its answer are forced. A drawn token that holds a trigger before its
    end is outside, so nobody can write past a tool. Spliced text fires no tool, and where the
    stop string has ended the text none is called. Only drawn tokens count for the limits.

    `accepts` is exact. As in a `GrammarSupport`, a state that can be reached need not be one
    that can be completed: a tool may decline or write what the automaton does not allow. Such
    a draw is dead: `must_stop` is true, `may_stop` is not, and its log reward is −∞. What is
    hopeless whatever the tools write is masked.
    """

    plain: TextSupport
    """Without outputs: its `columns` are of drawn tokens."""
    columns: np.ndarray = field(repr=False)
    """(V,) of the tokens that tools write."""
    tools: tuple[Spliced, ...]
    hope: tuple[np.ndarray, ...] = field(repr=False)
    """For each tool (max_tokens + 1, S) bool as `finish`, of states in which it has yet to write."""
    pieces: Sequence[bytes | None] = field(repr=False)
    # No cached_property: on a class with slots attrs makes one by `__getattr__`, and every look-up gets slower.
    _phase: np.ndarray = field(init=False, repr=False)
    _goes_on: np.ndarray = field(init=False, repr=False)
    size: None = field(init=False, default=None)
    _masks: dict[object, np.ndarray] = field(init=False, factory=dict, repr=False)
    _ends: dict[tuple[bytes, bytes], tuple[np.ndarray, np.ndarray]] = field(
        init=False, factory=dict, repr=False
    )

    @_phase.default
    def _number_rows(self) -> np.ndarray:
        """(R + 1,) equal numbers for counts after which equal tokens are allowed: they share masks."""
        rows = np.concatenate([self.plain.finish, *self.hope], axis=1)
        return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)

    @_goes_on.default
    def _begin_in_word(self) -> np.ndarray:
        """(V,) the tokens that go on with a word."""
        return np.array([_in_word((piece or b".")[0]) for piece in self.pieces], dtype=bool)

    @classmethod
    def of(
        cls, plain: TextSupport, columns: np.ndarray, specs: Sequence[ToolSpec],
        hope: tuple[np.ndarray, ...], tokenizer: Tokenizer,
    ) -> ToolSupport:  # fmt: skip
        tools = tuple(Spliced.of(spec, tokenizer) for spec in specs)
        return cls(plain, columns, tools, hope, tokenizer.token_bytes)

    @property
    def max_tokens(self) -> int:
        """A bound of the tokens of a value, spliced ones included."""
        return self.plain.max_tokens * (1 + MOST_TOKENS)

    # ------------------------------------------------------------- the automaton

    def start(self) -> State:
        return State(self.plain.start(), b"")

    def allowed(self, state: State) -> np.ndarray:
        if state.pending or state.plain is None:
            key: object = state.pending[:1]
        else:
            here, count = state.plain
            phase = int(self._phase[count + 1]) if count < self.plain.max_tokens else -1
            key = (here, phase, self._tails(state.text), state.closed)
        mask = self._masks.get(key)
        if mask is None:
            mask = self._mask(state)
            mask.flags.writeable = False
            keep(self._masks, key, mask, _MASKS)
        return mask

    def may_stop(self, state: State) -> bool:
        return state.plain is not None and not state.pending and self.plain.may_stop(state.plain)

    def must_stop(self, state: State) -> bool:
        """Whether nothing may follow; of a dead draw it is true, though it is no value."""
        return not state.pending and not self.allowed(state).any()

    def step(self, state: State, token: int) -> State | None:
        """The state after a token, or None where it is not allowed. Calls a tool whose trigger ends here."""
        if state.pending:
            rest = state.pending[1:]
            return (
                state._replace(pending=rest, uncounted=state.uncounted and bool(rest))
                if token == state.pending[0]
                else None
            )
        mask = self.allowed(state)
        if state.plain is None or not 0 <= token < len(mask) or not mask[token]:
            return None
        here = int(self.plain.after[state.plain[0], self.plain.columns[token]])
        then, text = (here, state.plain[1] + 1), state.text + (self.pieces[token] or b"")
        if not (self.ending == "stop" and self.plain.accepting[here]):
            tool = next((t for t in self.tools if text.endswith(t.trigger)), None)
            if tool is not None and (written := tool(text.decode("utf-8", "replace"))):
                return self._written(then, text, written, tool)
        return State(then if self.plain.finish[then[1], here] else None, text)

    def count_values(self, limit: int) -> int | None:
        """How many values there are, or None above `limit` and where counting them would take long."""
        if self._without_tools(limit) is None:
            return None
        total, work, open_ = 0, 0, [self.start()]
        while open_:
            state = open_.pop()
            total, work = total + self.may_stop(state), work + 1
            if total > limit or work > _WORK:
                return None
            open_ += [self.advance(state, token) for token in np.flatnonzero(self.allowed(state)).tolist()]
        return total

    # ------------------------------------------------------------- what tools wrote

    def uncounted(self, state: State) -> bool:
        """Whether the target does not count the next token: it belongs to an output of `output="intervene"`."""
        return bool(state.pending) and state.uncounted

    def left(self, state: State) -> int:
        """How many more tokens may be drawn."""
        return 0 if state.plain is None else self.plain.max_tokens - state.plain[1]

    def spliced(self, ids: Sequence[int]) -> tuple[bool, ...]:
        """Which tokens of a value, or of its beginning, a tool wrote; none from where they leave the support."""
        return self._marked(ids, lambda state: bool(state.pending))

    def left_out(self, ids: Sequence[int]) -> tuple[bool, ...]:
        """Which tokens of a value the target does not count."""
        return self._marked(ids, self.uncounted)

    def after(self, ids: Sequence[int]) -> State | None:
        """The state after some tokens, or None outside the support."""
        return follow(self.start(), self.step, ids)  # type: ignore[no-any-return]

    def _marked(self, ids: Sequence[int], test: Callable[[State], bool]) -> tuple[bool, ...]:
        marks, state = [False] * len(ids), self.start()
        for place, token in enumerate(ids):
            marks[place] = test(state)
            then = self.step(state, token)
            if then is None:
                break
            state = then
        return tuple(marks)

    # ------------------------------------------------------------- parts

    def _mask(self, state: State) -> np.ndarray:
        size = len(self.columns)
        if state.pending:
            return np.arange(size) == state.pending[0]
        if state.plain is None or state.plain[1] >= self.plain.max_tokens:
            return np.zeros(size, dtype=bool)
        here, count = state.plain
        # `DEAD` is -1, which indexes the False appended at the end.
        after = self.plain.after[here][self.plain.columns]
        mask = np.append(self.plain.finish[count + 1], False)[after]
        for tool, before, hope in zip(self.tools, self._tails(state.text), self.hope, strict=True):
            fires, passes = self._at_trigger(tool.trigger, before)
            mask |= fires & np.append(hope[count + 1], False)[after]
            mask &= ~passes
        return mask & ~self._goes_on if state.closed else mask

    def _at_trigger(self, trigger: bytes, before: bytes) -> tuple[np.ndarray, np.ndarray]:
        """(V,) the tokens after `before` with which the trigger is whole, and those that go on past its end."""
        found = self._ends.get((trigger, before))
        if found is None:
            fires = [b is not None and completes(before, b, trigger) for b in self.pieces]
            passes = [b is not None and inside(before, b, trigger) for b in self.pieces]
            found = keep(self._ends, (trigger, before), (np.array(fires), np.array(passes)), _MASKS)
        return found

    def _written(self, then: PlainState, text: bytes, written: Ids, tool: Spliced) -> State:
        """The state whose pending output is `written`; dead where the automaton does not allow it all."""
        here, count = then
        for token in written:
            here = int(self.plain.after[here, self.columns[token]])
            if here == DEAD:
                return State(None, text)
        if not self.plain.finish[count, here]:
            return State(None, text)
        whole = text + b"".join(self.pieces[token] or b"" for token in written)
        closed = tool.spec.whole and _in_word(whole[-1])
        return State((here, count), whole, written, tool.spec.output == "intervene", closed)

    def _tails(self, text: bytes) -> tuple[bytes, ...]:
        return tuple(tail(text, tool.trigger) for tool in self.tools)

    def _without_tools(self, limit: int) -> int | None:
        """How many values certainly fire no tool, or None above `limit`."""
        plain, dead = self.plain, self.plain.after.shape[1] - 1
        fires = np.logical_or.reduce([may_fire(self.pieces, t.trigger) for t in self.tools])
        edges = edges_of(plain.after, np.where(fires, dead, plain.columns))
        finish = can_finish(edges, plain.accepting, plain.min_tokens, plain.max_tokens)
        return count_paths(edges, plain.accepting, finish, plain.min_tokens, limit)


# ----------------------------------------------------------------------------------- given texts


@frozen
class Disagreement:
    """A given text that goes on otherwise than the tool `tool` writes after `text`."""

    tool: str
    text: str
    written: str


def read(support: ToolSupport, text: str) -> Ids | Disagreement:
    """The tokens of a given text as drawing would make them.

    What stands up to each trigger, and what follows each output, is tokenised on its own.
    The tokens need not be a value of the support.
    """
    ids: Ids = ()
    at = 0
    while True:
        end, tool = _next_trigger(support, text, at)
        if tool is None:
            rest = text[at:]
            return ids + tuple(support.tools[0].tokenizer.encode(rest)) if rest else ids
        ids += tuple(tool.tokenizer.encode(text[at:end]))
        at = end
        state = support.after(ids)
        if state is not None and state.pending:
            written = b"".join(support.pieces[i] or b"" for i in state.pending).decode()
            if not text.startswith(written, at):
                return Disagreement(tool.spec.name, text[:at], written)
            ids += state.pending
            at += len(written)


def _next_trigger(support: ToolSupport, text: str, at: int) -> tuple[int, Spliced | None]:
    """Where the first trigger ends that ends behind `at`, and its tool."""
    found: list[tuple[int, Spliced]] = []
    for tool in support.tools:
        trigger = tool.spec.trigger
        place = text.find(trigger, max(0, at - len(trigger) + 1))
        if place >= 0:
            found.append((place + len(trigger), tool))
    return min(found, key=lambda one: one[0]) if found else (-1, None)
