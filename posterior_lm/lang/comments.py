"""Which comment belongs to which statement, and where blank lines stood."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from attrs import frozen

from posterior_lm.lang import ast
from posterior_lm.lang.source import Source, Span


@frozen
class Line:
    """A comment on its own line, and whether a blank line stood before it."""

    text: str
    blank: bool = False


@frozen
class Unit:
    """An item with its comments: on lines above it, and at the end of its (first) line."""

    item: ast.Node
    above: tuple[Line, ...] = ()
    blank: bool = False
    after: str | None = None
    head_after: str | None = None  # behind the `{` of a block


def _start(comment: ast.Comment) -> int:
    return comment.span.start


class Comments:
    """The comments of one module, handed out once each."""

    def __init__(self, module: ast.Module) -> None:
        source = module.program.span.source
        self.source: Source = source
        self.left = sorted((c for c in module.comments if c.span.source is source), key=_start)

    def take(self, start: int, end: int) -> list[ast.Comment]:
        """Removes and returns the comments that begin in [start, end)."""
        low = bisect_left(self.left, start, key=_start)
        high = bisect_left(self.left, end, key=_start)
        taken = self.left[low:high]
        del self.left[low:high]
        return taken

    def next(self, start: int) -> ast.Comment | None:
        """The first comment left that begins at `start` or later."""
        index = bisect_left(self.left, start, key=_start)
        return self.left[index] if index < len(self.left) else None

    def line_of(self, offset: int) -> int:
        return self.source.position(offset)[0]

    def own_line(self, comment: ast.Comment) -> bool:
        line, column = self.source.position(comment.span.start)
        return not self.source.line(line)[: column - 1].strip("\ufeff \t\r\f")

    def here(self, span: Span) -> bool:
        return span.source is self.source and span.end > span.start

    def brace(self, after: int) -> int:
        """The offset of the first `{` from `after` on that is not in a comment."""
        text, at = self.source.text, after
        while at < len(text) and text[at] != "{":
            at = text.find("\n", at) if text[at] == "#" else at + 1
            if at < 0:
                return len(text)
        return at


def units(
    comments: Comments, items: Sequence[ast.Node], start: int, end: int, heads: Sequence[int | None]
) -> tuple[list[Unit], list[Line]]:
    """Items of one block between two offsets with their comments, and what stands after the last.

    `heads` gives, for each item with a block, the offset of its `{`.
    """
    followers = [end] * len(items)  # where the next item begins
    for index in range(len(items) - 1, 0, -1):
        span = items[index].span
        followers[index - 1] = span.start if comments.here(span) else followers[index]
    result: list[Unit] = []
    before = comments.line_of(start)
    for index, item in enumerate(items):
        if not comments.here(item.span):
            result.append(Unit(item))
            continue
        lines, before = _lines(comments, comments.take(start, item.span.start), before, index == 0)
        first_line = comments.line_of(item.span.start)
        blank = first_line - before > 1 and bool(index or lines)
        brace = heads[index]
        inner = comments.take(item.span.start, item.span.end if brace is None else brace)
        behind = _same_line(comments, item.span.end, followers[index])
        head_behind = [] if brace is None else _same_line(comments, brace, item.span.end)
        above, after = list(inner), behind
        if brace is None and not behind and inner and not comments.own_line(inner[-1]):
            after = [above.pop()]
        moved = [Line(c.text.rstrip(), blank and i == 0) for i, c in enumerate(above)]
        result.append(
            Unit(
                item,
                above=(*lines, *moved),
                blank=blank and not moved,
                after=after[0].text.rstrip() if after else None,
                head_after=head_behind[0].text.rstrip() if head_behind else None,
            )
        )
        start = item.span.end
        before = comments.line_of(max(item.span.end - 1, 0))
    rest, _ = _lines(comments, comments.take(start, end), before, not items)
    return result, rest


def _lines(comments: Comments, taken: list[ast.Comment], before: int, first: bool) -> tuple[list[Line], int]:
    lines: list[Line] = []
    for comment in taken:
        line = comments.line_of(comment.span.start)
        lines.append(Line(comment.text.rstrip(), line - before > 1 and not (first and not lines)))
        before = line
    return lines, before


def _same_line(comments: Comments, at: int, end: int) -> list[ast.Comment]:
    """The comment that stands behind offset `at`, on its line."""
    comment = comments.next(at)
    if comment is None or comment.span.start >= end:
        return []
    if comments.line_of(comment.span.start) != comments.line_of(max(at - 1, 0)):
        return []
    return comments.take(comment.span.start, comment.span.end)
