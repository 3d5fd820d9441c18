"""Which rows and draws a balancing step is made of, and what its loss compares."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from posterior_lm.train import balancing
from posterior_lm.train import trainer as train
from posterior_lm.train.balancing import Balancer, Behaved, reward_temperature
from posterior_lm.train.guide import PolicyGuide
from posterior_lm.train.replay import Replay
from posterior_lm.train.settings import settings_of
from posterior_lm.train.trainer import Trainer
from tests.unit.test_fit import DIGIT, DIGITS, SHORT, SMALL, trainer_of

COUNTED = """
lm base = "tiny"
program counted(x: int(0..7)) {
  latent n: int(0..7, lead=" ") ~ categorical([0.3, 0.05, 0.2, 0.02, 0.25, 0.08, 0.06, 0.04])
  observe x ~ binomial(n, 0.7)
  guide n ~ base("Seen: ", x, "\\nDigit:")
}
"""


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Any:
    def made(*args: Any, **more: Any) -> Trainer:
        trainer = trainer_of(*args, **{"sleep": 0, **more})
        request.addfinalizer(trainer.adapter.close)
        return trainer

    return made


def digits(trainer: Trainer, behaved: Behaved) -> list[int]:
    """The value of each draw, as the number it is."""
    target = trainer.rows.target(0)
    return [int(target.value_of("n", draw.paths[0].ids).datum) for draw in behaved.draws]


# ------------------------------------------------------------------------------- rows


@pytest.mark.parametrize(("many", "each"), [(8, 4), (8, 3), (8, 8), (5, 16), (7, 1)])
def test_every_row_is_seen_once_in_every_pass(many: int, each: int) -> None:
    numbers = [10 + 3 * k for k in range(many)]
    balancer = Balancer(None, numbers, settings_of({**SMALL, "rows": each}), False)  # type: ignore[arg-type]
    steps = [balancer.rows_of(step) for step in range(4 * many)]
    assert {len(rows) for rows in steps} == {min(many, each)}
    seen = [row for rows in steps for row in rows]
    passes = [seen[k : k + many] for k in range(0, len(seen) - many + 1, many)]
    assert all(sorted(one) == numbers for one in passes)
    assert len({tuple(one) for one in passes}) > 1, "in a new order each time"
    assert balancer.rows_of(2) == steps[2], "whatever was asked before"
    other = Balancer(None, numbers, settings_of({**SMALL, "rows": each, "seed": 1}), False)  # type: ignore[arg-type]
    assert [other.rows_of(step) for step in range(4 * many)] != steps


# ------------------------------------------------------------------------------- shares


@pytest.mark.parametrize(
    ("tempered", "replayed", "counts"),
    [(0.25, 0.25, (8, 4, 4)), (0.0, 0.0, (16, 0, 0)), (0.5, 0.25, (4, 8, 4))],
)
def test_draws_have_the_stated_shares(
    tempered: float, replayed: float, counts: tuple[int, int, int], make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(draws=16, tempered=tempered, replayed=replayed, rows=3, flattest=0.6, seeds=40)
    asked: list[tuple[float, int]] = []
    real = balancing.propose

    def counting(model: Any, targets: Any, readings: Any, rngs: Any, exponents: Any) -> Any:
        asked.extend(Counter(exponents).items())
        return real(model, targets, readings, rngs, exponents)

    monkeypatch.setattr(balancing, "propose", counting)
    model, replay = trainer.adapter.model(), Replay(64, 1 << 10)
    powers = set()
    for step in range(5):
        asked.clear()
        behaved, replay = trainer.balancer.draw(model, step, [0, 1, 2], replay)
        own, flat, again = counts
        by_power = {(power == 1.0): many for power, many in asked}
        assert by_power.get(True, 0) == 3 * own and by_power.get(False, 0) == 3 * flat
        powers |= {power for power, _ in asked if power != 1.0}
        assert Counter(behaved.slot.tolist()) == {0: 16, 1: 16, 2: 16}
        assert behaved.on_policy.sum() == 3 * own
        for k in range(3):
            assert behaved.on_policy[behaved.slot == k].tolist() == [True] * own + [False] * (flat + again)
    assert all(0.6 <= power < 1 for power in powers)
    assert len(powers) == (5 if tempered else 0), "another exponent each step"


def test_an_empty_buffer_is_made_up_for_by_the_policy(make: Any) -> None:
    trainer = make(draws=16, replayed=0.5, tempered=0.25, rows=2)
    behaved, replay = trainer.balancer.draw(trainer.adapter.model(), 0, [0, 1], Replay(64, 1 << 10))
    assert len(behaved.draws) == 32 and behaved.on_policy.sum() == 24
    assert set(replay.rows()) == set(behaved.rows)


def test_replayed_draws_come_from_the_rows_own_buffer(make: Any) -> None:
    """A value that the policy never draws shows that it was replayed, and with its reward."""
    trainer = make(draws=8, replayed=0.25, tempered=0.0, rows=8)
    scored = trainer.balancer.scored
    replay = Replay(64, 1 << 10)
    for row in range(8):
        target = trainer.rows.target(row)
        values = [{"n": target.value("n", v)} for v in (row, (row + 3) % 8)]
        replay = replay.add(row, scored(row, values, pinned=row == 2))
    assert [e.pinned for e in replay.entries(2)] == [True, True]
    behaved, after = trainer.balancer.draw(trainer.adapter.model(), 0, list(range(8)), replay)
    found = digits(trainer, behaved)
    for k, row in enumerate(behaved.rows):
        mine = np.flatnonzero(behaved.slot == k)
        old = [found[d] for d in mine[-2:]]
        assert sorted(old) == sorted((row, (row + 3) % 8))
        target = trainer.rows.target(row)
        for d in mine:
            expected = target.log_reward({"n": [target.value("n", found[d])]})[0]
            assert behaved.log_reward[d] == pytest.approx(expected)
        fresh = {found[d] for d in mine[:-2]}
        assert {int(target.value_of("n", e.ids[0]).datum) for e in after.entries(row)} == fresh | set(old)


def test_seeds_begin_a_rows_buffer_once(make: Any) -> None:
    trainer = make(seeds=12, rows=8, draws=2, tempered=0.0, replayed=0.0)
    asked: list[int] = []
    real = trainer.balancer._seeds
    trainer.balancer._seeds = lambda rng, row: asked.append(row) or real(rng, row)  # type: ignore[method-assign]
    replay = Replay(64, 1 << 10)
    for step in range(3):
        _, replay = trainer.balancer.draw(trainer.adapter.model(), step, list(range(8)), replay)
    assert sorted(asked) == list(range(8))


# ------------------------------------------------------------------------------- simulated rows


def test_simulated_rows_have_their_share_and_an_exact_draw(make: Any) -> None:
    trainer = make(COUNTED, DIGITS, rows=8, draws=6, simulated=0.5, replayed=0.5, tempered=0.0)
    assert trainer.balancer.simulator is not None and trainer.balancer.simulator.exact
    model, replay = trainer.adapter.model(), Replay(64, 1 << 10)
    data = []
    for step in range(6):
        slots = trainer.balancer._slots(step, range(8))
        assert [slot.exact is not None for slot in slots] == [False] * 4 + [True] * 4
        assert [s.row for s in slots[:4]] == trainer.balancer.rows_of(step)[:4]
        _, kept = trainer.balancer.draw(model, step, range(8), Replay(64, 1 << 10))
        assert set(kept.rows()) <= {s.row for s in slots[:4]}, (
            "a row's buffer has draws of its own observation"
        )
        behaved, replay = trainer.balancer.draw(model, step, range(8), replay)
        found = digits(trainer, behaved)
        for k in range(4, 8):
            exact = slots[k].exact
            assert exact is not None
            mine = np.flatnonzero(behaved.slot == k)
            assert len(mine) == 6 and found[mine[-1]] == exact["n"].datum
            assert behaved.on_policy[mine].tolist() == [True] * 5 + [False]
            x, n = int(slots[k].target.data["x"]), int(exact["n"].datum)  # type: ignore[call-overload]
            data.append((n, x))
            reward = math.log([0.3, 0.05, 0.2, 0.02, 0.25, 0.08, 0.06, 0.04][n])
            reward += math.log(math.comb(n, x) * 0.7**x * 0.3 ** (n - x))
            assert behaved.log_reward[mine[-1]] == pytest.approx(reward)
    assert all(x <= n for n, x in data) and len({x for _, x in data}) > 2


@pytest.mark.parametrize(("simulated", "many"), [(0.0, 0), (0.25, 2), (1.0, 8)])
def test_the_share_of_simulated_rows_is_a_setting(simulated: float, many: int, make: Any) -> None:
    trainer = make(COUNTED, DIGITS, rows=8, simulated=simulated)
    assert sum(s.exact is not None for s in trainer.balancer._slots(0, range(8))) == many


def test_what_is_learned_of_a_rows_evidence_is_not_learned_from_simulated_rows(make: Any) -> None:
    """A simulated row has another observation than the row it was simulated for, so another evidence."""
    trainer = make(COUNTED, DIGITS, rows=8, simulated=1.0, objective="tb", steps=4)
    trainer.step()
    assert torch.isnan(trainer.log_z).all()
    half = make(COUNTED, DIGITS, rows=8, simulated=0.5, objective="tb", steps=4)
    half.step()
    learned = sorted(torch.nonzero(~torch.isnan(half.log_z[: len(DIGITS)]))[:, 0].tolist())
    assert learned == sorted(half.balancer.rows_of(0)[:4])


def test_rows_are_not_simulated_where_the_simulation_is_weighed(make: Any) -> None:
    trainer = make(DIGIT, DIGITS, rows=8, simulated=1.0)
    assert trainer.balancer.simulator is None
    assert all(s.exact is None for s in trainer.balancer._slots(0, range(8)))


# ------------------------------------------------------------------------------- seeds and slots


@pytest.mark.parametrize("program", [DIGIT, COUNTED])
def test_a_slots_draws_do_not_depend_on_who_else_draws(program: str, make: Any) -> None:
    trainer = make(program, DIGITS, rows=8, draws=6, seeds=3)
    model = trainer.adapter.model()

    def drawn(slots: list[int], step: int = 1) -> dict[int, tuple[list[int], list[float]]]:
        behaved, _ = trainer.balancer.draw(model, step, slots, Replay(64, 1 << 10))
        found = digits(trainer, behaved)
        return {
            slots[k]: (
                [found[d] for d in np.flatnonzero(behaved.slot == k)],
                behaved.log_reward[behaved.slot == k].tolist(),
            )
            for k in range(len(slots))
        }

    whole = drawn(list(range(8)))
    assert drawn(list(range(8))) == whole
    assert drawn([0, 2, 4, 6]) | drawn([1, 3, 5, 7]) == whole
    assert drawn([7]) == {7: whole[7]}
    assert drawn(list(range(8)), step=2) != whole
    assert len({tuple(v[0]) for v in whole.values()}) > 4


# ------------------------------------------------------------------------------- what is compared


@pytest.mark.parametrize(("program", "objective"), [(DIGIT, "vargrad"), (DIGIT, "tb"), (SHORT, "subtb")])
def test_the_loss_compares_the_untempered_policy_with_the_tempered_reward(
    program: str, objective: str, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However a draw was made: on policy, from a flattened one, or from the buffer."""
    trainer = make(
        program, DIGITS[:3], rows=3, draws=8, steps=6, tempered=0.5, replayed=0.25, flattest=0.3, seeds=4,
        reward_temperature=2.0, anneal=0.5, objective=objective, held_out=0,
    )  # fmt: skip
    seen: list[tuple[Any, Behaved]] = []
    real, real_draw = train.Trajectories, trainer.balancer.draw
    behaviours: list[Behaved] = []

    def drawing(*args: Any) -> Any:
        behaved, replay = real_draw(*args)
        behaviours.append(behaved)
        return behaved, replay

    def watched(*args: Any, **more: Any) -> Any:
        found = real(*args, **more)
        seen.append((found, behaviours[-1]))
        return found

    monkeypatch.setattr(train, "Trajectories", watched)
    trainer.balancer.draw = drawing  # type: ignore[method-assign]
    for step in range(5):
        seen.clear()
        share = step / 6
        temperature = reward_temperature(trainer.settings, share)
        assert (temperature > 1) == (share < 0.5)
        expected_q: list[np.ndarray] = []
        trainer_step(trainer, seen, expected_q)
        ((found, behaved),) = seen
        np.testing.assert_allclose(found.log_prob.detach().numpy(), np.concatenate(expected_q), atol=2e-5)
        rewards = []
        for k, row in enumerate(behaved.rows):
            target = trainer.rows.target(row)
            name = target.names[0]
            mine = np.flatnonzero(behaved.slot == k)
            values = [target.value_of(name, behaved.draws[d].paths[0].ids) for d in mine]
            rewards.append(target.log_reward({name: values}))
        np.testing.assert_allclose(found.log_reward.numpy(), np.concatenate(rewards) / temperature, atol=1e-5)
        assert 0 < behaved.on_policy.sum() < len(behaved.on_policy)


