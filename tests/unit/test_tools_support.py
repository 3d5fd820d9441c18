"""What a support with tools forces, marks, masks and gives up, on a toy vocabulary and on tiny's."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from posterior_lm.infer.rollout import step_log_probs
from posterior_lm.lang.diagnostics import CompileError, InferenceError
from posterior_lm.lm.resolve import peek_tokenizer
from posterior_lm.support.base import Support, spliced, tokens_left, uncounted
from posterior_lm.support.build import build_support
from posterior_lm.support.spec import Regular, TextSpec
from posterior_lm.support.tools import Disagreement, ToolSupport, read
from posterior_lm.tools import ToolSpec
from posterior_lm.tools.answers import answers_of
from posterior_lm.train.scoring import FORCED, NEVER, path_maker
from tests.laws.supports import TOY, ToyTokenizer

LETTERS = ToyTokenizer((None, b"a", b"b", b"c", b"1", b"2", b".", b"ab", b"1.", b"<", b"<<", b"<<a", b"3"))
END, A, B, C, ONE, TWO, STOP, AB, ONE_STOP, LESS, LESS_LESS, LESS_A, THREE = range(13)


def lookup(trigger: str, output: str = "observe", **table: str) -> ToolSpec:
    return ToolSpec(
        name="t", kind="lookup", trigger=trigger, output=output, table=tuple(sorted(table.items()))
    )  # type: ignore[arg-type]


def built(*tools: ToolSpec, **options: object) -> ToolSupport:
    given = {"min_tokens": 1, "max_tokens": 4, "stop": ".", "end": "stop", **options}
    found = build_support(TextSpec(tools=tools, **given), LETTERS)  # type: ignore[arg-type]
    assert isinstance(found, ToolSupport)
    return found


def allowed(support: Support, *ids: int) -> set[int]:
    state = support.start()
    for token in ids:
        state = support.advance(state, token)
    return set(np.flatnonzero(support.allowed(state)).tolist())


def test_one_token_is_allowed_while_an_output_is_pending() -> None:
    support = built(lookup("b", a="12"))
    assert allowed(support, A, B) == {ONE} and allowed(support, A, B, ONE) == {TWO}
    assert allowed(support, AB) == {ONE}, "the trigger may be the end of a longer token"
    assert len(allowed(support, A, B, ONE, TWO)) > 2
    ids = (AB, ONE, TWO, C, STOP)
    assert support.accepts(ids) and support.spliced(ids) == (False, True, True, False, False)
    assert not support.accepts((AB, TWO, C, STOP)) and not support.accepts((AB, STOP))
    assert support.accepts((C, B, STOP)), "no such key: the tool declines"


def test_a_whole_output_is_not_gone_on_with() -> None:
    """Digits and letters may follow the output of a tool, unless it says that a word ends there."""
    loose, whole = (built(ToolSpec(name="t", kind="lookup", trigger="b", table=(("a", "1"), ("c", "1.")), whole=w),
                          end="free", stop=None, chars="abc12.") for w in (False, True))  # fmt: skip
    assert {A, ONE, TWO, STOP} <= allowed(loose, A, B, ONE)
    assert allowed(whole, A, B, ONE) == {STOP} and allowed(whole, A, B) == {ONE}
    assert allowed(whole, C, B, ONE_STOP) == allowed(loose, C, B, ONE_STOP) >= {A, ONE}, (
        "a full stop ends by itself"
    )
    assert {A, ONE} <= allowed(whole, A, B, ONE, STOP), "of one token only"
    assert (
        whole.accepts((A, B, ONE)) and loose.accepts((A, B, ONE, TWO)) and not whole.accepts((A, B, ONE, TWO))
    )
    of_loose, of_whole = (support.tools[0].spec.identity for support in (loose, whole))
    assert "whole" in of_whole and [part for part in of_whole if part != "whole"] == of_loose


def test_spliced_text_fires_no_tool_and_what_follows_it_does() -> None:
    support = built(lookup("b", a="2b", ab2b="1"))
    ids = (A, B, TWO, B, B, ONE, STOP)
    assert support.accepts(ids) and support.spliced(ids) == (False, False, True, True, False, True, False)


def test_a_trigger_stands_at_the_end_of_a_token_or_the_token_is_outside() -> None:
    support = built(lookup("<<", c="1"), max_tokens=5)
    assert LESS_A not in allowed(support) and {LESS, LESS_LESS} <= allowed(support)
    assert LESS_A not in allowed(support, C, LESS), "the trigger began one token before"
    assert LESS_LESS not in allowed(support, C, LESS), "it would end in the middle of this token"
    assert allowed(support, C, LESS, LESS) == {ONE} == allowed(support, C, LESS_LESS)
    assert A in allowed(support, A, LESS_LESS)


def test_a_stop_in_an_output_ends_the_text_or_the_draw() -> None:
    support = built(lookup("b", a="1.", c="1.2", b="."))
    assert support.accepts((A, B, ONE_STOP)) and support.spliced((A, B, ONE_STOP)) == (False, False, True)
    state = support.after((A, B, ONE_STOP))
    assert state is not None and support.must_stop(state)
    dead = support.after((C, B))
    assert dead is not None and support.must_stop(dead) and not support.may_stop(dead)
    assert not support.accepts((C, B)) and not support.accepts((C, B, STOP))


def test_where_the_stop_has_ended_the_text_no_tool_is_called() -> None:
    asked: list[str] = []
    tool = lookup(".", a="1")
    answers = answers_of(tool)
    answers._tool, kept = (lambda text: asked.append(text) or "1"), answers._tool  # type: ignore[func-returns-value]
    try:
        support = built(tool, stop="c.", max_tokens=5)
        assert support.accepts((C, STOP)) and asked == []
        assert support.accepts((A, STOP, ONE, C, STOP)) and asked == ["a."]
    finally:
        answers._tool = kept
        answers._kept.clear()


def test_only_drawn_tokens_count_for_the_limits() -> None:
    support = built(lookup("b", a="1212"), min_tokens=3, max_tokens=3)
    assert support.accepts((A, B, *(ONE, TWO) * 2, STOP))
    assert not support.accepts((AB, *(ONE, TWO) * 2, STOP)), "two tokens were drawn"
    assert support.max_tokens >= 7
    assert [tokens_left(support, support.after(ids), len(ids)) for ids in ((), (A,), (A, B, ONE), (A, B, ONE, TWO))] == [3, 2, 1, 1]  # fmt: skip


def test_the_last_drawn_token_may_fire_where_the_output_can_end_the_text() -> None:
    assert B not in allowed(built(lookup("b", a="1")), A, A, A), "only the stop is left"
    assert B in allowed(built(lookup("b", a="1.")), A, A, A), "the tool may write it"
    free = built(lookup("b", a="12"), stop=None, end="free", max_tokens=2)
    assert free.accepts((A, B, ONE, TWO)) and not free.accepts((A, B))
    state = free.after((A, B, ONE, TWO))
    assert state is not None and free.must_stop(state)


def test_conditions_may_be_satisfied_by_what_a_tool_writes() -> None:
    also = (Regular("contains", "3"),)
    support = built(lookup("b", a="3"), also=also, max_tokens=3)
    assert support.accepts((A, B, THREE, STOP))
    assert allowed(support, A) >= {B, THREE} and A not in allowed(support, A)
    assert allowed(support, C) >= {B}, "what it writes is not known before it is asked"
    dead = support.after((C, B))
    assert dead is not None and support.must_stop(dead) and not support.may_stop(dead)
    late = built(lookup("b", a="1", c="3"), also=also, max_tokens=3)
    assert late.accepts((C, B, THREE, STOP)) and late.must_stop(late.after((A, B))), "too few tokens are left"
    without = built(lookup("b", a="1"), also=also, max_tokens=3)
    assert B not in allowed(without, A), "it cannot write a 3"
    impossible = TextSpec(1, 2, ".", "stop", tools=(lookup("b", a="1"),), also=(Regular("contains", "33"),))
    with pytest.raises(CompileError) as caught:
        build_support(impossible, LETTERS)
    assert [d.code for d in caught.value.diagnostics] == ["PLM330"]


def test_two_tools_write_after_their_own_triggers() -> None:
    support = built(lookup("b", a="1"), lookup("c", "intervene", ab1a="2"), max_tokens=6)
    ids = (A, B, ONE, A, C, TWO, STOP)
    assert support.accepts(ids)
    assert support.spliced(ids) == (False, False, True, False, False, True, False)
    assert support.left_out(ids) == (False, False, False, False, False, True, False)
    states = [support.after(ids[:t]) for t in range(len(ids))]
    assert [uncounted(support, s) for s in states] == [False] * 5 + [True, False]


def test_marks_end_where_a_value_leaves_the_support() -> None:
    support = built(lookup("b", a="12"))
    assert support.spliced((A, B, ONE, C, A)) == (False, False, True, True, False)
    assert spliced(build_support(TextSpec(1, 2, end="free"), LETTERS), (A, B)) == (False, False)


def test_a_dead_draw_has_a_path_without_an_end_point() -> None:
    support = built(lookup("b", c="1.2"))
    path = path_maker(support)((9,), (C, B))
    assert path.chosen == (C, B, FORCED) and path.ends[-1] == NEVER
    with pytest.raises(ValueError, match="no value"):
        path_maker(support)((9,), (C, C))


def test_a_free_end_is_drawn_by_the_tokens_that_are_left() -> None:
    support = built(lookup("b", a="12"), stop=None, end="free", max_tokens=4)
    state = support.after((A, B, ONE, TWO))
    log_q, _ = step_log_probs(np.zeros((1, 13)), np.zeros(1), support, [state], [4], 1.0, support.ending)
    assert log_q[0, -1] == pytest.approx(math.log(1 / 3)), "two of four may still be drawn"


# ------------------------------------------------------------------- outputs that cannot be


@pytest.mark.parametrize(("answer", "code"), [("1∑", "PLM763"), ("\ud800", "PLM763"), ("12" * 17, "PLM764")])
def test_outputs_that_cannot_be_spliced(answer: str, code: str) -> None:
    tool = lookup("b", a=answer)
    with pytest.raises(InferenceError) as caught:
        built(tool).accepts((A, B, ONE, STOP))
    (found,) = caught.value.diagnostics
    assert found.code == code and "`t`" in found.message and "'ab'" in found.message
    assert built(lookup("b", a="12" * 16)).after((A, B)) is not None


def test_a_tokenizer_that_changes_text_cannot_spell_an_output() -> None:
    class Lower(ToyTokenizer):
        def encode(self, text: str) -> tuple[int, ...]:
            return ToyTokenizer.encode(self, text.lower())

    lower = Lower((None, b"a", b"b", b"1"))
    support = build_support(TextSpec(1, 3, end="free", tools=(lookup("b", a="A"),)), lower)
    with pytest.raises(InferenceError) as caught:
        support.accepts((1, 2, 1))
    assert [d.code for d in caught.value.diagnostics] == ["PLM763"]


# ------------------------------------------------------------------- given texts


def test_a_given_text_is_cut_at_triggers_and_outputs() -> None:
    support = built(lookup("b", a="1"), max_tokens=6)
    # On its own "1." is one token; here a tool writes the 1.
    assert read(support, "ab1.") == (AB, ONE, STOP) and LETTERS.encode("ab1.") == (AB, ONE_STOP)
    assert read(support, "cb1.") == (C, B, ONE_STOP), "the tool declined"
    assert read(support, "ab2.") == Disagreement("t", "ab", "1")
    free = built(lookup("b", a="1"), stop=None, end="free", max_tokens=6)
    assert read(free, "ab1.b1.") == (AB, ONE, STOP, B, ONE_STOP), "a piece ends at the second trigger too"
    assert read(support, "c.") == (C, STOP) and read(support, "") == ()


def random_texts(
    support: ToolSupport, decode: Callable[[tuple[int, ...]], str]
) -> list[tuple[str, tuple[int, ...]]]:
    rng, found = np.random.default_rng(5), []
    while len(found) < 150:
        state, ids = support.start(), ()
        while not support.must_stop(state):
            token = int(rng.choice(np.flatnonzero(support.allowed(state))))
            state, ids = support.advance(state, token), (*ids, token)
        if support.may_stop(state):
            found.append((decode(ids), ids))
    return found


def test_reading_a_drawn_text_gives_a_value_with_the_same_outputs() -> None:
    tokenizer = peek_tokenizer("tiny", None)
    assert tokenizer is not None
    calc = ToolSpec(name="calc", kind="calculator", trigger="=", operands=2)
    spec = TextSpec(3, 14, ".", "stop", chars="0123456789+-=, ", tools=(calc,))
    support = build_support(spec, tokenizer)
    assert isinstance(support, ToolSupport)
    written = 0
    for text, ids in random_texts(support, tokenizer.decode):
        again = read(support, text)
        assert isinstance(again, tuple) and tokenizer.decode(again) == text
        marks, others = support.spliced(ids), support.spliced(again)
        wrote = [
            [i for i, m in zip(one, mine, strict=True) if m] for one, mine in ((ids, marks), (again, others))
        ]
        if support.accepts(again):  # its own spelling may have fewer tokens than the limits ask for
            assert wrote[0] == wrote[1]
            written += sum(marks)
    assert written > 20


def test_equal_places_share_a_mask() -> None:
    support = built(lookup("b", a="1"))
    one, other = support.after((A, A)), support.after((C, A))
    assert one != other and support.allowed(one) is support.allowed(other)
    assert support.allowed(support.after((A, B))) is support.allowed(support.after((AB,)))


def test_values_are_counted_or_known_to_be_too_many() -> None:
    support = built(lookup("b", a="1"), max_tokens=3)
    count = support.count_values(10**6)
    assert count is not None and support.count_values(count - 1) is None
    tokenizer = peek_tokenizer("tiny", None)
    assert tokenizer is not None
    calc = ToolSpec(name="calc", kind="calculator", trigger="=", operands=2)
    asked = answers_of(calc)
    asked._kept.clear()
    large = build_support(TextSpec(1, 24, ".", "stop", tools=(calc,)), tokenizer)
    assert large.count_values(20_000) is None and not asked._kept, "no tool is called to see that"


def test_toy_vocabularies_of_the_laws_have_tools_too() -> None:
    support = build_support(TextSpec(1, 3, chars="ab.012", tools=(lookup("b", a="10"),)), TOY)
    assert any(any(support.spliced(ids)) for ids in ((3, 17), (1, 2, 17)))  # type: ignore[attr-defined]
