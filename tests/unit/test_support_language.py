"""Patterns and conditions as supports, against `re` over every token sequence of random vocabularies."""

from __future__ import annotations

import re
import time
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from posterior_lm.lang.automaton import surely_some_text
from posterior_lm.lang.diagnostics import CompileError
from posterior_lm.lang.regex import PatternError
from posterior_lm.lm.tokenizers import load_tokenizer
from posterior_lm.support.base import Support
from posterior_lm.support.build import build_support
from posterior_lm.support.byte_automata import MOST_STATES, both, opposite, smallest
from posterior_lm.support.spec import Regular, TextSpec, language, pattern_dfa
from tests.conftest import shared_model
from tests.laws.supports import ToyTokenizer, toy_merges

E_ACUTE = "é".encode()
PIECES = [b"a", b"b", b".", b" ", E_ACUTE, E_ACUTE[:1], E_ACUTE[1:], b"ab", b"b.", b"A", b"\xff"]
PIECES += [
    b"a.b",
    b".a",
    b"a" + E_ACUTE[:1],
    E_ACUTE[1:] + b".",
    "\u20ac".encode()[:2],
    "\u20ac".encode()[2:],
]

VOCABULARIES = st.lists(st.sampled_from(PIECES), min_size=2, max_size=6, unique=True).map(
    lambda pieces: ToyTokenizer((None, *pieces))
)
PATTERNS = st.sampled_from(
    [
        r"[ab]*\.",
        r"(a|é)+\.?",
        r".*",
        r"(?s).+",
        r"a?b*( \w)*",
        r"(?i)ab?.*",
        r"[^a]*",
        r"\w+",
        r"(ab|a\.b)+",
        r"^.a|b$",
    ]
)
REGULARS = st.builds(
    Regular,
    st.sampled_from(["contains", "starts_with", "ends_with"]),
    st.sampled_from(["a", "ab", "é", ".a", "€", "b."]),
    st.booleans(),
) | st.builds(Regular, st.just("matches"), PATTERNS, st.booleans())


def holds(regular: Regular, text: str) -> bool:
    """What a condition says of a decoded text."""
    found = {
        "matches": lambda: re.fullmatch(regular.text, text) is not None,
        "contains": lambda: regular.text in text,
        "starts_with": lambda: text.startswith(regular.text),
        "ends_with": lambda: text.endswith(regular.text),
    }[regular.kind]()
    return bool(found) != regular.negated


def is_value(toy: ToyTokenizer, spec: TextSpec, ids: tuple[int, ...]) -> bool:
    """The meaning of the options, spelled out on the text."""
    if not all(map(toy.usable, ids)):
        return False
    spelled = b"".join(toy.token_bytes[i] for i in ids)
    stop = (spec.stop or "").encode()
    if stop and (not spelled.endswith(stop) or spelled.find(stop) != len(spelled) - len(stop)):
        return False
    if spec.chars is not None:
        body = spelled.removesuffix(stop)
        if not set(body.decode("utf-8", "surrogateescape")) <= set(spec.chars):
            return False
    if spec.pattern is not None:
        try:
            if re.fullmatch(spec.pattern, spelled.decode()) is None:
                return False
        except UnicodeDecodeError:
            return False
    if spec.canonical and toy.encode(spelled.decode()) != ids:
        return False
    return all(holds(regular, toy.decode(ids)) for regular in spec.also)


def walked(support: Support) -> set[tuple[int, ...]]:
    """What walking reaches; fails at a dead end."""
    found, open_ = set(), [((), support.start())]
    while open_:
        ids, state = open_.pop()
        tokens = np.flatnonzero(support.allowed(state)).tolist()
        if support.may_stop(state):
            found.add(ids)
        assert tokens or support.may_stop(state)
        open_ += [((*ids, t), support.advance(state, t)) for t in tokens]
    return found


