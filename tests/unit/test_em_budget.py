"""What a budget of EM holds: all of it, and a trained model as soon as there is time for one."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve

from posterior_lm.em import run as run_module
from posterior_lm.em.budget import DRAWS, ROWS, Purse
from posterior_lm.em.m_step import m_step
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.course import Course
from posterior_lm.train.policy import read_manifest
from posterior_lm.train.settings import FitSettings
from tests.unit.test_em import done
from tests.unit.test_em_mstep import adapter, exact_lessons  # noqa: F401

FIT = FitSettings()


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def purse_of(clock: Clock, budget: float | None, **more: float) -> Purse:
    course = Course(clock=clock)
    course.budget = budget
    return Purse(course, **more)


def test_what_is_left_by_hand(clock: Clock) -> None:
    purse = purse_of(clock, 200.0, before=20.0)
    clock.now += 10.0
    assert purse.spent == 30.0 and purse.whole_left == 170.0 and purse.left == pytest.approx(140.0)
    assert purse.part(0.25) == pytest.approx(35.0)
    late = purse.until(0.5)
    clock.now += 69.9
    assert not late()
    clock.now += 0.2
    assert late() and purse.part(0.25) == pytest.approx(0.25 * 69.9)
    clock.now += 1000.0
    assert purse.part(0.25) == 1.0 and purse.left < 0


def test_without_a_budget_nothing_ends(clock: Clock) -> None:
    purse = purse_of(clock, None)
    late = purse.until(0.5)
    clock.now += 1e9
    assert purse.left == purse.whole_left == math.inf and purse.part(0.5) is None and not late()
    purse.measure(lambda n: pytest.fail("nothing is tried"))
    assert purse.draws(64, 10) == 64
    assert purse.of_e_step(FIT, 10) == FIT


@pytest.mark.parametrize(("each", "draws"), [(0.01, 64), (0.02, 40), (0.1, 8), (9.0, 4)])
def test_a_bound_has_the_draws_that_its_time_holds(clock: Clock, each: float, draws: int) -> None:
    """8 % of 200 s are 16, for twenty rows."""

    def tried(n: int) -> None:
        assert n == 8
        clock.now += n * each

    purse = purse_of(clock, 200.0)
    purse.measure(tried)
    assert purse.draws(64, 20) == draws
    purse.measure(lambda n: pytest.fail("once is enough"))


@pytest.mark.parametrize(
    ("each", "rows", "draws", "pairs", "seeds"),
    [(1e-4, 40, 16, 128, 32), (0.02, 40, 2, 44, 5), (0.02, 5, 8, 44, 32), (5.0, 40, 2, 4, 0)],
)
def test_a_step_has_the_draws_of_which_its_time_holds_enough(
    clock: Clock, each: float, rows: int, draws: int, pairs: int, seeds: int
) -> None:
    """A quarter of 170 s, 24 steps, each twice its draws."""
    purse = purse_of(clock, 200.0, each=each)
    found = purse.of_e_step(FIT, rows)
    assert found.budget == pytest.approx(42.5) and (found.draws, found.pairs) == (draws, pairs)
    assert found.seeds == seeds and purse.of_e_step(evolve(FIT, seeds=7), rows).seeds == 7
    assert purse.of_e_step(evolve(FIT, draws=9), rows).draws == 9
    usual = FIT.resolved(exact=True)
    assert (usual.rows, usual.draws) == (ROWS, DRAWS)


def test_an_m_step_that_is_late_keeps_its_steps(
    adapter: Adapter,  # noqa: F811
    rng: np.random.Generator,
) -> None:
    taught, _ = exact_lessons(adapter)
    asked = iter((False, False, True))
    raised = m_step(
        adapter,
        taught,
        steps=9,
        rate=1e-3,
        batch=8,
        draws=8,
        rng=rng,
        late=lambda: next(asked),
        held_out=taught,
    )
    assert raised is not None and raised.kept and raised.steps == 3 and raised.after > raised.before


def test_a_budget_is_the_whole_and_holds_an_m_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the four phases alone would take hours."""
    told: list[str] = []
    ends: list[Any] = []

    def watched(*args: Any, late: Any, **more: Any) -> object:
        assert not late()
        ends.append(late)
        return m_step(*args, late=late, **more)

    monkeypatch.setattr(run_module, "m_step", watched)
    asked: dict[str, Any] = {"e_steps": 10**6, "m_steps": 10**6, "bound_draws": 10**4, "certify_draws": 10**5}
    began, course = time.monotonic(), Course()
    course.began -= 1.0
    found = done(
        tmp_path / "out",
        rounds=10**4,
        budget=8.0,
        course=course,
        say=told.append,
        patience=10**4,
        **asked,
    )
    found.close()
    assert time.monotonic() - began < 10.5, "8 s, one of which was gone, and room for a crowded machine"
    assert found.stopped == "the budget of 8 s is spent" and len(found.rounds) > 1
    first = found.rounds[1].raised
    assert first is not None and first.kept and first.after > first.before
    assert ends[0](), "an M-step would have ended in time"
    assert any("draws of a row, not 10000" in note for note in found.notes)
    assert not any("no time for an M-step" in note for note in found.notes)
    manifest = read_manifest(tmp_path / "out" / "guide")
    assert manifest.certificate is None or manifest.checked.note == "the budget left no time for them"  # type: ignore[union-attr]
