"""Grammars and JSON schemas handed to llguidance, over any tokenizer; its complaints as diagnostics.

The one thing that it does not complain of is found here: a rule that has no finite text. Source:
productive nonterminals, Hopcroft & Ullman (1979), lemma 4.1. The reader knows the outline of Lark's
syntax; where it meets something else it says nothing.
"""

from __future__ import annotations

import json
import re
from typing import Any

from attrs import define

from posterior_lm.lang.diagnostics import CompileError, Diagnostic, error
from posterior_lm.lang.source import Span
from posterior_lm.lang.values import read_json
from posterior_lm.lm.protocol import Tokenizer
from posterior_lm.support.base import Cache
from posterior_lm.support.lark import Refused, characterwise
from posterior_lm.support.schema import refused, understood
from posterior_lm.support.spec import TextSpec
from posterior_lm.support.token_automata import token_matrix, tokenizer_key

_EVERY_SPELLING = '\n%llguidance {"no_forcing": true}\n'
"""Without it, where the next bytes are certain, only the tokenizer's own spelling of them is allowed."""

_vocabularies = Cache[tuple[object, ...], Any](4)
"""One takes a third of a second to build."""


def check_grammar(spec: TextSpec, span: Span | None) -> str | None:
    """The grammar of a type as llguidance takes it, or None where the type has none.

    Raises CompileError: PLM337 for a wrong grammar, PLM338 for a schema that is
    refused.
    """
    if spec.grammar is None and spec.json is None:
        return None
    from llguidance import LLMatcher

    if spec.json is not None:
        schema = _schema(spec.json, span)
        found = LLMatcher.grammar_from_json_schema(schema)
        failed, wrong = LLMatcher.validate_grammar_with_warnings(found)
        if failed or wrong:  # a warning says that less is held to than is written
            said = _sentence(wrong[0]).replace(
                ". Enable 'coerce_one_of' option to approximate oneOf with anyOf", ""
            )
            raise CompileError.of(
                "PLM338", f"the schema is refused: {said}", span, "for this schema", help=schema_help(said)
            )
        schema = "{}" if schema.strip() == "true" else schema
        return str(LLMatcher.grammar_from_lark(f"start: %json {schema}{_EVERY_SPELLING}"))
    assert spec.grammar is not None
    if spec.grammar.lstrip().startswith("{"):
        # llguidance would take it for a grammar of its own in JSON.
        raise CompileError.of(
            "PLM337",
            "the grammar is JSON",
            span,
            "for this grammar",
            help="give a JSON schema with json=; a grammar is written as Lark writes it",
        )
    try:
        written = characterwise(spec.grammar)
    except Refused as problem:
        # Where llguidance refuses it too, what that says points into the line.
        failed, wrong = LLMatcher.validate_grammar_with_warnings(LLMatcher.grammar_from_lark(spec.grammar))
        if failed and not problem.final:
            raise CompileError(_wrong_grammar(spec.grammar, wrong[0], span)) from None
        message = f"the grammar is refused in line {problem.line}: {problem.message}"
        raise CompileError.of("PLM337", message, span, "for this grammar", help=problem.help) from None
    found = LLMatcher.grammar_from_lark(written + _EVERY_SPELLING)
    failed, wrong = LLMatcher.validate_grammar_with_warnings(found)
    if failed:
        raise CompileError(_wrong_grammar(spec.grammar, wrong[0], span))
    endless = endless_rule(spec.grammar)
    if endless is not None:
        raise CompileError.of(
            "PLM337",
            f"the rule `{endless}` of the grammar has no finite text",
            span,
            "for this grammar",
            help=f"give `{endless}` an alternative that ends without needing itself again",
        )
    return str(found)


def matcher(spec: TextSpec, tokenizer: Tokenizer, span: Span | None) -> Any:
    """An `LLMatcher` of the type's grammar that has read nothing. Raises CompileError."""
    from llguidance import LLMatcher

    grammar = check_grammar(spec, span)
    if grammar is None:
        raise ValueError("the type has no grammar")
    found = LLMatcher(parser_vocabulary(tokenizer), grammar, log_level=0)
    if found.is_error():
        code = "PLM337" if spec.grammar is not None else "PLM338"
        message = f"the grammar cannot be used: {_sentence(found.get_error())}"
        raise CompileError.of(code, message, span, help="make it smaller: fewer rules and repeats")
    return found


def _schema(text: str, span: Span | None) -> str:
    try:
        schema = read_json(text)
    except ValueError as wrong:
        raise CompileError.of(
            "PLM338",
            f"the schema is not JSON: {wrong}",
            span,
            "for this schema",
            help="mend it there; `python -m json.tool FILE` reads JSON too",
        ) from None
    if problem := refused(schema):
        message, help = problem
        raise CompileError.of(
            "PLM338", f"the schema is refused: {message}", span, "for this schema", help=help
        )
    plain = understood(schema)
    return text if plain == schema else json.dumps(plain)


