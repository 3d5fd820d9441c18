"""A policy for the rows at hand: what it reads, what it begins with, which of its weights are kept, its peers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from posterior_lm.api.query import loads
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.infer.weights import normalize
from posterior_lm.lang.diagnostics import DataError, InferenceError
from posterior_lm.target.target import Target
from posterior_lm.target.validate import validate_data
from posterior_lm.train import judge as judge_module
from posterior_lm.train.adapter import Adapter, drawing_model
from posterior_lm.train.balancing import Balancer
from posterior_lm.train.fit import fit
from posterior_lm.train.forecast import Pace
from posterior_lm.train.gflownet_batch import Trajectories
from posterior_lm.train.guide import PolicyGuide
from posterior_lm.train.judge import Judge, Looks
from posterior_lm.train.own_draws import Rloo, Wake
from posterior_lm.train.parallel import World
from posterior_lm.train.policy import load_policy
from posterior_lm.train.replay import Entry, Replay
from posterior_lm.train.rows import Rows
from posterior_lm.train.settings import RATES, settings_of
from posterior_lm.train.setup import Setup
from posterior_lm.train.trainer import Trainer
from tests.cli import plm as command

WORD = """
lm base = "tiny"
program word(opening: text, ending: text) {
  latent z: text(tokens=1..3, stop=".") ~ base(opening)
  observe [" ", ending] ~ base(opening, z)
}
"""
TWO = """
lm base = "tiny"
program two(ending: text) {
  latent who: one_of(" Tom", " Anna") ~ base("Then")
  latent z: text(tokens=1..3, stop=".") ~ base("Then", who)
  observe [" ", ending] ~ base("Then", who, z)
}
"""
ROWS = [
    {"opening": "Mia saw a cat", "ending": "She ran."},
    {"opening": "Tom was sad", "ending": "He went home."},
]
SMALL = {"steps": 3, "rank": 2, "draws": 8, "seeds": 8, "certify_draws": 20, "held_out": 2}


def test_a_policy_of_its_rows_begins_as_the_prior_and_keeps_to_them(tmp_path: Path) -> None:
    query = loads(WORD)
    said: list[str] = []
    fitted = fit(query.prepared, ROWS, tmp_path / "p", settings_of(SMALL), say=said.append)
    assert fitted.manifest.own_contexts and "the policy is for these 2 rows" in said
    certificate = fitted.manifest.checked
    assert certificate is not None and [r.row for r in certificate.rows] == [0, 1]
    assert certificate.simulated is None and certificate.note == "it is of the rows trained on"
    assert not certificate.held_out and len(certificate.bounds) == 2
    assert certificate.training == fitted.manifest.seconds and " s of training " in certificate.worth
    held = load_policy(tmp_path / "p", query.prepared)
    target = query.given(ROWS[0]).target()
    fresh = Adapter.new(query.prepared.models["base"], rank=2, seed=0)
    try:
        drawn = PriorGuide(target).sample(np.random.default_rng(0), 20)
        fresh.reads = "own"
        assert PolicyGuide.of(target, fresh).log_prob(drawn.values) == pytest.approx(drawn.log_prob, abs=1e-4)
        fresh.reads = "observed"
        assert abs(PolicyGuide.of(target, fresh).log_prob(drawn.values) - drawn.log_prob).max() > 0.5
        assert (
            held.guide(target).readings["z"].segments != PolicyGuide.of(target, fresh).readings["z"].segments
        )
    finally:
        fresh.close()
        held.adapter.close()


def test_a_policy_begins_at_the_power_of_the_prior_and_is_stored_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a rate of next to nothing it is the prior of a flattened text; a peer begins with the model as it is."""
    monkeypatch.setattr("posterior_lm.train.beginning.NEARER", -math.inf)
    flat = loads(WORD.replace("base(opening)", "base(opening) ^ 0.5"))
    target = flat.given(ROWS[0]).target()
    drawn = PriorGuide(target).sample(np.random.default_rng(0), 20)
    still = {**SMALL, "learning_rate": 1e-9, "balance_learning_rate": 1e-9}
    for objective, powered in (("vargrad", True), ("rloo", False)):
        folder = tmp_path / objective
        settings = settings_of({**still, "objective": objective, "scope": "rows"})
        assert fit(flat.prepared, ROWS, folder, settings).manifest.powered is powered
        held = load_policy(folder, flat.prepared)
        try:
            assert held.adapter.powered is powered
            log_q = PolicyGuide.of(target, held.adapter).log_prob(drawn.values)
            assert bool(np.abs(log_q - drawn.log_prob).max() < 1e-3) is powered
        finally:
            held.adapter.close()
    manifest = tmp_path / "vargrad" / "manifest.json"
    before = json.loads(manifest.read_text())
    del before["powered"]
    manifest.write_text(json.dumps(before))
    earlier = load_policy(tmp_path / "vargrad", flat.prepared)
    try:
        assert not earlier.adapter.powered, "one of an earlier release was trained at the power 1"
    finally:
        earlier.adapter.close()


