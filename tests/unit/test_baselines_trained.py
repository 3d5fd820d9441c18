"""Policies trained in other ways: known values, reward maximisation, and the search of their learning rates."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import posterior_lm as plm
from posterior_lm.api import peers as search
from posterior_lm.api.engine import policy_offer
from posterior_lm.api.peers import (
    evidence_bound,
    gflownet,
    log_likelihood,
    mean_log_reward,
    ppo,
    search_rate,
    sft,
)
from posterior_lm.infer.methods import OBJECTIVES
from posterior_lm.lang.diagnostics import DataError, InferenceError, error
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.parallel import World
from posterior_lm.train.ppo import BELOW, PpoTrainer, advantages, clipped_loss
from posterior_lm.train.rows import Rows, read_inputs
from posterior_lm.train.settings import FitSettings, settings_of
from posterior_lm.train.sft import KnownPairs
from tests.cli import plm as run

DIGIT = """
lm base = "tiny"
program digit(x: int(0..7)) {
  latent n: int(0..7, lead=" ") ~ categorical([0.3, 0.05, 0.2, 0.02, 0.25, 0.08, 0.06, 0.04])
  factor 0 - abs(n - x) * 0.7
  guide n ~ base("Seen: ", x, "\\nDigit:")
}
"""
ROWS = [{"x": x} for x in range(8)]
KNOWN = [{"x": x, "n": (3 * x + 1) % 8} for x in range(8)]
QUICK: Mapping[str, Any] = {"rank": 4, "certify_draws": 10, "certify_rows": 0, "held_out": 0, "warmup": 2}


def trainer_of(rows: list[dict[str, int]], /, **settings: object) -> tuple[Any, Rows, Adapter]:
    inputs = read_inputs(plm.loads(DIGIT).prepared, rows, FitSettings())
    bound = Rows(inputs.program, inputs.data)
    adapter = Adapter.new(inputs.program.models["base"], rank=4, seed=0)
    made = settings_of({**QUICK, **settings}).resolved(exact=False)
    make = OBJECTIVES[made.objective].load()
    return make(inputs, bound, range(len(rows)), adapter, made, World()), bound, adapter


def moved(trainer: Any) -> None:
    while not trainer.finished:
        trainer.step()


def policy_of(bound: Rows, adapter: Adapter, row: int) -> np.ndarray:
    """(8,) the policy's probability of each digit in a row."""
    from posterior_lm.train.guide import PolicyGuide

    target = bound.target(row)
    values = [target.value("n", n) for n in range(8)]
    return np.exp(PolicyGuide.of(target, adapter).log_prob({"n": values}))


def rewards_of(bound: Rows, row: int) -> np.ndarray:
    """(8,) the log reward of each digit in a row."""
    target = bound.target(row)
    return target.log_reward({"n": [target.value("n", n) for n in range(8)]})


# ------------------------------------------------------------------- the loss


def test_a_draw_is_set_against_the_others_of_its_row() -> None:
    reward = torch.tensor([1.0, 4.0, 1.0, 2.0, 0.0, 10.0], dtype=torch.float64)
    found = advantages(reward, torch.tensor([0, 0, 0, 1, 2, 2]))
    assert found.tolist() == [-1.5, 3.0, -1.5, 0.0, -10.0, 10.0]
    assert advantages(reward[:0], torch.zeros(0, dtype=torch.int64)).tolist() == []


