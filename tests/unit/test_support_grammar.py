"""Grammars and schemas as supports, against recognisers written out by hand over toy vocabularies."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from posterior_lm.lang.diagnostics import CompileError
from posterior_lm.lm.tiny import WEIGHTS
from posterior_lm.lm.tokenizers import load_tokenizer
from posterior_lm.support.base import Support
from posterior_lm.support.build import build_support
from posterior_lm.support.grammar import GrammarSupport, closing_first
from posterior_lm.support.grammar_parser import endless_rule
from posterior_lm.support.spec import TextSpec
from tests.conftest import shared_model
from tests.laws.supports import ToyTokenizer

E_ACUTE = "é".encode()
PIECES = [
    b"a",
    b"b",
    b"ab",
    b"aab",
    b"(",
    b")",
    b"()",
    b")(",
    b"((",
    b".",
    b"b.",
    E_ACUTE[:1],
    E_ACUTE[1:],
    b"a" + E_ACUTE,
]


def balanced(text: str) -> bool:
    while "()" in text:
        text = text.replace("()", "")
    return not text


def as_before_bs(text: str) -> bool:
    half = len(text) // 2
    return text == "a" * half + "b" * half


LANGUAGES: dict[str, tuple[str, Callable[[str], bool]]] = {
    "as before bs": ('start: "a" start "b" | ""', as_before_bs),
    "balanced": ('start: pair*\npair: "(" start ")"', balanced),
    "left recursive": ('start: start "ab" | "a"', lambda t: re.fullmatch("a(ab)*", t) is not None),
    "ambiguous": ('start: start start | "a" | "é"', lambda t: re.fullmatch("[aé]+", t) is not None),
    "one text": ('start: "aabb."', lambda t: t == "aabb."),
    "a palindrome": ('start: "a" start "a" | "b" start "b" | "é"', lambda t: "é" in t and t == t[::-1] and t.count("é") == 1 and "." not in t and "(" not in t and ")" not in t),
}  # fmt: skip

VOCABULARIES = st.lists(st.sampled_from(PIECES), min_size=2, max_size=6, unique=True).map(
    lambda pieces: ToyTokenizer((None, *pieces, b""))
)


def reached(support: Support) -> tuple[set[tuple[int, ...]], set[tuple[int, ...]]]:
    """The values that walking reaches, and the dead ends."""
    values, dead, open_ = set(), set(), [((), support.start())]
    while open_:
        ids, state = open_.pop()
        tokens = np.flatnonzero(support.allowed(state)).tolist()
        if support.may_stop(state):
            values.add(ids)
        elif not tokens:
            dead.add(ids)
            assert support.must_stop(state)
        open_ += [((*ids, t), support.advance(state, t)) for t in tokens]
    return values, dead


@settings(max_examples=100, deadline=None)
@example(ToyTokenizer((None, b"a", b"b", b"aab", b"a" + E_ACUTE, b"")), "a palindrome", 1, None)
@given(
    VOCABULARIES,
    st.sampled_from(sorted(LANGUAGES)),
    st.integers(0, 2),
    st.none() | st.sampled_from(["(?s).*a.*", "[^é]*", "(..)*"]),
)
def test_supports_hold_exactly_the_texts_of_the_grammar(
    toy: ToyTokenizer, name: str, low: int, pattern: str | None
) -> None:
    grammar, is_text = LANGUAGES[name]
    wanted = set()
    for count in range(low, 5):
        for ids in product([i for i in range(toy.vocabulary_size) if toy.usable(i)], repeat=count):
            text = toy.decode(ids)
            if "\ufffd" not in text and is_text(text) and re.fullmatch(pattern or "(?s).*", text):
                wanted.add(ids)
    try:
        support = build_support(TextSpec(low, 4, grammar=grammar, pattern=pattern), toy)
    except CompileError as problem:
        assert not wanted and problem.diagnostics[0].code in ("PLM330", "PLM335")
        return
    values, dead = reached(support)
    assert values == wanted
    assert not dead  # the cap is so near that every hopeless beginning is found
    assert support.count_values(1000) == len(wanted)
    assert not wanted or support.count_values(len(wanted) - 1) is None
    for ids in product(range(toy.vocabulary_size), repeat=2):
        assert support.accepts(ids) == (ids in wanted)


def test_the_stop_is_a_part_of_the_text() -> None:
    toy = ToyTokenizer((None, b"a", b"b", b"b.", b".", b".a"))
    spec = TextSpec(1, 4, ".", "stop", grammar='start: pair "."\npair: "a" pair "b" | ""')
    support = build_support(spec, toy)
    assert reached(support)[0] == {(4,), (1, 3), (1, 2, 4), (1, 1, 2, 3)}
    assert support.cut((1, 2, 4), 2) == (1, 2, 4) and support.cut((1, 2, 4), 1) is None
    wrong = TextSpec(1, 4, ".", "stop", grammar='start: "ab"')
    with pytest.raises(CompileError, match="PLM330"):
        build_support(wrong, toy)


def test_far_from_the_cap_a_beginning_can_be_lost_and_says_so() -> None:
    # Nothing but trying can tell that one more bracket is one too many; the last tokens are tried.
    toy = ToyTokenizer((None, b"(", b")", b"a"))
    support = build_support(TextSpec(1, 9, grammar='start: "(" start ")" | "a"'), toy)
    values, dead = reached(support)
    assert values == {(1,) * n + (3,) + (2,) * n for n in range(5)}
    state = support.start()
    for _ in range(5):
        if not support.allowed(state)[1]:
            break
        state = support.advance(state, 1)
    assert not support.may_stop(state)
    assert all(not support.accepts(ids) for ids in dead)


SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 1, "maximum": 12}, "b": {"enum": ["x", None]}},
    "required": ["a"],
    "additionalProperties": False,
}


def test_values_of_a_schema_are_those_that_json_reads() -> None:
    toy = ToyTokenizer((None, b'{"a":', b'{"', b'a"', b":", b"1", b"2", b"}", b"12}", b" ", b',"b":', b'"x"', b"null", b"0"))  # fmt: skip
    support = build_support(TextSpec(2, 5, json=json.dumps(SCHEMA)), toy)
    wanted = set()
    for count in range(2, 6):
        for ids in product(range(1, toy.vocabulary_size), repeat=count):
            if ids[0] in (1, 2) and ids[-1] in (7, 8, 9):
                try:
                    value = json.loads(toy.decode(ids), parse_constant=lambda _: None)
                except ValueError:
                    continue
                # White space may stand between the parts, not around the whole.
                known = isinstance(value, dict) and set(value) <= {"a", "b"} and ids[-1] != 9
                if known and value.get("a") in range(1, 13) and value.get("b", "x") in ("x", None):
                    wanted.add(ids)
    values, _ = reached(support)
    assert wanted and values == wanted


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ({"grammar": 'start: "a'}, "PLM337", "line 1, column 10"),
        ({"grammar": "start: a"}, "PLM337", "unknown name"),
        ({"grammar": 'begin: "a"'}, "PLM337", "no start rule"),
        ({"grammar": 'start: s\ns: s "a"'}, "PLM337", "`s` of the grammar has no finite text"),
        ({"grammar": "start: /(?=a)a/"}, "PLM337", "invalid regex"),
        ({"grammar": '{"type": "object"}'}, "PLM337", "JSON"),
        ({"grammar": 'start: "aaaaa"'}, "PLM330", "the grammar"),
        ({"json": '{"type": "obj"}'}, "PLM338", "obj"),
        ({"json": '{"type": "string", "pattern": "(a"}'}, "PLM338", "regex parse error: unclosed group"),
        ({"json": '{"type": '}, "PLM338", "not JSON"),
        ({"json": "[" * 100_000}, "PLM338", "not JSON"),
        ({"json": '{"enum": []}'}, "PLM338", "Unsatisfiable"),
        ({"json": '{"const": 12}'}, "PLM330", "the schema"),
        ({"json": "{}", "grammar": 'start: "a"'}, "PLM339", "cannot stand together"),
        ({"json": "{}", "canonical": True}, "PLM339", "cannot stand together"),
    ],
)
def test_wrong_grammars_and_schemas_say_what_is_wrong(options: dict, code: str, said: str) -> None:
    toy = ToyTokenizer((None, b"a", b"b"))
    with pytest.raises(CompileError) as caught:
        build_support(TextSpec(1, 3, **options), toy)
    assert caught.value.diagnostics[0].code == code
    assert said in caught.value.diagnostics[0].message


@pytest.mark.parametrize(
    ("grammar", "rule"),
    [
        ("start: start", "start"),
        ('start: "a" start', "start"),
        ('start: ("a" s)+ "b"\ns: "x" s', "s"),
        ("?start: a b+\na: /x/~3\nb: b // again", "b"),
        ('start: ("a" s)* "b"\ns: "x" s', None),
        ('start: ["a" s] | T{0,3}\ns: s\nT: T', None),
        ('start: "a" start | "b"', None),
        ("start: UNKNOWN\n%import common.INT -> UNKNOWN", None),
        ('start: %json {"type": "object"}', None),
    ],
)
def test_rules_without_a_finite_text_are_found(grammar: str, rule: str | None) -> None:
    assert endless_rule(grammar) == rule


def test_a_value_of_a_schema_is_found_at_once_and_nothing_of_the_search_is_kept() -> None:
    # Strings and white space have endless beginnings: depth first by number a walk would not come out of them.
    search = {"type": "object", "required": ["genre", "date"], "additionalProperties": False,
              "properties": {"genre": {"type": "string"}, "at": {}, "date": {"type": "string", "minLength": 2}}}  # fmt: skip
    schema = json.dumps({"type": "object", "properties": {"search": search}, "required": ["search"]})
    tokenizer = load_tokenizer(Path(WEIGHTS))
    support = build_support(TextSpec(1, 80, json=schema), tokenizer)
    assert isinstance(support, GrammarSupport) and support._parsers.asked == 0
    walk = support._walk(closing_first(tokenizer))
    found = next((count, state) for count, state in enumerate(walk) if support.may_stop(state))
    assert found[0] == len(found[1][1]) < 80  # not one step back
    assert set(json.loads(tokenizer.decode(found[1][1]))["search"]) >= {"genre", "date"}
    with pytest.raises(CompileError, match="PLM330"):
        build_support(TextSpec(1, 5, json=schema), tokenizer)


def test_walks_over_a_large_vocabulary_are_json() -> None:
    tokenizer = load_tokenizer(shared_model("gpt2-tokenizer"))
    support = build_support(TextSpec(1, 24, json=json.dumps(SCHEMA)), tokenizer)
    rng, finished = np.random.default_rng(5), 0
    for _ in range(30):
        state, ids = support.start(), []
        while not support.must_stop(state) and not (support.may_stop(state) and rng.random() < 0.5):
            ids.append(int(rng.choice(np.flatnonzero(support.allowed(state)))))
            state = support.advance(state, ids[-1])
        if support.may_stop(state):
            finished += 1
            assert support.accepts(ids) and 1 <= json.loads(tokenizer.decode(ids))["a"] <= 12
    assert finished > 3


def test_llguidance_is_loaded_only_for_a_grammar() -> None:
    code = """
import sys
from posterior_lm.support.build import build_support
from posterior_lm.support.spec import TextSpec
from tests.laws.supports import TOY
build_support(TextSpec(1, 3, ".", "stop", pattern="[ab]*[.]"), TOY)
assert "llguidance" not in sys.modules
build_support(TextSpec(1, 3, grammar='start: "a"'), TOY)
assert "llguidance" in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
