"""Program text to AST, with every syntax error of a file in one run.

The parser is driven token by token. Wherever a statement, a declaration or a
parameter begins, its state is kept; on an error that state comes back, the text
up to the next such place is skipped, and parsing goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import lark
from attrs import evolve, frozen
from lark.lexer import Token
from lark.parsers.lalr_analysis import Shift

from posterior_lm.lang import ast, lexer
from posterior_lm.lang.builder import Builder
from posterior_lm.lang.diagnostics import CompileError, Diagnostic, error, readable
from posterior_lm.lang.lexer import DECLARATIONS, MOST_ERRORS, STATEMENTS, STRAY, refuse, tokenize
from posterior_lm.lang.source import Source, Span
from posterior_lm.lang.syntax_errors import (
    balance,
    begins_statement,
    misspelt_statement,
    too_deep,
    unexpected,
)

FragmentKind = Literal["statement", "expression", "type", "distribution", "parameter"]
_START = {"statement": "statement", "expression": "expr", "distribution": "expr",
          "type": "type", "parameter": "param"}  # fmt: skip
_DECLARING = frozenset(("LATENT", "LET", "PLATE", "LM", "TOOL", "USE"))


def read_source(path: str | Path) -> Source:
    """The text of a program file. Raises `CompileError` (PLM801) where it cannot be read."""
    name = str(path)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return Source(name, file.read(lexer.LARGEST_SOURCE + 1))
    except UnicodeDecodeError as wrong:
        message = f"{name} is not UTF-8 text: byte {wrong.start} is 0x{wrong.object[wrong.start]:02X}"
        raise CompileError.of("PLM801", message, where=name, help="save it as UTF-8") from wrong
    except (OSError, ValueError) as wrong:  # ValueError: a null byte or half of a character in the name
        reason = (getattr(wrong, "strerror", None) or str(wrong)).lower()
        message = f"cannot read {name}: {reason}"
        raise CompileError.of("PLM801", message, where=name, help=readable(name, reason)) from wrong


def parse(source: Source) -> tuple[ast.Module | None, list[Diagnostic]]:
    """The module and what is wrong with its text, in order of position.

    With errors the module holds what could be read, for later checks; it is None
    where nothing could.
    """
    result, found, comments, broken = _parse(source, "module")
    if not isinstance(result, ast.Module):
        return None, found
    return evolve(result, comments=comments, broken=broken), found


def parse_fragment(text: str | Source, kind: FragmentKind) -> Any:
    """One statement, expression, type, distribution or parameter from its own text.

    Raises `CompileError` with everything that is wrong with it.
    """
    source = text if isinstance(text, Source) else Source(f"<{kind}>", text)
    result, found, _, _ = _parse(source, _START[kind])
    if found:
        raise CompileError(found)
    return result


def _parse(
    source: Source, start: str
) -> tuple[Any, list[Diagnostic], tuple[ast.Comment, ...], frozenset[str]]:
    refused = refuse(source)
    if refused:
        return None, [refused], (), frozenset()
    tokens, comments, found = tokenize(source, statements=start in ("module", "statement"))
    tokens, unbalanced = balance(source, tokens)
    found += unbalanced
    deep = too_deep(source, tokens)
    if deep:
        return None, _first([*found, deep]), (), frozenset()
    driver = _Driver(source, tokens, start)
    result = driver.run()
    found += driver.found
    seen = {(d.code, d.primary.span.start if d.primary else 0): d for d in driver.builder.found}
    found += [d for d in seen.values() if not (found and d.code == "PLM114")]
    return result, _first(found), tuple(comments), frozenset(driver.broken)


def _first(found: list[Diagnostic]) -> list[Diagnostic]:
    """The first errors in order of position; the last of them says if there are more."""
    found = sorted(found, key=lambda d: d.primary.span.start if d.primary else 0)
    if len(found) <= MOST_ERRORS:
        return found
    last = evolve(found[MOST_ERRORS - 1], notes=(f"only the first {MOST_ERRORS} errors are shown",))
    return [*found[: MOST_ERRORS - 1], last]


# ---------------------------------------------------------------- the stack machine

Action = tuple[int, Any, str]
"""Of a state and a symbol: (−1, the next state, "") to shift; else how many parts are reduced, by which rule's id, to what."""


class UnexpectedToken(Exception):
    """A token that the state has no way on with."""


