"""EM from outside: what a run leaves, what it survives, what it refuses."""

from __future__ import annotations

import json
import math
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from safetensors.torch import load_file

from posterior_lm.api.query import EmResult, Query, load_em, loads
from posterior_lm.em import run as run_module
from posterior_lm.em.rounds import Raised, bound_of
from posterior_lm.em.saved import GUIDE, MODEL, RECORD, read_record
from posterior_lm.em.settings import settings_of
from posterior_lm.lang.diagnostics import DataError, InferenceError, ModelError, PlmError
from posterior_lm.lm.protocol import Request
from posterior_lm.lm.tabular import TabularModel
from posterior_lm.storage import Lock
from posterior_lm.train import checkpoint, progress
from posterior_lm.train.adapter import WEIGHTS, Adapter
from posterior_lm.train.policy import load_policy, read_manifest
from tests.unit.test_em_split_model import RATED

ROWS = [{"x": k, "label": "good" if k % 3 == 0 else "bad"} for k in range(10)]
QUICK: Mapping[str, Any] = {
    "rounds": 2, "e_steps": 2, "m_steps": 2, "m_rank": 2, "m_rate": 3e-3, "bound_draws": 8, "sleep": 0,
    "seeds": 0, "rank": 2, "rows": 4, "draws": 4, "certify_draws": 10, "certify_rows": 0,
}  # fmt: skip


def done(
    out: Path, program: str = RATED, rows: Sequence[Mapping[str, object]] = ROWS, **more: Any
) -> EmResult:
    return loads(program).em(rows, out, **{**QUICK, **more})


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmResult]:
    found = done(tmp_path_factory.mktemp("em") / "out")
    yield found
    found.close()


@pytest.fixture
def copy(result: EmResult, tmp_path: Path) -> Path:
    """The folder of a result, to be spoilt."""
    return Path(shutil.copytree(result.folder, tmp_path / "copy"))


def code_of(problem: pytest.ExceptionInfo[PlmError]) -> str:
    (only,) = problem.value.diagnostics
    return only.code


# ------------------------------------------------------------------------------- what it leaves


def test_rounds_are_told_as_they_were(result: EmResult) -> None:
    assert [r.number for r in result.rounds] == [0, 1, 2]
    assert result.rounds[0].raised is None
    assert all(r.raised is not None and r.raised.after > r.raised.before for r in result.rounds[1:])
    first, last = result.rounds[0], result.rounds[-1]
    assert last.bound.log_evidence > first.bound.log_evidence and last.bound.rows == 8
    assert (
        last.held_out is not None
        and last.held_out.rows == 2
        and last.held_out.elbo <= last.held_out.log_evidence
    )
    assert result.best == 2 and result.stopped == "2 rounds are done" and not result.interrupted
    assert len({r.model for r in result.rounds}) == 3
    lines = progress.read_metrics(result.folder / checkpoint.METRICS)
    assert [x["step"] for x in lines] == [0, 1, 2]
    assert lines[2]["bound"]["elbo"] == last.bound.elbo


def test_the_folder_holds_two_adapters_and_no_checkpoint(result: EmResult) -> None:
    files = {str(p.relative_to(result.folder)) for p in result.folder.rglob("*") if p.is_file()}
    assert files == {
        "em.json", "metrics.jsonl", *(f"{room}/{name}" for room in ("model", "guide")
                                      for name in ("adapter_config.json", WEIGHTS)), "guide/manifest.json",
    }  # fmt: skip
    record = read_record(result.folder)
    assert record.rounds == result.rounds and record.best == 2 and record.alias == "base"
    assert record.fingerprint == loads(RATED).fingerprint and record.settings["e_steps"] == 2
    assert record.settings["fit"]["rank"] == 2 and "steps" not in record.settings["fit"]
    manifest = read_manifest(result.folder / GUIDE)
    assert manifest.certificate is not None and manifest.fingerprint == result.query.fingerprint


def test_the_kept_bound_comes_out_again(result: EmResult) -> None:
    """The bound of a round is of that round's model and guide, which are what was kept."""
    query = load_em(result.folder)
    held = [r for k, r in enumerate(ROWS) if k in _held_out()]
    policy = load_policy(result.folder / GUIDE, query.prepared)
    try:
        rows = []
        for number, row in zip(_held_out(), held, strict=True):
            there = query.given(row).target()
            proposal = policy.guide(there).sample(np.random.default_rng([0, 11, number]), 8)
            rows.append(there.log_reward(proposal.values) - proposal.log_prob)
    finally:
        policy.adapter.close()
    found, kept = bound_of(rows), result.rounds[result.best].held_out
    assert kept is not None and found.log_evidence == pytest.approx(kept.log_evidence, abs=1e-4)
    assert found.elbo == pytest.approx(kept.elbo, abs=1e-4)


