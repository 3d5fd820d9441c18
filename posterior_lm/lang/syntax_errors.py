"""What is wrong with a sequence of tokens, in English: brackets, and what stands where it cannot.

Brackets come before anything is parsed: unclosed, unopened, mismatched, too deep. What is
missing is put in and what is too much is left out, so that the parser can go on. Tokens put
in have an empty text: a later complaint about them would be about our repair and is held back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from lark.lexer import Token

from posterior_lm.lang.diagnostics import Diagnostic, error, nearest, shortened
from posterior_lm.lang.lexer import DECLARATIONS, KEYWORDS, MOST_ERRORS, STATEMENTS, STRAY, extent, span_of
from posterior_lm.lang.source import Source, Span

# ---------------------------------------------------------------- brackets

DEEPEST = 100
"""Brackets and operators inside one another; keeps every recursive walk shallow."""

_CLOSERS = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}
_OPENERS = {closer: opener for opener, closer in _CLOSERS.items()}
_TEXT = {"LPAR": "(", "RPAR": ")", "LSQB": "[", "RSQB": "]", "LBRACE": "{", "RBRACE": "}"}
_DEEPENS = frozenset(("PLUS", "MINUS", "STAR", "SLASH", "CIRCUMFLEX", "COMPARE", "AND", "OR", "NOT", "IF"))
_NOT_AFTER_KEYWORD = frozenset(
    ("COLON", "COMMA", "RPAR", "RSQB", "EQUAL", "TILDE", "DOT", "COMPARE", "PLUS", "STAR",
     "SLASH", "CIRCUMFLEX", "LBRACE", "RBRACE", "RANGE")
)  # fmt: skip
_NOT_AFTER_FIRST = frozenset(("COLON", "COMMA", "RPAR", "RSQB", "DOT"))
BEGINNINGS = sorted(kind.lower().removesuffix("_block") for kind in STATEMENTS - {"ELSE_BLOCK"})
"""The words that a statement begins with."""


def begins_statement(tokens: list[Token], index: int) -> bool:
    """Whether the keyword at `index` begins a statement or declaration; else it is misused as a name."""
    if tokens[index].type not in STATEMENTS and tokens[index].type not in DECLARATIONS:
        return False
    following = tokens[index + 1].type if index + 1 < len(tokens) else "RBRACE"
    first = index == 0 or (tokens[index - 1].end_line or 0) < (tokens[index].line or 0)
    return following not in (_NOT_AFTER_FIRST if first else _NOT_AFTER_KEYWORD)


def misspelt_statement(tokens: list[Token], index: int) -> bool:
    """Whether a line begins with a word that is almost a statement's keyword, then a value."""
    token = tokens[index]
    if token.type != "NAME" or index + 1 >= len(tokens):
        return False
    if tokens[index + 1].type not in ("NAME", "STRING", "INT", "REAL", "LSQB"):
        return False
    if (tokens[index - 1].end_line or 0) >= (token.line or 0):
        return False
    return nearest(str(token), BEGINNINGS) is not None


def balance(source: Source, tokens: list[Token]) -> tuple[list[Token], list[Diagnostic]]:
    """Tokens whose brackets match, and a diagnostic for each bracket that did not."""
    balancer = _Balancer(source)
    for index, token in enumerate(tokens):
        if token.type == STRAY:
            balancer.doubtful = True
        if begins_statement(tokens, index):
            balancer.statement(token)
        elif token.type == "TILDE":
            balancer.close_to("LBRACE", token, "still open here")  # no other bracket holds a `~`
        if token.type in _CLOSERS:
            balancer.opener(token)
        elif token.type in _OPENERS:
            balancer.closer(token)
        else:
            balancer.out.append(token)
    while balancer.open:
        balancer.close(None, "still open at the end of the file")
    return balancer.out, balancer.found


