"""Grammars in Lark's notation, read as languages, and written so that a parser needs no lexer for them.

A lexer cuts a text into terminals before the grammar is asked, the longest first, and so loses texts: of
`"ab" "a" | "a" "bb"` it reads only `aba`. Here every terminal is written out as rules over single characters. Of those
none is the beginning of another, so there is nothing to cut, and the parser (Earley's) decides alone: the texts are
all those that the grammar derives, and no others. Regular expressions are read as `pattern=` reads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, field, frozen

from posterior_lm.lang.regex import PatternError, Ranges, characters, parse

_TOKEN = re.compile(
    r"""(?P<space>[ \t\f\r]+|//[^\n]*|\#[^\n]*|\\\n)
    |(?P<newline>\n)
    |(?P<text>"(?:\\.|[^"\\\n])*"i?)
    |(?P<regex>/(?!/)(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n\[])+/[a-z]*)
    |(?P<special><[^>\s]*>)
    |(?P<directive>%\w+)
    |(?P<name>[?!]?[A-Za-z_]\w*)
    |(?P<number>-?\d+)
    |(?P<sign>->|\.\.|[()\[\]{}|:~*+?,.&@=])""",
    re.VERBOSE,
)


class Refused(ValueError):
    """What a grammar cannot hold here, and what to do instead; `line` counts from 1.

    `final` is what Lark has and a language of texts has not, so that nobody else can say it better.
    """

    def __init__(self, message: str, line: int, help: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.message, self.line, self.help, self.final = message, line, help, final


@frozen
class Token:
    kind: str
    text: str
    line: int


@frozen
class Name:
    name: str
    line: int


@frozen
class Repeat:
    item: Item
    low: int
    high: int | None


Item = Any
"""A text, a set of characters (`Ranges` in a `Chars`), a `Name`, a `Repeat`, or alternatives."""


@frozen
class Chars:
    ranges: Ranges


@frozen
class Ways:
    """Alternatives, each a sequence of items."""

    ways: tuple[tuple[Item, ...], ...]


EMPTY = Ways(((),))


@define
class Grammar:
    """Definitions by name; the parts of terminals are characters and names of terminals."""

    rules: dict[str, Ways] = field(factory=dict)
    ignored: list[Item] = field(factory=list)


def is_terminal(name: str) -> bool:
    return name.lstrip("_")[:1].isupper()


def characterwise(text: str) -> str:
    """The same grammar with every terminal in single characters, as llguidance reads it. Raises Refused."""
    grammar = _Reader(_tokens(text)).grammar()
    return _written(grammar)


# ------------------------------------------------------------------------------- reading


def _tokens(text: str) -> list[Token]:
    found, place, line = [], 0, 1
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise Refused(
                f"{text[place]!r} is not of Lark's notation",
                line,
                'write a text in double quotes, "like this"',
            )
        if match.lastgroup != "space":
            found.append(Token(match.lastgroup or "", match.group(), line))
        line += match.group().count("\n")
        place = match.end()
    return [*found, Token("end", "", line)]


_DIRECTIVES = {
    "%json": "give the schema with json= instead of a grammar",
    "%regex": "write the regular expression in slashes, /[a-z]+/",
    "%lark": "write its rules among the others",
    "%llguidance": "leave it out: the grammar alone says which texts there are",
    "%declare": "define the terminal",
    "%override": "change the definition itself",
    "%extend": "change the definition itself",
}


class _Reader:
    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens, self.place, self.depth = tokens, 0, 0

    @property
    def next(self) -> Token:
        return self.tokens[self.place]

    def take(self, *texts: str) -> Token:
        token = self.next
        if texts and token.text not in texts:
            raise self.refused(token, f"expected {' or '.join(texts)}")
        self.place += 1
        return token

    def refused(self, token: Token, why: str = "") -> Refused:
        shown = {"newline": "the end of the line", "end": "the end of the grammar"}.get(
            token.kind, token.text
        )
        help = "write a rule as `name: this that | other`, each on lines of its own"
        return Refused(f"{shown} cannot stand there{': ' * bool(why)}{why}", token.line, help)

    def grammar(self) -> Grammar:
        found = Grammar()
        while self.next.kind != "end":
            if self.next.kind == "newline":
                self.take()
            elif self.next.kind == "directive":
                self.directive(found)
            else:
                name = self.take()
                if name.kind != "name":
                    raise self.refused(name)
                self.attributes(name)
                if self.next.text == ".":
                    self.take()
                    self.take()  # a priority, which chooses between readings of one text
                self.take(":")
                self.define(found, name.text.lstrip("?!"), self.ways(), name.line)
        return found

    def attributes(self, name: Token) -> None:
        if self.next.text == "[" and self.place and self.tokens[self.place + 1].kind == "name":
            after = self.tokens[self.place + 2].text
            if self.tokens[self.place - 1] is name and (after in ("=", ",") or self._defines_after_bracket()):
                what = f"{name.text}[{self.tokens[self.place + 1].text}{'=…' if after == '=' else ''}]"
                raise Refused(
                    f"{what} is an instruction to a sampler and says nothing of texts", name.line,
                    "leave it out: temperatures stand in the program, as a power ^ b", final=True,
                )  # fmt: skip

    def _defines_after_bracket(self) -> bool:
        return self.tokens[self.place + 2].text == "]" and self.tokens[self.place + 3].text == ":"

    def directive(self, found: Grammar) -> None:
        token = self.take()
        if token.text == "%ignore":
            found.ignored.append(self.ways())
        elif token.text == "%import":
            path = self.take().text
            while self.next.text == ".":
                self.take()
                path += "." + self.take().text
            names = [path.rpartition(".")[2]]
            if self.next.text == "(":
                self.take()
                names = []
                while self.next.text != ")":
                    names.append(self.take().text)
                    if self.next.text == ",":
                        self.take()
                self.take(")")
            alias = names[0]
            if self.next.text == "->":
                self.take()
                alias = self.take().text
            for name in names:
                self.common(found, name, alias if len(names) == 1 else name, token.line)
        else:
            help = _DIRECTIVES.get(token.text, "leave it out")
            raise Refused(f"{token.text} cannot stand in a grammar here", token.line, help, final=True)

    def common(self, found: Grammar, name: str, alias: str, line: int) -> None:
        if name not in COMMON:
            help = f"define it, or import one of {', '.join(COMMON)}"
            raise Refused(f"common.{name} is not known", line, help)
        self.define(found, alias, _Reader(_tokens(COMMON[name])).ways(), line)

    def define(self, found: Grammar, name: str, ways: Ways, line: int) -> None:
        if name in found.rules:
            help = "give one of the two another name, or join them with `|`"
            raise Refused(f"duplicate rule: {name}", line, help)
        found.rules[name] = ways

    def ways(self) -> Ways:
        ways: list[tuple[Item, ...]] = []
        items: list[Item] = []
        while True:
            token = self.next
            if token.kind == "newline" and not self.goes_on():
                break
            if token.kind in ("end", "directive") or token.text in (")", "]"):
                if token.kind == "directive":
                    self.directive(Grammar())  # which says why it cannot stand here
                    raise self.refused(token)
                break
            if token.kind == "newline":
                self.take()
            elif token.text == "|":
                self.take()
                ways.append(tuple(items))
                items = []
            elif token.text == "->":
                self.take()
                self.take()
            else:
                items.append(self.repeated(self.item()))
        return Ways((*ways, tuple(items)))

    def goes_on(self) -> bool:
        """Whether what follows a line's end belongs to the same definition: inside brackets, or before `|`."""
        place = self.place
        while self.tokens[place].kind == "newline":
            place += 1
        return self.depth > 0 or self.tokens[place].text == "|"

    def item(self) -> Item:
        token = self.take()
        match token.kind:
            case "text":
                if self.next.text == "..":
                    self.take()
                    return _range(token, self.take())
                return _text(token)
            case "regex":
                return _regex(token)
            case "name":
                self.attributes(token)
                return Name(token.text, token.line)
            case "special":
                help = (
                    "leave it out: a text ends by itself where the grammar is done"
                    if token.text in ("<eos>", "<|endoftext|>", "</s>")
                    else "write the text that it stands for in double quotes"
                )
                message = f"{token.text} is a special token, and no text holds one"
                raise Refused(message, token.line, help, final=True)
        if token.text in ("(", "["):
            self.depth += 1
            inside = self.ways()
            self.depth -= 1
            self.take(")" if token.text == "(" else "]")
            return inside if token.text == "(" else Repeat(inside, 0, 1)
        raise self.refused(token)

    def repeated(self, item: Item) -> Item:
        while (sign := self.next.text) in ("*", "+", "?", "~", "{"):
            self.take()
            if sign in "*+?":
                item = Repeat(item, int(sign == "+"), 1 if sign == "?" else None)
                continue
            low = high = int(self.take().text) if self.next.kind == "number" else 0
            if sign == "~" and self.next.text == "..":
                self.take()
                high = int(self.take().text)
            elif sign == "{":
                if self.next.text == ",":
                    self.take()
                    high = int(self.take().text) if self.next.kind == "number" else None  # type: ignore[assignment]
                self.take("}")
            item = Repeat(item, low, high)
        return item


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", **{c: c for c in "\"\\/'"}}
_ESCAPED = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)


