"""The bench of fifteen distributions: what its programs denote, its test of fit, and its lines, each once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks import dice
from benchmarks.dice import WAYS, p_values, rate
from benchmarks.paper.tasks.integers import listed
from posterior_lm.api.query import load

DENOTED = {
    "uniform": lambda n: np.ones(len(n)),
    "bernoulli": stats.bernoulli(0.3).pmf,
    "categorical": lambda n: np.array([0.04, 0.08, 0.14, 0.19, 0.23, 0.32])[n - 1],
    "binomial": stats.binom(60, 0.3).pmf,
    "poisson": stats.poisson(12).pmf,
    "geometric": lambda n: stats.geom(0.08).pmf(n + 1),  # scipy counts trials
    "negative_binomial": stats.nbinom(3, 0.12).pmf,
    "normal": stats.norm(50, 12).pdf,
    "exponential": stats.expon(scale=25).pdf,
    "beta": lambda n: stats.beta(2, 5).pdf(n / 100),
    "gamma": stats.gamma(3, scale=7).pdf,
    "laplace": stats.laplace(40, 8).pdf,
    "lognormal": stats.lognorm(0.6, scale=np.exp(3)).pdf,
    "student": stats.t(3, 50, 6).pdf,
    "weibull": stats.weibull_min(1.5, scale=30).pdf,
}


def test_there_are_fifteen_programs() -> None:
    names = {path.stem.removeprefix("roll_") for path in dice.FOLDER.glob("*.plm")}
    assert names == set(DENOTED) and len(names) == 15
    page = (dice.FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"| `roll_{name}` |" in page for name in names)


@pytest.mark.parametrize("name", DENOTED)
def test_each_program_is_its_distribution(name: str) -> None:
    values, log_p = listed(load(dice.FOLDER / f"roll_{name}.plm").target())
    wanted = DENOTED[name](np.array([v.datum for v in values]))
    np.testing.assert_allclose(np.exp(log_p), wanted / wanted.sum(), rtol=1e-9)


def test_the_p_value_is_pearsons_with_rare_neighbours_merged() -> None:
    counts, probs = np.array([[18, 55, 27]]), np.array([0.25, 0.5, 0.25])
    # (7² + 2²) / 25 + 5² / 50 = 2.62 with two degrees of freedom, whose tail is exp(−x / 2).
    assert p_values(counts, probs)[0] == pytest.approx(np.exp(-1.31))
    # Of 100 draws these are expected 3, 3, 90 and 4 times: cells of 6 and of 94.
    merged = p_values(np.array([[1, 9, 85, 5]]), np.array([0.03, 0.03, 0.9, 0.04]))[0]
    assert merged == pytest.approx(stats.chisquare([10, 90], [6, 94]).pvalue)
    assert p_values(np.array([[2, 1]]), np.array([0.5, 0.5]))[0] == 1, "one cell tests nothing"


def test_a_sound_sampler_fails_one_test_in_twenty_and_another_one_fails() -> None:
    rng = np.random.default_rng(3)
    p = DENOTED["gamma"](np.arange(1, 100))
    p /= p.sum()
    found = p_values(rng.multinomial(1000, p, size=4000), p)
    assert stats.kstest(found, "uniform").statistic < 0.04
    assert rate(np.log(p), np.log(p), 1000, 4000, rng) == pytest.approx(0.95, abs=0.02)
    assert rate(np.log(np.roll(p, 3)), np.log(p), 1000, 400, rng) < 0.01


def test_every_way_has_a_line_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--only", "roll_categorical", "--steps", "6", "--draws", "100", "--out", str(tmp_path / "out")]
    assert dice.main(asked) == 0
    said = capsys.readouterr().out
    lines = {one["way"]: one for one in map(json.loads, (tmp_path / "out").read_text().splitlines())}
    assert tuple(lines) == WAYS and lines["policy"]["steps"] == 6 and lines["auto"]["method"] == "exact"
    assert all(0 <= one["p"] <= 1 and 0 <= one["valid"] <= 1 for one in lines.values())
    assert all(lines[way]["valid"] == 1 for way in WAYS if way != "prompting")
    assert 0 < lines["policy"]["forward"] < lines["base"]["forward"] and lines["exact"]["forward"] == 0
    assert all(lines[way]["p"] > 1e-4 for way in ("auto", "weighted", "exact"))
    assert lines["base"]["rate"] < lines["exact"]["rate"] and "all together" in said
    assert dice.main(asked) == 0
    again = capsys.readouterr().out
    assert said.endswith(again) and "{" not in again, "what stands in the file is not run again"
