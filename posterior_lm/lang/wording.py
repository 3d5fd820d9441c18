"""What the parser found and what it expected, in English."""

from __future__ import annotations

from collections.abc import Iterable

from lark.lexer import Token

from posterior_lm.lang.diagnostics import Diagnostic, error
from posterior_lm.lang.near import nearest, shortened
from posterior_lm.lang.source import Source, Span
from posterior_lm.lang.tokens import DECLARATIONS, KEYWORDS, STATEMENTS, span_of

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
    if kind == "TILDE" and "EQUAL" in accepted:
        return "write '=' here; '~' stands before a distribution"
    if kind == "COMPARE" and token == "==" and "EQUAL" in accepted:
        return "write '=' to give a value"
    if kind == "COMPARE" and "AND" in accepted:
        return "comparisons do not chain: write 'a < b and b < c'"
    if kind == "SLASH" and before is not None and before.type == "SLASH":
        return "a comment begins with '#'"
    if kind == "STAR" and before is not None and before.type == "STAR":
        return "a power is written '^'"
    if kind in ("LM", "TOOL", "USE") and accepted & (STATEMENTS | {"$END"}):
        return "declarations stand before the program"
    if kind == "PROGRAM" and "$END" in accepted:
        return "a file holds one program"
    if kind in STATEMENTS and "PROGRAM" in accepted:
        return "statements stand inside a program: program name() { … }"
    if kind == "IF" and "INT" in accepted:
        return "put parentheses around 'if … then … else …'"
    if kind == "NAME" and accepted & STATEMENTS:
        return _near_keyword(str(token))
    if kind in _EXPRESSION and "COMMA" in accepted and accepted & {"RPAR", "RSQB"}:
        return "separate items with ','"
    return None


def _near_keyword(word: str) -> str:
    names = sorted(kind.lower() for kind in STATEMENTS)
    other = {"sample": "latent", "return": None, "assume": "latent", "assert": "condition",
             "for": "plate", "reward": "factor", "weight": "factor", "var": "let", "def": "let"}  # fmt: skip
    near = nearest(word, names) or other.get(word)
    if near:
        return f"did you mean '{near}'?"
    return f"a statement begins with {', '.join(names[:-1])} or {names[-1]}"