def _held_out() -> list[int]:
    from posterior_lm.train.rows import split

    return split(len(ROWS), 16, 0)[1]


def test_a_loaded_result_says_what_the_first_one_said(result: EmResult) -> None:
    row = {"x": 4, "label": "good"}
    plain = loads(RATED)
    for query in (load_em(result.folder), plain.given(x=4).with_em(result.folder)):
        mine, theirs, before = (
            np.array([q.given(row).score({"n": n}).log_reward for n in range(4)])
            for q in (query, result.query, plain)
        )
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
        assert np.abs(mine - before).max() > 0.1
        assert query.policy_folder == result.folder / GUIDE


def test_it_predicts(result: EmResult) -> None:
    asked = result.query.given(x=4)
    found = asked.predict("label", n=50)
    before = loads(RATED).given(x=4).predict("label", n=50)
    total = dict(found.probs)
    assert sum(total.values()) == pytest.approx(1) and set(total) == {"good", "bad"}
    assert abs(total["bad"] - dict(before.probs)["bad"]) > 1e-3


def test_weights_are_shared_and_the_base_is_as_it_was(result: EmResult) -> None:
    query = load_em(result.folder)
    base, trained = query.models["base"], query.models["base_em"]
    assert base._forward.module is trained._forward.module  # type: ignore[union-attr]
    assert trained.identity.digest == result.rounds[2].model != base.identity.digest  # type: ignore[union-attr]
    fresh = loads(RATED).prepared.models["base"]
    assert fresh is base
    known = TabularModel.random(["a"], max_tokens=2)
    assert known.identity.digest != base.identity.digest  # type: ignore[union-attr]


def test_a_run_again_is_the_same_run(result: EmResult, tmp_path: Path) -> None:
    again = done(tmp_path / "again", rounds=1)
    again.close()
    for one, other in zip(again.rounds, result.rounds, strict=False):
        assert evolve(one, seconds=0.0) == evolve(other, seconds=0.0)


# ------------------------------------------------------------------------------- interrupted and resumed


def test_a_resumed_run_is_the_whole_run(
    result: EmResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = run_module.e_step, []

    def stopped_in_round_two(*args: Any, **more: Any) -> bool:
        calls.append(1)
        return len(calls) < 3 and real(*args, **more)

    monkeypatch.setattr(run_module, "e_step", stopped_in_round_two)
    out = tmp_path / "out"
    begun = done(out)
    begun.close()
    assert begun.interrupted and len(begun.rounds) == 2
    assert read_manifest(out / GUIDE).certificate is None
    monkeypatch.setattr(run_module, "e_step", real)
    with pytest.raises(DataError) as caught:
        done(out)
    assert code_of(caught) == "PLM621" and "--resume" in str(caught.value.diagnostics[0].help)
    with pytest.raises(DataError) as caught:
        done(out, resume=True, m_steps=3)
    assert (
        code_of(caught) == "PLM625" and "settings.m_steps (2, now 3)" in caught.value.diagnostics[0].message
    )
    told: list[str] = []
    whole = done(out, resume=True, say=told.append)
    whole.close()
    assert "resumed after round 1" in told and not (out / checkpoint.ROOM).exists()
    assert [evolve(r, seconds=0.0) for r in whole.rounds] == [evolve(r, seconds=0.0) for r in result.rounds]
    assert [x["step"] for x in progress.read_metrics(out / checkpoint.METRICS)] == [0, 1, 2]


def test_nothing_is_kept_of_a_first_round_that_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "e_step", lambda *a, **k: False)
    with pytest.raises(KeyboardInterrupt):
        done(tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())
    with pytest.raises(DataError) as caught:
        done(tmp_path / "out", resume=True)
    assert code_of(caught) == "PLM622"


def test_an_m_step_that_is_stopped_leaves_the_round_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = run_module.m_step

    def interrupted(*args: Any, stop: Any, **more: Any) -> Raised | None:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        return real(*args, stop=stop, **more)

    monkeypatch.setattr(run_module, "m_step", interrupted)
    begun = done(tmp_path / "out")
    begun.close()
    assert begun.interrupted and [r.number for r in begun.rounds] == [0]
    assert not any(t.abs().max() > 0 for k, t in begun_weights(tmp_path / "out").items() if "lora_B" in k)


def begun_weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / MODEL / WEIGHTS)


