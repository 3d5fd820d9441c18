"""Source text to tokens, comments and the diagnostics of what is neither; literals to values and back.

Tokens and parser follow the LALR tables of `grammar/plm.lark`. Building these takes lark longer
than everything else that checking a program does, so `tables.json` holds the finished ones, with
a digest of what they were made from. A stale or missing file costs time and nothing else. Lark's
own cache is not used: reading it executes a pickle.

Regenerate with `python -m posterior_lm.lang.lexer` after editing the grammar.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import lark
from lark.grammar import Rule
from lark.lexer import BasicLexer, TerminalDef, Token

from posterior_lm import installed
from posterior_lm.lang.ast import Comment
from posterior_lm.lang.diagnostics import Diagnostic, error
from posterior_lm.lang.source import Source, Span

# ---------------------------------------------------------------- the tables

STARTS = ("module", "statement", "expr", "type", "param")
TABLES = Path(__file__).with_name("tables.json")


def build_parser(*, strict: bool = False) -> lark.Lark:
    """The parser, built from the grammar; `strict` also refuses colliding terminals."""
    return lark.Lark(
        installed.grammar_text(),
        start=list(STARTS),
        parser="lalr",
        lexer="basic",
        maybe_placeholders=False,
        strict=strict,
    )


def tables_digest() -> str:
    """What the tables depend on: the grammar, lark's version, the start rules."""
    made_from = "\0".join((installed.grammar_text(), lark.__version__, *STARTS))
    return hashlib.sha256(made_from.encode()).hexdigest()


def dump_tables() -> str:
    """The text of `tables.json` for the grammar as it stands."""
    data, memo = build_parser().memo_serialize([TerminalDef, Rule])
    content = {"digest": tables_digest(), "data": data, "memo": memo}
    return json.dumps(content, separators=(",", ":"), sort_keys=True) + "\n"


