"""Training from outside: what a fit leaves, what it survives, and that it learns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve

from posterior_lm.api.query import loads
from posterior_lm.lang.diagnostics import DataError, InferenceError, PlmError
from posterior_lm.lm.protocol import Request
from posterior_lm.target.prepared import PreparedProgram
from posterior_lm.target.validate import validate_data
from posterior_lm.train import checkpoint
from posterior_lm.train import progress as metrics
from posterior_lm.train import trainer as train
from posterior_lm.train.adapter import WEIGHTS, Adapter
from posterior_lm.train.checkpoint import METRICS
from posterior_lm.train.course import Course
from posterior_lm.train.fit import Fitted, fit
from posterior_lm.train.gflownet_batch import micro_batches, score_draws
from posterior_lm.train.guide import PolicyGuide
from posterior_lm.train.parallel import World
from posterior_lm.train.policy import MANIFEST
from posterior_lm.train.rows import Rows
from posterior_lm.train.settings import FitSettings, settings_of
from posterior_lm.train.simulate import Simulator
from posterior_lm.train.sleep_phase import SleepPhase
from posterior_lm.train.trainer import Trainer

DIGIT = """
lm base = "tiny"
program digit(x: int(0..7)) {
  latent n: int(0..7, lead=" ") ~ categorical([0.3, 0.05, 0.2, 0.02, 0.25, 0.08, 0.06, 0.04])
  factor 0 - abs(n - x) * 0.7
  guide n ~ base("Seen: ", x, "\\nDigit:")
}
"""
WORD = """
lm base = "tiny"
program word(opening: text, ending: text) {
  latent z: text(tokens=1..3, stop=".") ~ base(opening)
  observe [" ", ending] ~ base(opening, z)
}
"""
RULE = """
lm base = "tiny"
program rule(input: text, output: text) {
  latent rule: text(tokens=1..20, stop="\\n") ~ base("Instruction:")
  observe [" ", output] ~ base("Instruction:", rule, "Input: ", input, "\\nOutput:")
}
"""
RULES = [
    {"input": "coal", "output": "black"},
    {"input": "cat", "output": "cats"},
    {"input": "1", "output": "2"},
    {"input": "long", "output": "short"},
    {"input": "red book", "output": "book red"},
    {"input": "old dog", "output": "dog"},
]
PLATE = """
lm base = "tiny"
program rules(examples: table(input: text, output: text)) {
  latent rule: text(tokens=1..20, stop="\\n") ~ base("Instruction:")
  plate e in examples {
    observe [" ", e.output] ~ base("Instruction:", rule, "Input: ", e.input, "\\nOutput:")
  }
}
"""
TABLES = [
    {"examples": [{"input": a, "output": b}, {"input": c, "output": d}]}
    for a, b, c, d in (
        ("open", "closed", "long", "short"),
        ("hot", "cold", "big", "small"),
        ("coal", "black", "grass", "green"),
        ("7", "8", "1", "2"),
        ("1", "2", "9", "10"),
    )
]
DIGITS = [{"x": k} for k in range(8)]
WORDS = [
    {"opening": "Mia saw a cat", "ending": "She ran."},
    {"opening": "Tom was sad", "ending": "He went home."},
    {"opening": "The dog", "ending": "It barked."},
    {"opening": "Ben", "ending": "He slept."},
    {"opening": "A bird", "ending": "It flew away."},
    {"opening": "Mom", "ending": "She smiled."},
]
SMALL: Mapping[str, Any] = {
    "steps": 6, "pairs": 16, "rows": 4, "draws": 4, "rank": 2, "certify_draws": 20, "certify_rows": 4,
    "held_out": 2,
    "sleep": 0.6,
}  # fmt: skip
WIDE: Mapping[str, Any] = {"rows": 8, "draws": 16, "pairs": 64}
"""Enough that 128 token columns do not hold a step."""
Row = Mapping[str, object]


def fitted(
    out: Path, program: str = DIGIT, data: Sequence[Row] = DIGITS, *, resume: bool = False,
    watch: Callable[[Any], None] | None = None, course: Course | None = None,
    say: Callable[[str], None] | None = None, **more: object,
) -> Fitted:  # fmt: skip
    """A fit of a few small steps."""
    settings = settings_of({**SMALL, **more})
    return fit(
        loads(program).prepared, data, out, settings, resume=resume, watch=watch, course=course, say=say
    )


def trainer_of(
    program: str = DIGIT, data: Sequence[Row] = DIGITS, world: World | None = None, **more: object
) -> Trainer:
    """The trainer of such a fit, without a folder; `trainer.adapter.close()` when done."""
    settings: FitSettings = settings_of({**SMALL, **more})
    settings = evolve(settings, seeds=settings.seeds or 0).resolved(exact=False)
    query = loads(program)
    graph = query.graph
    bound, models = [validate_data(graph, row) for row in data], query.prepared.models
    program = PreparedProgram.of(graph, models)
    known, simulator = Rows(program, bound), Simulator(program, bound)
    numbers = range(len(data))
    compiles = settings.sleep != 0 and not simulator.unsimulated
    sleep_phase = SleepPhase(known, numbers, simulator, settings.pairs, settings.seed) if compiles else None
    lm = next(iter(known.readings(0).values())).lm
    adapter = Adapter.new(models[lm], rank=settings.rank, seed=settings.seed)
    return Trainer(known, numbers, adapter, settings, sleep_phase, world or World(), simulator)


def codes(problem: PlmError) -> list[str]:
    return [d.code for d in problem.diagnostics]


def copied(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in trainer.adapter.tensors().items()}


def base_scores(program: str = DIGIT) -> np.ndarray:
    """Log-probs of a sentence under the model that the program reads, asked as the reward asks it."""
    query = loads(program)
    model = query.prepared.models["base"]
    ids = (*model.tokenizer.start_ids, *model.tokenizer.encode_start("Mia saw a cat. She ran home."))
    return model.score([Request(ids, 1)])[0].tokens


# ------------------------------------------------------------------------------- what is left behind


def test_a_fit_leaves_a_policy_and_no_checkpoint(tmp_path: Path) -> None:
    before = base_scores()
    shown: list[Any] = []

    def watch(progress: Any) -> None:
        shown.append(progress)
        assert np.array_equal(base_scores(), before), "the reward never sees the guide"

    done = fitted(tmp_path / "p", watch=watch, checkpoint_every=2)
    names = {p.name for p in (tmp_path / "p").iterdir()}
    assert names == {"adapter_config.json", WEIGHTS, MANIFEST, METRICS}
    assert not done.interrupted and done.manifest.steps == 6 and done.manifest.settings["rank"] == 2
    assert done.manifest.checked is not None
    assert [p.stage for p in shown] == ["sleep"] * 4 + ["balance"] * 2
    lines = metrics.read_metrics(tmp_path / "p" / METRICS)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in lines] == [p.loss for p in shown]
    assert shown[-1].done == 1.0
    assert np.array_equal(base_scores(), before), "the adapter is off for everybody else"


def test_the_model_is_as_it_was_when_something_fails_inside(tmp_path: Path) -> None:
    before = base_scores()

    def fail(progress: Any) -> None:
        if progress.step == 5:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fitted(tmp_path / "p", watch=fail, checkpoint_every=2)
    assert np.array_equal(base_scores(), before)
    assert checkpoint.load(tmp_path / "p").step == 4  # type: ignore[union-attr]
    assert not (tmp_path / "p" / ".lock").exists()
    assert fitted(tmp_path / "p", resume=True, checkpoint_every=2).manifest.steps == 6


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    def weights(name: str, seed: int) -> bytes:
        fitted(tmp_path / name, seed=seed, steps=3, sleep=0.4)
        return (tmp_path / name / WEIGHTS).read_bytes()

    first = weights("a", 3)
    assert weights("b", 3) == first
    assert weights("c", 4) != first


def test_known_latents_begin_the_buffer_and_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []

    class Watched(Trainer):
        def step(self) -> Any:
            pinned = [e for e in self.replay.entries(0) if e.pinned]
            kept.append(len(pinned))
            target = self.rows.target(0)
            assert [target.value_of("n", e.ids[0]).datum for e in pinned] == [3]
            value = target.value("n", 3)
            assert pinned[0].log_reward == pytest.approx(math.log(0.02) - 2 * 0.7)
            assert target.log_reward({"n": [value]})[0] == pytest.approx(pinned[0].log_reward)
            return super().step()

    monkeypatch.setattr("posterior_lm.train.setup.Trainer", Watched)
    rows = [{"x": 1, "n": 3}, *DIGITS[1:]]
    fitted(tmp_path / "p", data=rows, sleep=0, capacity=4, seeds=0)
    assert kept == [1] * 6


# ------------------------------------------------------------------------------- schedules


def test_the_rate_warms_up_and_falls_in_each_stage() -> None:
    trainer = trainer_of(steps=40, sleep=0.5, warmup=4, learning_rate=0.01, balance_learning_rate=0.002)
    try:
        stages: dict[str, list[float]] = {"sleep": [], "balance": []}
        for k in range(40):
            trainer.steps_done, trainer.balanced = k, max(0, k - 20)
            stages[trainer.stage()].append(trainer.rate(trainer.stage()))
        for stage, high in (("sleep", 0.01), ("balance", 0.002)):
            rates = stages[stage]
            assert len(rates) == 20
            assert all(a < b for a, b in pairwise(rates[:5]))
            assert all(a > b for a, b in pairwise(rates[4:]))
            assert rates[0] == pytest.approx(high / 5, rel=1e-3)
            assert 0.8 * high < max(rates) < high and rates[-1] < 0.05 * high
        assert stages["sleep"] == pytest.approx([5 * r for r in stages["balance"]])
    finally:
        trainer.adapter.close()


# ------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("problem", "objective", "sleep"),
    [
        (torch.OutOfMemoryError, "vargrad", 0.34),
        (RuntimeError, "vargrad", 0),
        (torch.OutOfMemoryError, "tb", 0),
    ],
)
def test_out_of_memory_halves_the_columns_and_gives_the_same_weights(
    problem: type[Exception], objective: str, sleep: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a run that began with the columns that fit; the first parts of a failed step leave no trace."""
    real, calls = train.score_draws, []

    def greedy(model: Any, draws: Any, *, columns: int, **options: Any) -> Any:
        calls.append(columns)
        # The second part fails, so that the first has moved what it should not have.
        if columns > 64 and len([c for c in calls if c == columns]) > 1:
            raise problem("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return real(model, draws, columns=columns, **options)

    def weights(columns: int) -> tuple[int, dict[str, torch.Tensor], torch.Tensor]:
        trainer = trainer_of(max_batch_tokens=columns, steps=3, sleep=sleep, objective=objective, **WIDE)
        try:
            for _ in range(3):
                assert math.isfinite(trainer.step().loss)
            assert trainer.fit is not None
            return trainer.fit.columns, copied(trainer), trainer.log_z.clone()
        finally:
            trainer.adapter.close()

    monkeypatch.setattr(train, "free_memory", lambda device: None)  # nothing is tried before
    fits, expected, log_z = weights(64)
    assert fits == 64
    monkeypatch.setattr(train, "score_draws", greedy)
    left, found, found_log_z = weights(128)
    assert left == 64 and calls.count(128) == 2 and calls[-1] == 64
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=1e-6, rtol=1e-5), name
    assert torch.allclose(found_log_z, log_z, equal_nan=True)


