"""Threads: the same numbers whatever order they work in, and how many of them a model is given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

import posterior_lm as plm
from posterior_lm.lm.hf import threads
from posterior_lm.lm.hf.forward import Forward
from posterior_lm.lm.hf.packed import read_lines
from posterior_lm.lm.hf.threads import COLUMNS, FEW, FIXED_BY, PHASES, TURNS, WORK, _of, candidates, fewest
from posterior_lm.lm.hf.threads import threads as on
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.notices import ModelNotice
from posterior_lm.lm.protocol import Request
from posterior_lm.lm.tiny import WEIGHTS
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def tiny() -> TransformersModel:
    found = TransformersModel.from_folder(WEIGHTS, device="cpu")
    assert found.abilities.packed
    return found


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_place_that_many_lines_read_has_one_gradient(
    tiny: TransformersModel, two_threads: None, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 continuations of one context read its last column in a few rows: threads that add to it must not race."""
    made: list[torch.Tensor] = []

    width = tiny._forward.module.config.hidden_size

    def call(self: Forward, part: object, *, input_ids: torch.Tensor, **options: object) -> object:
        made.append(torch.zeros(*input_ids.shape, width, requires_grad=True))
        return BaseModelOutputWithPast(last_hidden_state=made[-1])

    monkeypatch.setattr(Forward, "call", call)
    context = tuple(int(i) for i in rng.integers(10, 400, 20))
    lines = [(context, (int(i),), 1) for i in rng.permutation(400)]
    weights = torch.as_tensor(rng.normal(size=(len(lines), width)), dtype=torch.float32)
    found = []
    for _ in range(8):
        ((numbers, read),) = read_lines(tiny._forward, lines, packed=True, columns=4096)
        assert len(numbers) == len(lines)
        (read.states * weights).sum().backward()
        found.append(made[-1].grad)
    assert torch.count_nonzero(found[0].abs().sum(dim=2)) == len(found[0]) < 5
    assert all(torch.equal(found[0], other) for other in found[1:])


# ------------------------------------------------------------------------------- how many


class Clock:
    """Time that only calls of a model take, by the number of threads that there are."""

    def __init__(self, seconds: dict[int, list[float]]) -> None:
        self.seconds, self.now, self.calls = seconds, 0.0, dict.fromkeys(seconds, 0)

    def __call__(self) -> float:
        return self.now

    def work(self) -> None:
        number = torch.get_num_threads()
        mine = self.seconds[number]
        self.now += mine[min(self.calls[number], len(mine) - 1)]
        self.calls[number] += 1


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({4: [0.019], 2: [0.013], 1: [0.006]}, 1),
        ({4: [0.006], 2: [0.011], 1: [0.020]}, 4),
        ({4: [0.0100], 2: [0.0105], 1: [0.019]}, 2),  # twice the threads for a twentieth is no gain
        ({4: [0.0095], 2: [0.0105], 1: [0.019]}, 4),
        ({4: [0.5, 0.004], 2: [0.009], 1: [0.015]}, 2),  # a slow start that takes all the time has to count
        ({4: [0.3, 0.004], 2: [0.009], 1: [0.015]}, 4),  # any other is forgotten
        ({4: [0.02, 0.02, 0.004], 2: [0.012], 1: [0.015]}, 4),  # the fastest of several calls counts
    ],
)
def test_the_fewest_threads_that_no_others_beat_clearly(
    seconds: dict[int, list[float]], chosen: int, two_threads: None
) -> None:
    clock = Clock(seconds)
    assert fewest(candidates(4), clock.work, clock) == chosen
    assert torch.get_num_threads() == 2