def test_rows_that_look_alike_to_the_prior_are_told_apart_by_what_follows(tmp_path: Path) -> None:
    query = loads(TWO)
    rows = [{"ending": "She ran."}, {"ending": "He went home."}]
    bound = Rows(query.prepared, [validate_data(query.graph, row) for row in rows])
    assert not bound.told_apart()
    settings = settings_of({**SMALL, "steps": 1})
    assert not fit(query.prepared, rows, tmp_path / "two", settings).manifest.own_contexts
    assert Rows(query.prepared, bound.data[:1]).told_apart()


def test_the_scope_follows_the_rows_and_what_is_asked_for() -> None:
    assert settings_of({}).scope_of(31) == "rows" and settings_of({}).scope_of(32) == "program"
    for other in ({"sleep": 0.5}, {"simulated": 0.5}, {"objective": "sft"}, {"scope": "program"}):
        assert settings_of(other).scope_of(1) == "program"
    assert settings_of({"scope": "rows"}).scope_of(500) == "rows"
    with pytest.raises(InferenceError) as problem:
        settings_of({"scope": "all"})
    assert (
        problem.value.diagnostics[0].code == "PLM802" and "`program`" in problem.value.diagnostics[0].message
    )


@pytest.mark.parametrize(("seconds", "draws", "seeds"), [(1e6, 128, 256), (480.0, 8, 48), (1.0, 8, 0)])
def test_a_slow_model_has_fewer_draws_a_step(seconds: float, draws: int, seeds: int) -> None:
    """Half a second a draw: 480 s hold 60 steps of four draws of either row, fewer than are worth a step."""
    stated = settings_of({})
    balancer = SimpleNamespace(draws=0, seeds=0, numbers=[0, 1])
    fake = SimpleNamespace(
        stated=stated,
        settings=stated.resolved(exact=False, rows=2),
        trainer=SimpleNamespace(balancer=balancer),
    )
    Setup._sized(fake, Pace(0.0, 1.0).each / 2, seconds)  # type: ignore[arg-type]
    assert balancer.draws == draws and balancer.seeds == seeds