def test_results_of_before_have_no_steps_of_an_m_step(result: EmResult, tmp_path: Path) -> None:
    shutil.copytree(result.folder, tmp_path / "old")
    whole = json.loads((tmp_path / "old" / RECORD).read_text())
    for one in whole["rounds"]:
        if one["raised"]:
            assert one["raised"].pop("steps") == 2
    (tmp_path / "old" / RECORD).write_text(json.dumps(whole))
    found = read_record(tmp_path / "old").rounds
    assert [r.raised and r.raised.steps for r in found] == [None, 0, 0]
    assert [r.bound for r in found] == [r.bound for r in result.rounds]


def test_a_spent_budget_begins_no_round(tmp_path: Path) -> None:
    found = done(tmp_path / "out", budget=0.01)
    found.close()
    assert len(found.rounds) == 1 and found.stopped == "the budget of 0.01 s is spent"
    assert "the budget left no time for an M-step, so the model is as it was" in found.notes


def test_the_best_round_is_kept_and_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, factors = run_module.m_step, iter((None, -1.0, 1.5))

    def spoiled(adapter: Adapter, *args: Any, **more: Any) -> Raised:
        """The first is a real one; what it learned is then turned round, and that made more."""
        factor = next(factors)
        if factor is None:
            return real(adapter, *args, **more)
        with torch.no_grad():
            for name, parameter in adapter.parameters.items():
                if "lora_B" in name:
                    parameter.mul_(factor)
        return Raised(-1.0, -0.5, True)

    monkeypatch.setattr(run_module, "m_step", spoiled)
    found = done(tmp_path / "out", rounds=9, patience=2, m_steps=4)
    assert found.best == 1 and len(found.rounds) == 4 and "for 2 rounds" in found.stopped
    assert found.query.models["base_em"].identity.digest == found.rounds[1].model  # type: ignore[union-attr]
    again = load_em(tmp_path / "out").models["base_em"]
    assert again.identity.digest == found.rounds[1].model  # type: ignore[union-attr]
    found.close()


# ------------------------------------------------------------------------------- rows


def test_rows_without_a_label_are_left_out_and_told(tmp_path: Path) -> None:
    rows = [*ROWS[:6], {"x": 7}, {"x": 8, "label": None}]
    told: list[str] = []
    found = done(tmp_path / "out", rows=rows, rounds=0, say=told.append)
    found.close()
    assert told[0] == "2 of 8 rows have no `label`: they say nothing about it and are left out"
    held = found.rounds[0].held_out
    assert held is not None and found.rounds[0].bound.rows + held.rows == 6


def test_with_few_rows_none_is_held_out(tmp_path: Path) -> None:
    found = done(tmp_path / "out", rows=ROWS[:4], rounds=1)
    found.close()
    assert found.rounds[0].held_out is None and found.best == 1 and "none is held out" in found.notes[0]


@pytest.mark.parametrize(
    ("rows", "code", "said"),
    [
        ([{"x": 1}, {"x": 2}], "PLM791", "none of the 2 rows has a value of `label`"),
        ([{"x": k, "label": "bad"} for k in range(3)], "PLM794", "all 3 rows observe 'bad'"),
        ([{"x": 1, "label": "bad"}, {"x": 2}], "PLM794", "the only row observes 'bad'"),
        ([], "PLM628", "no rows"),
        ([{"label": "bad"}, {"x": 1, "label": "good"}], "PLM601", "`x` has no value"),
        ([{"x": 1, "label": "awful"}], "PLM608", "'awful'"),
    ],
)
def test_rows_that_teach_nothing(rows: list, code: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        done(tmp_path / "out", rows=rows)
    assert code_of(caught) == code and said in caught.value.diagnostics[0].message
    assert not (tmp_path / "out" / RECORD).exists()


def test_a_label_given_for_every_row_is_one_label(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        loads(RATED).given(label="good").em([{"x": 1}, {"x": 2}], tmp_path / "out", **QUICK)
    assert code_of(caught) == "PLM794"


def test_a_program_without_anything_to_train(tmp_path: Path) -> None:
    with pytest.raises(InferenceError) as caught:
        done(
            tmp_path / "out", RATED.replace('observe said ~ base("Word ", x, n)', "observe x ~ poisson(2.5)")
        )
    assert code_of(caught) == "PLM790"


def test_a_model_without_weights(tmp_path: Path) -> None:
    table = TabularModel.random([" ", "g", "o", "d", "b", "a", "W", "r", "S", "e", "n", ":", *"0123456789"])
    with pytest.raises(ModelError) as caught:
        loads(RATED).lm(base=table).em(ROWS, tmp_path / "out", **QUICK)
    assert code_of(caught) == "PLM516"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 5}, "no setting `steps`"),
        ({"m_step": 5}, "no setting `m_step`"),
        ({"rounds": -1}, "at least 0"),
        ({"m_rate": 0}, "above 0"),
        ({"patience": 1.5}, "whole number"),
        ({"budget": math.inf}, "a number"),
        ({"train_prior": 1}, "true or false"),
        ({"objective": "sft"}, "does not draw"),
        ({"tempered": 2}, "at most 1"),
    ],
)
def test_settings_are_checked(options: Mapping[str, object], said: str) -> None:
    with pytest.raises(InferenceError) as caught:
        settings_of(options)
    assert code_of(caught) == "PLM802" and said in caught.value.diagnostics[0].message