def test_the_ratio_is_held_where_that_lowers_the_gain() -> None:
    log_prob = torch.tensor([-1.0, -1.0, -1.0, -1.0, -1.0], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([-1.5, -1.5, -0.2, -0.2, -1.0], dtype=torch.float64)
    advantage = torch.tensor([2.0, -2.0, 2.0, -2.0, 3.0], dtype=torch.float64)
    loss = clipped_loss(log_prob, old, advantage, 0.2)
    up, down = math.exp(0.5), math.exp(-0.8)
    assert loss.tolist() == pytest.approx([-1.2 * 2, up * 2, -down * 2, 0.8 * 2, -3])
    (gradient,) = torch.autograd.grad(loss.sum(), log_prob)
    # Nothing is left to gain where the ratio is held; at ratio 1 it is that of the policy gradient.
    assert gradient.tolist() == pytest.approx([0, up * 2, -down * 2, 0, -3])


@pytest.mark.slow
def test_the_loss_is_that_of_trl() -> None:
    trl = pytest.importorskip("trl.trainer.rloo_trainer")
    rng = np.random.default_rng(1)
    mask = torch.as_tensor(np.arange(5) < rng.integers(1, 6, 12)[:, None]).double()
    steps = torch.as_tensor(rng.normal(-1, 0.6, (12, 5)), dtype=torch.float64)
    old = (steps * mask).sum(1) + torch.as_tensor(rng.normal(0, 0.3, 12))
    advantage = torch.as_tensor(rng.normal(0, 2, 12))
    reduce = lambda tensor, reduction="sum": tensor  # noqa: E731
    stub = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (steps, torch.zeros_like(steps), None),
        epsilon_low=0.2, epsilon_high=0.2, aux_loss_enabled=False, model=SimpleNamespace(training=True),
        _metrics=defaultdict(lambda: defaultdict(list)),
        accelerator=SimpleNamespace(reduce=reduce, gather=reduce),
    )  # fmt: skip
    inputs = {"prompt_ids": torch.zeros((12, 1)), "prompt_mask": torch.ones((12, 1)),
              "completion_ids": torch.zeros((12, 5)), "completion_mask": mask, "old_logps": old,
              "advantages": advantage}  # fmt: skip
    theirs = trl.RLOOTrainer._compute_loss(stub, None, inputs)
    mine = clipped_loss((steps * mask).sum(1), old, advantage, 0.2).mean()
    assert float(mine) == pytest.approx(float(theirs), rel=1e-9)


# ------------------------------------------------------------------- reward maximisation


def test_a_dead_draw_is_priced_below_all_that_was_seen() -> None:
    trainer, _, adapter = trainer_of(ROWS, objective="ppo", kl=0)
    slot, zeros = np.array([0, 0, 0]), np.zeros(3)
    behaved = lambda *r: SimpleNamespace(log_reward=np.array(r), slot=slot)  # noqa: E731
    found = trainer._advantages(behaved(-3.0, -math.inf, -1.0), zeros, zeros)
    dead = -3.0 - BELOW
    assert found.tolist() == pytest.approx([-3 - (dead - 1) / 2, dead + 2, -1 - (dead - 3) / 2])
    found = trainer._advantages(behaved(-2.0, -math.inf, -2.0), zeros, zeros)
    assert found.tolist()[1] == pytest.approx(dead + 2) and trainer.lowest == -3.0
    state = json.loads(json.dumps(trainer.state()))
    other = trainer_of(ROWS, objective="ppo")[0]
    assert other.state()["lowest"] is None and math.isinf(other.lowest)
    other.restore(trainer.tensors(), {}, state)
    assert other.lowest == -3.0
    assert trainer_of(ROWS, objective="ppo", kl=0)[0]._advantages(
        behaved(-math.inf, -math.inf, -math.inf), zeros, zeros
    ).tolist() == [0, 0, 0]
    adapter.close()


def test_the_price_of_leaving_the_frozen_model_is_in_the_reward() -> None:
    trainer, _, adapter = trainer_of(ROWS, objective="ppo", kl=0.5)
    behaved = SimpleNamespace(log_reward=np.array([-1.0, -1.0]), slot=np.array([0, 0]))
    found = trainer._advantages(behaved, np.array([-1.0, -2.0]), np.array([-4.0, -2.0]))
    assert found.tolist() == pytest.approx([-1.5, 1.5])
    adapter.close()


def test_ppo_raises_the_reward_and_leaves_the_posterior() -> None:
    trainer, bound, adapter = trainer_of(
        ROWS, objective="ppo", steps=16, rows=8, draws=8, kl=0, balance_learning_rate=1e-2, epochs=2
    )
    assert isinstance(trainer, PpoTrainer)
    before = [float(policy_of(bound, adapter, r) @ rewards_of(bound, r)) for r in range(8)]
    moved(trainer)
    q = [policy_of(bound, adapter, r) for r in range(8)]
    after = [float(q[r] @ rewards_of(bound, r)) for r in range(8)]
    assert np.mean(after) > np.mean(before) + 0.5
    # The posterior itself has a lower mean reward than a policy that maximises it.
    posterior = [np.exp(rewards_of(bound, r) - np.logaddexp.reduce(rewards_of(bound, r))) for r in range(8)]
    entropy = [-np.sum(p * np.log(np.maximum(p, 1e-300))) for p in (np.mean(q, 0), np.mean(posterior, 0))]
    assert entropy[0] < entropy[1] - 0.3
    adapter.close()


