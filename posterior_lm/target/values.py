"""Values of latents: what a draw holds.

A text latent's value is its token sequence; two values with equal text and
different tokens are different values that are reported together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attrs import frozen

from posterior_lm.graph.ops import spelled

Datum = str | int | float | bool | None
"""What expressions and users see of a value; None where there is none."""


@frozen
class Value:
    """One value: its tokens under its latent's tokenizer, its text, and what expressions see."""

    ids: tuple[int, ...]
    text: str
    datum: Datum

    def __str__(self) -> str:
        return self.text


ABSENT = Value((), "", None)
"""What a draw holds of a latent in a branch that it does not take."""


def spelled_datum(datum: Datum) -> str:
    """What expressions see of a value, as text; a dash where there is none."""
    return "\u2013" if datum is None else spelled(datum)


Values = Mapping[str, Sequence[Value]]
"""For every latent by name, N values; entry i of each belongs to draw i."""


def count(values: Values) -> int:
    """N; raises ValueError where the latents disagree."""
    lengths = {len(column) for column in values.values()}
    if len(lengths) > 1:
        raise ValueError(f"latents have different numbers of values: {sorted(lengths)}")
    return lengths.pop() if lengths else 1


def take(values: Values, rows: Sequence[int]) -> dict[str, list[Value]]:
    """The draws with these numbers, in this order."""
    return {name: [column[i] for i in rows] for name, column in values.items()}


def distinct(values: Values, draws: Iterable[int]) -> tuple[list[int], list[int]]:
    """The first of the draws with each combination of values, and of each draw which of these it equals."""
    places: dict[tuple, int] = {}
    first: list[int] = []
    where: list[int] = []
    for d in draws:
        where.append(places.setdefault(tuple(column[d].ids for column in values.values()), len(first)))
        if where[-1] == len(first):
            first.append(d)
    return first, where