@settings(max_examples=150, deadline=None)
@given(
    VOCABULARIES,
    st.none() | PATTERNS,
    st.lists(REGULARS, max_size=2),
    st.none() | st.sampled_from([".", "b.", "é"]),
    st.none() | st.sampled_from(["ab", "abé ."]),
    st.integers(0, 2),
)
def test_supports_hold_exactly_the_texts_that_match(
    toy: ToyTokenizer, pattern: str | None, also: list[Regular], stop: str | None, chars: str | None, low: int
) -> None:
    end = "eos" if stop is None else "stop"
    spec = TextSpec(low, 3, stop, end, chars=chars, pattern=pattern, also=tuple(also))
    ids = [ids for n in range(low, 4) for ids in product(range(toy.vocabulary_size), repeat=n)]
    wanted = {i for i in ids if is_value(toy, spec, i)}
    try:
        support = build_support(spec, toy)
    except CompileError as problem:
        code = problem.diagnostics[0].code
        # A stop that no token spells by itself is refused, even where a longer token ends in it.
        assert code == "PLM531" or (not wanted and code in ("PLM330", "PLM335"))
        return
    assert walked(support) == wanted
    assert {i for i in ids if support.accepts(i)} == wanted
    assert support.count_values(10**6) == len(wanted)


@settings(max_examples=120, deadline=None)
@given(REGULARS, st.lists(st.sampled_from([*PIECES, b"\xe2", b"\xf0\x9f", b"\xc3\xc3"]), max_size=5))
def test_a_regular_language_is_where_the_condition_holds_of_the_decoded_text(
    regular: Regular, parts: list[bytes]
) -> None:
    text = b"".join(parts)
    dfa = regular.dfa()
    state = dfa.run(text)
    assert (state >= 0 and bool(dfa.accepting[state])) == holds(regular, text.decode("utf-8", "replace"))


def test_replacement_characters_are_what_broken_bytes_read_as() -> None:
    dfa = Regular("contains", "\ufffd").dfa()
    for text in (b"\xff", b"a\xe2\x82", b"\xe2\x82a", "\ufffd".encode()):
        assert dfa.accepting[dfa.run(text)]
    assert not dfa.accepting[dfa.run("a€".encode())]
    strict = pattern_dfa("(?s).*")
    for text in (b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xe0\x80\x80", b"\xf4\x90\x80\x80"):
        assert strict.run(text) < 0
        assert dfa.accepting[dfa.run(text)]
    assert not strict.accepting[strict.run(b"\xe2\x82")]


def test_canonical_texts_that_match_a_pattern() -> None:
    toy = toy_merges(b"ab.\xc3\xa9", [(0, 1), (1, 2), (3, 4), (0, 0)])
    spec = TextSpec(1, 4, ".", "stop", pattern=r"(ab|é)*b?\.", canonical=True)
    every = [ids for n in range(1, 5) for ids in product(range(toy.vocabulary_size), repeat=n)]
    wanted = {ids for ids in every if is_value(toy, spec, ids)}
    assert wanted and walked(build_support(spec, toy)) == wanted


@pytest.mark.parametrize(
    ("pattern", "states"),
    [("a*", 1), ("(a|b)*a(a|b){3}", 16), ("(aa|aab)*", 3), ("[^\\s\\S]", 1), ("a{4}|a{2}", 5), (r"é", 3)],
)
def test_automata_are_the_smallest(pattern: str, states: int) -> None:
    dfa = pattern_dfa(pattern)
    assert len(dfa.table) == states
    # A language and its opposite have nothing in common, and the opposite of the opposite is the language.
    assert not both(dfa, opposite(dfa)).accepting.any()
    again = smallest(opposite(opposite(dfa)))
    assert len(again.table) == states and again.accepting.sum() == dfa.accepting.sum()


def test_masks_that_would_be_too_large_together_are_left_out() -> None:
    words = tuple(Regular("contains", f"{a}{b}{a}{b}x") for a in "abcd" for b in "efg")
    spec = TextSpec(1, 60, also=words)
    dfa = language(spec)
    assert 1_000 < len(dfa.table) <= MOST_STATES
    assert dfa.run(b"aeaex") >= 0
    with pytest.raises(PatternError):
        Regular("matches", r"(a)\1").dfa()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ({"pattern": r" [a-z]+", "stop": ".", "end": "stop"}, "PLM335", "no text satisfies pattern"),
        ({"pattern": r"[^\s\S]"}, "PLM335", "no text satisfies pattern"),
        ({"pattern": "a+", "chars": "b"}, "PLM335", "chars='b'"),
        ({"also": (Regular("contains", "a"), Regular("matches", "[^a]*"))}, "PLM335", "the conditions"),
        ({"pattern": "(ab){5,}"}, "PLM330", "the shortest has 5 tokens"),
        ({"pattern": "é+"}, "PLM330", "no tokens of this model spell"),
        ({"pattern": "a?", "min_tokens": 3}, "PLM330", "no value of tokens=3..4"),
        ({"pattern": "a("}, "PLM317", "not a regular expression"),
        ({"pattern": r"(a)\1"}, "PLM333", "no automaton"),
        ({"pattern": "(a|b)*a(a|b){20}"}, "PLM334", "too many states"),
        ({"pattern": "\ud800"}, "PLM531", "surrogate"),
    ],
)
def test_what_leaves_no_value_says_so(options: dict, code: str, said: str) -> None:
    toy = ToyTokenizer((None, b"a", b"b", b"ab", b"."))
    start = time.perf_counter()
    with pytest.raises(CompileError) as caught:
        build_support(TextSpec(**{"min_tokens": 1, "max_tokens": 4, **options}), toy)
    assert caught.value.diagnostics[0].code == code
    assert said in caught.value.diagnostics[0].message
    assert time.perf_counter() - start < 5


