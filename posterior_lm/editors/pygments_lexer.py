"""The lexer that Pygments, and so Sphinx, rich and Jupyter, colours `.plm` with: the language's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from pygments.lexer import Lexer
from pygments.token import (
    Comment,
    Error,
    Keyword,
    Name,
    Number,
    Operator,
    Punctuation,
    String,
    Whitespace,
    _TokenType,
)

from posterior_lm.lang.colours import pieces
from posterior_lm.lang.source import Source

_TOKENS: dict[str, _TokenType] = {
    "comment": Comment.Single, "keyword": Keyword, "string": String, "number": Number, "type": Keyword.Type,
    "name": Name.Variable, "function": Name.Builtin, "call": Name.Function, "option": Name.Attribute, "error": Error,
}  # fmt: skip


class PlmLexer(Lexer):
    """Programs of posterior_lm; found by Pygments under the names `plm` and `posterior_lm`."""

    name = "posterior_lm"
    aliases: ClassVar = ["plm", "posterior_lm"]
    filenames: ClassVar = ["*.plm"]
    mimetypes: ClassVar = ["text/x-plm"]
    url = "https://github.com/posterior-lm/posterior_lm"

    def get_tokens_unprocessed(self, text: str) -> Iterator[tuple[int, Any, str]]:
        at = 0
        for kind, piece in pieces(Source("<text>", text)):
            yield at, _TOKENS[kind] if kind else _plain(piece), piece
            at += len(piece)


def _plain(piece: str) -> _TokenType:
    """Of what has no colour of its own: a name that is read, space, an operator or punctuation."""
    if piece.isspace():
        return Whitespace
    if piece[0].isalpha() or piece[0] == "_":
        return Name
    return Punctuation if piece[0] in "(){}[],:." else Operator