def _spelled(token: Token) -> str:
    def one(match: re.Match[str]) -> str:
        if digits := match[1] or match[2] or match[3]:
            if int(digits, 16) > 0x10FFFF:
                raise Refused(
                    f"{match.group()} is beyond the last character", token.line, "write the character itself"
                )
            return chr(int(digits, 16))
        if match[4] not in _ESCAPES:
            raise Refused(f"{match.group()} is no escape", token.line, r"write `\\` for a backslash")
        return _ESCAPES[match[4]]

    body = token.text.removesuffix("i")[1:-1]
    text = _ESCAPED.sub(one, body).encode("utf-16", "surrogatepass")
    try:
        return text.decode("utf-16")
    except UnicodeDecodeError:
        message = "the text holds half of a surrogate pair, which is no character"
        raise Refused(message, token.line, "write the character itself") from None


def _text(token: Token) -> Item:
    text = _spelled(token)
    if not token.text.endswith("i"):
        return text
    return Ways((tuple(Chars(characters(("LITERAL", ord(c)), re.IGNORECASE)) for c in text),))


def _range(first: Token, last: Token) -> Item:
    low, high = _spelled(first), _spelled(last) if last.kind == "text" else ""
    if len(low) != 1 or len(high) != 1 or low > high:
        message = f"{first.text}..{last.text} is no range of characters"
        raise Refused(message, first.line, 'write it from the smaller character to the larger, "a".."z"')
    return Chars(((ord(low), ord(high)),))