def test_measuring_ends_soon() -> None:
    clock = Clock({8: [0.15], 4: [0.12], 2: [0.10], 1: [0.2]})
    assert candidates(8) == [8, 4, 2, 1] and candidates(6) == [6, 4, 2, 1] and candidates(1) == [1]
    assert fewest([8, 4, 2, 1], clock.work, clock) == 2
    assert clock.now < 1.0
    clock = Clock({4: [0.001], 2: [0.004], 1: [0.001]})
    fewest([4, 2, 1], clock.work, clock)
    assert clock.calls == {4: TURNS, 2: 2, 1: TURNS}


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, two_threads: None) -> Path:
    """Nobody said how many threads there are, there are two, and the cache folder is empty."""
    for name in FIXED_BY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("POSTERIOR_LM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "threads"


@contextmanager
def watched(model: TransformersModel) -> Iterator[list[tuple[int, int]]]:
    """Columns and threads of every call of the module inside this block."""
    found: list[tuple[int, int]] = []

    def hook(module: object, args: tuple[torch.Tensor]) -> None:
        found.append((args[0].numel(), torch.get_num_threads()))

    # Whatever is called of a model, it embeds its tokens.
    handle = model._forward.module.get_input_embeddings().register_forward_pre_hook(hook)
    try:
        yield found
    finally:
        handle.remove()


def fresh(tiny: TransformersModel) -> TransformersModel:
    """The same model, of which nothing has been measured."""
    _of.pop(tiny._forward.module, None)
    model = TransformersModel(tiny._forward, tiny.tokenizer, tiny.identity)
    model.__dict__["abilities"] = tiny.abilities
    return model


def answers(monkeypatch: pytest.MonkeyPatch, numbers: dict[str, int]) -> list[str]:
    """Which phases are measured; each comes to its number."""
    asked: list[str] = []
    monkeypatch.setattr(threads, "WORK", {phase: lambda forward, phase=phase: phase for phase in PHASES})

    def fewest(candidates: list[int], phase: str) -> int:
        asked.append(phase)
        return numbers[phase]

    monkeypatch.setattr(threads, "fewest", fewest)
    return asked


def test_each_phase_has_its_number_and_the_caller_his(
    tiny: TransformersModel, free: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = fresh(tiny), answers(monkeypatch, {"decode": 1, "score": 2, "backward": 1})
    with watched(model) as calls:
        model.open([(5, 6)] * 4).extend(np.arange(4), np.full(4, 7))
        assert calls and {number for _, number in calls} == {1} and asked == ["decode"]
        calls.clear()
        model.score([Request((*range(10, 60), k), 1) for k in range(20)])
        assert calls and {number for columns, number in calls if columns > FEW} == {2}
        calls.clear()
        with on(model._forward, None):
            model._forward.logits(torch.tensor([[5, 6]]))
        assert calls == [(2, 1)]
    assert torch.get_num_threads() == 2
    assert asked == ["decode", "score", "backward"]
    assert model.threads == {"decode": 1, "score": 2, "backward": 1}


def test_a_number_is_measured_once_on_a_machine(
    tiny: TransformersModel, free: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, {"decode": 1})
    rollout = [(5, 6)] * 4
    fresh(tiny).open(rollout)
    (kept,) = free.iterdir()
    assert json.loads(kept.read_text())["model"] == [tiny.identity.digest, "float32"]
    asked = answers(monkeypatch, {"decode": 2})
    again = fresh(tiny)
    again.open(rollout)
    assert asked == [] and again.threads == {"decode": 1}
    monkeypatch.setattr(threads, "machine", lambda: {"cpu": "another"})
    other = fresh(tiny)
    other.open(rollout)
    assert asked == ["decode"] and other.threads == {"decode": 2}


@pytest.mark.parametrize("damaged", [b"", b"[1]", b'{"threads": true}', b'{"threads": 3}', b'{"threads": 0}'])
def test_a_damaged_number_is_measured_anew(
    damaged: bytes, tiny: TransformersModel, free: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, {"decode": 1})
    fresh(tiny).open([(5, 6)])
    (kept,) = free.iterdir()
    kept.write_bytes(damaged)
    again = fresh(tiny)
    again.open([(5, 6)])
    assert again.threads == {"decode": 1} and json.loads(kept.read_text())["threads"] == 1


def test_a_number_that_cannot_be_kept_is_not_used(
    tiny: TransformersModel, free: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run could find another, and then one seed would have two answers."""
    answers(monkeypatch, {"decode": 1})
    free.parent.write_text("a file in the place of the folder")
    model = fresh(tiny)
    with pytest.warns(ModelNotice, match="cannot be written"):
        model.open([(5, 6)])
    assert model.threads == {"decode": 2}


@pytest.mark.parametrize("name", FIXED_BY)
def test_who_says_how_many_is_not_measured(
    name: str, tiny: TransformersModel, free: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answers(monkeypatch, {"decode": 1})
    monkeypatch.setenv(name, "2")
    model = fresh(tiny)
    model.open([(5, 6)])
    assert asked == [] and model.threads == {"decode": 2} and not free.exists()


def test_the_callers_own_setting_is_a_bound(
    tiny: TransformersModel, free: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answers(monkeypatch, {"decode": 2})
    model = fresh(tiny)
    torch.set_num_threads(1)
    model.open([(5, 6)])
    assert asked == [] and model.threads == {"decode": 1}
    torch.set_num_threads(2)
    model.open([(5, 6)])
    torch.set_num_threads(1)
    model.open([(5, 6)])
    assert asked == ["decode"] and model.threads == {"decode": 1}


def test_numbers_of_another_run(tiny: TransformersModel, free: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, {"decode": 1, "backward": 1})
    model = fresh(tiny)
    assert model.take_threads({"decode": 2})
    model.open([(5, 6)])
    assert asked == [] and model.threads == {"decode": 2}
    assert not model.take_threads({"decode": 3})  # there are two
    monkeypatch.setenv(FIXED_BY[0], "2")
    assert not model.take_threads({"decode": 1}) and model.take_threads({"decode": 2})
    for wrong in (None, [2], {"decode": True}, {"decode": 0}, {"walk": 1}):
        with pytest.raises(ValueError, match="no numbers of threads"):
            model.take_threads(wrong)


def test_a_large_model_has_all_threads_unmeasured(
    tiny: TransformersModel, free: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answers(monkeypatch, {"decode": 1})
    monkeypatch.setattr(threads, "LARGE", 1e6)
    model = fresh(tiny)
    model.open([(5, 6)])
    assert asked == [] and model.threads == {"decode": 2}


def test_every_phase_of_a_real_model_can_be_measured(tiny: TransformersModel) -> None:
    """Nothing of it is left behind: no gradient, no random number."""
    state = torch.random.get_rng_state()
    with watched(tiny) as calls:
        for phase in PHASES:
            WORK[phase](tiny._forward)()
    assert [columns for columns, _ in calls] == [COLUMNS[phase] for phase in PHASES]
    assert COLUMNS["decode"] <= FEW < COLUMNS["score"]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(weight.grad is None for weight in tiny._forward.module.parameters())


MEASURED = """
import json, sys
from pathlib import Path
import torch
import posterior_lm as plm
from posterior_lm.cli.main import cli

folder = Path(sys.argv[1])
(folder / "p.plm").write_text('lm base = "tiny"\\nprogram p() { latent z: text(tokens=1..4, end="free") ~ base("The cat") }')
before = torch.get_num_threads()
plm.load(folder / "p.plm").draw(n=8, seed=1).save(folder / "measured")
print(json.dumps([before, torch.get_num_threads()]), flush=True)
cli(["run", str(folder / "p.plm"), "-n", "8", "--threads", "1", "--save", str(folder / "told")])
"""


def test_a_run_measures_and_states_its_threads(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name not in FIXED_BY}
    env |= {
        "PYTHONPATH": str(ROOT),
        "OMP_WAIT_POLICY": "passive",
        "POSTERIOR_LM_CACHE": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-c", MEASURED, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    assert ran.returncode == 0, ran.stderr
    before, after = json.loads(ran.stdout.splitlines()[0])
    assert before == after
    stated = {name: plm.Posterior.load(tmp_path / name).threads["base"] for name in ("measured", "told")}
    assert stated["told"] == dict.fromkeys(stated["told"], 1) and stated["told"]
    if before == 1:
        pytest.skip("one core: there is nothing to choose")
    kept = [json.loads(path.read_text()) for path in (tmp_path / "cache" / "threads").iterdir()]
    assert {one["phase"]: one["threads"] for one in kept} == stated["measured"]
    assert "decode" in stated["measured"] and set(stated["measured"]) <= {"decode", "score"}
