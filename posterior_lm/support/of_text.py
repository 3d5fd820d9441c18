"""What every support of a text has in common, and what those around another one take from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from posterior_lm.support.base import Ending

if TYPE_CHECKING:
    from posterior_lm.support.text import TextSupport


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
