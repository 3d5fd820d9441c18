"""Fitting pieces of text into lines.

A piece is a string, a `Group` of items between brackets, or `BREAK`, a space
where a long line may be broken. Text that fits stays on one line; otherwise a
line is broken at its `BREAK`s, and then its brackets are opened, the last first.
"""

from __future__ import annotations

from attrs import frozen

WIDTH = 88
INDENT = 2


@frozen
class Group:
    """`open item, item close`; an item is itself a tuple of pieces.

    `comma` says that one may stand behind the last item too.
    """

    open: str
    items: tuple[Pieces, ...]
    close: str
    comma: bool = True


@frozen
class Break:
    pass


BREAK = Break()
Piece = str | Group | Break
Pieces = tuple[Piece, ...]


def flat(pieces: Pieces) -> str:
    """The pieces on one line."""
    out = []
    for piece in pieces:
        if isinstance(piece, Group):
            out.append(piece.open + ", ".join(flat(item) for item in piece.items) + piece.close)
        else:
            out.append(" " if isinstance(piece, Break) else piece)
    return "".join(out)


def layout(pieces: Pieces, indent: int, *, tail: int = 0) -> list[str]:
    """Lines for the pieces, the first indented by `indent`; `tail` characters follow the last."""
    line = " " * indent + flat(pieces)
    if len(line) + tail <= WIDTH:
        return [line]
    parts = _split(pieces)
    if len(parts) > 1:
        deeper = indent + 2 * INDENT
        if all(len(flat(part)) + deeper <= WIDTH - tail for part in parts) or not _groups(pieces):
            lines = [" " * indent + flat(parts[0])]
            return lines + [" " * deeper + flat(part) for part in parts[1:]]
    groups = _groups(pieces)
    if not groups:
        return [line]
    opened = _open(pieces, indent, {groups[-1]}, tail)
    if len(opened[0]) > WIDTH and len(groups) > 1:
        return _open(pieces, indent, set(groups), tail)
    return opened


def _groups(pieces: Pieces) -> list[int]:
    return [i for i, piece in enumerate(pieces) if isinstance(piece, Group) and piece.items]


def _split(pieces: Pieces) -> list[Pieces]:
    parts: list[list[Piece]] = [[]]
    for piece in pieces:
        if isinstance(piece, Break):
            parts.append([])
        else:
            parts[-1].append(piece)
    return [tuple(part) for part in parts]


def _open(pieces: Pieces, indent: int, opened: set[int], tail: int) -> list[str]:
    """The pieces with the groups at these places spread over lines."""
    lines: list[str] = []
    current = " " * indent
    for index, piece in enumerate(pieces):
        if index not in opened or not isinstance(piece, Group):
            current += flat((piece,))
            continue
        lines.append(current + piece.open)
        inner = " " * (indent + INDENT) + ", ".join(flat(item) for item in piece.items)
        if len(inner) <= WIDTH:
            lines.append(inner)
        else:
            for item in piece.items:
                laid = layout(item, indent + INDENT, tail=1)
                lines += [*laid[:-1], laid[-1] + ("," if piece.comma else "")]
        current = " " * indent + piece.close
    return [*lines, current]