def test_a_folder_in_use(tmp_path: Path, result: EmResult, copy: Path) -> None:
    with Lock(tmp_path / "busy"), pytest.raises(DataError) as caught:
        done(tmp_path / "busy")
    assert code_of(caught) == "PLM621"
    with pytest.raises(DataError) as caught:
        done(copy)
    assert code_of(caught) == "PLM621" and "a result of EM" in caught.value.diagnostics[0].message


# ------------------------------------------------------------------------------- folders that do not fit


def test_a_damaged_result_is_refused(copy: Path, tmp_path: Path) -> None:
    for name in (f"{MODEL}/{WEIGHTS}", f"{GUIDE}/{WEIGHTS}"):
        path = copy / name
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(DataError) as caught:
            load_em(copy)
        assert code_of(caught) == "PLM795" and name in caught.value.diagnostics[0].message
        path.write_bytes(good)
    load_em(copy)
    (copy / MODEL / WEIGHTS).unlink()
    with pytest.raises(DataError) as caught:
        load_em(copy)
    assert code_of(caught) == "PLM795"
    with pytest.raises(DataError) as caught:
        load_em(tmp_path / "nowhere")
    assert code_of(caught) == "PLM795" and RECORD in caught.value.diagnostics[0].message


@pytest.mark.parametrize("change", ["[]", "{", '{"format": "plm-em-0"}', None])
def test_a_record_of_another_kind(copy: Path, change: str | None) -> None:
    text = (copy / RECORD).read_text()
    if change is None:
        whole = json.loads(text)
        change = json.dumps({**whole, "rounds": [1]})
    (copy / RECORD).write_text(change)
    with pytest.raises(DataError) as caught:
        load_em(copy)
    assert code_of(caught) == "PLM795"


def test_another_program_or_model_is_refused(result: EmResult, tmp_path: Path) -> None:
    other = loads(RATED.replace("0.05, 0.2", "0.15, 0.1"))
    with pytest.raises(DataError) as caught:
        other.with_em(result.folder)
    assert code_of(caught) == "PLM796" and "program" in caught.value.diagnostics[0].message
    table = loads(RATED)
    base = table.prepared.models["base"]
    from posterior_lm.lm.hf.transformers import TransformersModel

    changed = TransformersModel(base._forward, base.tokenizer, evolve(base.identity, digest="0" * 64))  # type: ignore[attr-defined,arg-type]
    with pytest.raises(DataError) as caught:
        loads(RATED).lm(base=changed).with_em(result.folder)
    assert code_of(caught) == "PLM796" and "model" in caught.value.diagnostics[0].message


# ------------------------------------------------------------------------------- other programs


def test_the_prior_and_a_guide_that_reads_what_is_observed(tmp_path: Path) -> None:
    program = """
lm base = "tiny"
program story(opening: text, ending: text) {
  latent z: text(tokens=1..2, stop=".") ~ base(opening)
  observe [" ", ending] ~ base(opening, z)
}
"""
    rows = [
        {"opening": "Mia saw a cat", "ending": "She ran."},
        {"opening": "Ben", "ending": "He slept."},
        {"opening": "The dog", "ending": "It barked."},
    ]
    base = loads(program).prepared.models["base"]
    before = base.score([Request((1, 5, 7, 8), 1)])[0].tokens
    found = done(tmp_path / "out", program, rows, rounds=1, train_prior=True, held_out=0)
    assert "~ base_em(opening)" in str(found.query) and found.rounds[1].raised is not None
    again: Query = load_em(tmp_path / "out")
    posterior = again.given(rows[0]).using("gflownet").draw(8, seed=2)
    assert posterior.log_evidence == pytest.approx(
        found.query.given(rows[0]).using("gflownet").draw(8, seed=2).log_evidence, abs=1e-4
    )
    found.close()
    np.testing.assert_array_equal(base.score([Request((1, 5, 7, 8), 1)])[0].tokens, before)
    assert torch.is_grad_enabled()