@cache
def _table(parser: lark.Lark, start: str) -> tuple[int, int, Mapping[int, Mapping[str, Action]]]:
    """The first state, the last, and what is to be done in each: lark's tables without its rules' slow hashes."""
    conf = parser.parse_interactive(start=start).parser_state.parse_conf
    table = {
        state: {
            symbol: (-1, arg, "") if action is Shift else (len(arg.expansion), id(arg), arg.origin.name)
            for symbol, (action, arg) in row.items()
        }
        for state, row in conf.states.items()
    }  # fmt: skip
    return conf.start_state, conf.end_state, table


class _Parser:
    """What has been read so far: the states gone through, and the values built."""

    def __init__(self, start: str, builder: Builder) -> None:
        parser = lexer.lark_parser()
        first, self.end, self.table = _table(parser, start)
        self.callbacks = builder.callbacks(parser.rules)
        self.states: list[int] = [first]
        self.values: list[Any] = []

    def copy(self) -> _Parser:
        found = object.__new__(_Parser)
        found.end, found.table, found.callbacks = self.end, self.table, self.callbacks
        found.states, found.values = self.states.copy(), self.values.copy()  # builders never change a value
        return found

    def feed_token(self, token: Token) -> Any:
        """Reads one more; of the end of the text it gives what was built. Raises UnexpectedToken."""
        table, states, values, kind = self.table, self.states, self.values, token.type
        callbacks = self.callbacks
        while True:
            action = table[states[-1]].get(kind)
            if action is None:
                raise UnexpectedToken(kind)
            size, target, name = action
            if size < 0:
                states.append(target)
                values.append(token)
                return None
            make = callbacks[target]
            if make is None:  # of one part, which stays; most reductions are such
                states[-1] = table[states[-2]][name][1]
            else:
                parts = values[-size:] if size else []
                if size:
                    del states[-size:], values[-size:]
                values.append(make(parts))
                states.append(table[states[-1]][name][1])
            if kind == "$END" and states[-1] == self.end:
                return values[-1]

    def takes(self, kind: str) -> bool:
        """Whether a token of this kind may come next."""
        states = self.states.copy()
        while (action := self.table[states[-1]].get(kind)) is not None:
            size, _, name = action
            if size < 0:
                return True
            del states[len(states) - size :]
            states.append(self.table[states[-1]][name][1])
            if kind == "$END" and states[-1] == self.end:
                return True
        return False

    def accepts(self) -> set[str]:
        """The kinds of token that may come next."""
        return {kind for kind in self.table[self.states[-1]] if kind.isupper() and self.takes(kind)}


@frozen(eq=False)
class _Point:
    """A parser state to come back to, and the index of the token that comes next in it."""

    parser: _Parser
    index: int
    kind: str  # "statement" | "declaration" | "parameter"