def trainer_step(trainer: Trainer, seen: list[tuple[Any, Behaved]], expected_q: list[np.ndarray]) -> None:
    """A step, with log q of its draws under the guide as it stood before the step."""
    before = {k: v.clone() for k, v in trainer.adapter.tensors().items()}
    trainer.step()
    after = {k: v.clone() for k, v in trainer.adapter.tensors().items()}
    trainer.adapter.restore(before)
    _, behaved = seen[-1]
    for k, row in enumerate(behaved.rows):
        target = trainer.rows.target(row)
        name = target.names[0]
        mine = np.flatnonzero(behaved.slot == k)
        values = [target.value_of(name, behaved.draws[d].paths[0].ids) for d in mine]
        expected_q.append(PolicyGuide.of(target, trainer.adapter).log_prob({name: values}))
    trainer.adapter.restore(after)


# ------------------------------------------------------------------------------- the reward's temperature


def test_the_reward_cools_to_one_and_stays() -> None:
    settings = settings_of({"reward_temperature": 3.0, "anneal": 0.4})
    assert reward_temperature(settings, 0.0) == 3.0
    assert reward_temperature(settings, 0.1) == pytest.approx(2.5)
    assert reward_temperature(settings, 0.2) == pytest.approx(2.0)
    assert [reward_temperature(settings, s) for s in (0.4, 0.7, 1.0)] == [1.0, 1.0, 1.0]
    assert reward_temperature(settings_of({"reward_temperature": 3.0, "anneal": 0.0}), 0.0) == 1.0


