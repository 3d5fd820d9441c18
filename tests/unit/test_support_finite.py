"""Finite supports: one encoding per value, in both directions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posterior_lm.lang.diagnostics import CompileError
from posterior_lm.lang.source import Source, Span
from posterior_lm.lang.values import ChoiceSpec, IntSpec
from posterior_lm.support.build import build_support
from posterior_lm.support.finite import FiniteSupport
from tests.laws.supports import ToyTokenizer

DIGITS = ToyTokenizer((None, b" ", b"-", *(str(d).encode() for d in range(10)), b"10", b" 1", b"12"))


def code(spec: IntSpec | ChoiceSpec, tokenizer: ToyTokenizer | None = DIGITS) -> str:
    with pytest.raises(CompileError) as caught:
        build_support(spec, tokenizer)
    return caught.value.diagnostics[0].code


@given(st.integers(-30, 130), st.integers(0, 150), st.sampled_from(["", " ", "-"]))
def test_every_integer_has_its_own_tokens(low: int, length: int, lead: str) -> None:
    support = build_support(IntSpec(low, low + length, lead), DIGITS)
    numbers = range(low, low + length + 1)
    expected = [DIGITS.encode(f"{lead}{n}") for n in numbers]
    assert list(support.values()) == expected
    assert [support.datum(ids) for ids in expected] == list(numbers)
    assert [support.ids_of(n) for n in numbers] == expected
    assert support.size == length + 1 and support.max_tokens == max(map(len, expected))
    for outside in (low - 1, low + length + 1):
        assert not support.accepts(DIGITS.encode(f"{lead}{outside}"))
        with pytest.raises(ValueError):
            support.ids_of(outside)


def test_other_spellings_of_a_value_are_outside() -> None:
    support = build_support(IntSpec(0, 12), DIGITS)
    one, ten = DIGITS.token_bytes.index(b"1"), DIGITS.token_bytes.index(b"10")
    space, zero = DIGITS.token_bytes.index(b" "), DIGITS.token_bytes.index(b"0")
    assert support.datum(DIGITS.encode(" 10")) == 10
    assert not support.accepts((space, ten)) and not support.accepts((space, one, zero))
    assert not support.accepts((space, zero, one))
    with pytest.raises(ValueError):
        support.datum((space, one))


def test_a_value_that_begins_another_may_stop_and_may_go_on() -> None:
    support = build_support(IntSpec(1, 12, lead=""), DIGITS)
    one = DIGITS.token_bytes.index(b"1")
    state = support.advance(support.start(), one)
    assert support.may_stop(state) and not support.must_stop(state)
    assert set(np.flatnonzero(support.allowed(state))) == {one}  # 11; 10 and 12 have tokens of their own


def test_choices_keep_their_order() -> None:
    words = ToyTokenizer((None, b"a", b"b", b"ba"))
    support = build_support(ChoiceSpec(("ba", "b", "ab", "")), words)
    assert [support.datum(ids) for ids in support.values()] == ["ba", "b", "ab", ""]
    assert support.may_stop(support.start()) and support.accepts(())
    assert support.ids_of("ab") == (1, 2)
    for wrong in ("bb", 1, None):
        with pytest.raises(ValueError):
            support.ids_of(wrong)


def test_without_a_tokenizer_a_value_is_its_number() -> None:
    support = build_support(IntSpec(5, 8), None)
    assert isinstance(support, FiniteSupport)
    assert list(support.values()) == [(0,), (1,), (2,), (3,)] and support.max_tokens == 1
    assert support.datum((3,)) == 8 and support.ids_of(6) == (1,)
    assert support.allowed(support.start()).tolist() == [True] * 4
    assert not support.accepts((4,)) and not support.accepts(()) and not support.accepts((0, 0))
    with pytest.raises(ValueError):
        support.ids_of(True)


def test_what_cannot_be_a_finite_type_is_reported() -> None:
    assert code(IntSpec(3, 2)) == "PLM330" and code(ChoiceSpec(())) == "PLM330"
    assert code(IntSpec(0, 10**6)) == "PLM331" and code(IntSpec(0, 10**30), None) == "PLM331"
    assert code(ChoiceSpec(("1", "2", "1"))) == "PLM332"
    assert code(ChoiceSpec(("1", "x"))) == "PLM531" and code(IntSpec(0, 1, lead="#")) == "PLM531"
    assert code(ChoiceSpec(("\ud800",)), None) == "PLM531"


def test_two_values_with_the_same_tokens_are_an_error() -> None:
    class Lower(ToyTokenizer):
        def encode(self, text: str) -> tuple[int, ...]:
            return super().encode(text.lower())

    with pytest.raises(CompileError) as caught:
        build_support(ChoiceSpec(("a", "b", "A")), Lower((None, b"a", b"b")))
    (found,) = caught.value.diagnostics
    assert found.code == "PLM332" and "'a' and 'A'" in found.message


def test_a_value_that_cannot_be_spelled_is_reported_at_the_type() -> None:
    span = Span(Source("p.plm", "latent n: int(0..9)"), 10, 19)
    with pytest.raises(CompileError) as caught:
        build_support(ChoiceSpec(("1", "x")), DIGITS, span)
    assert caught.value.diagnostics[0].primary.span == span
    with pytest.raises(CompileError) as caught:
        build_support(IntSpec(2, 1), DIGITS, span)
    assert caught.value.diagnostics[0].primary.span == span


def test_a_hundred_thousand_integers_are_fine() -> None:
    support = build_support(IntSpec(0, 99_999), None)
    assert support.datum(support.ids_of(77_777)) == 77_777
    spelled = build_support(IntSpec(0, 20_000), DIGITS)
    assert spelled.datum(spelled.ids_of(12_345)) == 12_345
    assert not spelled.accepts(DIGITS.encode(" 20001"))
