"""What a support answers: which tokens may come next, and where a value may stop.

One support per latent is shared by the target, every proposal and every guide,
so a draw outside it cannot happen. States are hashable values; a support holds
caches but no other state, and a full cache forgets its oldest entry rather than grow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

import numpy as np

Ending = Literal["stop", "eos", "free", "value"]
"""How a value of the support ends.

`stop`: the tokens of the stop string are the last of the value, nothing else is
scored. `eos`: end-of-text is scored after the value and is no part of it.
`free`: nothing is scored. `value`: a finite type, whose values' tokens are all
there is."""


class Support(Protocol):
    """A finite automaton over tokens. Every state that can be reached can be completed.

    One support cannot promise that, and says so: `grammar.GrammarSupport`.
    """

    @property
    def ending(self) -> Ending: ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokenizer's own tokens for the stop string; () without one."""
        ...

    @property
    def size(self) -> int | None:
        """How many values there are, where they are listed one by one; else None."""
        ...

    def count_values(self, limit: int) -> int | None:
        """How many values there are, or None above `limit`; an upper bound for `canonical=true`."""
        ...

    def start(self) -> Any: ...

    def allowed(self, state: Any) -> np.ndarray:
        """(V,) bool, read-only: the tokens that may come next. All false where only stopping is left."""
        ...

    def may_stop(self, state: Any) -> bool:
        """Whether the tokens so far are a complete value."""
        ...

    def must_stop(self, state: Any) -> bool:
        """Whether they are complete and nothing may follow (a stop string, or the last value, or the cap).

        Of a `GrammarSupport` also where they are not complete and nothing may follow: a
        dead draw ends there.
        """
        ...

    def advance(self, state: Any, token: int) -> Any:
        """The state after an allowed token; raises ValueError for one that is not."""
        ...

    def accepts(self, ids: Sequence[int]) -> bool:
        """Whether the tokens are exactly one value of the support."""
        ...

    def cut(self, ids: Sequence[int], tokens: int) -> tuple[int, ...] | None:
        """The value that stops after the first `tokens` tokens, or None outside the support.

        The first tokens, then `stop_ids` where the support has a stop and they do
        not end in it already.
        """
        ...

    def values(self) -> Iterator[tuple[int, ...]]:
        """Every value of a finite type, in order of declaration; raises TypeError for text."""
        ...


class Stepwise:
    """What follows from `step`, which gives the state after a token, or None where that is not allowed."""

    __slots__ = ()

    if TYPE_CHECKING:

        def start(self) -> Any: ...

        def step(self, state: Any, token: int) -> Any: ...

        def may_stop(self, state: Any) -> bool: ...

    def advance(self, state: Any, token: int) -> Any:
        then = self.step(state, token)
        if then is None:
            raise ValueError(f"token {token} is not allowed in state {state}")
        return then

    def accepts(self, ids: Sequence[int]) -> bool:
        state = follow(self.start(), self.step, ids)
        return state is not None and self.may_stop(state)


def follow(state: Any, step: Callable[[Any, int], Any], ids: Sequence[int]) -> Any:
    """The state after some tokens, or None from where `step` gives None."""
    for token in ids:
        state = step(state, token)
        if state is None:
            return None
    return state


# ----------------------------------------- what tools write; every other support has the plain answers


def uncounted(support: Support, state: object) -> bool:
    """Whether the target does not count the token that is forced next: a tool with `output="intervene"` writes it."""
    found = getattr(support, "uncounted", None)
    return found is not None and bool(found(state))


def spliced(support: Support, ids: Sequence[int]) -> tuple[bool, ...]:
    """Which tokens of a value, or of its beginning, a tool wrote."""
    found = getattr(support, "spliced", None)
    return (False,) * len(ids) if found is None else tuple(found(ids))


def tokens_left(support: Support, state: object, drawn: int) -> float:
    """How many more tokens may be drawn after `drawn` tokens."""
    found = getattr(support, "left", None)
    return float(support.max_tokens - drawn if found is None else found(state))


# ----------------------------------------------------------------------------------------- caches

Key = TypeVar("Key")
Value = TypeVar("Value")


def keep(kept: dict[Key, Value], key: Key, value: Value, most: int) -> Value:
    """`value`, stored under `key`; the oldest entries leave so that at most `most` remain."""
    while len(kept) >= most:
        # Another thread may have taken the same one.
        kept.pop(next(iter(kept), key), None)
    kept[key] = value
    return value


class Cache(Generic[Key, Value]):
    """At most `most` values by key. Threads may share it; two of them may make the same value at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[Key, Value] = {}
        self._lock = Lock()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key, made where it is not kept."""
        with self._lock:
            found = self._kept.get(key)
        if found is None:
            found = make()
            with self._lock:
                keep(self._kept, key, found, self._most)
        return found
