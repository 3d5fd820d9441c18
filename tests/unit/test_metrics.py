"""Measurements of training: lines that survive kills, and curves of them."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from posterior_lm.lang.diagnostics import DataError
from posterior_lm.train import progress
from posterior_lm.train.balancing import Behaved
from posterior_lm.train.parallel import World
from posterior_lm.train.progress import append_metrics, curves, cut_metrics, read_metrics


def fill(path: Path, steps: int = 5) -> None:
    for step in range(1, steps + 1):
        append_metrics(path, step, {"loss": 1 / step, "stage": "sleep" if step < 3 else "balance"})


# ------------------------------------------------------------------------------- lines


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    append_metrics(path, 3, {"loss": 0.1, "rows": 8, "stage": "é\ud800", "note": None, "good": True})
    assert read_metrics(path) == [
        {"step": 3, "loss": 0.1, "rows": 8, "stage": "é\ud800", "note": None, "good": True}
    ]
    append_metrics(
        path, 4, {"loss": np.float32(0.5), "ess": torch.tensor(0.25), "bounds": [np.float64(-2.5), -1]}
    )
    assert read_metrics(path)[1] == {"step": 4, "loss": 0.5, "ess": 0.25, "bounds": [-2.5, -1]}
    assert path.read_text().count("\n") == 2 and path.read_text().endswith("\n")


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    wrong = {"a": math.nan, "b": math.inf, "c": np.float32("-inf"), "d": torch.tensor(math.nan),
             "e": [1.5, (math.nan,)], "f": {"g": -math.inf}, "h": 1e308}  # fmt: skip
    append_metrics(path, 1, wrong)
    expected = {"step": 1, "a": None, "b": None, "c": None, "d": None, "e": [1.5, [None]],
                "f": {"g": None}, "h": 1e308}  # fmt: skip

    def constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    assert json.loads(path.read_text(), parse_constant=constant) == expected


def test_lines_after_a_step_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    fill(path)
    whole = path.read_bytes()
    before = path.stat()
    cut_metrics(path, 5)
    assert path.stat().st_ino == before.st_ino, "nothing to cut, nothing written"
    cut_metrics(path, 3)
    assert path.read_bytes() == whole[: whole.index(b'{"step": 4')]
    append_metrics(path, 4, {"loss": 9.0})
    assert [r["step"] for r in read_metrics(path)] == [1, 2, 3, 4]
    cut_metrics(path, 0)
    assert path.read_bytes() == b"" and read_metrics(path) == []
    cut_metrics(tmp_path / "absent", 3)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    fill(path, 3)
    whole = path.read_bytes()
    for end in range(whole.index(b'{"step": 3'), len(whole)):
        path.write_bytes(whole[:end])
        assert [r["step"] for r in read_metrics(path)] == [1, 2]
        cut_metrics(path, 3)
        append_metrics(path, 3, {"loss": 7.0})
        assert [r["step"] for r in read_metrics(path)] == [1, 2, 3] and read_metrics(path)[2]["loss"] == 7.0


@pytest.mark.parametrize(
    "line", ["", "{", "[3]", "{}", '{"step": "3"}', '{"step": 3.5}', "[" * 100_000, "\0"]
)
def test_lines_that_are_not_ours(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    fill(path, 2)
    content = path.read_text() + line + "\n" + path.read_text()
    path.write_text(content)
    for call in (lambda: read_metrics(path), lambda: cut_metrics(path, 1)):
        with pytest.raises(DataError) as caught:
            call()
        (found,) = caught.value.diagnostics
        assert found.code == "PLM606" and found.where == f"{path}:3" and "line 3" in found.message
    assert path.read_text() == content


def test_a_full_disk_tears_no_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    fill(path, 3)
    whole = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, hard))
    try:
        with pytest.raises(DataError, match=r"PLM612.*File too large"):
            append_metrics(path, 4, {"note": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == whole
    with pytest.raises(DataError, match="PLM612"):
        append_metrics(tmp_path / "absent" / "metrics.jsonl", 1, {})


def test_a_cut_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    fill(path)
    whole = path.read_bytes()

    def fails(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fails)
            with pytest.raises(DataError, match="PLM612"):
                cut_metrics(path, 2)
        assert path.read_bytes() == whole and [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


# ------------------------------------------------------------------------------- curves


def log(path: Path) -> None:
    """Two stages; a value that was not finite; one measured at some steps only."""
    append_metrics(path, 0, {"stage": "sleep", "loss": 4.0})
    append_metrics(path, 10, {"stage": "sleep", "loss": math.nan, "ess": 0.2})
    append_metrics(path, 20, {"stage": "balance", "loss": 90.0, "ess": 0.4, "log_evidence_lower": -30.5,
                      "log_evidence_upper": math.inf})  # fmt: skip
    append_metrics(path, 30, {"stage": "balance", "loss": 2.5, "ess": 0.9, "log_evidence_lower": -29.0})


class Panel:
    """Stands for the axes of matplotlib and keeps what is drawn."""

    def __init__(self) -> None:
        self.lines: dict[str, tuple[list[int], list[float]]] = {}
        self.title, self.scale = "", "linear"

    def plot(self, steps: list[int], values: list[float], label: str, **style: object) -> None:
        self.lines[label] = steps, values

    def set_ylabel(self, title: str) -> None:
        self.title = title

    def set_yscale(self, scale: str) -> None:
        self.scale = scale

    def ignore(self, *arguments: object, **more: object) -> None:
        pass

    grid = legend = set_xlabel = ignore


def drawn(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Panel]:
    panels: list[Panel] = []

    def subplots(rows: int, columns: int, **more: object) -> np.ndarray:
        panels.extend(Panel() for _ in range(rows))
        return np.array(panels, dtype=object)[:, None]

    def figure(**more: object) -> SimpleNamespace:
        return SimpleNamespace(subplots=subplots, savefig=lambda file, **more: file.write(b"picture"))

    monkeypatch.setattr(progress, "need", lambda module, extra: SimpleNamespace(Figure=figure))
    curves(path, path.parent / "curves.png")
    assert (path.parent / "curves.png").read_bytes() == b"picture"
    return panels


def test_curves_show_every_stage_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log(tmp_path / "metrics.jsonl")
    loss, ess, evidence = drawn(tmp_path / "metrics.jsonl", monkeypatch)
    assert (loss.title, ess.title, evidence.title) == ("loss", "ESS / N", "log evidence, nats")
    assert list(loss.lines) == ["loss (sleep)", "loss (balance)"]
    steps, values = loss.lines["loss (sleep)"]
    assert steps == [0, 10] and values[0] == 4.0 and math.isnan(values[1])
    assert loss.lines["loss (balance)"] == ([20, 30], [90.0, 2.5])
    assert ess.lines == {"ess (sleep)": ([10], [0.2]), "ess (balance)": ([20, 30], [0.4, 0.9])}
    assert evidence.lines == {"log_evidence_lower (balance)": ([20, 30], [-30.5, -29.0])}, "no upper bound"
    assert (loss.scale, ess.scale, evidence.scale) == ("log", "linear", "linear")


def test_a_loss_below_zero_has_a_plain_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, 1, {"loss": 2.0})
    append_metrics(path, 2, {"loss": -2.0})
    (loss,) = drawn(path, monkeypatch)
    assert loss.scale == "linear" and loss.lines == {"loss": ([1, 2], [2.0, -2.0])}


def test_nothing_to_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    for record in ({}, {"seconds": 3.0}, {"loss": math.nan}):
        append_metrics(path, 1, record)
        with pytest.raises(DataError, match="PLM604"):
            drawn(path, monkeypatch)
    assert not (tmp_path / "curves.png").exists()


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log(tmp_path / "metrics.jsonl")
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'posterior_lm\[plots\]'"):
        curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")


def test_a_real_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    log(tmp_path / "metrics.jsonl")
    pictures = []
    for name in ("one", "two"):
        curves(tmp_path / "metrics.jsonl", tmp_path / f"{name}.png")
        pictures.append((tmp_path / f"{name}.png").read_bytes())
        append_metrics(tmp_path / "metrics.jsonl", 40, {"stage": "balance", "loss": 1.0, "ess": 0.95})
    assert all(p.startswith(b"\x89PNG\r\n") and len(p) > 10_000 for p in pictures)
    assert pictures[0] != pictures[1]


# ------------------------------------------------------------------------------- what a step measures


def test_few_draws_of_a_row_have_no_ess() -> None:
    """Two draws are worth over one of two whatever the policy is; dead ones and others' draws are told apart."""
    slot = np.array([0] * 8 + [1, 1] + [0, 1])
    log_reward = np.array([0.0] * 4 + [-math.inf] * 4 + [1.0, 3.0] + [50.0, 50.0])
    own = np.array([True] * 10 + [False] * 2)
    behaved = Behaved((None,) * 12, slot, log_reward, own, None, (5, 6), None, (False, False))  # type: ignore[arg-type]
    found = progress.measured(behaved, np.full(12, -1.0), World())
    assert found["draws"] == 12 and found["dead"] == pytest.approx(0.25)
    assert found["ess"] == pytest.approx(0.5)  # four of eight; the row of two says nothing
    assert found["lower"] == pytest.approx((1.0 + 3.0) / 2)
    assert found["upper"] == pytest.approx((math.log(math.e / 2) + math.log((math.e**2 + math.e**4) / 2)) / 2)
    few = progress.measured(behaved.only((1,)), np.full(3, -1.0), World())
    assert math.isnan(few["ess"]) and few["lower"] == pytest.approx(3.0)
