"""The table of programs that nothing is tuned to: run on another program, so that those stay unseen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import evolve

from benchmarks import unseen
from benchmarks.unseen import Reference, held, worth
from benchmarks.unseen_peers import rloo
from posterior_lm.api.query import Query, load, loads
from posterior_lm.infer.guide import PriorGuide

TOY = """lm base = "tiny"

program toy(place: text) {
  latent who: text(tokens=1..3, stop=".") ~ base(place)
  observe " It was cold." ~ base(place, who)
}
"""
LISTED = """
program three() {
  latent n: int(0..2) ~ categorical([0.7, 0.25, 0.05])
  factor if n == 0 then -3 else if n == 1 then -0.5 else 1.5
}
"""


def test_every_program_binds_its_rows() -> None:
    names = sorted(path.stem for path in unseen.FOLDER.glob("*.plm"))
    assert len(names) == 12
    models = set()
    for name in names:
        query = load(unseen.FOLDER / f"{name}.plm")
        models.add(query.graph.lms[0].spec)
        for row in unseen.rows_of(name):
            query.prepared.validate(row)
        assert f"| `{name}` |" in (unseen.FOLDER / "README.md").read_text(encoding="utf-8")
    assert models == {"tiny", "smollm2", "stories260k-hf", "tinystories656k-hf"}


def test_the_table_has_a_line_for_each_method_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "toy.plm").write_text(TOY)
    (tmp_path / "toy.jsonl").write_text('{"place": "One day, Tom was"}\n')
    for name, value in {"FOLDER": tmp_path, "SWARMS": 2, "PARTICLES": 100, "DRAWS": 40}.items():
        monkeypatch.setattr(unseen, name, value)
    whole = Query.fit

    def short(self: Query, rows: object, out: Path, *, budget: float, seed: int) -> object:
        """A budget of a second holds no step, and one that does would take that long for every method."""
        assert budget == 1
        return whole(self, rows, out, steps=4, pairs=8, draws=4, certify_draws=10, certify_rows=0, seed=seed)  # type: ignore[arg-type]

    monkeypatch.setattr(Query, "fit", short)
    asked = ["--seconds", "1", "--cache", str(tmp_path / "kept"), "--out", str(tmp_path / "out.jsonl")]
    assert unseen.main(asked) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["method"] for line in lines] == list(unseen.METHODS)
    assert lines[0]["took"] == ["mixture"] and lines[1]["took"] == ["importance"]
    for line in lines:
        assert line["program"] == "toy" and 0 < line["ess"] <= 1 and 0 <= line["error"] < float("inf")
        assert line["held"] is None or 0 <= line["held"] <= 1
        assert (
            0 < line["known"] <= 1 and line["reference_se"] < unseen.RESOLVED and line["resolved"] == [1, 1]
        )
        assert line["each"][0][:2] == pytest.approx([line["ess"], line["held"]], abs=1e-5)
    monkeypatch.setattr(unseen, "RESOLVED", -1.0)
    assert unseen.main([*asked, "--method", "prior", "--seed", "1"]) == 0
    vague = json.loads(capsys.readouterr().out)
    assert vague["resolved"] == [0, 1] and vague["held"] is vague["kl"] is None and vague["ess"] > 0
    assert unseen.main(asked) == 0 and not capsys.readouterr().out, "what stands in the file is not run again"


def test_what_draws_are_worth_is_the_share_that_endlessly_many_would_keep() -> None:
    target = loads(LISTED).target()
    reward = np.log([0.7, 0.25, 0.05]) + np.array([-3.0, -0.5, 1.5])
    evidence = float(np.log(np.exp(reward).sum()))
    ids = tuple((target.value("n", v).ids,) for v in range(3))
    reference = Reference("by hand", evidence, 0.0, ids, reward, np.exp(reward - evidence))
    second = float(np.sum(np.exp(2 * reward) / np.array([0.7, 0.25, 0.05])))
    assert worth(target, PriorGuide(target), reference) == pytest.approx(np.exp(2 * evidence) / second)
    draws = loads(LISTED).using("importance").draw(20_000, seed=1).draws
    assert held(target, draws, None, reference) == pytest.approx((draws.ess or 0) / 20_000, abs=0.02)


def test_what_is_known_stands_in_place_of_what_swarms_say(tmp_path: Path) -> None:
    """Swarms that never drew the third value and are wrong about the second: with both known, only the first is theirs."""
    target = loads(LISTED).target()
    reward = np.log([0.7, 0.25, 0.05]) + np.array([-3.0, -0.5, 1.5])
    ids = [(target.value("n", v).ids,) for v in range(3)]
    wrong = np.array([reward[0], reward[1] + 0.7])
    total = float(np.logaddexp(*wrong))
    swarms = Reference("swarms", total, 0.4, tuple(ids[:2]), reward[:2], np.exp(wrong - total))
    file = tmp_path / "three-0-known.json"
    assert unseen.known_values(file) == {} and swarms.knowing({}) is swarms
    for seed in range(2):
        draws = loads(LISTED).using("importance").draw(400, seed=seed).draws
        known = unseen.known_values(file, draws)
    assert known == unseen.known_values(file) and set(known) == set(ids)
    del known[ids[0]]
    found = swarms.knowing(known)
    evidence = float(np.log(np.exp(reward).sum()))
    assert found.log_evidence == pytest.approx(evidence)
    assert dict(zip(found.ids, found.share, strict=True)) == pytest.approx(
        dict(zip(ids, np.exp(reward - evidence), strict=True))
    )
    assert found.known == pytest.approx(1 - np.exp(reward[0] - evidence))
    assert found.se == pytest.approx(0.4 * np.exp(reward[0] - evidence))
    assert evolve(swarms, se=0.0).knowing(known).log_evidence == total, "a list has nothing left to know"


def test_the_gradient_of_rloo_leaves_one_out() -> None:
    log_prob = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64, requires_grad=True)
    log_reward = torch.tensor([-3.0, -1.0, -torch.inf], dtype=torch.float64)
    rloo(log_prob, log_reward).backward()
    reward = np.array([-3.0 + 1.0, -1.0 + 2.0, -30.0 + 0.5])
    own = [reward[k] - np.delete(reward, k).mean() for k in range(3)]
    assert log_prob.grad is not None
    np.testing.assert_allclose(log_prob.grad.numpy(), -np.array(own) / 3, atol=1e-9)


def test_absent_models_are_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ["--only", "between_two", "--models", str(tmp_path), "--out", str(tmp_path / "out.jsonl")]
    assert unseen.main([*asked, "--method", "prior"]) == 0
    said = capsys.readouterr()
    assert not said.out and said.err.startswith("between_two, prior: ")
