"""Every text of a grammar is in its support, by brute force over small grammars; what is refused, and where."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest

from posterior_lm.lang.diagnostics import CompileError
from posterior_lm.lm.tabular import TabularTokenizer
from posterior_lm.support.build import build_support
from posterior_lm.support.grammar import GrammarSupport
from posterior_lm.support.lark import COMMON, Refused, characterwise
from posterior_lm.support.spec import TextSpec

LETTERS = "ab"
LONGEST = 6
TEXTS = ["".join(t) for n in range(LONGEST + 1) for t in itertools.product(LETTERS, repeat=n)]
TOKENS = TabularTokenizer(("a", "b"))


def texts_of(grammar: str, tokens: TabularTokenizer = TOKENS, longest: int = LONGEST) -> set[str]:
    """Every text that a walk over the support finds, and no hope that it gave up."""
    try:
        support = build_support(TextSpec(0, longest, grammar=grammar), tokens)
    except CompileError as empty:
        if empty.diagnostics[0].code != "PLM330":
            raise
        return set()
    assert isinstance(support, GrammarSupport)
    found = {tokens.decode(s[1]) for s in support._walk() if support.may_stop(s)}
    assert all(support.accepts(tokens.encode(text)) for text in found)
    return found


# ------------------------------------------------- grammars at random, with what they derive worked out by sets


def random_grammar(rng: np.random.Generator) -> dict[str, list[list[tuple[str, str]]]]:
    """Rules by name; each alternative is a list of parts: text, regex, name, and what repeats it."""
    names = ["start", "x", "y", "T"][: int(rng.integers(1, 5))]
    patterns = ["a+", "a*b?", "[ab]", "ab|a", "(ab)*", "b{1,2}", "a?", "[^b]", "(a|b)+"]

    def part(where: str) -> tuple[str, str]:
        kind = rng.choice(["text", "regex", "name"], p=[0.45, 0.3, 0.25])
        if kind == "name" and (others := [n for n in names if where != "T" or False]):
            return ("name", str(rng.choice(others)))
        if kind == "regex":
            return ("regex", str(rng.choice(patterns)))
        return ("text", "".join(rng.choice([*LETTERS], int(rng.integers(0 if where != "T" else 1, 4)))))

    return {
        name: [[part(name) for _ in range(int(rng.integers(1, 4)))] for _ in range(int(rng.integers(1, 4)))]
        for name in names
    }


def lark(grammar: dict[str, list[list[tuple[str, str]]]]) -> str:
    def spelled(part: tuple[str, str]) -> str:
        kind, text = part
        return {"text": json.dumps(text), "regex": f"/{text}/", "name": text}[kind]

    return "\n".join(
        f"{name}: {' | '.join(' '.join(map(spelled, way)) for way in ways)}" for name, ways in grammar.items()
    )


def derived(grammar: dict[str, list[list[tuple[str, str]]]]) -> set[str]:
    """The texts of at most `LONGEST` characters that `start` derives: the least fixed point."""
    matched = {
        text: {t for t in TEXTS if re.fullmatch(text, t)}
        for ways in grammar.values()
        for way in ways
        for kind, text in way
        if kind == "regex"
    }
    known: dict[str, set[str]] = {name: set() for name in grammar}
    while True:
        before = {name: len(found) for name, found in known.items()}
        for name, ways in grammar.items():
            for way in ways:
                heads = {""}
                for kind, text in way:
                    tails = {
                        "text": {text},
                        "regex": matched.get(text, set()),
                        "name": known.get(text, set()),
                    }[kind]
                    heads = {h + t for h in heads for t in tails if len(h) + len(t) <= LONGEST}
                known[name] |= heads
        if before == {name: len(found) for name, found in known.items()}:
            return known["start"]


def test_random_grammars_hold_exactly_what_they_derive(rng: np.random.Generator) -> None:
    sizes = []
    for _ in range(60):
        grammar = random_grammar(rng)
        expected = derived(grammar)
        try:
            found = texts_of(lark(grammar))
        except CompileError as problem:
            # A rule that derives nothing finite is refused.
            assert "no finite text" in str(problem) and not expected, lark(grammar)
            continue
        assert found == expected, lark(grammar)
        sizes.append(len(expected))
    assert sum(size > 1 for size in sizes) > 35


CASES = [
    ('start: "ab" "a" | "a" "bb"', {"aba", "abb"}),
    ('start: /a+b?/ "b" "a"', {t for t in TEXTS if re.fullmatch("a+b?ba", t)}),
    ('start: /[ab]*/ "ab"', {t for t in TEXTS if t.endswith("ab")}),
    ('start: A "a" | B\nA: "a" | "aa"\nB: "ab"*', {"aa", "aaa", "", "ab", "abab", "ababab"}),
    ('start: "a" ("b" "a")~1..2 | ["b"]\n', {"aba", "ababa", "b", ""}),
    ('start: "A"i{2} -> two\n     | "b" // the rest\n', {"aa", "b"}),
    ('?start: _x+\n_x.2: "a".."b" "a"\n', {t for t in TEXTS if re.fullmatch("([ab]a)+", t)}),
    ('start: x\nx: x "a" | "b" |', {t for t in TEXTS if re.fullmatch("b?a*", t)}),
    ('start: T T\nT: "a" U*\nU: /b/', {t for t in TEXTS if re.fullmatch("ab*ab*", t)}),
    ('start: "a" "a"\n%ignore "b"', {t for t in TEXTS if t.count("a") == 2}),
    (r'start: "\u0061\x62" | "\U00000061"', {"ab", "a"}),
    ("start: WORD\n%import common.WORD", {*TEXTS} - {""}),
    ("start: LETTERS DIGIT*\n%import common (DIGIT, WORD)\n%import common.WORD -> LETTERS", {*TEXTS} - {""}),
]  # fmt: skip


@pytest.mark.parametrize(("grammar", "expected"), CASES, ids=[g.splitlines()[0] for g, _ in CASES])
def test_constructs(grammar: str, expected: set[str]) -> None:
    assert texts_of(grammar) == expected


def test_other_tokens_make_no_difference() -> None:
    tokens = TabularTokenizer(("a", "b", "ab", "bba", "é", "\U0001f600"))
    for grammar, expected in CASES[:6]:
        assert {t for t in texts_of(grammar, tokens) if len(t) <= LONGEST} >= expected
    assert texts_of('start: "é" | /[à-ü]/ "ab" | "\\U0001F600"', tokens) == {"é", "éab", "\U0001f600"}


def test_a_body_before_its_end_is_found() -> None:
    """A lexer that takes the longest swallows what closes the text."""
    tokens = TabularTokenizer(("<", ">", "a"))
    found = texts_of('start: "<" /.+/ ">"', tokens, 4)
    assert found == {f"<{m}>" for n in (1, 2) for m in map("".join, itertools.product("<>a", repeat=n))}


@pytest.mark.parametrize("name", COMMON)
def test_the_terminals_of_common_can_be_read(name: str) -> None:
    assert characterwise(f"start: {name}\n%import common.{name}").startswith("start: r0")


REFUSED = [
    ("start: <eos>", "line 1: <eos> is a special token", "leave it out"),
    ('start: "a"\n\nx[temperature=0.1]: "a"', "line 3: x[temperature=…]", "power"),
    ('start: x[temperature=0.1]\nx: "a"', "line 1: x[temperature=…]", "power"),
    ('start: x\nx[capture]: "a"', "line 2: x[capture]", "leave it out"),
    ('start: %json {"type": "object"}', "line 1: %json", "json="),
    ('start: "a"\n%llguidance {}', "line 2: %llguidance", "leave it out"),
    ("start: /^a/", "line 1: /^a/", "anchors"),
    (r"start: /(a)\1/", "line 1", ""),
    ("start: X\n%import common.NO_SUCH", "NO_SUCH", "import"),
    ('start: "\\q"', "line 1", ""),
    ('start: "a"\nb: (', "line 2", ""),
    ('start: "b".."a"', "line 1", ""),
]  # fmt: skip


@pytest.mark.parametrize(("grammar", "message", "help"), REFUSED, ids=[g[:30] for g, _, _ in REFUSED])
def test_what_is_refused_says_why_and_where(grammar: str, message: str, help: str) -> None:
    with pytest.raises(CompileError) as caught:
        build_support(TextSpec(0, 4, grammar=grammar), TOKENS)
    (found,) = caught.value.diagnostics
    assert found.code == "PLM337" and message in found.message, found.message
    assert help in (found.help or "") and found.help


def test_lines_are_those_of_the_file() -> None:
    for grammar in ("start: (", "start: x(", 'start: "a', "start: /a"):
        with pytest.raises(CompileError) as caught:
            build_support(TextSpec(0, 4, grammar=grammar), TOKENS)
        message = caught.value.diagnostics[0].message
        assert all(int(n) == 1 for n in re.findall(r"line (\d+)", message)), message


def test_what_is_not_of_the_notation_is_refused() -> None:
    for text in ("start = 1", "start: ;", "start: a..b", "%", "start: x\nx: \ny", "start: ~3", "\x00"):
        with pytest.raises(Refused):
            characterwise(text)


# ------------------------------------------------------------------------------- schemas


BYTES = TabularTokenizer(tuple(dict.fromkeys('"\\/{}[]:,.+-0123456789abcdefnutrl é😀 ')))


def spells(schema: object, text: str) -> bool:
    support = build_support(TextSpec(0, 40, json=json.dumps(schema)), BYTES)
    return support.accepts(BYTES.encode(text))


WRONG_SCHEMAS = [
    ({"type": "integer", "maxmum": 3}, '"maxmum" at # is no keyword', "`maximum`"),
    ({"type": "string", "minlength": 2}, '"minlength"', "`minLength`"),
    ({"type": "object", "additionalproperties": False}, '"additionalproperties"', "`additionalProperties`"),
    ({"divisibleBy": 2}, "divisibleBy", "multipleOf"),
    ({"disallow": "string"}, "disallow", "anyOf"),
    ({"extends": {}}, "extends", "allOf"),
    ({"type": "string", "contentEncoding": "base64"}, "contentEncoding", "pattern"),
    ({"type": "integer", "nullable": True}, "nullable", "null"),
    ({"type": "integer", "format": "int32"}, "the format at #", "take the format out"),
    ({"type": "object", "properties": {"maxmum": {"colour": 1}}}, '"colour" at #/properties/maxmum', "x-"),
    ({"anyOf": [{}, {"items": {"maxmum": 1}}]}, "#/anyOf/1/items", "`maximum`"),
    ({"$defs": {"a": {"minItem": 1}}, "$ref": "#/$defs/a"}, "#/$defs/a", "`minItems`"),
    ({"items": [{"exlusiveMaximum": 1}]}, "#/items/0", "`exclusiveMaximum`"),
    ({"x-guidance": {"lenient": True}, "type": "integer"}, "lenient", "whitespace_flexible"),
    ({"x-guidance": {"coerce_one_of": True}, "type": "integer"}, "coerce_one_of", "anyOf"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf", "write anyOf"),
    ({"$reff": "#/$defs/a"}, '"$reff"', "`$ref`"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems", "condition"),
]


@pytest.mark.parametrize(("schema", "message", "help"), WRONG_SCHEMAS, ids=[m for _, m, _ in WRONG_SCHEMAS])
def test_keywords_that_are_not_understood_are_refused(schema: object, message: str, help: str) -> None:
    with pytest.raises(CompileError) as caught:
        build_support(TextSpec(0, 4, json=json.dumps(schema)), BYTES)
    (found,) = caught.value.diagnostics
    assert found.code == "PLM338" and message in found.message, found.message
    assert help in (found.help or "") and "option" not in found.message.replace("no option", "")


def test_remarks_and_what_says_nothing_are_let_through() -> None:
    remarks = {"title": "t", "x-note": 1, "_old": {"maxmum": 1}, "$comment": "c", "default": {"maxmum": 1}}
    remarks |= {"readonly": True, "$async": True}
    assert spells({"type": "array", "uniqueItems": False, "items": {"type": "integer"}, **remarks}, "[1,1]")
    # A property, or a value that is listed, may be called as it likes.
    named = {"type": "object", "properties": {"ab": {"const": {"maxmum": 1}}, "uniqueItems": {}}}
    assert build_support(TextSpec(0, 40, json=json.dumps(named)), BYTES) is not None
    kept = {"type": "object", "properties": {"f": {"enum": [{"uniqueItems": False}]}}, "required": ["f"]}
    from posterior_lm.support.schema import understood

    assert understood(kept) == kept


@pytest.mark.parametrize(
    ("schema", "text", "inside"),
    [
        ({"const": "é"}, '"é"', True),
        ({"const": "é"}, '"\\u00e9"', False),
        ({"type": "string"}, '"😀"', True),
        ({"type": "string"}, '"\\ud83d\\ude00"', False),
        ({"type": "string"}, '"\\/"', False),
        ({"type": "string"}, '"\\n"', True),
        ({"type": "string"}, '"\\\\"', True),
        ({"type": "integer"}, "1", True),
        ({"type": "integer"}, "1.0", False),
        ({"enum": [1]}, "1.0", False),
    ],
)
def test_json_is_written_with_its_characters_themselves(schema: object, text: str, inside: bool) -> None:
    """As `json.dumps(…, ensure_ascii=False)` writes it, which the how-to says."""
    assert spells(schema, text) is inside
    if inside:
        assert json.dumps(json.loads(text), ensure_ascii=False) == text