def test_the_temperature_counts_balancing_steps_alone(make: Any) -> None:
    trainer = make(sleep=0.5, steps=40, reward_temperature=2.0, anneal=0.5)
    assert trainer.sleep_phase is not None
    shares = []
    for k in (0, 20, 25, 30, 40):
        trainer.steps_done = k
        shares.append(trainer._balanced_share())
    assert shares == pytest.approx([0.0, 0.0, 0.25, 0.5, 1.0])
    assert [reward_temperature(trainer.settings, s) for s in shares] == pytest.approx(
        [2.0, 2.0, 1.5, 1.0, 1.0]
    )


def test_dead_draws_count_but_are_not_kept(make: Any) -> None:
    # A condition would be built into the support; this factor is −∞ at 1 and 0 elsewhere.
    text = DIGIT.replace("factor 0", "factor log(min(abs(n - 1), 1))")
    trainer = make(text, DIGITS, rows=8, draws=12, seeds=20, replayed=0.5, tempered=0.0)
    replay = Replay(64, 1 << 10)
    dead = 0
    for step in range(3):
        behaved, replay = trainer.balancer.draw(trainer.adapter.model(), step, range(8), replay)
        found = np.array(digits(trainer, behaved))
        assert np.array_equal(np.isneginf(behaved.log_reward), found == 1)
        assert not np.isneginf(behaved.log_reward[~behaved.on_policy]).any()
        dead += int((found == 1).sum())
    assert dead > 0 and replay.dropped >= dead
    assert torch.isfinite(
        torch.tensor([e.log_reward for r in replay.rows() for e in replay.entries(r)])
    ).all()