class _Balancer:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.out: list[Token] = []
        self.open: list[Token] = []
        self.counts = [Counter[str]()]  # open ( and [ in each open block
        self.found: list[Diagnostic] = []
        self.doubtful = False  # the statement holds something already complained about

    def statement(self, token: Token) -> None:
        """A statement begins: no ( or [ of an earlier one is open any more."""
        self.close_to("LBRACE", token, "still open where this statement begins")
        self.doubtful = False
        if token.type == "PROGRAM":
            while self.open:
                self.close(token, "still open where this program begins")

    def opener(self, token: Token) -> None:
        if token.type == "LBRACE":
            self.close_to("LBRACE", token, "still open where this block begins")
            self.counts.append(Counter())
        else:
            self.counts[-1][token.type] += 1
        self.open.append(token)
        self.out.append(token)

    def closer(self, token: Token) -> None:
        kind, wanted = token.type, _OPENERS[token.type]
        block = kind == "RBRACE"
        if len(self.counts) > 1 if block else self.counts[-1][wanted] > 0:
            self.close_to(wanted, token, "still open here")
            self._pop()
            self.doubtful = self.doubtful and not block
        elif not block and self.open and self.open[-1].type != "LBRACE":
            opener = self._pop()
            self._report(
                "PLM103",
                f"'{_TEXT[token.type]}' closes '{_TEXT[opener.type]}'",
                span_of(self.source, token),
                f"expected '{_TEXT[_CLOSERS[opener.type]]}'",
                secondary=[(span_of(self.source, opener), "opened here")],
            )
            token = Token(_CLOSERS[opener.type], "", start_pos=token.start_pos, end_pos=token.end_pos)
        else:
            if not self.doubtful:
                self._report("PLM103", f"'{_TEXT[token.type]}' closes nothing", span_of(self.source, token),
                             "no open bracket before it", help="drop it")  # fmt: skip
            return
        self.out.append(token)

    def close(self, visible: Token | None, why: str) -> None:
        """Closes the innermost bracket just before `visible`, or the end, and says so."""
        opener = self._pop()
        end = len(self.source.text.rstrip())
        at, until = extent(visible) if visible is not None else (end, end)
        if not (self.doubtful and opener.type != "LBRACE"):
            self._report(
                "PLM102",
                f"'{_TEXT[opener.type]}' is never closed",
                span_of(self.source, opener),
                "opened here",
                secondary=[(Span(self.source, at, until), why)],
                help=f"add '{_TEXT[_CLOSERS[opener.type]]}'",
            )
        self.out.append(Token(_CLOSERS[opener.type], "", start_pos=at, end_pos=at))

    def close_to(self, kind: str, visible: Token, why: str) -> None:
        while self.open and self.open[-1].type != kind:
            self.close(visible, why)

    def _pop(self) -> Token:
        opener = self.open.pop()
        if opener.type == "LBRACE":
            self.counts.pop()
        else:
            self.counts[-1][opener.type] -= 1
        return opener

    def _report(self, *parts: Any, **more: Any) -> None:
        if len(self.found) <= MOST_ERRORS:
            self.found.append(error(*parts, **more))


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


# ---------------------------------------------------------------- what the parser found, and what it expected

_EXPRESSION = frozenset(
    ("STRING", "RAW_STRING", "INT", "REAL", "TRUE", "FALSE", "BOS", "EOS", "NAME", "LPAR", "LSQB",
     "MINUS", "NOT", "IF")
)  # fmt: skip
_OPERATOR = frozenset(("PLUS", "MINUS", "STAR", "SLASH", "CIRCUMFLEX", "COMPARE", "AND", "OR", "LPAR", "DOT"))
_SPELLING = {
    "LPAR": "'('", "RPAR": "')'", "LSQB": "'['", "RSQB": "']'", "LBRACE": "'{'", "RBRACE": "'}'",
    "COMMA": "','", "COLON": "':'", "EQUAL": "'='", "TILDE": "'~'", "RANGE": "'..'",
    "NAME": "a name", "STRING": "a string", "$END": "the end of the file", "DOT": "'.'",
}  # fmt: skip


def expectation(accepted: Iterable[str]) -> str:
    """The tokens a parser would accept, folded: "expected '~' or an operator"."""
    left = set(accepted)
    phrases: list[str] = []
    if left & STATEMENTS:
        phrases.append("a statement")
    if left & DECLARATIONS:
        phrases.append("'program'" if left & DECLARATIONS == {"PROGRAM"} else "a declaration or 'program'")
    left -= STATEMENTS | DECLARATIONS
    expression = "INT" in left and "STRING" in left
    if expression:
        left -= _EXPRESSION
    operator = len(left & _OPERATOR) > 2
    if operator:
        left -= _OPERATOR
    phrases = [*sorted(_SPELLING.get(kind, f"'{kind.lower()}'") for kind in left), *phrases]
    if expression:
        phrases.append("an expression")
    if operator:
        phrases.append("an operator")
    if not phrases:
        return ""
    head, last = phrases[:-1], phrases[-1]
    return "expected " + (f"{', '.join(head)} or {last}" if head else last)


