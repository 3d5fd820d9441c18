"""What the benchmark beside other packages hands them: the same values are allowed as by the support."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.masks import walk
from benchmarks.peers import PROGRAMS, ROW, table_of
from posterior_lm.api.query import loads
from posterior_lm.target.target import Target


@pytest.fixture(scope="module", params=list(PROGRAMS))
def target(request: pytest.FixtureRequest) -> Target:
    return loads(PROGRAMS[request.param], "<peers>").given(ROW).target()


def test_the_table_accepts_what_the_support_accepts(target: Target) -> None:
    support, table = target.latents[0].support, table_of(target)
    (stop,) = support.stop_ids
    rng = np.random.default_rng(0)

    def accepts(ids: list[int]) -> bool:
        state = 0
        for token in ids:
            state = int(table[state, token])
            if state < 0:
                return False
        return bool(ids) and ids[-1] == stop

    inside = outside = 0
    paths, _, _ = walk(support, 40, support.max_tokens, 1)
    for path in paths:
        assert path[-1] == stop and len(path) <= support.max_tokens
        for _ in range(10):
            other = list(path)
            other[int(rng.integers(len(path)))] = int(rng.integers(table.shape[1]))
            assert accepts(other) == support.accepts(other)
            inside, outside = inside + support.accepts(other), outside + (not support.accepts(other))
        assert accepts(path) and support.accepts(path)
        assert not accepts([*path, stop]) and not accepts(path[:-1])
    assert inside > 10 and outside > 10


def test_a_walk_counts_its_steps(target: Target) -> None:
    support = target.latents[0].support
    paths, seconds, made = walk(support, 8, 5, 3)
    assert made == sum(map(len, paths)) <= 40 and seconds > 0
    for path in paths:
        state = support.start()
        for token in path:
            assert support.allowed(state)[token]
            state = support.advance(state, token)
