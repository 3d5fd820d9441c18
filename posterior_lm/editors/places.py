"""Offsets of a text as the lines and characters that an editor counts, in its own units."""

from __future__ import annotations

import re
from bisect import bisect_right

from lsprotocol import types

_CODECS = {"utf-8": ("utf-8", 1), "utf-16": ("utf-16-le", 2), "utf-32": ("utf-32-le", 4)}


class Places:
    """The places of one text; `units` is the encoding whose units a character is counted in."""

    def __init__(self, text: str, units: str = "utf-16") -> None:
        self.text = text
        self.starts = [0, *(match.end() for match in re.finditer(r"\r\n|\r|\n", text))]
        self.codec, self.size = _CODECS[units]

    def position(self, offset: int) -> types.Position:
        """Where a code point stands; beyond the text, where it ends."""
        offset = max(0, min(offset, len(self.text)))
        line = bisect_right(self.starts, offset) - 1
        before = self.text[self.starts[line] : offset]
        return types.Position(line, len(before.encode(self.codec, "surrogatepass")) // self.size)

    def range(self, start: int, end: int) -> types.Range:
        return types.Range(self.position(start), self.position(end))

    def offset(self, position: types.Position) -> int:
        """The code point at a place; behind a line, its end."""
        if position.line >= len(self.starts):
            return len(self.text)
        start = self.starts[position.line]
        last = position.line + 1 == len(self.starts)
        line = self.text[start : None if last else self.starts[position.line + 1]].rstrip("\r\n")
        units = line.encode(self.codec, "surrogatepass")[: position.character * self.size]
        return start + len(units.decode(self.codec, "ignore"))

    def end(self, line: int) -> int:
        """The code point where a line ends, counted from 1 and by its line feed as a program's spans are."""
        start = 0
        for _ in range(line - 1):
            start = self.text.find("\n", start) + 1
        end = self.text.find("\n", start)
        return len(self.text) if end < 0 else end
