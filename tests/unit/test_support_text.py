"""Text supports against a definition by strings, over random vocabularies and options."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posterior_lm.lang.diagnostics import CompileError
from posterior_lm.support.base import Support
from posterior_lm.support.build import build_support
from posterior_lm.support.spec import TextSpec
from tests.laws.supports import ToyTokenizer, toy_merges

E_ACUTE, E_GRAVE = "é".encode(), "è".encode()
PIECES = [b"a", b"b", b".", b" ", E_ACUTE, E_ACUTE[:1], E_ACUTE[1:], E_GRAVE[1:], b"ab", b"b."]
PIECES += [b"a.b", b"..", b".a", b"aa", b"a" + E_ACUTE[:1], E_ACUTE[1:] + b".", b". .", b"\xff"]


def is_value(toy: ToyTokenizer, spec: TextSpec, ids: tuple[int, ...]) -> bool:
    """The meaning of the options, spelled out on the text."""
    if not spec.min_tokens <= len(ids) <= spec.max_tokens or not all(map(toy.usable, ids)):
        return False
    body = text = b"".join(toy.token_bytes[i] for i in ids)
    if spec.stop is not None:
        stop = spec.stop.encode()
        if [i for i in range(len(text)) if text[i:].startswith(stop)] != [len(text) - len(stop)]:
            return False
        body = text[: len(text) - len(stop)]
    if spec.chars is not None or spec.canonical:
        try:
            characters = body.decode("utf-8")
        except UnicodeDecodeError:
            return False
        if spec.chars is not None and not set(characters) <= set(spec.chars):
            return False
    if not spec.canonical:
        return True
    # What ends one character and holds only a part of the next is left out, as documented.
    return toy.encode(text.decode()) == ids and not any(straddles(toy.token_bytes[i]) for i in ids)


def straddles(spelled: bytes) -> bool:
    """Whether a token begins with the last bytes of one character and ends with the first of another."""
    return 0x80 <= spelled[0] < 0xC0 and spelled[-1] >= 0xC0


def every_sequence(toy: ToyTokenizer, longest: int) -> list[tuple[int, ...]]:
    return [ids for n in range(longest + 1) for ids in product(range(toy.vocabulary_size), repeat=n)]


def walked(support: Support) -> set[tuple[int, ...]]:
    """What walking reaches; fails at a dead end."""
    found, open_ = set(), [((), support.start())]
    while open_:
        ids, state = open_.pop()
        tokens = np.flatnonzero(support.allowed(state)).tolist()
        if support.may_stop(state):
            found.add(ids)
        else:
            assert tokens, f"a dead end after {ids}"
        open_.extend(((*ids, token), support.advance(state, token)) for token in tokens)
    return found


@st.composite
def specs(draw: st.DrawFn, longest: int, canonical: bool = False) -> TextSpec:
    low = draw(st.integers(0, longest))
    high = draw(st.integers(max(low, 1), longest))
    stop = draw(st.sampled_from([None, ".", "..", "b.", "aa", "aba", "é", ".é", "aab", "a.a"]))
    end = draw(st.sampled_from(["eos", "free"])) if stop is None else "stop"
    chars = draw(st.none() | st.sampled_from(["", "a", "ab", "ab.", "aé", "ab. éè"]))
    return TextSpec(low, high, stop, end, chars, canonical)


def with_bytes_of(stop: str | None, pieces: list[bytes]) -> ToyTokenizer:
    """The pieces, and single bytes with which the stop string can be spelled."""
    single = (bytes([b]) for b in (stop or "").encode())
    return ToyTokenizer((None, *dict.fromkeys((*pieces, *single))))


def compare(toy: ToyTokenizer, spec: TextSpec) -> None:
    expected = {ids for ids in every_sequence(toy, spec.max_tokens + 1) if is_value(toy, spec, ids)}
    try:
        support = build_support(spec, toy)
    except CompileError as problem:
        assert not expected, problem
        # A stop that the tokens cannot spell alone has its own code.
        assert problem.diagnostics[0].code in ("PLM330", "PLM531")
        return
    assert {ids for ids in every_sequence(toy, spec.max_tokens + 1) if support.accepts(ids)} == expected
    assert walked(support) == expected
    if not spec.canonical:
        assert support.count_values(10**6) == len(expected)


@settings(max_examples=200)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=5, unique=True), specs(4))
def test_a_support_holds_exactly_what_its_options_say(pieces: list[bytes], spec: TextSpec) -> None:
    toy = with_bytes_of(spec.stop, pieces)
    compare(toy, spec)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=3),
    st.sampled_from([b"ab.", b"ab", b"\xc3\xa9a", b"\xc3\xa9\xa8.", b"."]),
    specs(4, canonical=True),
)
def test_canonical_keeps_exactly_what_byte_pair_encoding_produces(
    merges: list[tuple[int, int]], alphabet: bytes, spec: TextSpec
) -> None:
    compare(toy_merges(alphabet, merges), spec)


@settings(max_examples=200)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=5, unique=True), specs(4, canonical=True))
def test_canonical_never_keeps_anything_else(pieces: list[bytes], spec: TextSpec) -> None:
    toy = with_bytes_of(spec.stop, pieces)
    try:
        support = build_support(spec, toy)
    except CompileError:
        return
    walked(support)
    for ids in every_sequence(toy, spec.max_tokens):
        assert not support.accepts(ids) or is_value(toy, spec, ids)


def test_canonical_tests_the_parts_of_a_character_with_what_follows() -> None:
    # The second byte of "é" joins "a" before it could join the first.
    toy = toy_merges(E_ACUTE + b"a", [(1, 2)])
    compare(toy, TextSpec(0, 4, canonical=True))
    assert not build_support(TextSpec(0, 4, canonical=True), toy).accepts((1, 2, 3))


def test_canonical_reads_the_whole_back_where_neighbours_do_not_tell() -> None:
    toy = ToyTokenizer((None, b"a", b"b", b"c", b"abc"))
    support = build_support(TextSpec(1, 3, "c", "stop", canonical=True), toy)
    assert toy.encode("ab") == (1, 2) and toy.encode("bc") == (2, 3)
    assert support.accepts((4,)) and not support.accepts((1, 2, 3))


TOY = ToyTokenizer((None, b"a", b"b", b"ab", b".", b"b.", b"a.b", b"..", E_ACUTE[:1], E_ACUTE[1:], E_ACUTE))
A, B, AB, DOT, B_DOT, A_DOT_B, DOTS, E1, E2, E = range(1, 11)


def text(low: int, high: int, stop: str | None = None, **more: object) -> Support:
    return build_support(TextSpec(low, high, stop, "stop" if stop else "eos", **more), TOY)


def test_a_token_may_hold_the_stop_only_at_its_end() -> None:
    support = text(1, 3, ".")
    assert support.accepts((A, DOT)) and support.accepts((B_DOT,)) and support.accepts((A, B_DOT))
    assert not support.accepts((A_DOT_B,)) and not support.accepts((DOTS,))
    assert not support.accepts((A_DOT_B, DOT)) and not support.accepts((A,)) and not support.accepts(())


def test_nothing_follows_the_stop() -> None:
    support = text(1, 4, ".")
    assert not support.accepts((DOT, DOT)) and not support.accepts((B_DOT, A, DOT))
    assert support.must_stop(support.advance(support.start(), B_DOT))


def test_a_stop_may_straddle_tokens_but_not_end_inside_one() -> None:
    support = text(1, 4, "b.")
    assert support.accepts((AB, DOT)) and support.accepts((B_DOT,))
    assert not support.accepts((AB, DOTS))
    assert support.accepts((DOTS, B, DOT))


def test_held_back_bytes_of_the_stop_count_as_body_when_the_match_fails() -> None:
    assert not text(1, 4, "b.", chars="a").accepts((AB, A, B_DOT))
    assert text(1, 4, "b.", chars="ab").accepts((AB, A, B_DOT))
    assert text(1, 4, "b.", chars="a").accepts((A, B_DOT))


def test_the_limits_count_the_stop() -> None:
    support = text(2, 3, ".")
    assert not support.accepts((DOT,)) and not support.accepts((A, A, A, DOT))
    assert support.accepts((A, DOT)) and support.accepts((A, A, DOT))
    assert not support.allowed(support.start())[[DOT, B_DOT]].any()
    two = support.advance(support.advance(support.start(), A), A)
    assert set(np.flatnonzero(support.allowed(two))) == {DOT, B_DOT}


def test_characters_may_be_split_between_tokens_but_not_left_half() -> None:
    support = text(1, 3, chars="é")
    assert support.accepts((E1, E2)) and support.accepts((E,))
    assert not support.accepts((E1,)) and not support.accepts((E2,)) and not support.accepts((E1, E))
    assert text(1, 3).accepts((E2, E1))


def test_cut_closes_with_the_tokenizers_own_stop() -> None:
    support = text(1, 3, "b.")
    assert support.stop_ids == (B_DOT,)
    value = (A, AB, DOT)
    assert [support.cut(value, t) for t in range(4)] == [(B_DOT,), (A, B_DOT), (A, AB, B_DOT), value]
    assert text(2, 3, "b.").cut(value, 0) is None
    # ".." and then "..": the stop ends inside the last token.
    assert text(1, 3, "..").cut((DOT, A, DOTS), 1) is None
    assert text(0, 2).cut((A, B), 1) == (A,) and text(2, 2).cut((A, B), 1) is None


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (TextSpec(1, 1, "aba", "stop"), "tokens=1..1 cannot spell stop='aba', which needs 2 tokens"),
        (TextSpec(0, 2, "baéa", "stop"), "tokens=0..2 cannot spell stop='baéa', which needs 4 tokens"),
        (TextSpec(3, 5, ".", "stop", chars=""), "no value has tokens=3..5 and stop='.' and chars=''"),
        (TextSpec(1, 5, chars="z"), "no value has tokens=1..5 and chars='z'"),
        (TextSpec(5, 2), "tokens=5..2 is empty"),
        (TextSpec(-1, 2), "tokens=-1..2 starts below zero"),
        (TextSpec(0, 0, ".", "stop"), "tokens=0..0 leaves no room for stop='.'"),
        (TextSpec(1, 2, "", "stop"), 'stop="" ends every text before its first token'),
    ],
)
def test_an_empty_support_is_found_and_says_why(spec: TextSpec, says: str) -> None:
    with pytest.raises(CompileError) as caught:
        build_support(spec, TOY)
    (found,) = caught.value.diagnostics
    assert found.code == "PLM330" and found.message == says and found.help


def test_an_empty_canonical_support_says_so() -> None:
    doubled = toy_merges(b"a", [(0, 0)])
    assert walked(build_support(TextSpec(2, 2, canonical=True), doubled)) == {(2, 1), (2, 2)}
    with pytest.raises(CompileError) as caught:
        build_support(TextSpec(2, 2, "aa", "stop", canonical=True), doubled)
    (found,) = caught.value.diagnostics
    assert found.code == "PLM330" and "canonical=true" in found.message


def test_a_stop_that_cannot_be_spelled_is_reported() -> None:
    with pytest.raises(CompileError) as caught:
        build_support(TextSpec(1, 2, "z", "stop"), TOY)
    assert caught.value.diagnostics[0].code == "PLM531"
    with pytest.raises(CompileError) as caught:
        build_support(TextSpec(1, 2, "\ud800", "stop"), TOY)
    assert caught.value.diagnostics[0].code == "PLM531"


def test_end_and_stop_must_agree() -> None:
    for stop, end in ((".", "eos"), (".", "free"), (None, "stop"), (None, "value")):
        with pytest.raises(ValueError):
            TextSpec(1, 2, stop, end)


def test_equal_types_over_equal_vocabularies_share_one_support() -> None:
    assert text(1, 3, ".") is text(1, 3, ".")
    other = ToyTokenizer((*TOY.token_bytes[:-1], b"z"))
    assert build_support(TextSpec(1, 3, ".", "stop"), other) is not text(1, 3, ".")


class OneDigest(ToyTokenizer):
    @property
    def digest(self) -> str:
        return "the same"


def test_end_of_text_is_never_inside_a_value_also_where_it_has_bytes() -> None:
    plain = OneDigest(TOY.token_bytes)
    a_ends = OneDigest(TOY.token_bytes, eos_ids=(0, A))
    spec = TextSpec(1, 3, ".", "stop")
    assert build_support(spec, plain).accepts((A, DOT))
    assert not build_support(spec, a_ends).accepts((A, DOT))
    assert not build_support(spec, a_ends).allowed((0, 0))[[0, A]].any()


def test_the_number_of_values_is_exact_up_to_the_limit_and_never_runs_away() -> None:
    assert text(1, 1).count_values(10) == 10
    assert text(0, 2).count_values(111) == 111 and text(0, 2).count_values(110) is None
    assert text(1, 400).count_values(10**12) is None
    assert text(400, 400, chars="b").count_values(1) == 1
