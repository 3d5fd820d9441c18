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
from posterior_lm.support.base import Stepwise, follow, keep
from posterior_lm.support.text import AroundText, TextSupport
from posterior_lm.support.text import State as PlainState

State = tuple[PlainState, tuple[int, ...]]
"""State of the finite automaton, the tokens so far."""

_MATCHERS = 8192
_MASKS = 8192
"""Matchers and masks kept; with GPT-2's vocabulary a mask takes 6 kB as bits."""

_AHEAD = 4
"""Tokens before the cap from which on completions are looked for."""

_FEW = 16
"""Where no more tokens are allowed, what follows each of them is looked at, however far the cap."""

_TRIED = 128
"""Tokens tried while looking ahead from one state: some milliseconds. Beyond it a state counts as alive."""

_WORK = 10_000
"""Matchers asked to count values or to find one: less than a second."""


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
    size: None = field(init=False, default=None)
    _masks: dict[State, np.ndarray] = field(init=False, factory=dict, repr=False)

    @classmethod
    def of(cls, plain: TextSupport, matcher: Any) -> GrammarSupport:
        """`matcher` is an `llguidance.LLMatcher` that has read nothing, over the same vocabulary."""
        return cls(plain, _Parsers(matcher))

    def start(self) -> State:
        return (self.plain.start(), ())

    def allowed(self, state: State) -> np.ndarray:
        size, packed = len(self.plain.columns), self._masks.get(state)
        if packed is None:
            mask = self._possible(state)
            left, tried = self._left(state), [0]
            near = left <= _AHEAD
            # Counted first: a list of most of a vocabulary costs more than the mask.
            few = int(np.count_nonzero(mask)) <= (_TRIED if near else _FEW)
            for token in np.flatnonzero(mask).tolist() if few else ():
                if tried[0] > _TRIED:
                    break
                mask[token] = not self._hopeless(self._then(state, token), left if near else 1, tried)
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

    def is_empty(self) -> bool:
        """Whether there certainly is no value; where looking would take long it says no."""
        end = self._parsers.asked + _WORK
        return not any(self.may_stop(state) or self._parsers.asked > end for state in self._walk())

    def _walk(self) -> Iterator[State]:
        """Every state that can be reached, depth first."""
        open_ = [iter((self.start(),))]
        while open_:
            state = next(open_[-1], None)
            if state is None:
                open_.pop()
                continue
            yield state
            open_.append(map(partial(self._then, state), np.flatnonzero(self.allowed(state)).tolist()))

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

    def _hopeless(self, state: State, ahead: int, tried: list[int]) -> bool:
        """Whether certainly no value goes on from here, looking so many tokens ahead."""
        tried[0] += 1
        if not ahead or tried[0] > _TRIED or self.may_stop(state):
            return False
        following = np.flatnonzero(self._possible(state)) if self._left(state) else ()
        return all(self._hopeless(self._then(state, int(token)), ahead - 1, tried) for token in following)