def test_a_high_price_keeps_the_policy_at_the_frozen_model() -> None:
    shifts = []
    for kl in (0.0, 50.0):
        trainer, bound, adapter = trainer_of(
            ROWS, objective="ppo", steps=5, rows=8, draws=8, kl=kl, balance_learning_rate=1e-2, epochs=1
        )
        base = [policy_of(bound, adapter, r) for r in range(8)]
        moved(trainer)
        shifts.append(np.mean([np.abs(policy_of(bound, adapter, r) - base[r]).sum() for r in range(8)]))
        adapter.close()
    assert shifts[1] < 0.5 * shifts[0]


def test_epochs_are_moves_on_the_same_draws() -> None:
    trainer, _, adapter = trainer_of(ROWS, objective="ppo", steps=2, rows=4, draws=4, epochs=3)
    seen = {"moves": 0, "draws": 0}
    move, draw = trainer._move, trainer.balancer.draw

    def counted(name: str, real: Any) -> Any:
        def call(*a: Any) -> Any:
            seen[name] += 1
            return real(*a)

        return call

    trainer._move = counted("moves", move)
    trainer.balancer.draw = counted("draws", draw)
    before = {k: v.clone() for k, v in trainer.adapter.tensors().items()}
    moved(trainer)
    assert seen == {"moves": 6, "draws": 2}
    assert any(not torch.equal(before[k], v) for k, v in trainer.adapter.tensors().items())
    adapter.close()


# ------------------------------------------------------------------- known values


def test_known_values_come_once_in_every_pass() -> None:
    inputs = read_inputs(plm.loads(DIGIT).prepared, [*KNOWN, {"x": 0}], FitSettings())
    bound = Rows(inputs.program, inputs.data)
    pairs = KnownPairs(inputs, bound, [0, 1, 2, 4, 6, 8], settings_of({"pairs": 2}))
    tokens = {tuple(bound.target(0).value("n", n).ids): n for n in range(8)}

    def seen(steps: range) -> list[int]:
        return [tokens[d.paths[0].ids] for step in steps for d in pairs.batch(step, range(2)).draws]

    one, two = seen(range(2)) + seen(range(2, 3))[:1], seen(range(2, 5))[1:]
    wanted = sorted(row["n"] for k, row in enumerate(KNOWN) if k in (0, 1, 2, 4, 6))
    assert sorted(one) == wanted and sorted(two) == wanted and one != two
    assert pairs.batch(0, [1]).draws[0].paths[0].ids == pairs.batch(0, range(2)).draws[1].paths[0].ids


def test_sft_learns_what_the_rows_hold(tmp_path: Path) -> None:
    query = plm.loads(DIGIT)
    fitted = sft(query, KNOWN, tmp_path / "p", steps=18, learning_rate=1e-2, pairs=8, **QUICK)
    assert fitted.manifest.settings["objective"] == "sft" and fitted.manifest.certificate is not None
    asked = query.policy(tmp_path / "p")
    found = {}
    for row in KNOWN:
        draws = asked.given(x=row["x"]).using("greedy").draw().draws
        found[row["x"]] = draws.values["n"][0].datum
        frozen = query.given(x=row["x"]).score({"n": draws.values["n"][0].datum}).log_reward
        assert draws.log_reward[0] == pytest.approx(frozen) and draws.decoded
    assert sum(found[row["x"]] == row["n"] for row in KNOWN) >= 7
    plain = query.given(x=3).using("greedy", proposal="guide").draw().draws.values["n"][0].datum
    assert plain != 2 and found[3] == 2
    reason = asked.given(x=3).using("ancestral", n=20).draw().reason
    assert reason.startswith("ancestral was asked for, decoding the policy in")
    assert log_likelihood(asked, KNOWN) > -0.5
    with pytest.raises(DataError, match="PLM772"):
        sft(query, ROWS, tmp_path / "none", steps=2, **QUICK)


# ------------------------------------------------------------------- learning rates