def test_the_help_writes_the_stop_as_one_writes_it() -> None:
    toy = ToyTokenizer((None, b"a", b"b", b"\n", b"."))
    with pytest.raises(CompileError) as caught:
        build_support(TextSpec(1, 4, pattern="a+", stop=".\n", end="stop"), toy)
    assert r"let the pattern end in \.\n, and" in str(caught.value.diagnostics[0].help)


@pytest.mark.parametrize(
    "pattern", [r" [A-Z][a-z ,']*\.", r"\w{1,12}", r"(\S+\s){1,16}\S+\.", r"\d{4}-\d{2}-\d{2}( \d\d:\d\d)?"]
)
def test_patterns_over_a_large_vocabulary_are_quick(pattern: str) -> None:
    tokenizer = load_tokenizer(shared_model("gpt2-tokenizer"))
    start = time.perf_counter()
    support = build_support(TextSpec(4, 24, pattern=pattern), tokenizer)
    assert time.perf_counter() - start < 8
    rng, spent, steps = np.random.default_rng(3), 0.0, 0
    for _ in range(40):
        state, ids = support.start(), []
        while not support.may_stop(state) or rng.random() < 0.5:
            start = time.perf_counter()
            mask = support.allowed(state)
            spent, steps = spent + time.perf_counter() - start, steps + 1
            tokens = np.flatnonzero(mask)
            if not len(tokens):
                break
            ids.append(int(rng.choice(tokens)))
            state = support.advance(state, ids[-1])
        text = b"".join(tokenizer.token_bytes[i] for i in ids).decode()
        assert re.fullmatch(pattern, text) and support.accepts(ids)
    assert spent / steps < 0.0005


@settings(max_examples=120, deadline=None)
@given(
    PATTERNS | st.sampled_from([r" [a-z]+\.", "a{3}b{2}", "é{2}.?", r"[^\s\S]", "(abc)*", "..€"]),
    st.none() | st.sampled_from([".", "b.", "aa", "é"]),
    st.none() | st.sampled_from(["ab", "b.", "é "]),
    st.integers(0, 5),
    st.integers(0, 4),
)
@example("abaa", "aa", "b.", 4, 0)
@example("abaa", "aa", "ab", 4, 0)
def test_the_quick_answer_is_that_of_a_vocabulary_of_bytes(
    pattern: str, stop: str | None, chars: str | None, low: int, more: int
) -> None:
    toy = ToyTokenizer((None, *(bytes([b]) for b in range(256))))
    spec = TextSpec(low, low + more, stop, "eos" if stop is None else "stop", chars=chars, pattern=pattern)
    try:
        build_support(spec, toy)
        possible = True
    except CompileError:
        possible = False
    assert surely_some_text(pattern, stop, chars, low, low + more) == possible
