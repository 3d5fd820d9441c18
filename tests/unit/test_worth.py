"""When auto trains a policy of its own before it draws, and that it then draws with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import posterior_lm as plm
from posterior_lm.cli.main import cli
from posterior_lm.train import fit
from tests.conftest import ROOT

PROGRAM = ROOT / "programs" / "tempered_continuation.plm"
NAMES = ("Tom", "Mia", "Leo", "Anna", "Ben", "Kate")
ROWS = [{"prompt": f"{a} has a {b} cat."} for a in NAMES for b in ("big", "small", "red")]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thresholds lowered, so that a second's training counts."""
    monkeypatch.setattr(fit, "FEWEST_ROWS", 4)
    monkeypatch.setattr(fit, "LEAST_SECONDS", 1.0)


def test_it_takes_rows_time_and_a_large_support(small: None) -> None:
    query = plm.load(PROGRAM)
    assert fit.worth_training(query.prepared, query.request, ROWS, 5.0)
    assert not fit.worth_training(query.prepared, query.request, ROWS[:3], 5.0)
    assert not fit.worth_training(query.prepared, query.request, ROWS, 0.5)
    assert not fit.worth_training(query.prepared, query.request, ROWS, None)
    assert not fit.worth_training(
        query.using("importance").prepared, query.using("importance").request, ROWS, 5.0
    )
    assert not fit.worth_training(
        query.policy("somewhere").prepared, query.policy("somewhere").request, ROWS, 5.0
    )


def test_a_posterior_that_can_be_listed_needs_no_policy(small: None) -> None:
    query = plm.load(ROOT / "programs" / "random_integer.plm")
    assert not fit.worth_training(
        query.prepared, query.request, [{"low": 0, "high": k} for k in range(50, 60)], 5.0
    )


def test_a_table_has_nothing_to_train(small: None, tmp_path: Path) -> None:
    table = {
        "tokens": ["a", "b", "."],
        "order": 0,
        "max_tokens": 24,
        "rows": {"": {"a": 0.5, "b": 0.3, ".": 0.2}},
    }
    (tmp_path / "t.json").write_text(json.dumps(table), encoding="utf-8")
    query = plm.loads(
        f'lm t = "{tmp_path / "t.json"}"\n'
        'program p(x: text) { latent z: text(tokens=1..20, stop=".") ~ t(x) }'
    )
    assert not fit.worth_training(query.prepared, query.request, [{"x": "a" * k} for k in range(1, 7)], 5.0)


def test_run_trains_once_for_all_rows(small: None, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in ROWS[:6]), encoding="utf-8")
    arguments = ["run", str(PROGRAM), "--data", str(data), "--budget", "20", "-n", "20", "--format", "json"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert done.stderr.count("training a policy on the 6 rows") == 1
    reasons = [one["reason"] for one in json.loads(done.stdout)]
    # Whether a few seconds' policy is good enough is for its certificate to say; the reason names it either way.
    assert len(reasons) == 6
    assert all("policy" in reason for reason in reasons), reasons
