"""Regular expressions as automata, against Python's `re` on random patterns and texts."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from posterior_lm.graph.ops import matches
from posterior_lm.lang.automaton import automaton
from posterior_lm.lang.regex import PatternError, wrong_pattern
from posterior_lm.lang.source import Source, Span

CHARACTERS = "abAkK\u212a \n.é_1-İiß"

LEAVES = st.one_of(
    st.sampled_from([*"abk1_ ", "é", r"\.", ".", r"\w", r"\W", r"\d", r"\s", r"\S", r"\n", "İ", "ß"]),
    st.sampled_from(["[a-k]", "[^a]", r"[^\w\n]", r"[\d_]", "[É-í]", "[k-kA]", "[^ -z]"]),
    st.sampled_from(["^", "$", r"\A", r"\Z", r"\b", r"\B"]),
)


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    counts = st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,}", "*?", "??", "{,1}"])
    return st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        st.tuples(inner, counts).map(lambda two: f"(?:{two[0]}){two[1]}"),
        st.tuples(st.sampled_from(["(", "(?i:", "(?s:", "(?m:", "(?a:", "(?ia:", "(?P<n>"]), inner).map(
            lambda two: f"{two[0]}{two[1]})"
        ),
    )


PATTERNS = st.recursive(LEAVES, grown, max_leaves=8).map(lambda p: re.sub(r"\(\?P<n>", "(", p))
FLAGS = st.sampled_from(["", "", "", "(?i)", "(?s)", "(?m)", "(?im)", "(?a)", "(?ai)"])
TEXTS = st.lists(st.text(CHARACTERS, max_size=5), min_size=1, max_size=12)


@settings(max_examples=400, deadline=None)
@given(FLAGS, PATTERNS, TEXTS)
@example("", r"a$\n?", ["a", "a\n", "a\n\n"])
@example("", r"a$\n*", ["a", "a\n", "a\n\n"])
@example("(?m)", r"a$\nb^", ["a\nb", "a\n"])
@example("", r"(?:a$\n|a$b?)", ["a\n", "a", "ab"])
@example("", r"\B", ["", "a"])
@example("(?a)", r"(?u:\w)\w", ["éa", "éé", "aé"])
@example("(?i)", "k+İ", ["K\u212aki̇", "kİ", "Ki"])
def test_an_automaton_matches_what_re_matches(flags: str, pattern: str, texts: list[str]) -> None:
    pattern = flags + pattern
    wanted = [re.compile(pattern).fullmatch(text) is not None for text in texts]
    assert [automaton(pattern).matches(text) for text in texts] == wanted
    assert [matches(text, pattern) for text in texts] == wanted


@pytest.mark.parametrize("pattern", ["(a*)*b", "(a|a)*b", "(a?){60}a*b", "(.*)*(.*)*b", r"(\w+\s?)*!"])
def test_matching_is_linear_where_re_is_not(pattern: str) -> None:
    start = time.perf_counter()
    assert not matches("a" * 3_000, pattern)
    assert matches("a" * 2_000 + "b", pattern) == pattern.endswith("b")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("pattern", [r"(..)\1", r"a(?=b)b", r"(?!aa)a+", r"a*+ab", r"(a+)+\1b|((.+)+)+\2!"])
def test_matches_refuses_what_is_not_supported(pattern: str) -> None:
    with pytest.raises(re.error, match=r"not supported|order of search"):
        matches("a" * 40, pattern)


@pytest.mark.parametrize(
    ("pattern", "reason", "position"),
    [
        (r"a(b", "syntax", 1),
        (r"[a", "syntax", 0),
        (r"a{2,1}", "syntax", 2),
        (r"(?<=a+)b", "syntax", None),
        (r"(a)\(\1", "unsupported", 5),
        (r"\\1(a)(?P<n>b)[\1](?P=n)", "unsupported", 18),
        (r"[(?=](?=a)", "unsupported", 5),
        (r"a(?!b)", "unsupported", 1),
        (r"a(?<!b)c", "unsupported", 1),
        (r"a(?>b)", "unsupported", 1),
        (r"a\*+b*+", "unsupported", 5),
        (r"(a)(?(1)b|c)", "unsupported", 3),
        (r"(a{200}){200}", "too large", None),
        (r"(a|b)*a(a|b){20}", "too large", None),
        ("(" * 3000 + ")" * 3000, "too large", None),
    ],
)
def test_patterns_without_an_automaton_say_why_and_where(
    pattern: str, reason: str, position: int | None
) -> None:
    start = time.perf_counter()
    with pytest.raises(PatternError) as caught:
        automaton(pattern).whole()
    assert (caught.value.reason, caught.value.position) == (reason, position)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("literal", "pattern", "shown"),
    [
        ('r" [A-Z"', " [A-Z", "["),
        (r'"\t\u{1F600}[A-Z"', "\t\U0001f600[A-Z", "["),
        ('r"a("', "a(", "("),
        ('r"a*+"', "a*+", "*+"),
    ],
)
def test_the_caret_stands_inside_the_literal(literal: str, pattern: str, shown: str) -> None:
    source = Source("p", f"x {literal} y")
    with pytest.raises(PatternError) as caught:
        automaton(pattern)
    found = wrong_pattern(pattern, caught.value, Span(source, 2, 2 + len(literal)))
    assert found.primary is not None and found.primary.span.text == shown