def test_what_belongs_to_some_slots_is_numbered_anew() -> None:
    whole = Behaved(
        draws=tuple("abcde"), slot=np.array([0, 1, 1, 2, 2]), log_reward=np.arange(5.0),
        on_policy=np.array([True, True, False, True, False]), end_log_reward=np.arange(10.0).reshape(5, 2),
        rows=(7, 8, 9), replayed=np.array([False, False, True, False, True]), simulated=(False, True, False),
    )  # fmt: skip
    some = whole.only([1, 2])
    assert some.draws == tuple("bcde") and some.slot.tolist() == [0, 0, 1, 1] and some.rows == (8, 9)
    assert some.log_reward.tolist() == [1, 2, 3, 4] and some.on_policy.tolist() == [True, False, True, False]
    assert some.end_log_reward is not None and some.end_log_reward[:, 0].tolist() == [2, 4, 6, 8]
    assert some.replayed is not None and some.replayed.tolist() == [False, True, False, True]
    assert some.simulated == (True, False)
    assert whole.only([]).draws == () and len(whole.only([]).slot) == 0


def test_a_row_without_a_reward_moves_no_weight(make: Any) -> None:
    dead = DIGIT.replace("factor 0 - abs", "factor log(x) - abs")
    moved = make(dead, [{"x": 0}, {"x": 2}], rows=2, draws=4, seeds=0, held_out=0).step()
    assert moved.gradient_norm > 0
    trainer = make(dead, [{"x": 0}], draws=4, seeds=0, held_out=0)
    step = trainer.step()
    assert step.gradient_norm == 0 and step.loss == 0 and trainer.lost(1) == [0]
    assert trainer.balancer.blamed[0].startswith("factor log(x)")


def test_a_row_whose_place_a_simulated_one_took_is_not_lost(make: Any) -> None:
    trainer = make(COUNTED, DIGITS, rows=8, simulated=0.5, seeds=0)
    trainer.step()
    drawn = trainer.balancer.drawn_rows(1)
    assert drawn == set(trainer.balancer.rows_of(0)[: len(trainer.balancer.rows_of(0)) // 2])
    assert trainer.lost(1) == []