def _regex(token: Token) -> Item:
    body, _, flags = token.text[1:].rpartition("/")
    if strange := set(flags) - set("imsux"):
        message = f"{token.text} has the flag {min(strange)}"
        raise Refused(message, token.line, "the flags of regular expressions are i, m, s, u and x")
    pattern = body.replace(r"\/", "/")
    pattern = f"(?{flags.replace('u', '')}:{pattern})" if flags.replace("u", "") else pattern
    try:
        tree = parse(pattern)
        return _part(tree, tree.state.flags, token)
    except PatternError as wrong:
        help = "write it as Python does, without look-around, back references and anchors"
        raise Refused(
            f"{token.text} is not a regular expression that can be used: {wrong.message}", token.line, help
        ) from None


def _part(parts: Any, flags: int, token: Token) -> Item:
    items: list[Item] = []
    for op, argument in parts:
        match str(op):
            case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN":
                items.append(Chars(characters((op, argument), flags)))
            case "BRANCH":
                items.append(Ways(tuple((_part(way, flags, token),) for way in argument[1])))
            case "SUBPATTERN":
                _, added, dropped, inside = argument
                items.append(_part(inside, (flags | added) & ~dropped, token))
            case "MAX_REPEAT" | "MIN_REPEAT":
                low, high, inside = argument
                most = None if str(high) == "MAXREPEAT" else int(high)
                items.append(Repeat(_part(inside, flags, token), low, most))
            case _:
                raise PatternError("unsupported", "anchors, look-around and back references are left out")
    return Ways((tuple(items),))


