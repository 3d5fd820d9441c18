"""The replay buffer: what it keeps, what it draws, and that it comes back as it was."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posterior_lm.train.replay import Entry, Replay


def entry(token: int, log_reward: float, **more: object) -> Entry:
    return Entry(((token,),), log_reward, **more)  # type: ignore[arg-type]


def buffer(log_rewards: Iterable[float], *, capacity: int = 100, total: int = 1000, row: int = 0) -> Replay:
    """Tokens 0, 1, … with these log rewards, added one after another."""
    replay = Replay(capacity, total)
    for token, log_reward in enumerate(log_rewards):
        replay = replay.add(row, [entry(token, log_reward)])
    return replay


def tokens(replay: Replay, row: int = 0) -> list[int]:
    return [e.ids[0][0] for e in replay.entries(row)]


# ------------------------------------------------------------------------------- keeping


def test_equal_draws_are_one_and_the_later_one_counts() -> None:
    replay = Replay(5, 9).add(3, [entry(1, -2.0), entry(2, -3.0), entry(1, -7.5, extra="[1]")])
    assert replay.entries(3) == (entry(2, -3.0), entry(1, -7.5, extra="[1]"))
    assert replay.add(3, [entry(2, -1.0)]).entries(3) == (entry(1, -7.5, extra="[1]"), entry(2, -1.0))
    other = replay.add(4, [entry(1, -4.0)])
    assert (other.rows(), len(other), len(replay)) == ((3, 4), 3, 2), "rows are apart, and values stay"


def test_draws_are_told_apart_by_every_latent() -> None:
    ways = [((1, 2), (3,)), ((1,), (2, 3)), ((1, 2, 3),), ((1, 2, 3), ())]
    assert len(Replay(9, 9).add(0, [Entry(ids, -1.0) for ids in ways])) == 4


def test_draws_without_reward_are_refused_and_counted() -> None:
    replay = Replay(5, 9).add(0, [entry(1, -math.inf), entry(2, -3.0), entry(3, -math.inf)])
    assert (tokens(replay), replay.dropped) == ([2], 2)
    again = replay.add(1, [entry(1, -math.inf)])
    assert (again.rows(), again.dropped) == ((0,), 3)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_log_reward_that_cannot_be_is_an_error(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"row 7: .*(nan|inf)"):
        Replay(5, 9).add(7, [entry(1, wrong)])
    with pytest.raises(ValueError, match="row 7"):
        Replay(5, 9).add(7, [entry(1, -1.0, end_log_reward=(-math.inf, wrong))])


@pytest.mark.parametrize(("capacity", "total"), [(0, 5), (5, 0), (-1, 5)])
def test_no_room_is_an_error(capacity: int, total: int) -> None:
    with pytest.raises(ValueError, match="room"):
        Replay(capacity, total)


def test_half_of_the_room_is_for_the_best_and_half_for_the_latest() -> None:
    log_rewards = [-1.0, -9.0, -2.0, -8.0, -3.0, -7.0, -4.0, -30.0, -20.0]
    whole = Replay(4, 99).add(0, [entry(t, x) for t, x in enumerate(log_rewards)])
    assert tokens(whole) == [0, 2, 7, 8]
    odd = Replay(5, 99).add(0, [entry(t, x) for t, x in enumerate(log_rewards)])
    assert tokens(odd) == [0, 2, 4, 7, 8]
    assert tokens(buffer(log_rewards, capacity=4)) == [0, 2, 7, 8], "one by one as well"
    rising = Replay(4, 99).add(0, [entry(t, float(t)) for t in range(9)])
    assert tokens(rising) == [5, 6, 7, 8], "the best leave no gap in the latest half"


def test_of_equal_rewards_the_later_stays() -> None:
    assert tokens(buffer([-1.0] * 9, capacity=3)) == [6, 7, 8]


def test_pinned_entries_are_dropped_last() -> None:
    warm = Replay(4, 99).add(0, [entry(100, -50.0, pinned=True), entry(101, -60.0, pinned=True)])
    for t in range(9):
        warm = warm.add(0, [entry(t, -float(t))])
    assert tokens(warm) == [100, 101, 0, 8]
    again = warm.add(0, [entry(101, -55.0)])
    assert again.entries(0)[-1] == entry(101, -55.0, pinned=True), "drawn again it stays pinned"
    many = Replay(2, 99).add(0, [entry(t, -float(t), pinned=True) for t in range(5)])
    assert tokens(many) == [0, 4], "among themselves by the same rule"
    assert tokens(many.add(0, [entry(9, 5.0)])) == [0, 4]


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(-20, 3), st.booleans()), max_size=40),
    st.integers(2, 9),
    st.integers(1, 5),
)
def test_what_a_row_keeps(draws: list[tuple[int, int, bool]], capacity: int, together: int) -> None:
    replay = Replay(capacity, 10**6)
    for start in range(0, len(draws), together):
        replay = replay.add(0, [entry(t, float(x), pinned=p) for t, x, p in draws[start : start + together]])
        kept = replay.entries(0)
        assert len(kept) <= capacity and len({e.ids for e in kept}) == len(kept)
    if not draws:
        return
    kept, (last, reward, _) = replay.entries(0), draws[-1]
    pins = {t for t, _, pinned in draws if pinned}
    assert len({t for t, _, _ in draws}) < capacity or len(kept) == capacity
    if len(pins) <= capacity - 2:
        assert pins <= {e.ids[0][0] for e in kept}
        assert kept[-1].ids == ((last,),) and kept[-1].log_reward == reward


# ------------------------------------------------------------------------------- over all rows


def test_the_rows_of_longest_ago_shrink_first_to_an_even_share() -> None:
    replay = Replay(6, 12)
    for row in range(2):
        replay = replay.add(row, [entry(t, -float(t * (row + 1))) for t in range(6)])
    assert len(replay) == 12
    replay = replay.add(2, [entry(t, -3.0 * t) for t in range(2)])
    assert [tokens(replay, row) for row in range(3)] == [[0, 1, 4, 5], [0, 1, 2, 3, 4, 5], [0, 1]]
    replay = replay.add(0, [entry(9, -1.0)])
    assert replay.rows() == (1, 2, 0), "added to last"
    assert [len(replay.entries(row)) for row in (1, 2, 0)] == [5, 2, 5]
    replay = replay.add(2, [entry(t, -3.0 * t) for t in range(2, 6)])
    assert [len(replay.entries(row)) for row in (1, 0, 2)] == [4, 4, 4]


def test_more_rows_than_room_lose_the_oldest() -> None:
    replay = Replay(5, 3)
    for row in (5, 2, 9, 4):
        replay = replay.add(row, [entry(1, -1.0)])
    assert replay.rows() == (2, 9, 4) and len(replay) == 3


def test_rows_that_come_round_are_not_empty_when_they_come() -> None:
    """Dropping the oldest row whole would leave nothing to replay wherever rows are taken in turn."""
    replay = Replay(10, 40)
    for turn in range(4):
        for row in range(20):
            if turn:
                assert len(replay.entries(row)) >= 2
            replay = replay.add(row, [entry(10 * turn + t, -float(t)) for t in range(10)])
            assert len(replay) <= 40


def test_pinned_entries_outlast_the_others_of_every_row() -> None:
    replay = Replay(9, 6).add(0, [entry(t, -40.0, pinned=True) for t in range(3)])
    replay = replay.add(1, [entry(t, -1.0) for t in range(3)])
    replay = replay.add(2, [entry(t, -1.0, pinned=True) for t in range(3)])
    assert [len(replay.entries(row)) for row in range(3)] == [3, 0, 3] and replay.rows() == (0, 2)
    replay = replay.add(3, [entry(0, -1.0, pinned=True)])
    assert [len(replay.entries(row)) for row in (0, 2, 3)] == [2, 3, 1]


def test_pinned_entries_of_a_row_are_dropped_by_shares_too() -> None:
    replay = Replay(9, 6)
    for row, pinned in ((0, 1), (1, 5), (2, 2)):
        replay = replay.add(row, [entry(t, -float(t), pinned=True) for t in range(pinned)])
    assert [tokens(replay, row) for row in range(3)] == [[0], [0, 1, 4], [0, 1]]
    replay = Replay(9, 2)
    for row in range(3):
        replay = replay.add(row, [entry(0, -1.0, pinned=True)])
    assert replay.rows() == (1, 2)


# ------------------------------------------------------------------------------- drawing


def softmax(log_rewards: list[float], temperature: float) -> list[float]:
    weights = [math.exp(x / temperature) for x in log_rewards]
    return [w / math.fsum(weights) for w in weights]


def check(counts: Counter, expected: dict, n: int) -> None:
    assert set(counts) <= set(expected)
    for key, p in expected.items():
        assert abs(counts[key] - n * p) < 4.5 * math.sqrt(n * p * (1 - p)) + 1, (key, counts[key], n * p)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_draws_are_half_by_reward_and_half_uniform(rng: np.random.Generator, temperature: float) -> None:
    log_rewards = [0.0, -4.0, -1.0, -2.0]
    replay, p, n = buffer(log_rewards), softmax(log_rewards, temperature), 8000
    one = Counter(replay.draw(rng, 0, 1, temperature)[0].ids[0][0] for _ in range(n))
    check(one, {i: 0.5 * p[i] + 0.5 / 4 for i in range(4)}, n)
    two = Counter(tuple(e.ids[0][0] for e in replay.draw(rng, 0, 2, temperature)) for _ in range(n))
    check(two, {(i, j): p[i] / 3 for i in range(4) for j in range(4) if i != j}, n)


def test_the_reward_half_is_drawn_without_replacement(rng: np.random.Generator) -> None:
    log_rewards = [0.0, -3.0, -1.0, -2.0, -0.5]
    replay, p, n = buffer(log_rewards), softmax(log_rewards, 1.0), 8000
    pairs = Counter(tuple(e.ids[0][0] for e in replay.draw(rng, 0, 4)[:2]) for _ in range(n))
    check(pairs, {(i, j): p[i] * p[j] / (1 - p[i]) for i in range(5) for j in range(5) if i != j}, n)


def test_draws_differ_and_are_no_more_than_there_are(rng: np.random.Generator) -> None:
    replay = buffer([-1.0, -700.0, 300.0])
    for n in range(6):
        drawn = replay.draw(rng, 0, n, 0.01)
        assert len({e.ids for e in drawn}) == len(drawn) == min(n, 3)
    assert replay.draw(rng, 5, 4) == []


@pytest.mark.parametrize(("n", "temperature"), [(-1, 1.0), (1, 0.0), (1, -1.0), (1, math.nan), (1, math.inf)])
def test_what_cannot_be_drawn(rng: np.random.Generator, n: int, temperature: float) -> None:
    with pytest.raises(ValueError, match="cannot draw"):
        buffer([-1.0]).draw(rng, 0, n, temperature)


# ------------------------------------------------------------------------------- on disk

ENTRIES = st.builds(
    Entry,
    ids=st.lists(st.lists(st.integers(0, 2**31), max_size=3).map(tuple), max_size=3).map(tuple),
    log_reward=st.floats(allow_nan=False, allow_infinity=False),
    end_log_reward=st.none() | st.lists(st.floats(-9, 9) | st.just(-math.inf), max_size=3).map(tuple),
    extra=st.text(st.characters(), max_size=4),
    pinned=st.booleans(),
)


@given(
    st.lists(st.tuples(st.integers(-(2**40), 2**40), st.lists(ENTRIES, max_size=4)), max_size=6),
    st.integers(1, 4),
    st.integers(1, 12),
)
def test_arrays_give_the_same_buffer(added: list[tuple[int, list[Entry]]], capacity: int, total: int) -> None:
    replay = Replay(capacity, total)
    for row, entries in added:
        replay = replay.add(row, entries)
    arrays = replay.to_arrays()
    assert all(a.ndim == 1 and a.dtype in (np.int64, np.float64, np.uint8) for a in arrays.values())
    back = Replay.from_arrays({**arrays, "other": np.ones(2)})
    assert (back.capacity, back.total, back.dropped) == (capacity, total, replay.dropped)
    # By their text, which tells 0.0 from -0.0 and keeps the order of the rows.
    assert repr(list(back.kept.items())) == repr(list(replay.kept.items()))
    for row in replay.rows():
        assert back.draw(np.random.default_rng(1), row, 3) == replay.draw(np.random.default_rng(1), row, 3)


def test_arrays_survive_a_file() -> None:
    replay = buffer([-1.5, -math.inf, -2.25], row=8).add(
        2, [Entry(((1, 2), ()), -0.1, (-math.inf, -3.0), '{"tool": "7×6=42 \ud800"}', True)]
    )
    file = io.BytesIO()
    np.savez(file, **replay.to_arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
        back = Replay.from_arrays(dict(archive))
    assert list(back.kept.items()) == list(replay.kept.items()) and back.dropped == 1
    more = [entry(5, -0.5), entry(6, -9.0)]
    assert list(back.add(8, more).kept.items()) == list(replay.add(8, more).kept.items())


def test_arrays_that_do_not_fit_are_refused() -> None:
    arrays = buffer([-1.0, -2.0]).to_arrays()
    for name, array in arrays.items():
        with pytest.raises(ValueError):
            Replay.from_arrays({**arrays, name: np.append(array, array[-1:] if len(array) else [1])})
        with pytest.raises(KeyError):
            Replay.from_arrays({k: a for k, a in arrays.items() if k != name})
