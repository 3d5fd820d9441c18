"""The support of a text whose grammar is context-free: a finite automaton and a parser side by side.

The parser is llguidance, an Earley parser over the bytes of tokens. It cannot say how
many tokens a beginning still needs, which is the one thing that other supports know.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from attrs import define, field, frozen

from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lm.protocol import Tokenizer
from posterior_lm.support.base import Cache, Stepwise, follow, keep
from posterior_lm.support.text import AroundText, TextSupport
from posterior_lm.support.text import State as PlainState
from posterior_lm.support.token_automata import tokenizer_key

State = tuple[PlainState, tuple[int, ...]]
"""State of the finite automaton, the tokens so far."""

_MATCHERS = 8192
_MASKS = 8192
"""Matchers and masks kept; with GPT-2's vocabulary a mask takes 6 kB as bits."""

_AHEAD = 4
"""Tokens before the cap from which on completions are looked for."""

_FEW, _NEARLY_FEW = 16, 128
"""Where no more tokens are allowed, what follows each of them is looked at, however far the cap; and close to it."""


def _tries(vocabulary: int) -> int:
    """Tokens tried while looking ahead from one state: some milliseconds. Beyond them a state counts as alive.

    Over a small vocabulary a try costs less, and all ways of four tokens are gone.
    """
    return min(4096, max(128, 500_000 // vocabulary))


_WORK, _LOOKED = 10_000, 1_000
"""Matchers asked to count values, less than a second; and to find one."""


_orders = Cache[tuple[object, ...], np.ndarray](4)


def closing_first(tokenizer: Tokenizer) -> np.ndarray:
    """(V,) the tokens: what closes a string, what closes a list, long ones, and white space last.

    In this order the first way through a schema is nearly always a value, and a short one.
    """

    def rank(token: int) -> tuple[int, int]:
        spelled = tokenizer.token_bytes[token] or b" "
        if spelled[0] in b'"}]':
            return (b'"}]'.index(spelled[0]), len(spelled))
        return (4 if spelled[:1].isspace() else 3, -len(spelled))

    def order() -> np.ndarray:
        return np.array(sorted(range(tokenizer.vocabulary_size), key=rank), dtype=np.int64)

    return _orders.get(tokenizer_key(tokenizer), order)


@define(eq=False)
class _Parsers:
    """Matchers by the tokens they have read. They are copied before they read, and never changed after."""

    first: Any
    asked: int = field(init=False, default=0)
    _kept: OrderedDict[tuple[int, ...], Any] = field(init=False, factory=OrderedDict)

    def after(self, ids: tuple[int, ...]) -> Any:
        """The matcher that has read these tokens, which masks allowed one by one."""
        found = self._kept.get(ids)
        if found is None:
            self.asked += 1
            found = self.first.deep_copy() if not ids else self.after(ids[:-1]).deep_copy()
            if ids and not found.consume_token(ids[-1]):
                raise InferenceError.of(
                    "PLM337",
                    f"the grammar's parser gave up: {found.get_error().splitlines()[0]}",
                    help="make the grammar simpler, such as one way only to read a text, or the text shorter",
                )
            keep(self._kept, ids, found, _MATCHERS)  # type: ignore[arg-type]
        return found

    def mask(self, ids: tuple[int, ...], size: int) -> np.ndarray:
        """(V,) bool: the tokens that the grammar allows next."""
        parser = self.after(ids)
        self.asked += 1
        if parser.is_stopped():
            return np.zeros(size, dtype=bool)
        # Asking for a mask can stop a matcher, so a copy is asked.
        bits = np.frombuffer(parser.deep_copy().compute_bitmask(), dtype=np.uint8)
        return np.unpackbits(bits, bitorder="little", count=size).astype(bool)


@frozen(eq=False)
class GrammarSupport(AroundText, Stepwise):
    """The values of a text support whose text is in the language of a grammar or a JSON schema.

    Exact: `accepts` is true of a sequence if and only if walking `allowed` reaches it and
    `may_stop` is true there. Unlike in any other support, a state that can be reached
    need not be one that can be completed, because nothing bounds how many tokens a
    beginning of the grammar still needs. What is certain to be hopeless is left out:
    the last token is looked at, and the ones before it where few are allowed. Where
    all is lost `must_stop` is true and `may_stop` is not: a draw that ends there is no
    value, and its log reward is −∞.
    """

    plain: TextSupport
    _parsers: _Parsers = field(repr=False)
    _complete: bool = field(repr=False)
    """Whether only the cap can cut a beginning off, because tokens spell whatever the parser can go on with."""
    size: None = field(init=False, default=None)
    _masks: dict[State, np.ndarray] = field(init=False, factory=dict, repr=False)

    @classmethod
    def of(cls, plain: TextSupport, matcher: Any, *, complete: bool = False) -> GrammarSupport:
        """`matcher` is an `llguidance.LLMatcher` that has read nothing, over the same vocabulary."""
        return cls(plain, _Parsers(matcher), complete)

    def start(self) -> State:
        return (self.plain.start(), ())

    def allowed(self, state: State) -> np.ndarray:
        size, packed = len(self.plain.columns), self._masks.get(state)
        if packed is None:
            mask = self._possible(state)
            left, budget = self._left(state), [_tries(size)]
            near = left <= _AHEAD
            # Counted first: a list of most of a vocabulary costs more than the mask.
            most = _NEARLY_FEW if near else -1 if self._complete else _FEW
            few = int(np.count_nonzero(mask)) <= most
            for token in np.flatnonzero(mask).tolist() if few else ():
                if budget[0] < 0:
                    break
                mask[token] = not self._hopeless(self._then(state, token), left if near else 1, budget)
            packed = np.packbits(mask)
            keep(self._masks, state, packed, _MASKS)
        mask = np.unpackbits(packed, count=size).view(bool)
        mask.flags.writeable = False
        return mask

    def may_stop(self, state: State) -> bool:
        return self.plain.may_stop(state[0]) and bool(self._parsers.after(state[1]).is_accepting())

    def must_stop(self, state: State) -> bool:
        """Whether nothing may follow; unlike elsewhere, of a state that is no value too."""
        return not self.allowed(state).any()

    def step(self, state: State, token: int) -> State | None:
        """The state after a token, or None where it is not allowed."""
        mask = self.allowed(state)
        return self._then(state, token) if 0 <= token < len(mask) and mask[token] else None

    def accepts(self, ids: Sequence[int]) -> bool:
        state = follow(self.start(), self._next, ids)
        return state is not None and self.may_stop(state)

    def count_values(self, limit: int) -> int | None:
        """How many values there are, or None above `limit` and where counting them would take long."""
        total, end = 0, self._parsers.asked + _WORK
        for state in self._walk():
            total += self.may_stop(state)
            if total > limit or self._parsers.asked > end:
                return None
        return total

    def is_empty(self, order: np.ndarray) -> bool:
        """Whether there certainly is no value, tokens being tried in an order; where looking would take long it says no."""
        # What is looked at here is seldom drawn, so none of it is kept.
        apart = GrammarSupport.of(self.plain, self._parsers.first, complete=self._complete)
        return not any(
            apart.may_stop(state) or apart._parsers.asked > _LOOKED for state in apart._walk(order)
        )

    def _walk(self, order: np.ndarray | None = None) -> Iterator[State]:
        """Every state that can be reached, depth first; the tokens of each in an order, or by number."""
        open_ = [iter((self.start(),))]
        while open_:
            state = next(open_[-1], None)
            if state is None:
                open_.pop()
                continue
            yield state
            mask = self.allowed(state)
            tokens = np.flatnonzero(mask) if order is None else order[mask[order]]
            open_.append(map(partial(self._then, state), tokens.tolist()))

    def _left(self, state: State) -> int:
        return self.max_tokens - len(state[1])

    def _then(self, state: State, token: int) -> State:
        plain, ids = state
        return (self.plain.advance(plain, token), (*ids, token))

    def _next(self, state: State, token: int) -> State | None:
        """The state after a token that both automata read, hopeless or not."""
        if self.plain.step(state[0], token) is None:
            return None
        reads = self._parsers.after(state[1]).deep_copy().try_consume_tokens([token]) == 1
        return self._then(state, token) if reads else None

    def _possible(self, state: State) -> np.ndarray:
        """(V,) the tokens that both the automaton and the grammar allow, hopeless ones included."""
        plain = self.plain.allowed(state[0])
        return plain & self._parsers.mask(state[1], len(plain)) if plain.any() else plain.copy()

    def _hopeless(self, state: State, ahead: int, budget: list[int]) -> bool:
        """Whether certainly no value goes on from here, looking so many tokens ahead."""
        budget[0] -= 1
        if not ahead or budget[0] < 0 or self.may_stop(state):
            return False
        following = np.flatnonzero(self._possible(state)) if self._left(state) else ()
        return all(self._hopeless(self._then(state, int(token)), ahead - 1, budget) for token in following)
