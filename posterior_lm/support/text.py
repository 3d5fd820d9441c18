"""The support of a text latent whose texts a finite automaton reads, and what supports of some of its values share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from attrs import field, frozen

from posterior_lm.support.base import Ending, Stepwise, keep
from posterior_lm.support.byte_automata import DEAD
from posterior_lm.support.token_automata import Edges, count_paths


def raise_unlisted() -> NoReturn:
    """What every text support answers to `values`."""
    raise TypeError("the values of a text are not listed; walk its automaton instead")


class OfText:
    """A support whose values are cut by closing their beginning with the stop, and are never listed."""

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def stop_ids(self) -> tuple[int, ...]: ...

        def accepts(self, ids: Sequence[int]) -> bool: ...

        def allowed(self, state: Any) -> np.ndarray: ...

        def may_stop(self, state: Any) -> bool: ...

    def must_stop(self, state: Any) -> bool:
        return self.may_stop(state) and not self.allowed(state).any()

    def cut(self, ids: Sequence[int], tokens: int) -> tuple[int, ...] | None:
        head = tuple(ids[:tokens])
        if self.accepts(head):
            return head
        closed = head + self.stop_ids
        return closed if self.stop_ids and self.accepts(closed) else None

    def values(self) -> Iterator[tuple[int, ...]]:
        raise_unlisted()


class AroundText(OfText):
    """A support of some of the values of a `plain` one, which ends and is limited as that is."""

    __slots__ = ()

    if TYPE_CHECKING:
        plain: TextSupport

    @property
    def ending(self) -> Ending:
        return self.plain.ending

    @property
    def min_tokens(self) -> int:
        return self.plain.min_tokens

    @property
    def max_tokens(self) -> int:
        return self.plain.max_tokens

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return self.plain.stop_ids


_MASKS = 2048
"""Masks kept; with GPT-2's vocabulary one takes 50 kB."""

State = tuple[int, int]
"""State of the byte automaton, tokens so far."""


@frozen(eq=False)
class TextSupport(OfText, Stepwise):
    """Token sequences whose text a byte automaton accepts, within limits on their number.

    Exact: `accepts` is true of a sequence if and only if walking `allowed` reaches
    it and `may_stop` is true there; every state that can be reached can be
    completed. Without `chars` and `pattern` the bytes need not be whole characters,
    because a value is its tokens. States are (automaton state, tokens so far).

    `after` (S, C) int32 next states and `columns` (V,) int32 as in `TokenDfa`, `finish`
    (max_tokens + 1, S) bool as in `can_finish`, `edges` pairs of states, `accepting` (S,) bool.
    """

    ending: Ending
    min_tokens: int
    max_tokens: int
    stop_ids: tuple[int, ...]
    after: np.ndarray = field(repr=False)
    columns: np.ndarray = field(repr=False)
    accepting: np.ndarray = field(repr=False)
    edges: Edges = field(repr=False)
    finish: np.ndarray = field(repr=False)
    # No cached_property: on a class with slots attrs makes one by `__getattr__`, and every look-up gets slower.
    _phase: np.ndarray = field(init=False, repr=False)
    size: None = field(init=False, default=None)
    _masks: dict[tuple[int, int], np.ndarray] = field(init=False, factory=dict, repr=False)

    @_phase.default
    def _number_rows(self) -> np.ndarray:
        """(R + 1,) equal numbers for counts with equal rows of `finish`, which share masks."""
        return np.unique(self.finish, axis=0, return_inverse=True)[1].reshape(-1)

    def start(self) -> State:
        return (0, 0)

    def allowed(self, state: State) -> np.ndarray:
        here, count = state
        phase = self.phase(count)
        mask = self._masks.get((here, phase))
        if mask is None:
            if phase < 0:
                mask = np.zeros(len(self.columns), dtype=bool)
            else:
                # `DEAD` is -1, which indexes the False appended at the end.
                mask = np.append(self.finish[count + 1], False)[self.after[here]][self.columns]
            mask.flags.writeable = False
            keep(self._masks, (here, phase), mask, _MASKS)
        return mask

    def phase(self, count: int) -> int:
        """A number for the masks after `count` tokens; masks of one state and one phase are the same.

        No row of `finish` lies beyond the cap: -1 stands for "nothing more".
        """
        return int(self._phase[count + 1]) if count < self.max_tokens else -1

    def may_stop(self, state: State) -> bool:
        here, count = state
        return bool(self.accepting[here]) and self.min_tokens <= count <= self.max_tokens

    def step(self, state: State, token: int) -> State | None:
        """The state after a token, or None where it is not allowed."""
        here, count = state
        if count >= self.max_tokens or not 0 <= token < len(self.columns):
            return None
        then = int(self.after[here, self.columns[token]])
        return (then, count + 1) if then != DEAD and self.finish[count + 1, then] else None

    def count_values(self, limit: int) -> int | None:
        """How many token sequences the support holds, or None where there are more than `limit`."""
        return count_paths(self.edges, self.accepting, self.finish, self.min_tokens, limit)
