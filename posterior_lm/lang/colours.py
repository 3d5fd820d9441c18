"""The words of a program by what they are, for whoever shows it in colours: pages, Pygments, editors."""

from __future__ import annotations

from collections.abc import Iterator

from posterior_lm.infer.methods import METHODS
from posterior_lm.lang.lexer import KEYWORDS, STRAY, extent, tokenize
from posterior_lm.lang.signatures import DISTRIBUTIONS, FUNCTIONS, LMS, ROLES, TOOLS
from posterior_lm.lang.source import Source
from posterior_lm.lang.value_types import VALUE_TYPES

KINDS = ("comment", "keyword", "string", "number", "type", "name", "function", "call", "option", "error")
"""The kinds that `pieces` tells apart; "error" is what begins no token."""

_KEYWORD_TYPES = frozenset(word.upper() for word in KEYWORDS)
_KNOWN = frozenset((*FUNCTIONS, *DISTRIBUTIONS, *LMS, *TOOLS, *ROLES))


def pieces(source: Source) -> Iterator[tuple[str | None, str]]:
    """The text in order, cut into pieces with a kind each; joined they are the text again."""
    tokens, comments, _ = tokenize(source)
    marks = [(*extent(t), str(t.type), str(t)) for t in tokens]
    marks += [(c.span.start, c.span.end, "COMMENT", c.text) for c in comments]
    marks.sort()
    at = 0
    for k, (start, end, kind, text) in enumerate(marks):
        if start > at:
            yield None, source.text[at:start]
        before = marks[k - 1][2] if k else ""
        after = marks[k + 1][2] if k + 1 < len(marks) else ""
        yield _kind(kind, text, before, after), source.text[start:end]
        at = max(at, end)
    if at < len(source.text):
        yield None, source.text[at:]


def _kind(kind: str, text: str, before: str, after: str) -> str | None:
    """The kind of a token, from its type and its neighbours' types."""
    if kind == "COMMENT":
        return "comment"
    if kind == STRAY:
        return "error"
    if kind.removesuffix("_BLOCK") in _KEYWORD_TYPES:
        return "keyword"
    if kind in ("STRING", "RAW_STRING"):
        return "string"
    if kind in ("INT", "REAL"):
        return "number"
    if kind == "NAME":
        if before == "COLON" and text in VALUE_TYPES:
            return "type"
        if before in ("LATENT", "GUIDE", "LET", "PROGRAM", "LM", "TOOL", "USE"):
            return "name"
        if after == "LPAR":
            return "function" if text in _KNOWN or text in METHODS else "call"
        if after == "EQUAL" and before in ("COMMA", "LPAR"):
            return "option"
    return None