def test_figures_are_expectations_under_the_policy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    query = plm.loads(DIGIT.replace("factor", "factor log(min(1, abs(n - 6)))\n  factor"))
    ppo(query, ROWS, tmp_path / "p", steps=2, rows=4, draws=4, learning_rate=5e-3, **QUICK)
    asked = query.policy(tmp_path / "p")
    monkeypatch.setattr(search, "DRAWS", 2500)
    rewards, log_q = [], []
    for row in ROWS:
        target = asked.given(row).target()
        values = {"n": [target.value("n", n) for n in range(8)]}
        offer = policy_offer(asked.prepared, asked.request, target)
        assert offer is not None
        log_q.append(offer.guide().log_prob(values))
        rewards.append(target.log_reward(values))
    q, log_reward = np.exp(log_q), np.array(rewards)
    assert q[:, 6].mean() > 0.001 and np.isneginf(log_reward[:, 6]).all()
    log_reward[:, 6] = log_reward[np.isfinite(log_reward)].min() - BELOW
    entropy = -(q * np.array(log_q)).sum(1).mean()
    wanted = (q * log_reward).sum(1).mean()
    assert mean_log_reward(asked, ROWS) == pytest.approx(wanted, abs=0.06)
    assert evidence_bound(asked, ROWS) == pytest.approx(wanted + entropy, abs=0.06)
    assert abs(entropy) > 0.5
    pairs = [(x, n) for x, n in ((0, 1), (5, 0))]
    known = log_likelihood(asked, [{"x": x, "n": n} for x, n in pairs])
    assert known == pytest.approx(np.mean([log_q[x][n] for x, n in pairs]), abs=1e-4)
    assert log_likelihood(asked, ROWS) == -math.inf


def test_the_best_rate_wins_on_rows_that_were_held_out() -> None:
    query, asked = plm.loads(DIGIT), []

    def fit(query: plm.Query, rows: Any, out: Path, /, **settings: Any) -> None:
        asked.append((settings, [row["x"] for row in rows]))
        if settings["learning_rate"] == 0.5:
            raise InferenceError(error("PLM626", "not finite"))

    def figure(query: plm.Query, rows: Any) -> float:
        assert query.policy_folder is not None and not {r["x"] for r in rows} & set(asked[-1][1])
        assert len(rows) + len(asked[-1][1]) == 8 and len(rows) == 2
        return {0.1: -3.0, 0.2: -1.0, 0.3: -1.0}[asked[-1][0]["learning_rate"]]

    found = search_rate(fit, query, ROWS, [0.3, 0.1, 0.5, 0.2], figure=figure, steps=7, seed=3)
    assert found.rate == 0.2
    assert found.figures == ((0.3, -1.0), (0.1, -3.0), (0.5, -math.inf), (0.2, -1.0))
    assert all(s["steps"] == 7 and s["seed"] == 3 and x == asked[0][1] for s, x in asked)
    for rows, rates in ((ROWS[:1], [0.1]), (ROWS, [])):
        with pytest.raises(DataError, match="PLM773"):
            search_rate(fit, query, rows, rates, figure=figure)
    with pytest.raises(InferenceError, match="PLM626"):
        search_rate(fit, query, ROWS, [0.5], figure=figure)


def test_a_search_trains_each_method(tmp_path: Path) -> None:
    query = plm.loads(DIGIT)
    more: dict[str, Any] = {"steps": 2, "rank": 2, "rows": 4, "draws": 4, "pairs": 8, "seeds": 0}
    for method, rows, figure in (
        (sft, KNOWN, log_likelihood), (ppo, ROWS, mean_log_reward), (gflownet, ROWS, evidence_bound),
    ):  # fmt: skip
        found = search_rate(method, query, rows, [1e-3], figure=figure, **more)
        assert found.rate == 1e-3 and math.isfinite(found.figures[0][1]) and found.figures[0][1] < 0


# ------------------------------------------------------------------- from the command line


def test_plm_fit_trains_either(tmp_path: Path) -> None:
    program, data = tmp_path / "p.plm", tmp_path / "rows.jsonl"
    program.write_text(DIGIT)
    data.write_text("".join(json.dumps(row) + "\n" for row in KNOWN))
    for objective in ("sft", "ppo"):
        out = tmp_path / objective
        more = ["--set", "certify_draws=10", "--set", "certify_rows=0", "--rank", "2", "--steps", "2"]
        result = run("fit", program, "--data", data, "--out", out, "--objective", objective, *more)
        assert result.exit_code == 0, result.output
        settings = json.loads((out / "manifest.json").read_text())["settings"]
        assert settings["objective"] == objective
    shown = run("run", program, "-g", "x=2", "--policy", tmp_path / "sft", "--method", "beam", "-n", "3")
    assert shown.exit_code == 0 and "Not draws from the posterior" in shown.output
    wrong = run("fit", program, "--data", data, "--out", tmp_path / "w", "--objective", "pop")
    assert wrong.exit_code != 0 and "did you mean `ppo`?" in wrong.output
