"""Values apart from any program: JSON and numbers that others wrote, and the values of finite types.

Whatever is wrong with JSON is said in one way. A finite type numbers its values in the order of
declaration and says how each is spelled; the graph keeps it as one of three things: strings or
truth values (`choices`), the ends of a range of whole numbers with the `lead` that is spelled before
each, or the ends of a range of reals with the number of cells that it is cut into (`grid`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, TypeGuard

from attrs import frozen

from posterior_lm.lang.diagnostics import Diagnostic, error
from posterior_lm.lang.source import Span, is_text

DIGITS = 308
"""Of a whole number: every one of so many digits is below the largest float, 1.8e308."""

_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(
    data: str | bytes,
    *,
    finite: bool = True,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """The value that a JSON text spells; `pairs` is the `object_pairs_hook` of `json.loads`.

    Raises ValueError with one line about what is wrong, without a full stop: bytes that are not UTF-8, no
    JSON, brackets nested too deeply, a whole number beyond every float, half of a surrogate pair, and, where
    only `finite` numbers are meant, NaN and Infinity, which Python's reader takes.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        constant = _refuse if finite else None
        found = json.loads(text, object_pairs_hook=pairs, parse_int=_whole, parse_constant=constant)
        if _HALF.search(text):
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as wrong:
        why = f"{wrong.msg.lower()} in line {wrong.lineno}, column {wrong.colno}"
        raise ValueError(why) from None
    except UnicodeDecodeError as wrong:
        raise ValueError(f"byte {wrong.start} is not UTF-8") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, which is no text") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return found


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number that can be computed with: finite, as a float too; true and false are none."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number from 1.8e308 on
        return False


def _whole(word: str) -> int:
    if len(word) > DIGITS:
        raise ValueError(f"a whole number of more than {DIGITS} digits stands in it")
    return int(word)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number that JSON has")


# ------------------------------------------------------------- finite types

MOST_VALUES = 1_000_000
"""Values a finite type may list: a table of a million values of four tokens takes 16 MB."""


@frozen
class IntSpec:
    """`int(low..high, lead=…)`: both ends included, the lead spelled before the number."""

    low: int
    high: int
    lead: str = " "

    @property
    def size(self) -> int:
        return max(0, self.high - self.low + 1)

    @property
    def values(self) -> Sequence[int]:
        return range(self.low, self.high + 1)

    def datum(self, number: int) -> int:
        """The value with this place in the order of declaration, from 0."""
        return self.low + number

    def number(self, datum: object) -> int | None:
        """The place of a value, or None where it is not one."""
        if isinstance(datum, bool) or not isinstance(datum, int):
            return None
        return datum - self.low if self.low <= datum <= self.high else None

    def spelling(self, number: int) -> str:
        """The text that stands for that value."""
        return f"{self.lead}{self.low + number}"

    def checks(self, span: Span | None = None) -> tuple[Diagnostic, ...]:
        """PLM330 for an empty range, PLM331 for one too long to list, PLM531."""
        if self.high < self.low:
            return (reversed_range(f"int({self.low}..{self.high})", self.low, self.high, span),)
        if not is_text(self.lead):
            return (half_surrogate("lead=", self.lead, span),)
        return _too_many(self.size, f"int({self.low}..{self.high})", span)


@frozen
class ChoiceSpec:
    """`one_of("…", "…")`: the strings in the order of declaration; of a `bool` false, then true."""

    choices: tuple[str | bool, ...]

    @cached_property
    def _places(self) -> dict[str | bool, int]:
        return {choice: place for place, choice in enumerate(self.choices)}

    @property
    def size(self) -> int:
        return len(self.choices)

    @property
    def values(self) -> Sequence[str | bool]:
        return self.choices

    def datum(self, number: int) -> str | bool:
        """The value with this place in the order of declaration, from 0."""
        return self.choices[number]

    def number(self, datum: object) -> int | None:
        """The place of a value, or None where it is not one."""
        return self._places.get(datum) if isinstance(datum, str | bool) else None

    def spelling(self, number: int) -> str:
        """The text that stands for that value: itself, or `true` and `false`."""
        value = self.choices[number]
        return value if isinstance(value, str) else str(value).lower()

    def checks(self, span: Span | None = None) -> tuple[Diagnostic, ...]:
        """PLM330 without choices, PLM332 for one listed twice, PLM331 for too many, PLM531."""
        if not self.choices:
            return (
                error(
                    "PLM330",
                    "one_of() has nothing to choose from",
                    span,
                    "no choices",
                    help='list at least one string, such as one_of("yes", "no")',
                ),
            )
        found = list(_too_many(self.size, "one_of(…)", span))
        if len(self._places) < len(self.choices):
            twice = next(c for i, c in enumerate(self.choices) if self._places[c] != i)
            found.append(
                error(
                    "PLM332",
                    f"{twice!r} is listed twice",
                    span,
                    "every choice counts once",
                    help=f"list {twice!r} once",
                )
            )
        found.extend(
            half_surrogate("", c, span) for c in self.choices if isinstance(c, str) and not is_text(c)
        )
        return tuple(found)


