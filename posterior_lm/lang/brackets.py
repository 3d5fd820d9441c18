"""Brackets, before anything is parsed: unclosed, unopened, mismatched, too deep.

What is missing is put in and what is too much is left out, so that the parser
can go on. Tokens put in have an empty text: a later complaint about them would
be about our repair and is held back.
"""

from __future__ import annotations

from lark.lexer import Token

from posterior_lm.lang.diagnostics import Diagnostic, error
from posterior_lm.lang.source import Source, Span
from posterior_lm.lang.tokens import DECLARATIONS, STATEMENTS, STRAY, span_of

DEEPEST = 100
"""Brackets and operators inside one another; keeps every recursive walk shallow."""

_CLOSERS = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}
_OPENERS = {closer: opener for opener, closer in _CLOSERS.items()}
_TEXT = {"LPAR": "(", "RPAR": ")", "LSQB": "[", "RSQB": "]", "LBRACE": "{", "RBRACE": "}"}
_DEEPENS = frozenset(
    ("PLUS", "MINUS", "STAR", "SLASH", "CIRCUMFLEX", "COMPARE", "AND", "OR", "NOT", "IF")
)
_NOT_AFTER_KEYWORD = frozenset(
    ("COLON", "COMMA", "RPAR", "RSQB", "EQUAL", "TILDE", "DOT", "COMPARE", "PLUS", "STAR",
     "SLASH", "CIRCUMFLEX", "LBRACE", "RBRACE", "RANGE")
)  # fmt: skip
_NOT_AFTER_FIRST = frozenset(("COLON", "COMMA", "RPAR", "RSQB", "DOT"))


def begins_statement(tokens: list[Token], index: int) -> bool:
    """Whether the keyword at `index` begins a statement or declaration, rather than being misused as a name."""
    if tokens[index].type not in STATEMENTS and tokens[index].type not in DECLARATIONS:
        return False
    following = tokens[index + 1].type if index + 1 < len(tokens) else "RBRACE"
    first = index == 0 or (tokens[index - 1].end_line or 0) < (tokens[index].line or 0)
    return following not in (_NOT_AFTER_FIRST if first else _NOT_AFTER_KEYWORD)


def balance(source: Source, tokens: list[Token]) -> tuple[list[Token], list[Diagnostic]]:
    """Tokens whose brackets match, and a diagnostic for each bracket that did not."""
    out: list[Token] = []
    open_: list[Token] = []
    found: list[Diagnostic] = []
    doubtful = False  # the statement holds something already complained about

    def close(visible: Token | None, why: str) -> None:
        """Closes the innermost bracket just before `visible` (or the end) and says so."""
        opener = open_.pop()
        at = visible.start_pos if visible is not None else len(source.text.rstrip())
        if not (doubtful and opener.type != "LBRACE"):
            shown = Span(source, at, visible.end_pos if visible is not None else at)
            found.append(
                error(
                    "PLM102",
                    f"'{_TEXT[opener.type]}' is never closed",
                    span_of(source, opener),
                    "opened here",
                    secondary=[(shown, why)],
                    help=f"add '{_TEXT[_CLOSERS[opener.type]]}'",
                )
            )
        out.append(Token(_CLOSERS[opener.type], "", start_pos=at, end_pos=at))

    for index, token in enumerate(tokens):
        kind = token.type
        if kind == STRAY:
            doubtful = True
        if begins_statement(tokens, index):
            while open_ and open_[-1].type != "LBRACE":
                close(token, "still open where this statement begins")
            doubtful = False
            if kind == "PROGRAM":
                while open_:
                    close(token, "still open where this program begins")
        if kind in _CLOSERS:
            while kind == "LBRACE" and open_ and open_[-1].type != "LBRACE":
                close(token, "still open where this block begins")
            open_.append(token)
        elif kind in _OPENERS:
            wanted = _OPENERS[kind]
            level = [opener.type for opener in open_]
            if kind == "RBRACE":
                reachable = wanted in level
            else:
                last_brace = max((i for i, t in enumerate(level) if t == "LBRACE"), default=-1)
                reachable = wanted in level[last_brace + 1 :]
            if reachable:
                while open_[-1].type != wanted:
                    close(token, "still open here")
                open_.pop()
                doubtful = doubtful and kind != "RBRACE"
            elif open_ and open_[-1].type != "LBRACE" and kind != "RBRACE":
                opener = open_.pop()
                found.append(_mismatch(source, opener, token))
                token = Token(_CLOSERS[opener.type], "", start_pos=token.start_pos, end_pos=token.end_pos)
            else:
                if not doubtful:
                    found.append(_unopened(source, token))
                continue
        out.append(token)
    while open_:
        close(None, "still open at the end of the file")
    return out, found


def too_deep(source: Source, tokens: list[Token]) -> Diagnostic | None:
    """A diagnostic at the token where brackets and operators nest deeper than allowed."""
    levels = [0]  # operators so far at each open bracket
    total = 0
    for index, token in enumerate(tokens):
        if token.type in _CLOSERS:
            levels.append(0)
            total += 1
        elif token.type in _OPENERS:
            if len(levels) > 1:
                total -= levels.pop() + 1
        elif token.type == "COMMA" or begins_statement(tokens, index):
            total -= levels[-1]
            levels[-1] = 0
        elif token.type in _DEEPENS:
            levels[-1] += 1
            total += 1
        if total > DEEPEST:
            return error(
                "PLM108",
                f"nested more than {DEEPEST} deep",
                span_of(source, token),
                "too deep from here on",
                help="name the inner parts with 'let'",
            )
    return None


def _mismatch(source: Source, opener: Token, closer: Token) -> Diagnostic:
    return error(
        "PLM103",
        f"'{_TEXT[closer.type]}' closes '{_TEXT[opener.type]}'",
        span_of(source, closer),
        f"expected '{_TEXT[_CLOSERS[opener.type]]}'",
        secondary=[(span_of(source, opener), "opened here")],
    )


def _unopened(source: Source, closer: Token) -> Diagnostic:
    return error(
        "PLM103",
        f"'{_TEXT[closer.type]}' closes nothing",
        span_of(source, closer),
        "no open bracket before it",
        help="drop it",
    )