def test_the_frozen_model_draws_for_several_steps_and_whatever_the_policy_is() -> None:
    query = loads(WORD)
    bound = Rows(query.prepared, [validate_data(query.graph, row) for row in ROWS])
    settings = settings_of({"draws": 16, "tempered": 0.25, "replayed": 0.0, "seeds": 0}).resolved(
        exact=False, rows=2
    )
    model = query.prepared.models["base"]

    def drawn(moved: bool) -> tuple[list[list[str]], list[int]]:
        balancer, adapter = Balancer(bound, [0, 1], settings, False), Adapter.new(model, rank=2, seed=0)
        if moved:
            with torch.no_grad():
                for parameter in adapter.parameters.values():
                    parameter += 0.3
        try:
            behaved, _ = balancer.draw(drawing_model(adapter), 0, [0, 1], Replay(64, 64))
            ids = [[str(p.ids) for p in walked.paths] for walked in behaved.draws]
            left = [len(balancer._unguided[row][1]) for row in (0, 1)]
            again, _ = balancer.draw(drawing_model(adapter), 1, [0, 1], Replay(64, 64))
            later = [[str(p.ids) for p in walked.paths] for walked in again.draws]
            assert [later[k] for k in range(12, 16)] != [ids[k] for k in range(12, 16)]
        finally:
            adapter.close()
        assert len(ids) == 32 and behaved.on_policy.sum() == 16
        return [ids[k] for k in (*range(12, 16), *range(28, 32))], left

    same, left = drawn(False)
    assert (same, left) == drawn(True) and left == [16, 16]
    assert len({str(one) for one in same}) > 1


def test_the_likelihood_of_the_buffer_weighs_by_rewards_and_fades() -> None:
    log_prob = torch.tensor([-1.0, -2.0, -3.0, -4.0, -0.5], dtype=torch.float64, requires_grad=True)
    log_reward = torch.tensor([-5.0, -4.0, 9.0, -2.0, -torch.inf], dtype=torch.float64)
    behaved = SimpleNamespace(replayed=np.array([True, True, False, True, True]))
    row = torch.tensor([0, 0, 0, 1, 1])

    def value(progress: float) -> torch.Tensor:
        fake = SimpleNamespace(settings=SimpleNamespace(forward=1.0), progress=lambda: progress)
        return Trainer._forward(fake, behaved, [0, 1, 2, 3, 4], log_prob, log_reward, row)  # type: ignore[arg-type]

    (gradient,) = torch.autograd.grad(value(0.0), log_prob)
    light = 1 / (1 + math.e)
    expected = [-light / 2, (light - 1) / 2, 0.0, -0.5, 0.0]
    assert gradient.tolist() == pytest.approx(expected)
    assert float(value(0.75).detach()) == pytest.approx(0.25 * (light * 1 + (1 - light) * 2 + 4) / 2)
    assert float(value(1.0)) == 0.0


# ------------------------------------------------------------------------------- which weights are kept


@pytest.fixture
def judged() -> Iterator[tuple[Adapter, Judge, Target]]:
    """An adapter of the prior, and a judge of two rows whose posteriors a list gives."""
    query = loads(WORD.replace("1..3", "3..12"))
    rows = Rows(query.prepared, [validate_data(query.graph, row) for row in ROWS])
    rows.read_own()
    adapter = Adapter.new(query.prepared.models["base"], rank=2, seed=0)
    adapter.reads = "own"
    try:
        yield adapter, Judge(rows, [0, 1], 0, World()), rows.target(0)
    finally:
        adapter.close()


def moved(weights: Mapping[str, torch.Tensor], size: float) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    return {k: v + size * torch.randn(v.shape, generator=random) for k, v in weights.items()}


