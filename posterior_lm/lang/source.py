"""Source texts and the spans that point into them.

A span is a source and two code-point offsets, half open. Lines and columns are
computed only when something is printed.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cached_property

from attrs import field, frozen


def is_text(text: str) -> bool:
    """Whether every character has bytes in UTF-8, which half of a surrogate pair has not."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


@frozen
class Source:
    """A named piece of program text: a file, standard input or a Python string."""

    name: str
    text: str = field(repr=False)

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        return (0, *(match.end() for match in re.finditer("\n", self.text)))

    def position(self, offset: int) -> tuple[int, int]:
        """One-based line and column of a code-point offset."""
        offset = max(0, min(offset, len(self.text)))
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def line(self, number: int) -> str:
        """The text of a one-based line, without its line ending."""
        start = self._starts[number - 1]
        end = self._starts[number] - 1 if number < len(self._starts) else len(self.text)
        return self.text[start:end].rstrip("\r")

    @property
    def line_count(self) -> int:
        return len(self._starts)


@frozen
class Span:
    """The half-open range `[start, end)` of code points in a source."""

    source: Source = field(repr=False)
    start: int
    end: int

    @property
    def text(self) -> str:
        return self.source.text[self.start : self.end]

    @property
    def line(self) -> int:
        return self.source.position(self.start)[0]

    def said(self, text: str) -> list[tuple[Span, str]]:
        """A second label with this text; none where no source spells the span."""
        return [(self, text)] if self.end > self.start else []

    def to(self, other: Span) -> Span:
        """The smallest span that covers both; `other` must come from the same source."""
        return Span(self.source, min(self.start, other.start), max(self.end, other.end))


NOWHERE = Span(Source("<built in Python>", ""), 0, 0)
"""The span of a thing that no source text spells."""
