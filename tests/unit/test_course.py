"""How far a fit is: the phases in their order, the time that is left, and no long silence."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from attrs import field, frozen

from posterior_lm.api.query import loads
from posterior_lm.cli import showing as display
from posterior_lm.cli.showing import showing, told
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.target.validate import validate_data
from posterior_lm.train import fit as fit_module
from posterior_lm.train import forecast, setup, simulate
from posterior_lm.train.certificate import PolicyReport, RowCheck
from posterior_lm.train.course import BALANCE, PHASES, SLEEP, Course, Stand
from posterior_lm.train.fit import fit
from posterior_lm.train.forecast import Pace, planned
from posterior_lm.train.rehearsal import rehearse
from posterior_lm.train.settings import FitSettings, settings_of
from posterior_lm.train.setup import Allotment
from posterior_lm.train.simulate import Simulator
from tests.unit.test_fit import RULE, RULES, SMALL, WORD, WORDS, codes, fitted


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_is_that_of_the_budget_or_less() -> None:
    clock = Clock()
    course = Course(clock=clock)
    assert course.stand() == Stand("loading", seconds=0.0, left=None) and course.stand().done is None
    clock.now += 4
    course.expect(6.0)
    assert course.stand().left == 6.0 and course.stand().done == pytest.approx(0.4)
    course.expect(36.0)
    assert course.stand().left == 36.0 and course.stand().done == pytest.approx(0.4), (
        "what is shown never falls"
    )
    course.expect(6.0)
    course.budget = 8.0
    assert course.left == 4.0 and course.stand().left == 4.0
    late, nearly = course.until(0.5), course.late_by(1.0)
    assert late is not None and nearly is not None
    clock.now += 1.9
    assert not late() and not nearly()
    clock.now += 0.2
    assert late() and not nearly()
    clock.now += 1.0
    assert nearly()
    clock.now += 10
    assert course.stand().left is None and course.left < 0, "it goes on, and nobody knows how long"
    assert course.stand().done == 0.5
    course.budget = None
    course.expect(0.01)
    assert course.stand().done == 0.99, "not all of it, as long as it goes on"


def test_the_phases_of_a_fit_come_in_order(tmp_path: Path) -> None:
    seen: list[Stand] = []
    fitted(tmp_path / "p", certify_rows=16, course=Course(seen.append))
    names = list(dict.fromkeys(stand.phase for stand in seen))
    assert names == [phase for phase in PHASES if phase != "loading"]
    for phase in (SLEEP, BALANCE, "certifying"):
        shares = [s.share for s in seen if s.phase == phase and s.share is not None]
        assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0)
    assert all(a.seconds <= b.seconds for a, b in pairwise(seen))
    assert any(s.left is not None and "loss" in s.note for s in seen if s.phase == BALANCE)


LATE = 2.0
"""Seconds of a call that blocks, far above the time between two lines on a machine with other work on it."""


@pytest.mark.parametrize("slow", ["look", "step"])
def test_no_silence_while_one_call_takes_long(
    slow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What blocks the only thread that works leaves the one that prints alone."""
    monkeypatch.setattr(display, "EVERY", 0.2)
    monkeypatch.setattr(display, "LOOKED", 0.02)
    monkeypatch.setattr(display, "FIRST", 0.0)
    owner, name = (setup, "Simulator") if slow == "look" else (setup.Trainer, "step")
    real = getattr(owner, name)

    def late(*args: Any, **more: Any) -> Any:
        time.sleep(LATE)
        return real(*args, **more)

    monkeypatch.setattr(owner, name, late)
    times: list[float] = []
    echo = display.click.echo
    monkeypatch.setattr(
        display.click, "echo", lambda *a, **k: (times.append(time.monotonic()), echo(*a, **k))
    )
    course = Course(watched=True)
    with showing(course) as say:
        times.append(time.monotonic())
        fitted(tmp_path / "p", steps=2, course=course)
        say("done")
    shown = capsys.readouterr().err
    gaps = [b - a for a, b in pairwise(times)]
    assert max(gaps) < 0.8 * LATE, (gaps, shown)
    assert re.search(
        r"^ +looking at simulations, 0 s$" if slow == "look" else r"compiling, [1-3] s$", shown, re.M
    )
    assert shown.rstrip().splitlines()[-2].strip().startswith("100%") or "done" in shown