def test_weights_are_compared_by_fresh_draws_of_both(
    judged: tuple[Adapter, Judge, Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, judge, target = judged
    monkeypatch.setattr(judge_module, "DRAWS", 800)
    start = adapter.tensors()
    ruined, other = moved(start, 0.5), moved(start, 0.05)
    rise, error = judge.rise(adapter, (0, start), (1, ruined), Replay(64, 64), 4096)  # type: ignore[misc]
    assert rise < -20 * error < 0
    back, _ = judge.rise(adapter, (1, ruined), (2, start), Replay(64, 64), 4096)  # type: ignore[misc]
    assert back == pytest.approx(-rise, rel=0.5)
    one = Judge(judge.rows, [0], 0, World())
    rise, error = one.rise(adapter, (0, start), (1, other), Replay(64, 64), 4096)  # type: ignore[misc]
    one.forget()
    again, _ = one.rise(adapter, (0, start), (1, other), Replay(64, 64), 4096)  # type: ignore[misc]
    assert rise == again != one.rise(adapter, (0, start), (2, other), Replay(64, 64), 4096)[0]  # type: ignore[index]
    # What a buffer holds counts by its reward.
    values = PriorGuide(target).sample(np.random.default_rng(1), 40).values["z"]
    rewards = target.log_reward({"z": values})
    replay = Replay(64, 64).add(0, [Entry((v.ids,), float(r)) for v, r in zip(values, rewards, strict=True)])
    one.forget()
    exact, smaller = one.rise(adapter, (0, start), (1, other), replay, 4096)  # type: ignore[misc]
    assert smaller < 1.2 * error and exact != rise and abs(exact - rise) < 3 * error
    # Against many draws of the prior, which is the policy that has learnt nothing.
    adapter.restore(other)
    values = PriorGuide(target).sample(np.random.default_rng(0), 3000)  # type: ignore[assignment]
    share = normalize(target.log_reward(values.values) - values.log_prob)
    known = float(share @ (PolicyGuide.of(target, adapter).log_prob(values.values) - values.log_prob))
    assert abs(rise - known) < 4 * error + 0.05 and abs(rise) > 0.1


def test_a_row_of_which_no_draw_tells_is_not_counted(judged: tuple[Adapter, Judge, Target]) -> None:
    adapter, judge, _ = judged
    start = adapter.tensors()
    heavy = SimpleNamespace(
        log_reward=lambda values: np.where(np.arange(len(values["z"])) == 0, 0.0, -np.inf)
    )
    dead = SimpleNamespace(log_reward=lambda values: np.full(len(values["z"]), -np.inf))
    for fake in (heavy, dead):
        rows = SimpleNamespace(
            readings=judge.rows.readings,
            own_readings_of=judge.rows.own_readings_of,
            target=lambda row, fake=fake: _Rewarded(judge.rows.target(row), fake.log_reward),
        )
        silent = Judge(rows, [0, 1], 0, World())  # type: ignore[arg-type]
        assert silent.rise(adapter, (0, start), (1, start), Replay(64, 64), 4096) is None


class _Rewarded:
    """A target with another log reward."""

    def __init__(self, target: Target, log_reward: Callable[[Mapping[str, Sequence]], np.ndarray]) -> None:
        self._target, self.log_reward = target, log_reward

    def __getattr__(self, name: str) -> object:
        return getattr(self._target, name)


def test_a_fit_goes_back_where_it_became_worse_by_more_than_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"a": torch.zeros(1)}
    adapter = SimpleNamespace(tensors=lambda: dict(weights), restore=weights.update)
    said = iter([(0.5, 0.1), (-0.1, 0.2), (-0.3, 0.1), None, (0.2, 0.3), (-0.01, 0.3)])
    monkeypatch.setattr(Judge, "rise", lambda self, *given: next(said))
    looks = Looks(adapter, [Judge(None, [0], 0, World())])  # type: ignore[arg-type]
    found = []
    for step in (1, 2, 3, 4, 5):
        weights["a"] = torch.full((1,), float(step))
        worse = looks.worse(looks.risen(step, [Replay(1, 1)], 64))
        found.append((worse, looks.steps, float(weights["a"])))
    assert found == [(False, 1, 1.0), (False, 1, 2.0), (True, 1, 1.0), (False, 1, 4.0), (False, 5, 5.0)]
    weights["a"] = torch.full((1,), 9.0)
    assert (
        looks.settled(9, [Replay(1, 1)], 64).startswith("the weights after step 5")
        and float(weights["a"]) == 5.0
    )


def test_looks_that_would_take_more_than_their_share_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 draws of two kinds take 64 times `each`, of which a fifth of 100 s holds 0.3 s."""
    adapter = SimpleNamespace(tensors=dict, restore=lambda weights: None)
    asked: list[int] = []

    def rise(self: Judge, *given: object) -> tuple[float, float]:
        asked.append(1)
        return 1.0, 0.1

    monkeypatch.setattr(Judge, "rise", rise)
    for each, needed, off in [(0.3, False, False), (0.33, False, True), (0.33, True, False)]:
        looks = Looks(adapter, [Judge(None, [0], 0, World())])  # type: ignore[arg-type]
        looks.sized(each, 100.0, needed=needed)
        assert looks.off is off and (looks.seconds == 0) is off
        asked.clear()
        assert looks.due(0.1, 0.9, None) is not off
        assert ("only the certificate" in looks.settled(3, [Replay(1, 1)], 64)) is off
        assert bool(asked) is not off
    looks.steps = 7  # of a fit that is gone on with, which has looked
    looks.sized(9.0, 100.0, needed=False)
    assert not looks.off


def test_what_made_it_worse_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of simulated pairs there are no more, and of a row's own draws the rate is lower."""
    monkeypatch.setattr(
        Judge,
        "rise",
        lambda self, adapter, before, after, replay, columns: (-1.0 if after[0] < 7 else 1.0, 0.1),
    )
    query = loads(WORD)
    settings = {**SMALL, "steps": 12, "sleep": 0.5, "pairs": 4, "seeds": 0, "certify_rows": 0, "warmup": 0}
    fitted = fit(query.prepared, ROWS * 4, tmp_path / "p", settings_of(settings))
    lines = [json.loads(line) for line in (tmp_path / "p" / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["sleep"] * 2 + ["balance"] * 10
    high = RATES["balance_learning_rate"]
    assert [round(line["rate"] / high, 3) for line in lines[2:5]] == [1.0, 0.976, 0.302]
    assert 0 < lines[6]["rate"] / high < 0.1
    note = "after step {} the policy was worse than before, so the training went back and {}"
    assert note.format(2, "left the simulated and listed rows") in fitted.manifest.note
    assert note.format(6, "on with a third of the rate") in fitted.manifest.note


@pytest.mark.parametrize(("most", "needless"), [(30, True), (300, False)])
def test_a_fit_says_where_every_value_is_listed_without_a_policy(
    most: int, needless: bool, tmp_path: Path
) -> None:
    query = loads(
        f"""lm base = "tiny"
        program p() {{
          latent a: int(1..{most}, lead=" ") ~ uniform(1, {most})
          latent b: int(1..{most}, lead=" ") ~ base("From", a, " to")
          guide a ~ base("A number:")
        }}"""
    )
    settings = settings_of({**SMALL, "steps": 1, "certify_draws": 10, "certify_rows": 0})
    fitted = fit(query.prepared, [{}], tmp_path / "p", settings)
    said = "`plm run` needs no policy here: the support has 900 values, at most 20000"
    assert (said in fitted.notes) is needless and any(
        "needs no policy" in n for n in fitted.notes
    ) is needless


def test_a_fit_that_is_ruined_is_saved_as_it_began(tmp_path: Path) -> None:
    query = loads(WORD)
    settings = settings_of(
        {**SMALL, "steps": 1, "balance_learning_rate": 30.0, "warmup": 0, "gradient_norm": 1e3}
    )
    fitted = fit(query.prepared, ROWS, tmp_path / "ruined", settings)
    assert "saved as it began" in fitted.manifest.note
    policy = load_policy(tmp_path / "ruined", query.prepared)
    try:
        assert all(not v.any() for k, v in policy.adapter.tensors().items() if "lora_B" in k)
    finally:
        policy.adapter.close()


def test_a_policy_that_ends_below_the_prior_draws_as_the_prior_and_says_what_to_change(
    tmp_path: Path,
) -> None:
    """What it reads is a prompt that the model never saw, from which one step does not find back."""
    query, said = loads(WORD), []
    settings = {**SMALL, "steps": 1, "scope": "program", "sleep": 0.0, "simulated": 0.0, "certify_draws": 60}
    fitted = fit(query.prepared, ROWS, tmp_path / "p", settings_of(settings), say=said.append)
    certificate = fitted.manifest.checked
    assert certificate is not None and certificate.ess < certificate.prior_ess and certificate.gain < -1
    assert said[-1].startswith("after 1 step the policy is a worse proposal than the prior")
    assert "`--for rows`" in said[-1] and said[-1] in fitted.manifest.note
    target = query.given(ROWS[0]).target()
    policy = load_policy(fitted.folder, query.prepared)
    try:
        assert type(policy.guide(target)) is PriorGuide
        assert any(v.any() for k, v in policy.adapter.tensors().items() if "lora_B" in k), "nothing is lost"
    finally:
        policy.adapter.close()
    asked = query.given(ROWS[0])
    alone, auto = asked.draw(30).draws, asked.policy(fitted.folder).draw(30).draws
    assert "is not used, since by its certificate the prior is the better proposal" in auto.reason
    assert auto.log_weights == pytest.approx(alone.log_weights) and auto.method == alone.method
    drawn = asked.policy(fitted.folder).using("gflownet").draw(30).draws
    assert drawn.values == asked.using("importance").draw(30).draws.values
    assert "so that is what draws" in drawn.reason


def test_what_a_peer_made_is_taken_as_it_is(tmp_path: Path) -> None:
    settings = settings_of({**SMALL, "steps": 1, "objective": "rloo", "certify_draws": 60})
    fitted = fit(loads(WORD).prepared, ROWS, tmp_path / "p", settings)
    assert fitted.manifest.checked is not None and fitted.manifest.checked.is_worse
    assert not fitted.manifest.is_prior and "worse" not in fitted.manifest.note


# ------------------------------------------------------------------------------- another policy's weights


def test_a_fit_begins_from_a_policy_of_another_program(tmp_path: Path) -> None:
    first = fit(loads(WORD).prepared, ROWS, tmp_path / "first", settings_of(SMALL))
    other = loads(WORD.replace("program word", "program other").replace("1..3", "1..4"))
    settings = settings_of({**SMALL, "start": str(first.folder), "rank": 8, "balance_learning_rate": 1e-9})
    second = fit(other.prepared, ROWS, tmp_path / "second", settings)
    assert "it began from a policy of `word`" in second.manifest.note
    assert "of rank 2, which it keeps in place of 8" in second.manifest.note
    one = load_policy(first.folder, loads(WORD).prepared).adapter
    two = load_policy(second.folder, other.prepared).adapter
    try:
        assert two.config.r == 2
        assert all(torch.allclose(v, two.tensors()[k], atol=1e-6) for k, v in one.tensors().items())
        assert any(v.any() for k, v in one.tensors().items() if "lora_B" in k)
    finally:
        one.close()
        two.close()


def test_a_policy_of_another_model_is_no_beginning(tmp_path: Path) -> None:
    first = fit(loads(WORD).prepared, ROWS, tmp_path / "first", settings_of({**SMALL, "steps": 1}))
    path = first.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["identity"]["digest"] = "0" * 64
    path.write_text(json.dumps(manifest))
    for start, code in ((first.folder, "PLM625"), (tmp_path / "none", "PLM622")):
        with pytest.raises(DataError) as problem:
            fit(loads(WORD).prepared, ROWS, tmp_path / "x", settings_of({**SMALL, "start": str(start)}))
        assert problem.value.diagnostics[0].code == code
    (tmp_path / "word.plm").write_text(WORD)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    asked = ("fit", tmp_path / "word.plm", "--data", tmp_path / "rows.jsonl", "--out", tmp_path / "y")
    found = command(*asked, "--for", "both")
    assert (
        found.exit_code == 2 and "PLM802" in found.stderr and not (tmp_path / "y" / "manifest.json").exists()
    )


# ------------------------------------------------------------------------------- peers


LOGITS = torch.tensor([0.3, -0.4, 1.1], dtype=torch.float64)
REWARD = torch.tensor([-1.0, -3.5, -0.2], dtype=torch.float64)


def test_rloo_has_the_gradient_of_the_evidence_bound_on_average() -> None:
    theta = LOGITS.clone().requires_grad_()
    q = torch.log_softmax(theta, 0)
    (bound,) = torch.autograd.grad((q.exp() * (REWARD - q)).sum(), theta)
    found = torch.zeros(3, dtype=torch.float64)
    for pair in product(range(3), repeat=2):
        theta = LOGITS.clone().requires_grad_()
        q = torch.log_softmax(theta, 0)
        index = torch.tensor(pair)
        loss = Rloo().loss(Trajectories(q[index], REWARD[index], torch.zeros(2, dtype=torch.int64))).value
        (gradient,) = torch.autograd.grad(loss, theta)
        found -= float(q.detach()[index].sum().exp()) * gradient
    assert found.tolist() == pytest.approx(bound.tolist(), abs=1e-12)


def test_wake_has_the_gradient_of_the_forward_divergence_when_every_value_is_drawn() -> None:
    uniform = torch.zeros(3, dtype=torch.float64, requires_grad=True)  # so that once each is what q draws
    q = torch.log_softmax(uniform, 0)
    reward = torch.cat([REWARD, torch.tensor([-torch.inf], dtype=torch.float64)])
    log_prob = torch.cat([q, torch.tensor([-2.0], dtype=torch.float64)])
    loss = Wake().loss(Trajectories(log_prob, reward, torch.zeros(4, dtype=torch.int64))).value
    posterior = torch.softmax(REWARD, 0)
    assert float(loss.detach()) == pytest.approx(-float((posterior * q.detach()).sum()))
    (gradient,) = torch.autograd.grad(loss, uniform)
    assert gradient.tolist() == pytest.approx((torch.softmax(uniform.detach(), 0) - posterior).tolist())


@pytest.mark.parametrize("objective", ["rloo", "wake"])
def test_peers_of_their_own_draws_train(tmp_path: Path, objective: str) -> None:
    settings = settings_of({**SMALL, "objective": objective, "scope": "rows", "certify_rows": 0})
    fitted = fit(loads(WORD).prepared, ROWS, tmp_path / objective, settings)
    assert fitted.manifest.steps == 3
    losses = [json.loads(line)["loss"] for line in (fitted.folder / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 3 and all(map(math.isfinite, losses))


def test_a_free_end_is_stored_with_the_policy(tmp_path: Path) -> None:
    """What has learnt nothing draws lengths about as the prior does, when it is read again too and where another begins from it."""
    query = loads(WORD.replace('stop="."', 'end="free"'))
    few = {**SMALL, "steps": 1, "balance_learning_rate": 1e-9}
    first = fit(query.prepared, ROWS, tmp_path / "a", settings_of(few))
    assert first.manifest.stop is not None
    target = query.given(ROWS[0]).target()
    drawn = PriorGuide(target).sample(np.random.default_rng(0), 300)
    policy = load_policy(first.folder, query.prepared)
    try:
        assert policy.adapter.stop == first.manifest.stop
        guide = PolicyGuide.of(target, policy.adapter)
        apart = float(np.mean(drawn.log_prob - guide.log_prob(drawn.values)))
        policy.adapter.stop = None
        before = float(
            np.mean(drawn.log_prob - PolicyGuide.of(target, policy.adapter).log_prob(drawn.values))
        )
        assert apart < before / 2
    finally:
        policy.adapter.close()
    second = fit(
        query.prepared, ROWS, tmp_path / "b", settings_of({**few, "start": str(first.folder), "seed": 3})
    )
    assert second.manifest.stop == first.manifest.stop
    other = fit(loads(WORD).prepared, ROWS, tmp_path / "c", settings_of(few))
    assert other.manifest.stop is None and "stop" not in json.loads(other.manifest.to_json())
