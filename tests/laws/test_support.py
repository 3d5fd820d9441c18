"""Laws that every `Support` obeys, whatever it is made of."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from posterior_lm.support.base import Support
from posterior_lm.support.grammar import GrammarSupport
from tests.laws.supports import SUPPORTS, TOY


@pytest.fixture(params=SUPPORTS, ids=list(SUPPORTS))
def support(request: pytest.FixtureRequest) -> Support:
    return SUPPORTS[request.param]()


def walk(support: Support, rng: np.random.Generator) -> tuple[int, ...]:
    """A random value, by choosing among the allowed tokens and stopping."""
    state, ids = support.start(), []
    while True:
        tokens = np.flatnonzero(support.allowed(state))
        if isinstance(support, GrammarSupport) and not len(tokens) and not support.may_stop(state):
            # The one support that can be lost before its cap: it says that nothing follows, and is no value.
            assert support.must_stop(state) and not support.accepts(ids)
            return walk(support, rng)
        assert len(tokens) or support.may_stop(state), f"a dead end after {ids}"
        assert support.must_stop(state) == (support.may_stop(state) and not len(tokens))
        if support.may_stop(state) and (not len(tokens) or rng.random() < 0.4):
            return tuple(ids)
        token = int(rng.choice(tokens))
        state, ids = support.advance(state, token), [*ids, token]


def everything(support: Support) -> list[tuple[int, ...]]:
    """Every value, by walking all ways."""
    found, open_ = [], [((), support.start())]
    while open_:
        ids, state = open_.pop()
        if support.may_stop(state):
            found.append(ids)
        for token in np.flatnonzero(support.allowed(state)).tolist():
            open_.append(((*ids, token), support.advance(state, token)))
    return found


def test_what_a_walk_reaches_is_accepted_and_not_too_long(support: Support, rng: np.random.Generator) -> None:
    for _ in range(200):
        ids = walk(support, rng)
        assert support.accepts(ids)
        assert len(ids) <= support.max_tokens


def test_exactly_what_walks_reach_is_accepted(support: Support) -> None:
    reached = everything(support)
    assert len(reached) == len(set(reached)) > 0
    length = min(support.max_tokens, 4)
    vocabulary = range(len(support.allowed(support.start())))
    tokens = [t for t in vocabulary if any(t in ids for ids in reached)]
    for count in range(length + 1):
        accepted = {ids for ids in product(tokens, repeat=count) if support.accepts(ids)}
        assert accepted == {ids for ids in reached if len(ids) == count}


def test_only_allowed_tokens_advance(support: Support, rng: np.random.Generator) -> None:
    for _ in range(20):
        state = support.start()
        for token in walk(support, rng):
            mask = support.allowed(state)
            assert mask.dtype == bool and mask.ndim == 1 and not mask.flags.writeable
            for other in np.flatnonzero(~mask).tolist():
                with pytest.raises(ValueError):
                    support.advance(state, other)
            assert mask[token]
            state = support.advance(state, token)
            hash(state)
        with pytest.raises(ValueError):
            support.advance(state, -1)


def test_nothing_follows_where_a_value_must_stop(support: Support, rng: np.random.Generator) -> None:
    for _ in range(50):
        state = support.start()
        for token in walk(support, rng):
            assert not support.must_stop(state)
            state = support.advance(state, token)
        if support.must_stop(state):
            assert not support.allowed(state).any()


def test_special_tokens_are_never_allowed(support: Support) -> None:
    never = {*TOY.eos_ids, 11, 12, 13} if len(support.allowed(support.start())) == 19 else set()
    assert not any(never.intersection(ids) for ids in everything(support))


def test_cuts_are_values_that_stop_there(support: Support, rng: np.random.Generator) -> None:
    for _ in range(100):
        ids = walk(support, rng)
        assert support.cut(ids, len(ids)) == ids
        for tokens in range(len(ids)):
            cut, head = support.cut(ids, tokens), ids[:tokens]
            closed = head + support.stop_ids
            if cut is None:
                assert not support.accepts(head) and not support.accepts(closed)
            else:
                assert support.accepts(cut)
                assert cut == (head if support.accepts(head) else closed)


def test_the_number_of_values_is_counted(support: Support) -> None:
    number = len(everything(support))
    bound = support.count_values(10**9)
    if "Canonical" in type(support).__name__:
        assert bound >= number
        return
    assert bound == number
    assert support.count_values(number) == number
    assert support.count_values(number - 1) is None


def test_values_are_listed_exactly_where_there_is_a_size(support: Support) -> None:
    if support.size is None:
        with pytest.raises(TypeError):
            support.values()
        return
    values = list(support.values())
    assert len(values) == support.size
    assert sorted(values) == sorted(everything(support))
    assert [support.spec.number(support.datum(ids)) for ids in values] == list(range(support.size))
    assert [support.ids_of(support.datum(ids)) for ids in values] == values
