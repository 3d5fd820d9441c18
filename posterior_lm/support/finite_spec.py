"""What `int(…)` and `one_of(…)` ask of a value, and how each value is spelled."""

from __future__ import annotations

from attrs import field, frozen

from posterior_lm.lang.diagnostics import Diagnostic, error
from posterior_lm.lang.source import Span, is_text
from posterior_lm.support.faults import half_surrogate, reversed_range

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

    def read(self, text: str) -> int | None:
        """The place of the value that this text spells exactly, or None."""
        if not text.startswith(self.lead):
            return None
        digits = text[len(self.lead) :]
        # int() takes far more than decimals ("+1", " 1", "1_0", "١"); spelling back excludes those.
        if len(digits) > 40 or not digits.lstrip("-").isdecimal():
            return None
        try:
            number = self.number(int(digits))
        except ValueError:
            return None
        return number if number is not None and self.spelling(number) == text else None

    def checks(self, span: Span | None = None) -> tuple[Diagnostic, ...]:
        """PLM330 for an empty range, PLM331 for one too long to list, PLM531."""
        if self.high < self.low:
            return (reversed_range(f"int({self.low}..{self.high})", self.low, self.high, span),)
        if not is_text(self.lead):
            return (half_surrogate("lead=", self.lead, span),)
        return _too_many(self.size, f"int({self.low}..{self.high})", span)


@frozen
class ChoiceSpec:
    """`one_of("…", "…")`: the strings in the order of declaration."""

    choices: tuple[str, ...]
    _places: dict[str, int] = field(init=False, repr=False, eq=False)

    @_places.default
    def _find_places(self) -> dict[str, int]:
        return {choice: place for place, choice in enumerate(self.choices)}

    @property
    def size(self) -> int:
        return len(self.choices)

    def datum(self, number: int) -> str:
        """The value with this place in the order of declaration, from 0."""
        return self.choices[number]

    def number(self, datum: object) -> int | None:
        """The place of a value, or None where it is not one."""
        return self._places.get(datum) if isinstance(datum, str) else None

    def spelling(self, number: int) -> str:
        """The text that stands for that value: itself."""
        return self.choices[number]

    def read(self, text: str) -> int | None:
        """The place of the value that this text spells exactly, or None."""
        return self._places.get(text)

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
        found.extend(half_surrogate("", c, span) for c in self.choices if not is_text(c))
        return tuple(found)


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