_PLACE = re.compile(r"(?:at )?(\d+)\((\d+)\): *")


def _wrong_grammar(grammar: str, wrong: str, span: Span | None) -> Diagnostic:
    found = _PLACE.match(wrong)
    if found is None:
        said = _sentence(wrong)
        message = f"the grammar is wrong: {said}"
        return error("PLM337", message, span, "for this grammar", help=grammar_help(said))
    lines = grammar.splitlines()
    number, column = int(found[1]), int(found[2])
    if number > len(lines):  # behind the end, where something is missing
        number, column = max(1, len(lines)), len(lines[-1]) + 1 if lines else 1
    shown = lines[number - 1] if 0 < number <= len(lines) else ""
    return error(
        "PLM337",
        f"the grammar is wrong in line {number}, column {column}: {_sentence(wrong[found.end() :])}",
        span,
        "for this grammar",
        notes=[shown, " " * (column - 1) + "^"] if shown else [],
        help=grammar_help(wrong[found.end() :]),
    )


def _sentence(text: str) -> str:
    """The first line of a message, with the cause that stands further down, without a full stop."""
    lines = [line.strip() for line in text.strip().splitlines()]
    first = next(iter(lines), "").rstrip(".:")
    cause = next((line.removeprefix("error: ") for line in lines[1:] if line.startswith("error: ")), "")
    return f"{first}: {cause}".rstrip(".") if cause else first


def parser_vocabulary(tokenizer: Tokenizer) -> Any:
    """The tokens as llguidance wants them; what no text may hold is marked as special."""
    from llguidance import LLTokenizer, TokenizerWrapper

    def build() -> Any:
        return LLTokenizer(TokenizerWrapper(_Vocabulary(tokenizer)), n_vocab=tokenizer.vocabulary_size)

    return _vocabularies.get(tokenizer_key(tokenizer), build)


class _Vocabulary:
    """The attributes that llguidance reads. It spells texts only to guess ahead, so greedily will do."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        usable = {*token_matrix(tokenizer).ids.tolist()}
        self.special_token_ids = [i for i in range(tokenizer.vocabulary_size) if i not in usable]
        self.tokens = [
            spelled if i in usable else b"\xff<%d>" % i for i, spelled in enumerate(tokenizer.token_bytes)
        ]
        # Its end of text is never drawn as a token; where there is none any special one stands for it.
        self.eos_token_id = next(iter((*tokenizer.eos_ids, *self.special_token_ids)), 0)
        self.bos_token_id = None

    def __call__(self, text: str | bytes) -> list[int]:
        return []


# ------------------------------------------------------- what to change, by what llguidance says


_GRAMMAR = (
    (r"unknown name", "define it as a rule or a terminal, or write it in double quotes for a text"),
    (r"no start rule", "name the rule that stands for the whole text `start`"),
    (r"duplicate rule", "give one of the two another name, or join them with `|`"),
    (r"look-around", "say it without look-ahead and look-behind: a terminal has to be regular"),
    (
        r"invalid regex|regex parse error",
        r"mend this regular expression; `\` makes a character stand for itself",
    ),
    (r"range end", "write the smaller number first, `~1..3`"),
    (r"Unknown common", "import one of those, such as `%import common.WORD`"),
    (
        r"lexer error",
        'write a text in double quotes, "like this", and a regular expression in slashes, /[a-z]+/',
    ),
    (r"%json", "write a whole JSON schema behind `%json`, or give it with json="),
    (r"^Expected|found ", "write a rule as `name: this that | other`, each on lines of its own"),
)
_SCHEMA = (
    (r"Unimplemented keys", "take it out: what it demands can be said as a condition"),
    (r"Unsatisfiable", "loosen it so that at least one value fits"),
    (r"oneOf", "write anyOf, which a value may fit in several ways, or alternatives of which no value fits two"),
    (r"Unknown format", "take the format out, or say it as a `pattern`"),
    (r"Invalid type", 'write one of "string", "number", "integer", "boolean", "object", "array" and "null"'),
    (r"Pointer", "put what `$ref` points at under `$defs`, or write it out in place"),
    (r"regex parse error", "mend this regular expression; in JSON each of its backslashes is written twice"),
    (r"must be", "write it as JSON Schema has it, such as {\"type\": \"string\"}"),
)  # fmt: skip


def grammar_help(message: str) -> str:
    """An edit for what is said of a grammar."""
    return _found(_GRAMMAR, message, "write it as Lark writes grammars, with a rule `start`")


def schema_help(message: str) -> str:
    """An edit for what is said of a JSON schema."""
    return _found(_SCHEMA, message, "take out what the message names, or say it as a condition")


def _found(known: tuple[tuple[str, str], ...], message: str, otherwise: str) -> str:
    return next((help for pattern, help in known if re.search(pattern, message)), otherwise)


# ------------------------------------------------------------------- rules without a finite text


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