class _Driver:
    def __init__(self, source: Source, tokens: list[Token], start: str) -> None:
        self.source = source
        self.tokens = tokens
        self.builder = Builder(source)
        self.found: list[Diagnostic] = []
        self.broken: set[str] = set()
        self.reported = -1  # where the last error is
        self.parser = _Parser(start, self.builder)
        self.whole = start == "module"
        self.parens = 0  # open ( and [
        self.header = False  # between `program name (` and its `)`
        self.point = _Point(self.parser.copy(), 0, "declaration")

    def run(self) -> Any:
        index = 0
        while index < len(self.tokens):
            token = self.tokens[index]
            try:
                before = self.parser.copy() if token.type in STATEMENTS | DECLARATIONS else None
                self.parser.feed_token(token)
            except UnexpectedToken:
                self._report(index)
                if not self.whole or len(self.found) > MOST_ERRORS:
                    return None
                try:
                    index = self._recover(index)
                except UnexpectedToken:  # no way on; what was found is reported
                    return None
                continue
            self._mark(index, before)
            index += 1
        end = Token("$END", "", start_pos=len(self.source.text), end_pos=len(self.source.text))
        try:
            return self.parser.feed_token(end)
        except UnexpectedToken:
            self._report(len(self.tokens), end)
            return None

    def _mark(self, index: int, before: _Parser | None) -> None:
        """Keeps the state where this token, now accepted, begins or ends something."""
        kind = self.tokens[index].type
        if before is not None and kind != "IN":
            self.point = _Point(before, index, "declaration" if kind in DECLARATIONS else "statement")
            self.parens = 0
            self.header = kind == "PROGRAM"
        elif kind in ("LBRACE", "RBRACE"):
            self.point = _Point(self.parser.copy(), index + 1, "statement")
            self.header = False
        elif kind in ("LPAR", "LSQB"):
            self.parens += 1
        elif kind in ("RPAR", "RSQB"):
            self.parens -= 1
        if self.header and self.parens == 1 and kind in ("LPAR", "COMMA"):
            self.point = _Point(self.parser.copy(), index + 1, "parameter")

    # ------------------------------------------------------------ errors

    def _report(self, index: int, end: Token | None = None) -> None:
        token = self.tokens[index] if end is None else end
        since = self.tokens[self.point.index : index + 1]
        repaired = [t for t in since if t.type == STRAY or t == ""]
        if token.type == STRAY or (repaired and self.whole):
            return  # already complained about
        if end is not None and self.found and self.whole:
            return
        if self.found and token.start_pos == self.reported:
            return
        self.reported = token.start_pos or 0
        accepted = self.parser.accepts()
        if end is not None and self.whole and "PROGRAM" in accepted:
            at = len(self.source.text.rstrip())
            help = 'a smallest one: lm base = "tiny" program p() { latent z: text(tokens=1..20) ~ base() }'
            self.found.append(
                error("PLM115", "the file holds no program", Span(self.source, at, at), help=help)
            )
            return
        before = self.tokens[index - 1] if index else None
        statement = end is None and begins_statement(self.tokens, index)
        self.found.append(unexpected(self.source, token, accepted, before, statement=statement))

    # ------------------------------------------------------------ recovery

    def _recover(self, at: int) -> int:
        """Restores the last state kept and returns the index to go on from."""
        self.parser = self.point.parser
        kind = self.point.kind
        index, kind = self._skip_parameter(at) if kind == "parameter" else (self._skip(at), kind)
        self.header = kind == "parameter"
        self.parens = 1 if self.header else 0
        self.point = _Point(self.parser.copy(), max(index, at), kind)
        return index

    def _skip_parameter(self, at: int) -> tuple[int, str]:
        """Skips to the next parameter of a program's header, to its end, or into the body."""
        start, depth = self.point.index, 0
        if start < len(self.tokens) and self.tokens[start].type == "NAME":
            self.broken.add(str(self.tokens[start]))
        for index in range(start, len(self.tokens)):
            token = self.tokens[index]
            if depth == 0 and index >= at and token.type in ("COMMA", "RPAR"):
                self._note_broken(self.tokens[start:index])
                return (index + 1 if token.type == "COMMA" else index), "parameter"
            depth += {"LPAR": 1, "LSQB": 1, "RPAR": -1, "RSQB": -1}.get(token.type, 0)
            if index >= at and (token.type == "LBRACE" or begins_statement(self.tokens, index)):
                self._note_broken(self.tokens[start:index])
                self._feed_all("RPAR", "LBRACE")
                return (index + 1 if token.type == "LBRACE" else index), "statement"
        return len(self.tokens), "parameter"

    def _skip(self, at: int) -> int:
        """Skips to the next statement or declaration, or to the brace that ends the block."""
        start = self.point.index
        for index in range(max(at, start), len(self.tokens)):
            token = self.tokens[index]
            if token.type == "LBRACE":
                skipped = self.tokens[start:index]
                self._note_broken(skipped)
                return self._enter_block(index, skipped)
            here = index > at or index > start
            if here and begins_statement(self.tokens, index) and self.parser.takes(token.type):
                self._note_broken(self.tokens[start:index])
                return index
            if index > at and misspelt_statement(self.tokens, index) and self.parser.takes("LET"):
                self._note_broken(self.tokens[start:index])
                return index
            if token.type == "RBRACE" and self.parser.takes(token.type):
                self._note_broken(self.tokens[start:index])
                return index
        self._note_broken(self.tokens[start:])
        return len(self.tokens)

    def _enter_block(self, index: int, skipped: list[Token]) -> int:
        """Puts a stand-in before `{` so that the statements inside are still read."""
        kinds = [t.type for t in skipped]
        accepted = self.parser.accepts()
        if "PROGRAM" in accepted and ("PROGRAM" in kinds or "LATENT" not in kinds):
            self._feed_all("PROGRAM", "NAME", "LPAR", "RPAR", "LBRACE")
        elif "PLATE" in accepted:
            self._feed_all("PLATE", "NAME", "IN", "NAME", "LBRACE")
        else:  # after the program: nothing may come
            return len(self.tokens)
        return index + 1

    def _feed_all(self, *kinds: str) -> None:
        for kind in kinds:
            self.parser.feed_token(Token(kind, "", start_pos=0, end_pos=0))

    def _note_broken(self, skipped: list[Token]) -> None:
        """Remembers names that skipped text declared, so that using them is no second error."""
        for before, token, after in zip([None, *skipped], skipped, [*skipped[1:], None], strict=False):
            if token.type == "NAME" and (
                (before is not None and before.type in _DECLARING)
                or (after is not None and after.type == "COLON")
            ):
                self.broken.add(str(token))