# ------------------------------------------------------------------------------- writing


def _written(grammar: Grammar) -> str:
    """The rules over single characters, `start` first, by new names."""
    names = {name: f"r{k}" for k, name in enumerate(grammar.rules)}

    def known(item: Name) -> str:
        if item.name not in names:
            help = "define it as a rule or a terminal, or write it in double quotes for a text"
            raise Refused(f"unknown name: {item.name}", item.line, help)
        return names[item.name]

    # What is ignored may stand before every terminal of a rule, and after the last.
    skip = "" if not grammar.ignored else "skip "
    lines = [f"start: {known(Name('start', 1))}{' skip' if skip else ''}"]
    if skip:
        lines.append("skip: (" + " | ".join(_spell(item, known, "") for item in grammar.ignored) + ")*")
    for name, ways in grammar.rules.items():
        lines.append(f"{names[name]}: {_spell(ways, known, '' if is_terminal(name) else skip, top=True)}")
    return "\n".join(lines) + "\n"


def _spell(item: Item, known: Callable[[Name], str], skip: str, *, top: bool = False) -> str:
    match item:
        case str():
            return f"({skip}{' '.join(json.dumps(c, ensure_ascii=False) for c in item)})" if item else '""'
        case Chars(ranges=ranges):
            return f"({skip}{_class(ranges)})" if skip else _class(ranges)
        case Name(name=name):
            return f"({skip}{known(item)})" if skip and is_terminal(name) else known(item)
        case Repeat(item=inside, low=low, high=high):
            most = "" if high is None else str(high)
            sign = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((low, high), f"{{{low},{most}}}")
            return f"({_spell(inside, known, skip)}){sign}"
        case Ways(ways=ways):
            found = " | ".join(" ".join(_spell(one, known, skip) for one in way) or '""' for way in ways)
            return found if top else f"({found})"
    raise TypeError(item)


def _class(ranges: Ranges) -> str:
    """A set of characters as llguidance has it, halves of surrogate pairs left out."""
    kept = [
        (max(low, first), min(high, last))
        for low, high in ranges
        for first, last in ((0, 0xD7FF), (0xE000, 0x10FFFF))
        if max(low, first) <= min(high, last)
    ]
    return (
        "/[" + "".join(f"\\x{{{low:X}}}-\\x{{{high:X}}}" for low, high in kept) + "]/"
        if kept
        else r"/[^\x00-\x{10FFFF}]/"
    )


COMMON = {
    "DIGIT": '"0".."9"',
    "HEXDIGIT": "/[a-fA-F0-9]/",
    "INT": "/[0-9]+/",
    "SIGNED_INT": "/[+-]?[0-9]+/",
    "DECIMAL": r"/[0-9]+\.[0-9]*|\.[0-9]+/",
    "FLOAT": r"/[0-9]+[eE][+-]?[0-9]+|([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?/",
    "SIGNED_FLOAT": r"/[+-]?([0-9]+[eE][+-]?[0-9]+|([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?)/",
    "NUMBER": r"/[0-9]+|[0-9]+[eE][+-]?[0-9]+|([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?/",
    "SIGNED_NUMBER": r"/[+-]?([0-9]+|[0-9]+[eE][+-]?[0-9]+|([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?)/",
    "ESCAPED_STRING": r'/"([^"\\\n]|\\[^\n])*"/',
    "LCASE_LETTER": "/[a-z]/",
    "UCASE_LETTER": "/[A-Z]/",
    "LETTER": "/[A-Za-z]/",
    "WORD": "/[A-Za-z]+/",
    "CNAME": "/[A-Za-z_][A-Za-z_0-9]*/",
    "WS_INLINE": r"/[ \t]+/",
    "WS": r"/[ \t\f\r\n]+/",
    "CR": r"/\r/",
    "LF": r"/\n/",
    "NEWLINE": r"/(\r?\n)+/",
}
"""The terminals of Lark's `common`."""
