"""What a fit tries before it goes on: which source, at which rate, and what it keeps of that."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from posterior_lm.api.query import loads
from posterior_lm.train.fit import fit
from posterior_lm.train.judge import Gain, Judge, Looks
from posterior_lm.train.parallel import World
from posterior_lm.train.progress import Progress
from posterior_lm.train.settings import TRIAL, settings_of
from posterior_lm.train.trials import FEWEST, Arm, Trials, sooner

STEPS = 256


class _Adapter:
    def __init__(self) -> None:
        self.parameter = torch.nn.Parameter(torch.zeros(1))

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"a": self.parameter.detach().clone()}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            self.parameter.copy_(tensors["a"])


class _Trainer:
    """A training of one number, which a step of balancing moves by the factor of its rate and one of sleep by 100."""

    def __init__(self, gains: list[Gain | None], *, sleeps: bool = False, trial: float = 1 / 16) -> None:
        self.adapter, self.names, self.budget = _Adapter(), ["a"], None
        self.optimizer = torch.optim.AdamW([self.adapter.parameter], weight_decay=0.0)
        self.settings = settings_of({"trial": trial, "sleep": 0.5}).resolved(exact=True)
        self.looks = Looks(self.adapter, [Judge(None, [0], 0, World())])  # type: ignore[arg-type]
        self.looks.risen = self.risen  # type: ignore[method-assign]
        self.sleeps, self.asleep = sleeps, 0.5 if sleeps else 0.0
        self.gains = iter(gains)
        self.steps_done, self.lowered = 0, 1.0
        self.returns: list[str] = []
        self.trials = Trials(self, self.looks)  # type: ignore[arg-type]
        self.taken: list[Arm] = []

    def progress(self) -> float:
        return self.steps_done / STEPS

    def stage(self) -> str:
        return "sleep" if self.progress() < self.asleep else "balance"

    def risen(self, *given: object) -> Gain | None:
        gain = next(self.gains)
        if gain is not None and gain[0] > 0:
            self.looks.take(self.steps_done)
        return gain

    look = risen

    def run(self) -> list[tuple[str, float]]:
        """All trials that are due; the arms with how many steps each had, which are the same."""
        while (arm := self.trials.due()) is not None:
            self.taken.append(arm)
            self.adapter.parameter.grad = torch.ones(1)
            self.optimizer.param_groups[0]["lr"] = arm.factor if arm.stage == "balance" else 100.0
            self.optimizer.step()
            self.steps_done += 1
        assert not self.trials.running
        return [(arm.stage, arm.factor) for arm in self.taken if arm.step == 0]

    @property
    def weight(self) -> float:
        """What was moved so far; Adam moves by the rate where all gradients are alike."""
        return -float(self.adapter.parameter.detach())


LENGTH = STEPS / 16


@pytest.mark.parametrize(
    ("gains", "arms", "lowered", "weight"),
    [
        ([(0.5, 0.1), (0.3, 0.1)], [1.0, 3.0], 1 / 3, 3 * LENGTH),
        ([(0.5, 0.1), (-0.3, 0.1), (0.2, 0.1)], [1.0, 3.0, 1 / 3], 3.0, LENGTH / 3),
        ([(0.5, 0.1), (-0.3, 0.1), (-0.2, 0.1)], [1.0, 3.0, 1 / 3], 1.0, LENGTH),
        ([(0.5, 0.1), (0.05, 0.1), (-0.2, 0.1)], [1.0, 3.0, 1 / 3], 1.0, 3 * LENGTH),  # better, and perhaps by chance
        ([(-0.5, 0.1), (-0.9, 0.1), (-0.2, 0.1)], [1.0, 3.0, 1 / 3], 1.0, 0.0),
        ([(-0.05, 0.1), (-0.9, 0.1), (-0.2, 0.1)], [1.0, 3.0, 1 / 3], 1.0, LENGTH),  # worse, and perhaps by chance
        ([None], [1.0], 1.0, LENGTH),
    ],
)  # fmt: skip
def test_the_best_of_three_rates_is_taken(
    gains: list[Gain | None], arms: list[float], lowered: float, weight: float
) -> None:
    trainer = _Trainer(gains)
    assert trainer.run() == [("balance", factor) for factor in arms]
    assert trainer.lowered == pytest.approx(lowered) and trainer.weight == pytest.approx(weight, rel=1e-4)
    assert bool(trainer.returns) == (lowered != 1) and next(trainer.gains, "none") == "none"
    assert trainer.trials.due() is None, "once"
    if weight:  # the optimiser's memory is of the weights that it goes on from
        assert float(trainer.optimizer.state[trainer.adapter.parameter]["step"]) == LENGTH


def test_rows_are_left_out_that_teach_less_than_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trials, "_rates", lambda self: iter(()))
    better = _Trainer([(1.0, 0.1), (0.5, 0.1)], sleeps=True)
    assert better.run() == [("sleep", 1.0), ("balance", 1.0)]
    assert better.stage() == "balance" and better.weight == pytest.approx(LENGTH, rel=1e-4)
    assert "were better to begin with" in better.returns[0]
    worse = _Trainer([(1.0, 0.1), (-0.5, 0.1)], sleeps=True)
    worse.run()
    assert worse.stage() == "sleep" and worse.asleep == 0.5 and not worse.returns
    assert worse.weight == pytest.approx(100 * LENGTH, rel=1e-4)
    worse.gains = iter([(0.3, 0.1)])
    worse.trials.looked((0.5, 0.1), 1 / 4)
    worse.run()
    assert worse.stage() == "sleep" and len(worse.taken) == 2 * LENGTH, "what gains is left alone"
    worse.trials.looked((0.2, 0.2), 1 / 4)  # at most 1.6 nats a unit, and the trial at least 3.2
    worse.run()
    assert worse.stage() == "balance" and "gained more in their time" in worse.returns[0]
    kept = _Trainer([(1.0, 0.1), (-0.5, 0.1), (0.1, 0.1)], sleeps=True)
    kept.run()
    kept.trials.looked((0.2, 0.2), 1 / 4)
    kept.run()
    assert kept.stage() == "sleep" and kept.weight == pytest.approx(101 * LENGTH, rel=1e-4), "no step is lost"


def test_gains_are_compared_in_the_same_time() -> None:
    assert sooner((0.3, 0.1), 0.05, (0.5, 0.1), 1 / 6) and not sooner((0.3, 0.1), 0.1, (0.5, 0.1), 1 / 6)
    assert not sooner((0.3, 0.25), 0.05, (0.1, 0.1), 1 / 6), "not by more than the errors of both"


def test_what_is_too_short_to_tell_is_not_compared() -> None:
    few = _Trainer([], trial=(FEWEST - 1) / STEPS)
    assert few.run() == [("balance", 1.0)] and few.weight == pytest.approx(FEWEST - 1, rel=1e-4)
    hurried = _Trainer([])
    hurried.looks.affords = lambda budget: False  # type: ignore[method-assign]
    assert hurried.run() == [("balance", 1.0)]
    assert Arm("balance").warm < Arm("balance", step=1).warm < Arm("balance", step=FEWEST).warm == 1.0


def test_a_stated_rate_or_share_is_not_tried() -> None:
    assert settings_of({}).resolved(exact=True).trial == TRIAL > 0
    for stated in ({"balance_learning_rate": 1e-3}, {"learning_rate": 1e-3}, {"sleep": 0.5}):
        assert settings_of(stated).resolved(exact=True).trial == 0
        assert settings_of({**stated, "trial": 0.05}).resolved(exact=True).trial == 0.05


WORD = """
lm base = "tiny"
program word(opening: text, ending: text) {
  latent z: text(tokens=1..3, stop=".") ~ base(opening)
  observe [" ", ending] ~ base(opening, z)
}
"""


@pytest.fixture
def gains(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """Three times the rate is better; gives between which steps weights were compared."""
    compared: list[tuple[int, int]] = []

    def rise(
        self: Judge, adapter: object, before: tuple[int, object], after: tuple[int, object], *more: object
    ) -> Gain:
        compared.append((before[0], after[0]))
        return 0.5, 0.1

    monkeypatch.setattr(Judge, "rise", rise)
    yield compared


def test_a_fit_looks_for_its_rate(tmp_path: Path, gains: list[tuple[int, int]]) -> None:
    query = loads(WORD)
    rows = [{"opening": "Mia saw a cat", "ending": "She ran."}]
    few = {
        "steps": 60,
        "rank": 2,
        "draws": 4,
        "seeds": 4,
        "certify_draws": 10,
        "trial": 0.1,
        "checkpoint_every": 5,
    }
    fitted = fit(query.prepared, rows, tmp_path / "p", settings_of(few))
    lines = [json.loads(line) for line in (tmp_path / "p" / "metrics.jsonl").read_text().splitlines()]
    rates = [line["rate"] / 1e-3 for line in lines]
    assert gains[:2] == [(0, 6), (6, 12)]
    assert rates[3] == pytest.approx(1.0, abs=0.1) and rates[9] == pytest.approx(3.0, abs=0.3)
    assert rates[12] > 2.4 and "a rate of 0.003 on rows was better than 0.001" in fitted.manifest.note
    assert len(lines) == 60, "what is tried is of the steps"


def test_what_is_interrupted_is_not_tried_again(tmp_path: Path, gains: list[tuple[int, int]]) -> None:
    query = loads(WORD)
    rows = [{"opening": "Mia saw a cat", "ending": "She ran."}]
    few = settings_of({"steps": 60, "rank": 2, "draws": 4, "seeds": 4, "certify_draws": 10, "trial": 0.1})

    def stop(progress: Progress) -> None:
        if progress.step == 9:  # in the middle of the second trial
            signal.raise_signal(signal.SIGINT)

    assert fit(query.prepared, rows, tmp_path / "p", few, watch=stop).interrupted
    assert gains == [(0, 6)]
    fitted = fit(query.prepared, rows, tmp_path / "p", few, resume=True)
    lines = [json.loads(line) for line in (tmp_path / "p" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 61)) and fitted.manifest.steps == 60
    assert lines[8]["rate"] > 2e-3 and lines[9]["rate"] < 1e-3, "at its own rate again"
    assert "was better than" not in fitted.manifest.note