def test_a_line_says_phase_share_and_time() -> None:
    assert told(Stand("loading", seconds=3.2)) == "loading, 3 s"
    stand = Stand("balancing", 0.25, "step 7, loss 1.5", seconds=30.0, left=89.2)
    assert told(stand) == "balancing 25%: step 7, loss 1.5, 30 s, 90 s left"
    assert told(Stand("saving", seconds=30.0, left=0.2)) == "saving, 30 s, 1 s left"


# ------------------------------------------------------------------------------- a budget

EACH, TOKEN = 2e-2, 1e-3
"""Seconds of a model's call, and of a token in it, on the clock of these tests."""


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """A clock that only moves while `tiny` computes, by how much it computes."""
    clock = Clock()
    embedding = loads(WORD).prepared.models["base"]._forward.module.get_input_embeddings()

    def tick(module: Any, ids: Any) -> None:
        clock.now += EACH + TOKEN * ids[0].numel()

    hook = embedding.register_forward_pre_hook(tick)
    monkeypatch.setattr(time, "monotonic", clock)
    yield clock
    hook.remove()


NUMBER = """
lm base = "tiny"
program number(x: int(0..7)) {
  latent n: int(0..7, lead=" ") ~ uniform(0, 7)
  observe x ~ binomial(7, 0.1 + 0.1 * n)
  guide n ~ base("Seen: ", x, "\\nDigit:")
}
"""
NUMBERS = [{"x": k} for k in range(8)]


@pytest.mark.parametrize(
    ("program", "data", "budget", "least", "more"),
    [
        (WORD, WORDS, 12.0, 0.88, {}),
        (WORD, WORDS, 25.0, 0.65, {"certify_rows": 64, "pairs": 64}),
        (RULE, RULES, 25.0, 0.7, {"certify_rows": 0}),
    ],
)
def test_a_budget_is_that_of_the_whole(
    program: str,
    data: list[Any],
    budget: float,
    least: float,
    more: dict[str, Any],
    ticking: Clock,
    tmp_path: Path,
) -> None:
    """Looking, listing, training and certifying; the certificate gives way, and says by how much.

    Short texts come again, so that more draws cost less than was foretold, and time is left.
    """
    course = Course(clock=ticking)
    asked = {"steps": 10_000, "certify_draws": 2000, **more}
    done = fitted(tmp_path / "p", program, data, budget=budget, course=course, **asked)
    assert least * budget <= course.elapsed <= 1.02 * budget, course.spent
    assert 2 <= done.manifest.steps < 10_000
    certificate = done.manifest.checked
    assert certificate is not None and 10 <= certificate.draws < 2000
    assert "the budget cut the certificate" in done.manifest.note
    assert course.spent["certifying"] < 0.35 * budget


def test_steps_that_end_before_the_budget_leave_a_whole_certificate(ticking: Clock, tmp_path: Path) -> None:
    course = Course(clock=ticking)
    done = fitted(tmp_path / "p", NUMBER, NUMBERS, budget=500.0, course=course, certify_rows=16)
    assert course.elapsed < 250 and done.manifest.steps == 6 and "budget" not in done.manifest.note
    certificate = done.manifest.checked
    assert certificate is not None and certificate.draws == 20 and certificate.simulated is not None


def test_a_budget_that_holds_no_step_is_refused(ticking: Clock, tmp_path: Path) -> None:
    for budget, said in ((0.1, "loading and looking took"), (2.0, "a step and the smallest certificate")):
        with pytest.raises(InferenceError) as caught:
            fitted(tmp_path / "p", WORD, WORDS, budget=budget, pairs=64, course=Course(clock=ticking))
        assert codes(caught.value) == ["PLM628"] and said in str(caught.value)
        assert "give at least" in str(caught.value)
    assert not list((tmp_path / "p").glob("*.json"))


