"""A context spelled once for all draws is, for each of them, the context spelled token by token."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from attrs import frozen
from hypothesis import example, given
from hypothesis import strategies as st

from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lang.source import NOWHERE
from posterior_lm.target.scores import Scored, ScorePlan
from posterior_lm.target.segments import (
    Computed,
    Known,
    Segment,
    Special,
    Speller,
    Splice,
    Written,
    is_known,
    join,
)
from posterior_lm.target.values import Value

BOS, EOS, DUMMY = 1, 2, 3


@frozen
class Letters:
    """A token a letter, and a dummy prefix in front of the first text of a sequence, as Llama's tokenizer has it."""

    start_ids: tuple[int, ...] = (BOS,)
    eos_ids: tuple[int, ...] = (EOS,)
    bos_id: int | None = BOS

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(map(ord, text))

    def encode_start(self, text: str) -> tuple[int, ...]:
        return (DUMMY, *map(ord, text))


def tokens(
    letters: Letters,
    segments: Sequence[Segment],
    values: dict[str, Value],
    texts: dict[int, str],
    first: bool,
) -> tuple[tuple[int, ...], bool]:
    """Segment after segment, and whether nothing but begins of a sequence stands there."""
    ids: list[int] = []
    for one in segments:
        match one:
            case Special(kind="bos"):
                ids.append(BOS)
                continue
            case Special():
                ids.append(EOS)
            case Written(ids=written):
                ids += written
            case Splice(latent=name):
                ids += values[name].ids
            case Known(text=text):
                ids += letters.encode_start(text) if first else letters.encode(text)
            case Computed(node=node):
                if not texts[node]:
                    continue
                ids += letters.encode_start(texts[node]) if first else letters.encode(texts[node])
        first = False
    return tuple(ids), first


def spelled(
    letters: Letters, segments: Sequence[Segment], values: dict[str, Value], texts: dict[int, str]
) -> tuple[tuple[int, ...], bool]:
    """The same from the start of a sequence."""
    by_hand = segments[:1] and (isinstance(segments[0], Written) or segments[0] == Special("bos", NOWHERE))
    ids, empty = tokens(letters, segments, values, texts, True)
    ids = ids if by_hand else letters.start_ids + ids
    return ids or letters.eos_ids[:1], empty


words = st.text("ab", min_size=1, max_size=2)
segments = st.lists(
    st.one_of(
        words.map(Known),
        st.sampled_from(["x", "y"]).map(Splice),
        st.sampled_from([7, 8]).map(Computed),
        st.sampled_from(["bos", "eos"]).map(lambda kind: Special(kind, NOWHERE)),
        st.lists(st.integers(50, 60), max_size=2).map(lambda ids: Written(tuple(ids))),
    ),
    max_size=5,
).map(join)
draws = st.lists(
    st.tuples(st.text("pq", max_size=2), st.text("rs", max_size=2), st.text("t", max_size=1), st.just("u")),
    min_size=1,
    max_size=3,
)


@example(
    context=(Computed(7),), text=(Known("a"),), drawn=[("", "", "", "u"), ("", "", "t", "u")], starts=True
)
@given(context=segments, text=segments, drawn=draws, starts=st.booleans())
def test_what_draws_have_in_common_is_spelled_once(
    context: tuple[Segment, ...],
    text: tuple[Segment, ...],
    drawn: list[tuple[str, str, str, str]],
    starts: bool,
) -> None:
    letters = Letters(start_ids=(BOS,) if starts else ())
    speller = Speller.of(letters, frozenset({"x", "y"}))  # type: ignore[arg-type]
    text = tuple(one for one in text if not isinstance(one, Written))  # a scored text is no conversation
    spell = ScorePlan(0, "m", context, text, ends=False).spelling(speller)
    leading = next((k for k, one in enumerate(context) if not is_known(one)), len(context))
    for x, y, seven, eight in drawn:
        values = {"x": Value(letters.encode(x), x, x), "y": Value(letters.encode(y), y, y)}
        texts = {7: seven, 8: eight}
        ids, empty = spelled(letters, context, values, texts)
        found = spell(values.__getitem__, texts.__getitem__)
        assert found.context == ids
        assert found.text == tokens(letters, text, values, texts, empty)[0]
        same, _ = spelled(letters, context[:leading], values, texts)
        assert found.shared <= len(ids)
        assert ids[: found.shared] == same[: found.shared]
        assert found.shared == len(same) or (found.shared == 0 and leading < len(context))


def test_an_empty_context_is_end_of_text_or_refused() -> None:
    plan = ScorePlan(0, "m", (), (Known("a"),), ends=False)
    nothing = {}.__getitem__  # type: ignore[var-annotated]
    speller = Speller.of(Letters(start_ids=()), frozenset())  # type: ignore[arg-type]
    assert plan.spell(speller, nothing, nothing) == Scored((EOS,), (DUMMY, ord("a")), 1)
    bare = Speller.of(Letters(start_ids=(), eos_ids=()), frozenset())  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="PLM513"):
        plan.spell(bare, nothing, nothing)