def unexpected(
    source: Source, token: Token, accepted: set[str], before: Token | None, *, statement: bool = False
) -> Diagnostic:
    """The diagnostic for a token that cannot stand where it stands.

    `statement` says that the token begins a statement, so it is not a misused name.
    """
    label = expectation(accepted)
    if token.type == "$END":
        at = len(source.text.rstrip())
        return error("PLM107", "the text ends too early", Span(source, at, at), label)
    span = span_of(source, token)
    if not statement and _misused_as_name(token, accepted):
        return error(
            "PLM106",
            f"'{token}' is a word of the language and cannot be a name",
            span,
            "expected a name",
            help=f"choose another, such as '{token}_'",
        )
    return error("PLM101", f"unexpected {_shown(token)}", span, label, help=_help(token, accepted, before))


def _misused_as_name(token: Token, accepted: set[str]) -> bool:
    if token.lower() not in KEYWORDS or token.type != token.upper() or "NAME" not in accepted:
        return False
    return "INT" not in accepted or token.type in STATEMENTS | DECLARATIONS | {"IN", "FROM"}


def _shown(token: Token) -> str:
    if token.type in ("STRING", "RAW_STRING"):
        return "string"
    return f"'{shortened(str(token), 40)}'"


def _help(token: Token, accepted: set[str], before: Token | None) -> str | None:
    """The edit that the commonest mistakes ask for."""
    kind = token.type
    if kind == "EQUAL":
        if "TILDE" in accepted:
            return "write '~' between a value and its distribution"
        if "COMPARE" in accepted:
            return "write '==' to compare"
    if (kind == "IN" or (kind == "NOT" and before is not None)) and "COMPARE" in accepted:
        return "write contains(text, part) for a part of a text"
    if kind == "TILDE" and "EQUAL" in accepted:
        return "write '=' here; '~' stands before a distribution"
    if kind in ("RBRACE", *STATEMENTS) and accepted == {"TILDE"}:
        return (
            "observe names a distribution, observe value ~ base(…); what has to be true stands in a condition"
        )
    if kind == "COMPARE" and token == "==" and "EQUAL" in accepted:
        return "write '=' to give a value"
    if kind == "COMPARE" and "AND" in accepted:
        return "comparisons do not chain: write 'a < b and b < c'"
    if kind == "SLASH" and before is not None and before.type == "SLASH":
        return "a comment begins with '#'"
    if kind == "SLASH" and before is not None and before.type == "EQUAL":
        return 'a pattern is written as a text: pattern=r"[a-z]+"'
    if kind == "STAR" and before is not None and before.type == "STAR":
        return "a power is written '^'"
    if kind in ("LM", "TOOL", "USE") and accepted & (STATEMENTS | {"$END"}):
        return "declarations stand before the program"
    if kind == "PROGRAM" and "$END" in accepted:
        return "a file holds one program"
    if kind in STATEMENTS and "PROGRAM" in accepted:
        return "statements stand inside a program: program name() { … }"
    if kind == "ELSE":
        return "put it right behind the '}' of an if block, or write 'if … then … else …'"
    if kind == "IF" and "INT" in accepted:
        return "put parentheses around 'if … then … else …'"
    if kind == "NAME" and accepted & STATEMENTS:
        return _near_keyword(str(token))
    if kind in _EXPRESSION and "COMMA" in accepted and accepted & {"RPAR", "RSQB"}:
        return "separate items with ','"
    return None


def _near_keyword(word: str) -> str:
    names = BEGINNINGS
    other = {"sample": "latent", "return": None, "assume": "latent", "assert": "condition",
             "for": "plate", "reward": "factor", "weight": "factor", "var": "let", "def": "let"}  # fmt: skip
    near = nearest(word, names) or other.get(word)
    if near:
        return f"did you mean '{near}'?"
    return f"a statement begins with {', '.join(names[:-1])} or {names[-1]}"