@cache
def lark_parser() -> lark.Lark:
    """The parser that `parse` drives, made once per process."""
    try:
        content = json.loads(TABLES.read_text(encoding="utf-8"), object_hook=_numbered)
        if content["digest"] == tables_digest():
            return lark.Lark._load_from_dict(content["data"], content["memo"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # a damaged file is as good as none
    return build_parser()


def _numbered(mapping: dict[str, Any]) -> dict[Any, Any]:
    """JSON turns integer keys into strings; lark wants them back."""
    if mapping and all(key.isdigit() for key in mapping):
        return {int(key): value for key, value in mapping.items()}
    return mapping


# ---------------------------------------------------------------- tokens

LARGEST_SOURCE = 1_000_000  # characters
MOST_ERRORS = 50  # syntax errors of one text that are reported
STRAY = "STRAY"
"""Type of a token that stands for text already complained about."""

KEYWORDS = frozenset(
    ("lm", "tool", "use", "from", "program", "latent", "observe", "prefer", "over", "factor",
     "condition", "temper", "plate", "in", "let", "guide", "infer", "if", "then", "else",
     "or", "and", "not", "true", "false", "bos", "eos")
)  # fmt: skip
STATEMENTS = frozenset(
    ("LATENT", "OBSERVE", "PREFER", "FACTOR", "CONDITION", "TEMPER", "PLATE", "LET", "GUIDE", "INFER",
     "IF_BLOCK", "ELSE_BLOCK")
)  # fmt: skip
DECLARATIONS = frozenset(("LM", "TOOL", "USE", "PROGRAM"))
_ENDS = frozenset(
    (
        "NAME",
        "STRING",
        "RAW_STRING",
        "INT",
        "REAL",
        "TRUE",
        "FALSE",
        "BOS",
        "EOS",
        "RPAR",
        "RSQB",
        "LBRACE",
        "RBRACE",
    )
)
"""What stands before an `if` that begins a statement: nothing that an expression goes on after with one."""

_ALIEN = re.compile(r"""[^\s\w"(){}\[\],:=~^.<>!+\-*/#]+|[^\x00-\x7f\s]+""")
"""Runs of characters that begin no token."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_HINTS = {
    "'": "strings stand in double quotes",
    "“": 'write a straight quote: "',
    "”": 'write a straight quote: "',
    "‘": "strings stand in straight double quotes",
    "’": "strings stand in straight double quotes",
    ";": "statements need nothing between them: drop it",
    "&": "write 'and'",
    "|": "write 'or'",
    "!": "write 'not'",
    "%": "the operators are + - * / ^",
    "–": "write a plain minus: -",
    "−": "write a plain minus: -",
    "…": "a range has two dots: ..",
    "\u00a0": "this is a no-break space: write a plain one",
}


def span_of(source: Source, token: Token) -> Span:
    return Span(source, *extent(token))


def extent(token: Token) -> tuple[int, int]:
    """The offsets of a token's first character and of what follows it."""
    return token.start_pos or 0, token.end_pos or 0


def refuse(source: Source) -> Diagnostic | None:
    """Why a source is not read at all: too large, or not text."""
    if len(source.text) > LARGEST_SOURCE:
        return error(
            "PLM109",
            f"the program is too large: it has more than {LARGEST_SOURCE:,} characters",
            Span(source, 0, 0),
            help="put data into a file and pass it with --data or --given",
        )
    at = source.text.find("\0")
    if at >= 0:
        return error(
            "PLM110",
            "the program holds a null byte",
            Span(source, at, at + 1),
            "here",
            help="a program is plain UTF-8 text; is this the right file?",
        )
    surrogate = _SURROGATE.search(source.text)
    if surrogate:
        return error(
            "PLM110",
            f"the program holds half a character, U+{ord(surrogate.group()):04X}",
            Span(source, surrogate.start(), surrogate.end()),
            "here",
            help="a program is plain UTF-8 text",
        )
    return None


def tokenize(
    source: Source, *, statements: bool = True
) -> tuple[list[Token], list[Comment], list[Diagnostic]]:
    """Tokens without space or comments, the comments, and one diagnostic per stray run.

    `statements` says whether an `if` at the very front begins a statement.
    """
    text = source.text
    if text.startswith("\ufeff"):
        text = " " + text[1:]  # a byte order mark: same offsets, no token
    match, words = _scanner()
    position, line = 0, 1
    tokens: list[Token] = []
    comments: list[Comment] = []
    diagnostics: list[Diagnostic] = []
    while position < len(text):
        start, found = position, match(text, position)
        if found is not None:
            kind, value, position = str(found.lastgroup), found.group(), found.end()
            if kind == "SPACE":
                line += value.count("\n")
                continue
            kind = words.get(value, kind)
            token = Token(kind, value, start_pos=start, end_pos=position, line=line, end_line=line)
        else:
            position = _skip(text, start)
            if tokens and tokens[-1].end_pos == start and tokens[-1] == "r" and text[start] == '"':
                start = extent(tokens.pop())[0]
            line += text.count("\n", start, position)
            token = Token(
                STRAY, text[start:position], start_pos=start, end_pos=position, line=line, end_line=line
            )
            if tokens and tokens[-1].type == STRAY and "\n" not in text[tokens[-1].end_pos : start]:
                continue  # one message a line is enough
            diagnostics.append(_stray(source, start, position))
            if len(diagnostics) > MOST_ERRORS:
                break
        if token.type == "COMMENT":
            comments.append(Comment(str(token), span=span_of(source, token)))
        elif token.type == "NAME" and tokens and _glued(tokens[-1], token):
            diagnostics.append(_bad_name(source, tokens[-1], token))
            tokens[-1] = Token(STRAY, "", start_pos=tokens[-1].start_pos, end_pos=token.end_pos)
        else:
            tokens.append(_block(token, tokens, statements))
    return tokens, comments, diagnostics


def _block(token: Token, before: list[Token], statements: bool) -> Token:
    """The token, of another type where it is an `if` or `else` that begins a statement."""
    last = before[-1].type if before else "LBRACE" if statements else ""
    begins = last in _ENDS if token.type == "IF" else token.type == "ELSE" and last == "RBRACE"
    return Token.new_borrow_pos(f"{token.type}_BLOCK", str(token), token) if begins else token


@cache
def _scanner() -> tuple[Callable[[str, int], re.Match[str] | None], Mapping[str, str]]:
    """What finds the token at a place, by lark's order of the terminals; and the kinds of words that would be names."""
    made = BasicLexer(lark_parser().lexer_conf).scanner.terminals
    pattern = "|".join(f"(?P<{one.name}>{one.pattern.to_regexp()})" for one in made)
    words = {word: word.upper() for word in KEYWORDS}
    return re.compile(pattern).match, words


def _skip(text: str, start: int) -> int:
    """The end of a stray run: an open string takes the rest of its line."""
    if text[start] == '"':
        end = text.find("\n", start)
        return len(text.rstrip()) if end < 0 else start + len(text[start:end].rstrip("\r"))
    run = _ALIEN.match(text, start)
    return run.end() if run else start + 1


def _stray(source: Source, start: int, end: int) -> Diagnostic:
    found = source.text[start:end]
    span = Span(source, start, end)
    if found.startswith(('"', 'r"')):
        return error(
            "PLM104",
            "the string has no closing quote",
            Span(source, start, start + (2 if found[0] == "r" else 1)),
            "opened here",
            help='close it with " on the same line; a line break inside a string is written \\n',
        )
    shown = "".join(c if c.isprintable() else f"U+{ord(c):04X}" for c in found[:20])
    plural = "" if len(found) == 1 else "s"
    return error("PLM105", f"stray character{plural} '{shown}'", span, "not part of the language",
                 help=_HINTS.get(found[0]))  # fmt: skip


def _glued(number: Token, name: Token) -> bool:
    return number.type in ("INT", "REAL") and number.end_pos == name.start_pos


def _bad_name(source: Source, number: Token, name: Token) -> Diagnostic:
    return error(
        "PLM113",
        f"'{number}{name}' is neither a number nor a name",
        span_of(source, number).to(span_of(source, name)),
        "a name begins with a letter, a number holds digits",
    )


# ---------------------------------------------------------------- strings and numbers

_ESCAPE = re.compile(r"\\(?:u\{([0-9A-Fa-f]{1,6})\}|(.))", re.DOTALL)
_SIMPLE = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}
_LARGEST_INT = 2**53  # every integer up to here is exact as a float64 too


def decode_string(text: str, span: Span) -> tuple[str, list[Diagnostic]]:
    r"""The value of a `"…"` token and a diagnostic for each wrong escape."""
    wrong: list[Diagnostic] = []

    def replace(match: re.Match[str]) -> str:
        number, simple = match.groups()
        if number is not None:
            point = int(number, 16)
            if 0 < point <= 0x10FFFF and not 0xD800 <= point <= 0xDFFF:
                return chr(point)
        elif simple in _SIMPLE:
            return _SIMPLE[simple]
        start = span.start + 1 + match.start()  # behind the quote
        wrong.append(
            error(
                "PLM111",
                f"unknown escape '{match.group()}'",
                Span(span.source, start, start + len(match.group())),
                "not a character" if number is not None else "not an escape",
                help='the escapes are \\n \\t \\" \\\\ and \\u{1F600}; write r"…" for a pattern',
            )
        )
        return match.group()

    if "\\" not in text:
        return text[1:-1], wrong
    return _ESCAPE.sub(replace, text[1:-1]), wrong


def decode_number(text: str, span: Span) -> tuple[int | float, list[Diagnostic]]:
    """The value of an INT or REAL token; 0 and a diagnostic where it is out of range."""
    if text.isdigit():
        if len(text) <= 20 and int(text) <= _LARGEST_INT:
            return int(text), []
        limit = f"integers go up to {_LARGEST_INT}"
    else:
        value = float(text)
        if math.isfinite(value):
            return value, []
        limit = "reals go up to 1.7e308"
    return 0, [error("PLM113", "the number is too large", span, limit)]


def encode_string(value: str, *, raw: bool = False) -> str:
    r"""A string as the source spells it; `raw` asks for r"…" and is dropped where that cannot spell it."""
    if raw and '"' not in value and "\n" not in value and "\r" not in value and value.isprintable():
        return f'r"{value}"'
    return '"' + "".join(map(_encode_character, value)) + '"'


def _encode_character(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char == "\n":
        return "\\n"
    if char == "\t":
        return "\\t"
    if char == " " or char.isprintable():
        return char
    return f"\\u{{{ord(char):X}}}"


def encode_number(value: int | float) -> str:
    """A number as the source spells it, so that it reads back as the same value and kind."""
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        raise ValueError(f"{value!r} has no spelling in a program")
    text = repr(value)
    if "e" in text and "." not in text.split("e")[0]:
        return text.replace("e", ".0e")
    return text


if __name__ == "__main__":
    TABLES.write_text(dump_tables(), encoding="utf-8")
