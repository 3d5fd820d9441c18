"""`--engine ray`: the same results from actors on a cluster of two nodes, one of which is lost on the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import posterior_lm
from tests.cli import plm
from tests.conftest import ROOT

ray = pytest.importorskip("ray", reason="the package ray is absent: pip install 'posterior_lm[ray]'")

PROGRAM = """
use fragile from "fragile:f"

program p(x: int(0..99)) {
  latent z: int(0..9) ~ poisson(1 + 0.1 * x)
  factor fragile(z, x)
}
"""
DIES = """
import os, signal, time

def f(z, x):
    time.sleep(0.002)
    if x == 17 and not os.path.exists({marker!r}):
        open({marker!r}, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return 0.0
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_nodes_and_a_killed_worker_lose_and_double_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    marker = tmp_path / "killed"
    (tmp_path / "fragile.py").write_text(DIES.format(marker=str(marker)))
    (tmp_path / "p.plm").write_text(PROGRAM)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"x": x}) + "\n" for x in range(40)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")  # of the nodes, which start the actors
    asked = ("run", tmp_path / "p.plm", "--data", tmp_path / "rows.jsonl", "--allow-use", "--shard-rows", 5)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=2)
        cluster.wait_for_nodes()
        out = tmp_path / "actors"
        result = plm(*asked, "--out", out, "--engine", "ray", "--address", cluster.address, "--workers", 2)
        assert result.exit_code == 0, result.stderr
        assert marker.exists(), "a worker was killed"
    finally:
        cluster.shutdown()
    assert [found["row"] for found in posterior_lm.results(out)] == list(range(40))
    here = tmp_path / "processes"
    assert plm(*asked, "--out", here).exit_code == 0
    for path in here.glob("shard-*"):
        assert path.read_bytes() == (out / path.name).read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.plm").write_text("program p(x: int) { latent z: int(0..1) ~ uniform() }")
    (tmp_path / "rows.jsonl").write_text('{"x": 1}\n')
    asked = ("run", tmp_path / "p.plm", "--data", tmp_path / "rows.jsonl", "--out", tmp_path / "out")
    result = plm(*asked, "--engine", "ray", "--address", "auto")
    assert result.exit_code == 1 and "PLM633" in result.stderr, result.stderr