def test_parts_hold_whole_groups_and_no_more_columns_than_fit() -> None:
    trainer = trainer_of(**WIDE, sleep=0)
    try:
        model = trainer.adapter.model()
        behaved, _ = trainer.balancer.draw(model, 0, range(8), trainer.replay)
    finally:
        trainer.adapter.close()

    def width(part: Sequence[int]) -> int:
        paths = {(p.context, p.ids) for k in part for p in behaved.draws[k].paths}
        contexts = {context for context, _ in paths}
        return sum(map(len, contexts)) + sum(len(ids) for _, ids in paths)

    groups = [np.flatnonzero(behaved.slot == k).tolist() for k in range(8)]
    whole = width(range(len(behaved.draws)))
    for columns in (whole, whole // 2, whole // 4, 1):
        parts = micro_batches(behaved.draws, groups, columns)
        assert sorted(k for part in parts for k in part) == list(range(len(behaved.draws)))
        assert all(len({behaved.slot[k] for k in part} & set(behaved.slot[other])) == 0 or part is other
                   for part in parts for other in parts)  # fmt: skip
        assert all(width(part) <= columns or len({behaved.slot[k] for k in part}) == 1 for part in parts)
        assert len(parts) == (1 if columns == whole else 8 if columns == 1 else len(parts))
    assert micro_batches(behaved.draws, [[], [3, 4]], 10**6) == [[3, 4]]
    assert micro_batches(behaved.draws, range(3), 10**6) == [[0, 1, 2]]


def test_memory_that_never_suffices_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    trainer = trainer_of(max_batch_tokens=500)
    before = copied(trainer)
    monkeypatch.setattr(train, "score_draws", never)
    try:
        with pytest.raises(InferenceError) as caught:
            trainer.step()
        assert codes(caught.value) == ["PLM626"] and "do not fit in memory" in str(caught.value)
        assert all(torch.equal(before[k], v) for k, v in copied(trainer).items())
    finally:
        trainer.adapter.close()


def test_other_errors_of_the_device_are_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any, **__: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    trainer = trainer_of()
    monkeypatch.setattr(train, "score_draws", wrong)
    try:
        with pytest.raises(RuntimeError, match="shapes"):
            trainer.step()
    finally:
        trainer.adapter.close()


# ------------------------------------------------------------------------------- numbers that are none


@pytest.mark.parametrize(
    ("factor", "code"),
    [("log(n - 9.0)", "PLM701"), ("1 / abs(n - n)", "PLM704"), ("exp(n * 1000)", "PLM704")],
)
def test_a_reward_that_is_no_number_names_row_and_statement(factor: str, code: str, tmp_path: Path) -> None:
    """Only row 5 goes wrong, in the balancing that follows a checkpoint."""
    text = DIGIT.replace("factor 0", f"factor if x == 5 then {factor} else 0.0\n  factor 0")
    with pytest.raises(PlmError) as caught:
        fitted(tmp_path / "p", text, sleep=0, rows=1, steps=9, held_out=0, checkpoint_every=1, seeds=0)
    (found, *_) = caught.value.diagnostics
    assert found.code == code and found.where == "rows[5]"
    assert found.primary is not None and factor.split("(")[0].strip() in found.primary.span.text
    kept = checkpoint.load(tmp_path / "p")
    assert kept is None or 1 <= kept.step < 9
    lines = metrics.read_metrics(tmp_path / "p" / METRICS)
    assert [line["step"] for line in lines] == list(range(1, (kept.step if kept else 0) + 1))
    assert not (tmp_path / "p" / MANIFEST).exists()


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("sleep", [0, 1])
def test_a_guide_that_is_no_number_stops_before_the_weights(sleep: int, tmp_path: Path) -> None:
    trainer = trainer_of(sleep=sleep)
    try:
        trainer.step()
        with torch.no_grad():
            next(iter(trainer.adapter.parameters.values())).fill_(math.nan)
        before = copied(trainer)
        with pytest.raises(PlmError) as caught:
            trainer.step()
        assert codes(caught.value) == ["PLM626"]
        after = copied(trainer)
        assert all(torch.equal(before[k].nan_to_num(7.0), after[k].nan_to_num(7.0)) for k in before)
        assert trainer.steps_done == 1
    finally:
        trainer.adapter.close()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("sleep", [0, 1])
def test_a_gradient_that_is_no_number_leaves_the_weights(
    sleep: int, bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(sleep=sleep)
    try:
        trainer.step()
        before = copied(trainer)
        moments = {k: v.clone() for k, v in trainer.tensors().items() if k.startswith("optimizer.")}

        def poisoned(*args: Any, **options: Any) -> Any:
            scored = score_draws(*args, **options)
            scored.log_prob.register_hook(lambda gradient: gradient * bad)
            return scored

        monkeypatch.setattr(train, "score_draws", poisoned)
        with pytest.raises(InferenceError) as caught:
            trainer.step()
        assert codes(caught.value) == ["PLM626"] and "the gradient is not finite" in str(caught.value)
        assert all(torch.equal(before[k], v) for k, v in copied(trainer).items())
        assert all(torch.equal(moments[k], trainer.tensors()[k]) for k in moments)
        assert trainer.steps_done == 1
    finally:
        trainer.adapter.close()


# ------------------------------------------------------------------------------- dead draws

HALF_DEAD = DIGIT.replace("factor 0", "factor log(if n == 1 or n == 3 then 0 else 1)")
# A condition on n alone would be built into its support.


def test_a_policy_learns_to_avoid_dead_draws() -> None:
    trainer = trainer_of(HALF_DEAD, sleep=0, steps=24, draws=16, rank=8, warmup=0, balance_learning_rate=5e-3)
    try:
        shown = [trainer.step() for _ in range(24)]
        assert all(math.isfinite(p.loss) for p in shown)
        early, late = shown[:3], shown[-8:]
        assert np.mean([p.dead for p in early]) > 0.2
        assert np.mean([p.dead for p in late]) < 0.3 * np.mean([p.dead for p in early])
        assert np.mean([p.ess for p in late]) > np.mean([p.ess for p in early]) + 0.1
        entries = [e for row in trainer.replay.rows() for e in trainer.replay.entries(row)]
        assert entries and all(math.isfinite(e.log_reward) for e in entries)
        assert trainer.replay.dropped > 0
    finally:
        trainer.adapter.close()


@pytest.mark.parametrize("objective", ["vargrad", "tb"])
def test_a_row_where_every_draw_is_dead_is_survived(objective: str) -> None:
    text = DIGIT.replace("factor 0", "condition x != 2\n  factor 0")
    trainer = trainer_of(text, data=DIGITS[:3], sleep=0, steps=4, objective=objective, seeds=4)
    try:
        for _ in range(4):
            shown = trainer.step()
            assert math.isfinite(shown.loss) and shown.dead >= 1 / 3 - 1e-9
        assert trainer.replay.entries(2) == () and trainer.replay.entries(1) != ()
        assert all(bool(torch.isfinite(t).all()) for t in trainer.adapter.tensors().values())
    finally:
        trainer.adapter.close()


# ------------------------------------------------------------------------------- does it learn?

SHORT = """
lm base = "tiny"
program short(x: int(0..2)) {
  latent z: text(tokens=1..3, chars="ab") ~ base("Letters", x, ":") ^ 0.3
  factor count(z, "b") * 1.1 - x * count(z, "a") * 0.6
}
"""


def distance(trainer: Trainer, row: int) -> float:
    """Total variation between the guide and the exact posterior of a row, every value listed."""
    target = trainer.rows.target(row)
    name = target.names[0]
    support = target.latents[0].support
    if hasattr(support, "ids_of"):
        values = [target.value_of(name, ids) for ids in support.values()]
    else:
        texts = ["".join(t) for n in range(4) for t in _words(n)]
        values = []
        for text in texts:
            try:
                values.append(target.value(name, text))
            except DataError:
                continue
    log_reward = target.log_reward({name: values})
    exact = np.exp(log_reward - np.logaddexp.reduce(log_reward))
    mine = np.exp(PolicyGuide.of(target, trainer.adapter).log_prob({name: values}))
    return 0.5 * float(np.abs(exact - mine).sum() + max(0.0, 1 - mine.sum()))


def _words(n: int) -> list[tuple[str, ...]]:
    return list(product("ab", repeat=n))


def test_balancing_comes_close_to_a_skewed_posterior() -> None:
    trainer = trainer_of(
        DIGIT, DIGITS[2:5], sleep=0, steps=40, draws=8, rank=8, warmup=3,
        balance_learning_rate=5e-3, anneal=0.2,
    )  # fmt: skip
    try:
        before = np.mean([distance(trainer, k) for k in range(3)])
        while not trainer.finished:
            trainer.step()
        after = np.mean([distance(trainer, k) for k in range(3)])
        assert after < 0.35 * before, (before, after)
    finally:
        trainer.adapter.close()


@pytest.mark.parametrize("objective", ["vargrad", "tb", "subtb", "db"])
def test_every_objective_comes_closer_on_texts(objective: str) -> None:
    rows = [{"x": k} for k in range(3)]
    trainer = trainer_of(
        SHORT, rows, sleep=0, objective=objective, steps=24, draws=8, rank=8, warmup=3,
        balance_learning_rate=5e-3, anneal=0.2,
    )  # fmt: skip
    try:
        before = np.mean([distance(trainer, k) for k in range(3)])
        while not trainer.finished:
            trainer.step()
        after = np.mean([distance(trainer, k) for k in range(3)])
        assert after < 0.5 * before, (before, after)
    finally:
        trainer.adapter.close()
