"""Only the token sequences that the tokenizer itself would produce (`canonical=true`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from attrs import field, frozen

from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lm.protocol import Tokenizer
from posterior_lm.support.base import Stepwise, follow, keep
from posterior_lm.support.byte_automata import fragment
from posterior_lm.support.text import AroundText, TextSupport

Window = tuple[int, ...]
State = tuple[int, int, Window]
"""State of the byte automaton, tokens so far, the last tokens that the next one is tested with."""

_MASKS = 256
"""Masks and rows of tests kept, each; with GPT-2's vocabulary one takes 50 kB."""

_ANSWERS = 1 << 20
"""Single answers kept before all are forgotten: some 200 MB at most."""


@frozen(eq=False)
class CanonicalSupport(AroundText, Stepwise):
    """The values of a text support that the tokenizer returns when it reads their text.

    Guaranteed: `accepts` holds only of such sequences, because it encodes the whole
    text again; masks have no dead ends, because a token is allowed only after a
    completion has been found; texts are whole characters. A token that ends one
    character's bytes and holds only the first of another's is left out (GPT-2 has
    four), so that tokens can be tested as soon as a character is whole.

    Walking tests neighbours: a token may follow where encoding the text of the two
    gives the two. Tokens that hold parts of a character are tested together once
    the character is whole. For byte-pair encoding over the whole text that is the
    same as encoding it all, in both directions. A tokenizer that first splits text
    by a pattern, or that segments by longest match or by likelihood, can differ:
    `accepts` then refuses a walk whose neighbours agree and whose whole does not,
    and leaves out a value two of whose neighbours are joined when they stand alone
    (GPT-2's "?'s").

    A new last token costs one `encode` for each token that could follow, about a
    second with GPT-2's vocabulary and no `chars`; the answers are kept.
    """

    plain: TextSupport
    tokenizer: Tokenizer = field(repr=False)
    size: None = field(init=False, default=None)
    _whole: np.ndarray = field(init=False, repr=False)
    _masks: dict[State, np.ndarray] = field(init=False, factory=dict, repr=False)
    _rows: dict[Window, np.ndarray] = field(init=False, factory=dict, repr=False)
    _pairs: dict[Window, bool] = field(init=False, factory=dict, repr=False)
    _ends: dict[State, bool] = field(init=False, factory=dict, repr=False)
    _orders: dict[tuple[int, int], np.ndarray] = field(init=False, factory=dict, repr=False)
    _witness: dict[int, int] = field(init=False, factory=dict, repr=False)

    @_whole.default
    def _find_whole(self) -> np.ndarray:
        pieces = self.tokenizer.token_bytes
        return np.array([fragment(spelled) == (False, False) for spelled in pieces])

    @property
    def possible(self) -> bool:
        """Whether there is any value."""
        return self._can_end(self.start())

    def start(self) -> State:
        return (0, 0, ())

    def allowed(self, state: State) -> np.ndarray:
        mask = self._masks.get(state)
        if mask is None:
            mask = np.zeros(len(self.tokenizer.token_bytes), dtype=bool)
            for token in self._fitting(state):
                mask[token] = self._can_end(self._then(state, token))
            mask.flags.writeable = False
            keep(self._masks, state, mask, _MASKS)
        return mask

    def may_stop(self, state: State) -> bool:
        return self.plain.may_stop(state[:2])

    def step(self, state: State, token: int) -> State | None:
        """The state after a token, or None where it is not allowed."""
        then = self._next(state, token)
        return then if then is not None and self._can_end(then) else None

    def accepts(self, ids: Sequence[int]) -> bool:
        state = follow(self.start(), self._next, ids)
        return state is not None and self.may_stop(state) and self._reads_back(tuple(ids))

    def count_values(self, limit: int) -> int | None:
        """A bound on the number of values, which counts other spellings too, or None above `limit`."""
        return self.plain.count_values(limit)

    def _next(self, state: State, token: int) -> State | None:
        """The state after a token, from where there may be no way on; None where its neighbours forbid it."""
        fits = self.plain.step(state[:2], token) is not None and self._fits(state[2], token)
        return self._then(state, token) if fits else None

    def _then(self, state: State, token: int) -> State:
        """The state after a token that the plain support allows."""
        here, count, window = state
        joined = (*window, token)
        if not self._is_half(joined):
            first = len(joined) - 1
            while first and self._is_half(joined[:first]):
                first -= 1
            joined = joined[first:]
        return (int(self.plain.after[here, self.plain.columns[token]]), count + 1, joined)

    def _fits(self, window: Window, token: int) -> bool:
        joined = (*window, token)
        known = self._pairs.get(joined)
        if known is None:
            known = self._is_half(joined) or self._reads_back(joined)
            if len(self._pairs) >= _ANSWERS:
                self._pairs.clear()
            self._pairs[joined] = known
        return known

    def _fitting(self, state: State) -> list[int]:
        """The tokens that the plain support allows and that pass the test with the window."""
        window = state[2]
        row = self._rows.get(window)
        if row is None:
            row = np.full(len(self.tokenizer.token_bytes), -1, dtype=np.int8)
            keep(self._rows, window, row, _MASKS)
        allowed = self.plain.allowed(state[:2])
        for token in np.flatnonzero(allowed & (row < 0)).tolist():
            joined = (*window, token)
            row[token] = self._is_half(joined) or self._reads_back(joined)
        return np.flatnonzero(allowed & (row > 0)).tolist()

    def _reads_back(self, ids: Window) -> bool:
        """Whether the tokenizer reads the text of these tokens as these tokens."""
        try:
            return self.tokenizer.encode(self._bytes(ids).decode("utf-8")) == ids
        except (UnicodeDecodeError, ModelError):
            return False

    def _is_half(self, ids: Window) -> bool:
        """Whether the tokens, of which the automaton allowed each, end inside a character."""
        try:
            self._bytes(ids).decode("utf-8")
        except UnicodeDecodeError:
            return True
        return False

    def _bytes(self, ids: Window) -> bytes:
        return b"".join(map(self.tokenizer.token_bytes.__getitem__, ids))  # type: ignore[arg-type]

    def _can_end(self, goal: State) -> bool:
        """Whether some value goes on from a state: depth first, every answer kept."""
        known = self._known(goal)
        if known is not None:
            return known
        if len(self._ends) >= _ANSWERS:
            self._ends.clear()
        path = [(goal, self._promising(goal))]
        while path:
            state, tokens = path[-1]
            for token in tokens:
                if not self._fits(state[2], token):
                    continue
                then = self._then(state, token)
                known = self._known(then)
                if known is None:
                    path.append((then, self._promising(then)))
                    break
                if known:
                    self._witness[state[0]] = token
                    # Everything on the path leads here.
                    self._ends.update((above, True) for above, _ in path)
                    return True
            else:
                self._ends[state] = False
                path.pop()
        return False

    def _known(self, state: State) -> bool | None:
        return True if self.may_stop(state) else self._ends.get(state)

    def _promising(self, state: State) -> Iterator[int]:
        """The tokens that the plain support allows, those first that are likely to do."""
        here, count = state[:2]
        allowed = self.plain.allowed((here, count))
        # The plain support shares masks among counts, so one order stands for all of them.
        key = (here, self.plain.phase(count))
        kept = self._orders.get(key)
        if kept is None:
            tokens = np.flatnonzero(allowed)
            ends = self.plain.accepting[self.plain.after[here, self.plain.columns[tokens]]]
            rank = np.where(ends, 0, np.where(self._whole[tokens], 1, 2))
            kept = tokens[np.argsort(rank, kind="stable")]
            keep(self._orders, key, kept, _MASKS)
        witness = self._witness.get(here, -1)
        first = (witness,) if witness >= 0 and allowed[witness] else ()
        return chain(first, map(int, kept))