@frozen
class GridSpec:
    """`real(low..high, grid=size)`: the midpoints of `size` equally wide cells between the ends."""

    low: float
    high: float
    size: int

    @property
    def values(self) -> Sequence[float]:
        return [self.datum(number) for number in range(self.size)]

    @property
    def width(self) -> float:
        """Of a cell."""
        return (self.high - self.low) / self.size

    def datum(self, number: int) -> float:
        """The midpoint of the cell with this place, from 0, with the digits that tell it from its neighbours."""
        middle = self.low + (number + 0.5) * self.width
        short = float(f"{middle:.12g}")
        return short if abs(short - middle) < 1e-6 * self.width else middle

    def cell(self, number: int) -> tuple[float, float]:
        """The ends of the cell with this place."""
        return self.low + number * self.width, self.low + (number + 1) * self.width

    def nearest(self, datum: float) -> int:
        """The place of the cell that a number lies in, or of the one next to it."""
        return min(self.size - 1, max(0, int((datum - self.low) / self.width)))

    def number(self, datum: object) -> int | None:
        """The place of a midpoint, or None where it is not one."""
        if not is_number(datum):
            return None
        place = self.nearest(datum)
        return place if self.datum(place) == datum else None

    def spelling(self, number: int) -> str:
        """The midpoint in decimal."""
        return str(self.datum(number))

    def checks(self, span: Span | None = None) -> tuple[Diagnostic, ...]:
        """PLM330 for an empty range, PLM331 for too many cells, or for more than floats between its ends."""
        what = f"real({self.low}..{self.high}, grid={self.size})"
        if self.high <= self.low:
            return (reversed_range(what, self.low, self.high, span),)
        if self.width <= 1e-13 * max(abs(self.low), abs(self.high)):
            help = "widen the range, or write a smaller grid"
            return (error("PLM331", f"{what} has cells too narrow for numbers", span, "too fine", help=help),)
        return _too_many(self.size, what, span)


def stick_name(shares: str, rest: Sequence[str]) -> str:
    """What the latent is called that says how much of what is left of a whole goes to the first of the `rest`."""
    return f"{shares}.{':'.join(rest)}"


def shares_of(latents: Iterable[str]) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """By the name of each share among latents, `w.b`, or `w.b[3]` in row 3: those that were broken off before it, and
    the latent that is its own part of what they leave; none of the last share, which is all that they leave."""
    found: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    before: dict[tuple[str, str], tuple[str, ...]] = {}
    for latent in latents:
        base, bracket, place = latent.partition("[")
        whole, _, rest = base.partition(".")
        if ":" in rest:
            share, *others = rest.split(":")
            broken = before.get((whole, place), ())
            found[f"{whole}.{share}{bracket}{place}"] = broken, (latent,)
            before[whole, place] = broken = (*broken, latent)
            if len(others) == 1:
                found[f"{whole}.{others[0]}{bracket}{place}"] = broken, ()
    return found


FiniteSpec = IntSpec | ChoiceSpec | GridSpec


@frozen
class PlaceSpec:
    """A place of a list: a value of its items' type or, where it `may_end`, the list's end, which no expression sees."""

    item: FiniteSpec
    mark: str
    may_end: bool = True

    @property
    def size(self) -> int:
        return self.item.size + self.may_end

    @property
    def values(self) -> Sequence[str | float | None]:
        return [*self.item.values, *[None] * self.may_end]

    def datum(self, number: int) -> str | float | None:
        """The value with this place in the order of declaration, from 0; None of the end, the last one."""
        return self.item.datum(number) if number < self.item.size else None

    def number(self, datum: object) -> int | None:
        """The place of a value, or None where it is not one."""
        return self.item.number(datum) if datum is not None else self.item.size if self.may_end else None

    def spelling(self, number: int) -> str:
        """The text that stands for that value."""
        return self.item.spelling(number) if number < self.item.size else self.mark

    def checks(self, span: Span | None = None) -> tuple[Diagnostic, ...]:
        """What is wrong with the items' type, and PLM418 for an item that begins with the end."""
        if found := self.item.checks(span):
            return found
        for spelled in map(self.item.spelling, range(self.item.size)):
            if spelled.startswith(self.mark):
                message = f"the item {spelled!r} begins with the list's end {self.mark!r}"
                help = "choose an end that no item begins with"
                return (error("PLM418", message, span, "an item, or the end?", help=help),)
        return ()


def finite_spec(
    choices: Sequence[str | bool], low: object = None, high: object = None, lead: object = None,
    grid: object = None,
) -> FiniteSpec | None:  # fmt: skip
    """The values of a type that the graph keeps so; None where it lists none or its ends are not known."""
    if choices:
        return ChoiceSpec(tuple(choices))
    if isinstance(grid, int) and is_number(low) and is_number(high):
        return GridSpec(float(low), float(high), grid)
    if isinstance(low, int) and isinstance(high, int):
        return IntSpec(low, high, "" if lead is None else str(lead))
    return None


# ------------------------------------------------------------- faults, also of texts


def reversed_range(what: str, low: float, high: float, span: Span | None) -> Diagnostic:
    """PLM330: the range that `what` spells has its ends the wrong way round."""
    return error(
        "PLM330",
        f"{what} is empty",
        span,
        f"{low} is more than {high}",
        help=f"write {high}..{low}",
    )


def half_surrogate(what: str, text: str, span: Span | None) -> Diagnostic:
    """PLM531: a text that UTF-8 has no bytes for."""
    return error(
        "PLM531",
        f"{what}{text!a} holds half of a surrogate pair, which no tokenizer can spell",
        span,
        "not a character",
        help="write the character itself",
    )


def _too_many(size: int, what: str, span: Span | None) -> tuple[Diagnostic, ...]:
    if size <= MOST_VALUES:
        return ()
    return (
        error(
            "PLM331",
            f"{what} has {size:,} values, too many to list",
            span,
            f"at most {MOST_VALUES:,}",
            help='narrow the type, or draw the digits as text(chars="0123456789", …)',
        ),
    )


EXACT = 2.0**53
"""Beyond it a float is no sum of ones: its digits would say more than it knows."""


def number_text(value: float | None, digits: int = 3) -> str:
    """A number for people; `-` where there is none."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return f"{value:.{digits}f}" if abs(value) < EXACT else f"{value:.{digits}e}"
