"""Paths of values through every registered support: what was allowed, what was taken, where it might have ended."""

from __future__ import annotations

import numpy as np
import pytest

from posterior_lm.lm.hf.choices import STOP
from posterior_lm.support.base import Support
from posterior_lm.train.scoring import FORCED, NEVER, Path, has_end_points, path_maker
from tests.laws.supports import SUPPORTS

MOST = 150


def some_values(support: Support) -> list[tuple[int, ...]]:
    """Up to `MOST` values, by walking at random."""
    rng = np.random.default_rng(4)
    found: set[tuple[int, ...]] = set()
    for _ in range(MOST):
        state, ids = support.start(), ()
        while not support.must_stop(state) and not (support.may_stop(state) and rng.random() < 0.3):
            token = int(rng.choice(np.flatnonzero(support.allowed(state))))
            state, ids = support.advance(state, token), (*ids, token)
        if support.accepts(ids):
            found.add(ids)
    return sorted(found)


def ended(support: Support, path: Path, t: int) -> tuple[int, ...]:
    """The value that stops after t tokens in the way that the path says."""
    return path.ids[:t] + ((path.ends[t],) if path.ends[t] >= 0 else ())


@pytest.mark.parametrize("name", SUPPORTS)
def test_a_path_says_what_the_support_says(name: str) -> None:
    support = SUPPORTS[name]()
    make = path_maker(support)
    for ids in some_values(support):
        path = make((7, 8), ids)
        assert (path.context, path.ids) == ((7, 8), ids)
        n = len(ids) + 1
        assert [len(x) for x in (path.masks, path.may_stop, path.chosen, path.ends)] == [n] * 4
        assert path.chosen[:-1] == ids
        state = support.start()
        for t in range(n):
            assert np.array_equal(path.masks[t], support.allowed(state))
            chooses = support.may_stop(state) and not support.must_stop(state)
            assert path.may_stop[t] == (chooses and support.ending != "stop")
            if t < len(ids):
                assert path.masks[t][ids[t]]
                state = support.advance(state, ids[t])
        assert path.chosen[-1] == (FORCED if support.must_stop(state) else STOP)


@pytest.mark.parametrize("name", SUPPORTS)
def test_every_early_end_is_marked_once(name: str) -> None:
    support = SUPPORTS[name]()
    make = path_maker(support)
    for ids in some_values(support):
        path = make((), ids)
        marked = [ended(support, path, t) for t in range(len(ids) + 1) if path.ends[t] != NEVER]
        cuts = {support.cut(ids, t) for t in range(len(ids) + 1)} - {None}
        assert ids in marked and len(set(marked)) == len(marked)
        assert set(marked) == cuts if has_end_points(support) else marked == [ids]


@pytest.mark.parametrize("name", SUPPORTS)
def test_what_is_no_value_is_refused(name: str) -> None:
    support = SUPPORTS[name]()
    make = path_maker(support)
    longest = max(some_values(support), key=len)
    refused = [(*longest, *longest, longest[0]), (-1,), (10**6,)]
    refused += [longest[:t] for t in range(len(longest)) if not support.accepts(longest[:t])]
    for ids in refused:
        with pytest.raises(ValueError, match="no value of the support"):
            make((), ids)


def test_a_remembered_value_takes_the_new_context() -> None:
    support = SUPPORTS["end of text"]()
    make = path_maker(support)
    ids = some_values(support)[-1]
    one, two = make((1,), ids), make((2, 3), ids)
    assert (one.context, two.context) == ((1,), (2, 3))
    assert one.masks is two.masks  # walked once


def test_supports_without_end_points() -> None:
    without = [name for name, make in SUPPORTS.items() if not has_end_points(make())]
    assert without == [
        n for n, make in SUPPORTS.items() if make().ending == "stop" and len(make().stop_ids) != 1
    ]
    assert "stop of one character in two tokens" in without and "stop" not in without