def test_a_budget_too_small_is_said_with_what_was_spent_and_fewer_draws_help(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A slow model: eight draws of either kind take 80 s to time, so a step of the 16 that are the fewest takes 160."""
    clock = Clock()

    def paced(*_: object) -> Pace:
        clock.now += 80.0
        return Pace(0.0, 10.0)

    monkeypatch.setattr(setup, "pace_of", paced)

    def refused(**asked: Any) -> str:
        with pytest.raises(InferenceError) as caught:
            fitted(tmp_path / "p", WORD, WORDS[:1], course=Course(clock=clock), **{"scope": "rows", **asked})
        return str(caught.value)

    said = refused(budget=240.0, draws=None)
    assert "looking took 80.0 s" in said and "about 264.8 s more" in said and "at least 518 s" in said
    assert "about 144.0 s more" in refused(budget=200.0, draws=4)


def test_a_short_fit_of_a_slow_model_is_judged_by_its_certificate_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A look of 32 draws of either kind would take 19 s of some 50; one from another policy looks all the same."""
    monkeypatch.setattr(setup, "pace_of", lambda *_: Pace(0.0, 0.3))
    left_out = "only the certificate does"
    asked: dict[str, Any] = {
        "budget": 60.0,
        "steps": 2,
        "scope": "rows",
        "draws": 2,
        "rows": 1,
        "certify_draws": 10,
    }
    first = fitted(tmp_path / "p", WORD, WORDS[:1], course=Course(clock=Clock()), **asked)
    assert left_out in first.manifest.note and first.manifest.checked is not None
    again = fitted(
        tmp_path / "q", WORD, WORDS[:1], course=Course(clock=Clock()), start=str(tmp_path / "p"), **asked
    )
    assert left_out not in again.manifest.note


def test_looking_may_end_early_where_hardly_any_pair_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = Simulator._pairs

    def one_in_four(self: Simulator, *args: Any) -> Any:
        found = pairs(self, *args)
        self._alive = np.arange(len(self._alive)) % 4 == 0
        return found

    monkeypatch.setattr(Simulator, "_pairs", one_in_four)
    monkeypatch.setattr(simulate, "SECONDS", 0.0)
    query = loads(WORD)
    rows = [validate_data(query.graph, row) for row in WORDS]
    found = Simulator(query.prepared, rows, alike=True, late=lambda: True)
    assert found.yields == 0.25 and set(found._low_yield) == {"z"}


# ------------------------------------------------------------------------------- what it will take


def test_a_forecast_is_what_happens(ticking: Clock, tmp_path: Path) -> None:
    settings = settings_of({**SMALL, "steps": 20, "certify_draws": 100})
    query = loads(WORD)
    weights = {k: v.clone() for k, v in query.prepared.models["base"]._forward.module.state_dict().items()}
    foretold = rehearse(query.prepared, WORDS, settings, course=Course(watched=True, clock=ticking))
    for name, tensor in query.prepared.models["base"]._forward.module.state_dict().items():
        assert torch.equal(tensor, weights[name])
    course = Course(clock=ticking)
    fit(query.prepared, WORDS, tmp_path / "p", settings, course=course)
    for phase in foretold.phases:
        if phase.name in (SLEEP, BALANCE, "certifying"):
            assert 0.6 < phase.seconds / course.spent[phase.name] < 1.6, (phase, course.spent)
            assert phase.memory is None or phase.memory > 1 << 24
    assert foretold.steps == 20
    text = "\n".join(foretold.lines())
    assert ("12 steps of" in text and "8 steps of" in text and "MiB" in text) or "GiB" in text


def test_a_forecast_says_what_a_budget_holds(ticking: Clock, tmp_path: Path) -> None:
    settings = settings_of({**SMALL, "steps": 10_000, "certify_draws": 2000, "budget": 20.0})
    foretold = rehearse(loads(WORD).prepared, WORDS, settings, course=Course(watched=True, clock=ticking))
    done = fit(loads(WORD).prepared, WORDS, tmp_path / "p", settings, course=Course(clock=ticking))
    assert foretold.seconds == pytest.approx(20.0, rel=0.15)
    assert foretold.steps == pytest.approx(done.manifest.steps, rel=0.25)
    assert f"A budget of 20 s holds {foretold.steps} steps" in foretold.lines()[-2 if foretold.notes else -1]


# ------------------------------------------------------------------------------- what a certificate may take

PACE = Pace(fixed=0.1, each=0.01, pair=0.05)


def test_what_every_number_of_draws_takes_is_no_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.5 s whatever is drawn and 5 ms a draw: eight draws alone would say 68 ms each, and a step would have a twelfth."""
    clock, asked = Clock(), list[int]()

    def weighed(_: object, __: object, n: int, ___: object) -> None:
        asked.append(n)
        clock.now += 0.5 + 0.005 * n

    def imports() -> None:
        clock.now += 2.4 * (not asked)  # loaded once

    monkeypatch.setattr(forecast.time, "monotonic", clock)
    monkeypatch.setattr(forecast.Both, "of", weighed)
    monkeypatch.setattr(forecast, "load_khat", imports)

    def paced(most: float, before: Pace | None = None) -> Pace:
        return forecast.pace_of(None, None, 0.25, most, before)  # type: ignore[arg-type]

    first = paced(2.0)
    assert clock.now == pytest.approx(102.4 + 1.12), (
        "the imports of k-hat, or the first row would take them for its own"
    )
    assert asked == [8, 16] and attrs.astuple(first) == pytest.approx((0.5, 0.005, 0.25))
    assert paced(1.0) == Pace(0.0, pytest.approx(0.0675), 0.25), "no time for a second number"
    assert attrs.astuple(paced(1.0, first.scaled(2.0))) == pytest.approx((0.5, 0.005, 0.25))


def test_a_certificate_costs_what_its_draws_do() -> None:
    assert PACE.row(200) == pytest.approx(2.1)
    assert PACE.certificate(200, 8, 32) == pytest.approx(8 * 2.1 + 32 * (1.05 + 0.05))


@pytest.mark.parametrize(
    ("seconds", "size"),
    [
        (100.0, (200, 8, 32)),
        (30.0, (108, 8, 32)),
        (12.0, (60, 8, 16)),
        (7.5, (57, 2, 16)),
        (5.0, (52, 8, 0)),
        (1.3, (55, 2, 0)),
        (0.305, (20, 1, 0)),
        (0.15, None),
        (-1.0, None),
    ],
)
def test_it_is_cut_to_the_time(seconds: float, size: tuple[int, int, int] | None) -> None:
    plan = planned(PACE, draws=200, rows=8, simulated=32, seconds=seconds)
    assert (None if plan is None else (plan.draws, plan.rows, plan.simulated)) == size
    if plan is not None:
        assert plan.seconds <= seconds
        more = PACE.certificate(plan.draws + 1, plan.rows, plan.simulated)
        assert more > seconds or plan.draws == 200


@frozen
class Certifying:
    """What a certificate is made for: five rows, of which a draw is foretold to take 0.25 s."""

    settings: FitSettings = field(factory=lambda: FitSettings(certify_draws=200, certify_rows=0))
    certified: tuple[int, ...] = (0, 1, 2, 3, 4)
    shown: int = 0

    def late(self, *_: object) -> None: ...

    def pace_now(self, *_: object) -> Pace:
        return Pace(0.0, 0.25)

    def planned(self, pace: Pace, seconds: float) -> forecast.Plan | None:
        return planned(pace, draws=200, rows=5, simulated=0, seconds=seconds)


@pytest.mark.parametrize(
    ("slow", "sizes", "kept"),
    [
        ((0.08, 0.08), [(64, 2), (54, 5)], (54, 5)),  # sooner than foretold, so there is time for the others
        ((0.02, 0.02), [(64, 2), (200, 5)], (200, 5)),
        ((0.25,), [(64, 2)], (64, 2)),
        ((0.4,), [(64, 2)], (64, 1)),  # the first took so long that the second was left out
        ((0.08, 0.3), [(64, 2), (54, 5)], (64, 2)),  # a second one that got no further is not kept
    ],
)
def test_a_certificate_is_made_again_where_there_is_time_for_more_rows(
    slow: tuple[float, ...],
    sizes: list[tuple[int, int]],
    kept: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, asked = Clock(), list[tuple[int, int]]()
    course = Course(clock=clock)
    course.budget = 34.0
    clock.now += 1.3

    def certified(_: object, course: Course, draws: int, rows: int, simulated: int) -> PolicyReport:
        made, each = [], slow[len(asked)] * draws
        asked.append((draws, rows))
        for number in range(rows):
            if made and course.left - 0.02 * 34 < each - 1e-6:
                break
            clock.now += each
            made.append(RowCheck(number, 0.5, None, -2.0, -1.0, 0.0, 0.1))
        return PolicyReport(draws, tuple(made), None, "")

    monkeypatch.setattr(fit_module, "_certified", certified)
    found, said = fit_module.certificate_of(Certifying(), course, Allotment(None, None, 0.0, 0.0))  # type: ignore[arg-type]
    assert asked == sizes and found is not None
    assert (found["draws"], len(found["rows"])) == kept  # type: ignore[arg-type]
    assert bool(said) is (kept != (200, 5))


def test_fewer_draws_than_the_least_are_asked_for() -> None:
    plan = planned(PACE, draws=20, rows=2, simulated=0, seconds=10.0)
    assert plan is not None and (plan.draws, plan.rows) == (20, 2)
