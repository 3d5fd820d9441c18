"""Metrics of numbers, against sums written out and against their chance behaviour."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from posterior_lm.lang.diagnostics import DataError
from posterior_lm.metrics import (
    Divergence,
    accuracy,
    frequencies,
    kl_to_target,
    kl_to_target_exact,
    likelihood,
    log_evidence_error,
    share_valid,
    summarise,
    total_variation,
)

P = {0: 0.7, 1: 0.2, 2: 0.1}
LOG_P = {value: math.log(p) for value, p in P.items()}


def logs(**probs: float) -> dict[str, float]:
    return {value: math.log(p) if p else -math.inf for value, p in probs.items()}


# ------------------------------------------------------------------------- divergence


def test_kl_of_draws_is_the_sum_over_their_frequencies() -> None:
    found = kl_to_target([0] * 5 + [1] * 3 + [2] * 2, LOG_P)
    expected = 0.5 * math.log(0.5 / 0.7) + 0.3 * math.log(0.3 / 0.2) + 0.2 * math.log(0.2 / 0.1)
    assert found.kl == pytest.approx(expected, abs=1e-12)
    assert found.corrected == pytest.approx(expected - 2 / 20, abs=1e-12)
    assert (found.share_valid, found.n) == (1.0, 10)


def test_the_correction_takes_the_bias_away() -> None:
    rng = np.random.default_rng(5)
    probs = np.arange(1, 13) / 78
    target = {k: math.log(p) for k, p in enumerate(probs)}
    found = [kl_to_target(rng.choice(12, size=100, p=probs).tolist(), target) for _ in range(400)]
    plain = np.mean([f.kl for f in found])
    corrected = np.mean([f.corrected for f in found])
    assert plain > 0.04, "the plug-in value of exact draws is far from 0"
    assert abs(corrected) < 0.006


def test_invalid_draws_are_counted_and_left_out_of_the_divergence() -> None:
    valid = [0, 0, 1, 2]
    alone = kl_to_target(valid, LOG_P)
    for odd in (7, "0", None, 3):
        target = {**LOG_P, 3: -math.inf}
        mixed = kl_to_target([*valid, odd], target)
        assert mixed.kl == pytest.approx(alone.kl) and mixed.corrected == pytest.approx(alone.corrected)
        assert mixed.share_valid == 0.8 and mixed.n == 5
    assert kl_to_target([9, 9], LOG_P) == Divergence(None, None, 0.0, 2)


def test_kl_from_log_probs_is_exact_and_of_the_valid_part() -> None:
    q = logs(a=0.6, b=0.3, c=0.1)
    model = logs(a=0.15, b=0.30, z=0.4)  # 0.15 is missing: no value that was listed
    found = kl_to_target_exact(model, q)
    expected = (1 / 3) * math.log((1 / 3) / 0.6) + (2 / 3) * math.log((2 / 3) / 0.3)
    assert found.kl == pytest.approx(expected, abs=1e-12)
    assert found.share_valid == pytest.approx(0.45, abs=1e-12)
    assert found.corrected is None and found.n is None
    assert kl_to_target_exact(q, q).kl == pytest.approx(0.0, abs=1e-15)
    assert kl_to_target_exact(logs(z=1.0), q) == Divergence(None, None, 0.0, None)
    assert kl_to_target_exact(logs(z=0.0), q).share_valid == 0.0


def test_divergence_is_from_the_model_to_the_target() -> None:
    there, back = kl_to_target_exact(logs(a=0.9, b=0.1), logs(a=0.5, b=0.5)), None
    back = kl_to_target_exact(logs(a=0.5, b=0.5), logs(a=0.9, b=0.1))
    assert there.kl == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2))
    assert back.kl is not None and there.kl is not None and back.kl > there.kl


def test_a_target_in_float32_is_a_target() -> None:
    rough = {v: float(np.float32(x) + np.float32(2e-5)) for v, x in LOG_P.items()}
    assert kl_to_target([0, 1, 2], rough).kl == pytest.approx(kl_to_target([0, 1, 2], LOG_P).kl, abs=1e-6)


@pytest.mark.parametrize(
    ("target", "part"),
    [
        (P, "sum to"),
        ({0: math.log(0.5)}, "sum to 0.5 instead of 1"),
        ({0: math.nan}, "nan"),
        ({0: "x"}, "'x'"),
        ({0: math.inf}, "sum to"),
        ({}, "sum to 0"),
        ([0.0], "by value"),
    ],
)
def test_what_is_no_target(target: object, part: str) -> None:
    for call in (lambda: kl_to_target([0], target), lambda: kl_to_target_exact({0: 0.0}, target)):  # type: ignore[arg-type]
        with pytest.raises(DataError, match="PLM782") as caught:
            call()
        assert part in caught.value.diagnostics[0].message


def test_total_variation() -> None:
    assert total_variation(logs(a=0.7, b=0.3), logs(a=0.5, b=0.5)) == pytest.approx(0.2)
    assert total_variation(logs(a=0.7, b=0.3), logs(b=0.4, c=0.6)) == pytest.approx(0.7)
    assert total_variation(logs(a=0.7), logs(a=0.5)) == pytest.approx(0.2), "0.3 and 0.5 are elsewhere"
    assert total_variation(logs(a=1.0), logs(b=1.0)) == 1.0
    assert total_variation(logs(a=0.6, b=0.4), logs(a=0.6, b=0.4, c=0.0)) == 0.0
    assert total_variation(frequencies(["a", "b", "a", "a"]), logs(a=0.6, b=0.4)) == pytest.approx(0.15)
    with pytest.raises(DataError, match="PLM782"):
        total_variation({"a": 0.7, "b": 0.3}, logs(a=1.0))


def test_chance_alone_makes_total_variation_positive_as_documented() -> None:
    rng = np.random.default_rng(3)
    values, n = 20, 500
    target = dict.fromkeys(range(values), -math.log(values))
    found = np.mean(
        [total_variation(frequencies(rng.integers(values, size=n).tolist()), target) for _ in range(200)]
    )
    assert found == pytest.approx(math.sqrt(values / (2 * math.pi * n)), rel=0.05)


def test_log_evidence_error() -> None:
    found = log_evidence_error([-10.5, -9.5, -13.0], -10.0)
    assert found.bias == pytest.approx(-1.0)
    assert found.rmse == pytest.approx(math.sqrt((0.25 + 0.25 + 9) / 3))
    assert (found.worst, found.n) == (3.0, 3)
    with pytest.raises(DataError, match="PLM780"):
        log_evidence_error([None], -10.0)  # type: ignore[list-item]
    with pytest.raises(DataError, match="PLM780"):
        log_evidence_error([-10.0], -math.inf)


# ------------------------------------------------------------------------- summaries


def test_likelihood_leaves_the_impossible_out_of_the_mean_and_counts_it() -> None:
    found = likelihood([-3.0, -1.0, -math.inf, -8.0])
    assert (found.mean, found.best, found.impossible, found.n) == (-4.0, -1.0, 1, 4)
    nothing = likelihood([-math.inf])
    assert (nothing.mean, nothing.best, nothing.impossible) == (None, -math.inf, 1)
    assert share_valid([-3.0, -1.0, -math.inf, -8.0]) == 0.75


@pytest.mark.parametrize("wrong", [[], [math.nan], [math.inf], ["a"], 3.0, [[1.0]], [None]])
def test_what_is_no_list_of_log_probs(wrong: object) -> None:
    for metric in (likelihood, share_valid, summarise):
        with pytest.raises(DataError, match="PLM780"):
            metric(wrong)  # type: ignore[arg-type]


def test_the_place_of_a_wrong_number_is_named() -> None:
    with pytest.raises(DataError) as caught:
        likelihood([-1.0, math.nan])
    assert caught.value.diagnostics[0].where == "log_probs[1]"
    with pytest.raises(DataError, match="-inf"):
        summarise([1.0, -math.inf])


def test_summary_has_the_spread_of_a_sample() -> None:
    found = summarise([1.0, 2.0, 6.0])
    assert (found.mean, found.n) == (3.0, 3)
    assert found.sd == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert str(found) == "3 ± 2.6"
    assert summarise(np.array([0.25])).sd is None and str(summarise([0.25])) == "0.25"


def test_accuracy_has_wilsons_interval() -> None:
    found = accuracy(["a", "b", None, "a"] * 20, ["a", "b", "b", "b"] * 20)
    assert (found.value, found.correct, found.n) == (0.5, 40, 80)
    for end in (found.low, found.high):  # the ends solve (p̂ − p)² = z² p (1 − p) / n
        assert (0.5 - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / 80, rel=1e-5)
    assert found.low < 0.5 < found.high
    assert str(found) == "50.0 % (39.3 to 60.7)"
    none, all_of_them = accuracy([1, 2], [2, 1]), accuracy([1, 2], [1, 2])
    assert (none.low, all_of_them.high) == (0.0, 1.0) and none.high > 0.5 and all_of_them.low < 0.5


def test_wilsons_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng, p, n = np.random.default_rng(7), 0.93, 60
    held = 0
    for correct in rng.binomial(n, p, size=2000):
        found = accuracy([1] * int(correct) + [0] * int(n - correct), [1] * n)
        held += found.low <= p <= found.high
    assert 0.93 < held / 2000 < 0.98


@pytest.mark.parametrize(
    ("answers", "truth", "part"),
    [
        ([], [], "no answers"),
        ([1], [1, 2], "1 answers and 2"),
        (["3"], [3], "different types"),
        ([True], [1], "different types"),
        ([1], [None], "missing"),
    ],
)
def test_what_has_no_accuracy(answers: list[object], truth: list[object], part: str) -> None:
    with pytest.raises(DataError, match="PLM780") as caught:
        accuracy(answers, truth)
    assert part in caught.value.diagnostics[0].message
    assert caught.value.diagnostics[0].help


def test_numbers_of_numpy_are_numbers() -> None:
    assert accuracy([np.int64(3), np.str_("a")], [3, "a"]).value == 1.0


def test_metrics_load_no_model_library() -> None:
    script = (
        "import sys, posterior_lm.metrics; "
        "print(sorted({'torch', 'transformers', 'nltk', 'tokenizers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
