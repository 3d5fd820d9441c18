"""Which rule of a grammar has no finite text: the one thing llguidance does not complain of.

Source: productive nonterminals, Hopcroft & Ullman (1979), lemma 4.1. The reader here
knows the outline of Lark's syntax; where it meets something else it says nothing.
"""

from __future__ import annotations

import re

from attrs import define

_TOKEN = re.compile(
    r"""\s+|//[^\n]*|\#[^\n]*
    |(?P<text>"(?:\\.|[^"\\])*"i?|/(?:\\.|[^/\\\n])+/[a-z]*)
    |(?P<define>[?!]?[A-Za-z_]\w*(?:\[[^\]\n]*\])?(?:\.-?\d+)?\s*(?=:))
    |(?P<name>[A-Za-z_]\w*)
    |(?P<repeat>[*+?]|~\s*\d+(?:\s*\.\.\s*\d+)?|\{\s*\d*\s*,?\s*\d*\s*\})
    |(?P<sign>->\s*\w+|\.\.|[()\[\]|:&~])
    |(?P<directive>%\w+[^\n]*)""",
    re.VERBOSE,
)


class _Unknown(Exception):
    """Syntax that is not in the outline."""


@define
class _Reader:
    """Reads rules as nested alternatives."""

    tokens: list[tuple[str, str]]
    place: int = 0

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.place] if self.place < len(self.tokens) else ("end", "")

    def take(self) -> tuple[str, str]:
        found = self.peek()
        self.place += 1
        return found

    def rules(self) -> dict[str, list[object]]:
        rules: dict[str, list[object]] = {}
        while self.peek()[0] != "end":
            kind, text = self.take()
            if kind == "directive":
                continue
            if kind != "define" or self.take()[1] != ":":
                raise _Unknown
            name = re.sub(r"^[?!]|[\[.].*|\s", "", text)
            rules[name] = self.alternatives()
        return rules

    def alternatives(self) -> list[object]:
        """A list of alternatives, each a tuple of items: a name, a nested list, or True for what is finite."""
        ways: list[object] = []
        items: list[object] = []
        while True:
            kind, text = self.peek()
            if kind in ("end", "define", "directive") or text in (")", "]"):
                return [*ways, tuple(items)]
            self.take()
            if text == "|":
                ways.append(tuple(items))
                items = []
            elif text in ("(", "["):
                inside = self.alternatives()
                if self.take()[1] != (")" if text == "(" else "]"):
                    raise _Unknown
                items.append(inside if text == "(" else True)
            elif kind == "repeat":
                if not items:
                    raise _Unknown
                if text in "*?" or re.match(r"[~{]\s*0*\s*(?:\.\.|,)|[~{]\s*0+\b", text):
                    items[-1] = True
            elif kind == "name":
                items.append(text)
            elif kind == "text":
                items.append(True)
            elif text != ".." and not text.startswith("->"):
                raise _Unknown


def endless_rule(grammar: str) -> str | None:
    """A rule that `start` needs and that derives no finite text; None where all is well or not known."""
    try:
        rules = _Reader(_tokens(grammar)).rules()
    except _Unknown:
        return None
    finite: set[str] = set()

    def ends(item: object) -> bool:
        if isinstance(item, str):
            return item not in rules or item in finite
        if isinstance(item, list):
            return any(all(ends(part) for part in way) for way in item)
        return True

    while more := {name for name, ways in rules.items() if name not in finite and ends(ways)}:
        finite |= more
    if "start" not in rules or "start" in finite:
        return None
    # From `start` to the innermost: a rule that needs no other endless one but itself.
    name, seen = "start", set[str]()
    while name not in seen:
        seen.add(name)
        others = [n for n in _names(rules[name]) if n in rules and n not in finite and n not in seen]
        name = others[0] if others else name
    return name


def _tokens(grammar: str) -> list[tuple[str, str]]:
    found, place = [], 0
    while place < len(grammar):
        match = _TOKEN.match(grammar, place)
        if match is None:
            raise _Unknown
        place = match.end()
        if match.lastgroup is not None:
            found.append((match.lastgroup, match[match.lastgroup].strip()))
    return found


def _names(item: object) -> list[str]:
    if isinstance(item, str):
        return [item]
    return [n for part in item for n in _names(part)] if isinstance(item, list | tuple) else []
