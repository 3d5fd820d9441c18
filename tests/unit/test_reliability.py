"""Abstaining, and predictions beside known answers: curves, areas, calibration and scores against plain computations."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.infer.weights import wilson
from posterior_lm.validate.reliability import Reliability
from posterior_lm.validate.scores import write_scores
from tests.strategies import table

MODEL = table(("a", "b", "."), seed=5, order=1, max_tokens=6)


def coin(p: float, method: str = "exact") -> plm.Query:
    return plm.loads(
        f"program p() {{ latent k: int(0..1) ~ categorical([{p}, {1 - p}]) factor 0.0 * k }}"
    ).using(method)


# ------------------------------------------------------------------- abstaining


def test_an_exact_prediction_abstains_above_its_probability_of_being_wrong() -> None:
    at, below = (coin(0.8).predict("k", abstain=a) for a in (0.2, 0.19))
    assert (at.answer, at.abstained) == (0, None)
    assert below.answer is None and below.best == 0
    assert below.abstained == "0 is wrong with probability 0.2000, more than 0.1900"
    assert "no answer: 0 is wrong" in repr(below) and "no answer" not in repr(at)
    assert coin(0.8).predict("k").answer == 0, "nobody asked it to abstain"
    shape = below.to_json()
    assert (shape["best"], shape["abstain"], shape["abstained"]) == (None, 0.19, below.abstained)
    assert shape["predictions"][0]["value"] == 0


def test_draws_abstain_by_the_worse_end_of_the_interval() -> None:
    found = coin(0.85, "importance").predict("k", n=100, seed=1, abstain=0.2)
    low, _ = found.interval(0)  # type: ignore[misc]
    assert found.prob(0) > 0.8 > low and found.answer is None
    assert "but by its interval with up to" in (found.abstained or "")
    more = coin(0.85, "importance").predict("k", n=4000, seed=1, abstain=0.2)
    assert more.answer == 0


def test_few_draws_seldom_answer_what_they_should_not() -> None:
    """Wrong with probability 0.22: a 90 % interval lies on the wrong side of 0.2 in one run of twenty."""
    query = coin(0.78, "importance")
    answered = sum(query.predict("k", n=300, seed=s, abstain=0.2).answer is not None for s in range(150))
    assert answered <= 150 * 0.05 + 3 * math.sqrt(150 * 0.05 * 0.95)
    sure = coin(0.9, "importance")
    assert sum(sure.predict("k", n=300, seed=s, abstain=0.2).answer == 0 for s in range(20)) >= 19


def test_draws_that_should_not_be_trusted_give_no_answer() -> None:
    few = coin(0.99, "importance").predict("k", n=3, abstain=1.0)
    assert few.posterior.verdict.startswith("Do not trust")
    assert few.abstained == "the draws are not to be trusted"
    decoded = plm.loads(
        'lm base = "b"\nprogram p(y: one_of("a", "b")) { latent z: text(tokens=1..2) ~ base("b") observe y ~ base(z) }'
    ).lm(base=MODEL).using("ancestral")  # fmt: skip
    assert "decoder" in (decoded.predict("y", n=20, abstain=1.0).abstained or "")


def test_one_value_whose_own_draws_are_bad_is_enough_to_abstain() -> None:
    """Compared by evidence, `b` has one draw that fits in many, and the list of `a` is whole."""
    query = plm.loads(
        'lm base = "b"\nprogram p(y: one_of("a", "b")) { latent z: text(tokens=1..3) ~ base(y) '
        'condition y == "a" or chars(z) == 3 and contains(z, "bab") observe "a." ~ base(z) }'
    ).lm(base=MODEL)  # fmt: skip
    found = query.using("importance").predict("y", n=300, abstain=1.0)
    assert found.doubted == ("b",) and found.best == "a"
    assert found.abstained == "the draws for 'b' are not to be trusted"
    assert query.using("exact").predict("y", abstain=1.0).answer is not None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"abstain": 1.5}, "between 0 and 1"),
        ({"abstain": math.nan}, "between 0 and 1"),
        ({"abstain": 0.2, "vote": "hard"}, "with what probability it is wrong"),
    ],
)
def test_what_says_no_probability_of_being_wrong_is_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(plm.InferenceError, match=f"PLM802.*{said}"):
        coin(0.8).predict("k", **asked)


# ------------------------------------------------------------------- beside known answers


def row(probs: Mapping[object, float], answer: object, **more: object) -> dict[str, Any]:
    listed = sorted(probs.items(), key=lambda item: -item[1])
    found = [{"value": value, "prob": p} for value, p in listed]
    return {"name": "y", "predictions": found, "other": 1 - sum(probs.values()), "answer": answer} | more


ROWS = [
    row({"a": 0.9, "b": 0.1}, "a", abstain=0.4, abstained=None),
    row({"a": 0.75, "b": 0.25}, "b", abstain=0.4, abstained="why"),
    row({"b": 0.75, "a": 0.25}, "b", abstain=0.4, abstained=None),
    row({"b": 0.75, "a": 0.25}, "b", abstain=0.4, abstained=None),
    row({"a": 0.7, "b": 0.3}, "b", abstain=0.4, abstained="why"),
    row({"a": 0.6, "b": 0.4}, "a", abstain=0.4, abstained=None),
]
RIGHT = [1, 0, 1, 1, 0, 1]
SURE = [0.9, 0.75, 0.75, 0.75, 0.7, 0.6]


def area(order: tuple[int, ...]) -> float:
    """Of one order of the rows, from the definition."""
    return float(np.mean([sum(1 - RIGHT[i] for i in order[:k]) / k for k in range(1, len(order) + 1)]))


def test_the_curve_and_its_area_are_those_of_every_order_of_ties() -> None:
    found = plm.reliability(ROWS)
    every = list(itertools.permutations(range(6)))
    fitting = [o for o in every if all(SURE[i] >= SURE[j] for i, j in itertools.pairwise(o))]
    assert len(fitting) == 6
    assert found.aurc == pytest.approx(np.mean([area(o) for o in fitting]))
    assert found.least_aurc == pytest.approx(min(area(o) for o in every))
    levels, covered, accurate = found.curve
    assert levels.tolist() == [0.9, 0.75, 0.7, 0.6]
    assert covered == pytest.approx([1 / 6, 4 / 6, 5 / 6, 1])
    assert accurate == pytest.approx([1, 3 / 4, 3 / 5, 4 / 6])


def test_scores_are_those_by_hand() -> None:
    found = plm.reliability(ROWS)
    assert (found.rows, found.accuracy, found.coverage) == (6, 4 / 6, 4 / 6)
    assert found.selective_accuracy == 1.0 and found.abstain == 0.4
    truth = [0.9, 0.25, 0.75, 0.75, 0.3, 0.6]
    assert found.log_score == pytest.approx(np.mean(np.log(truth)))
    assert found.brier == pytest.approx(np.mean([2 * (1 - p) ** 2 for p in truth]))
    # 0.6: one row, right; 0.7: four of five rows stand in one bin, two of them right; 0.9: one row, right.
    assert [(b.low, b.rows, b.right) for b in found.bins] == [(0.6, 1, 1), (0.7, 4, 2), (0.9, 1, 1)]
    assert found.ece == pytest.approx((abs(1 - 0.6) + abs(2 - 2.95) + abs(1 - 0.9)) / 6)
    assert found.bins[1].confidence == pytest.approx(2.95 / 4)
    assert found.bins[1].interval == wilson(0.5, 4)


def test_what_is_not_listed_counts_as_one_value() -> None:
    listed, unlisted = row({5: 0.7, 6: 0.2}, 6), row({5: 0.7, 6: 0.2}, 9)
    found = plm.reliability([listed, unlisted])
    assert found.log_scores == pytest.approx(np.log([0.2, 0.1]))
    assert found.brier_scores == pytest.approx([0.7**2 + 0.8**2 + 0.1**2, 0.7**2 + 0.2**2 + 0.9**2])
    never = plm.reliability([row({"a": 1.0}, "b")])
    assert never.log_score == -math.inf and "1 of the answers had probability zero" in never.lines()


def test_chance_alone_is_told() -> None:
    """Of one row with confidence c the error is 1 − c with probability c and else c."""
    mean, most = plm.reliability([row({"a": 0.9, "b": 0.1}, "a")]).calibrated_ece
    assert mean == pytest.approx(2 * 0.9 * 0.1, rel=0.2) and most == pytest.approx(0.9)
    rng = np.random.default_rng(1)
    probs = rng.uniform(0.5, 1.0, size=3000)
    calibrated = [row({"a": p, "b": 1 - p}, "ab"[int(rng.random() > p)]) for p in probs]
    found = plm.reliability(calibrated)
    mean, most = found.calibrated_ece
    assert mean / 3 < found.ece < most < 0.05
    sure = [row({"a": min(1.0, p + 0.2), "b": 1 - min(1.0, p + 0.2)}, r["answer"])
            for p, r in zip(probs, calibrated, strict=True)]  # fmt: skip
    assert plm.reliability(sure).ece > 3 * plm.reliability(sure).calibrated_ece[1]


def test_predictions_and_answers_of_python() -> None:
    query = plm.loads(
        'lm base = "b"\nprogram p(x: one_of("a", "b"), y: one_of("a", "b", ".")) { observe y ~ base(x) }'
    ).lm(base=MODEL)  # fmt: skip
    found = [query.given(x=x).predict("y", abstain=0.5) for x in "ab"]
    scored = plm.reliability(found, [found[0].best, None])
    assert scored.rows == 1 and scored.accuracy == 1.0
    assert scored.log_score == pytest.approx(math.log(found[0].probs[0][1]))
    assert scored.answered.tolist() == [found[0].answer is not None]
    assert scored.to_json() == plm.reliability([{**found[0].to_json(), "answer": found[0].best}]).to_json()
    with pytest.raises(plm.DataError, match=r"PLM803.*2 predictions .* 3 answers"):
        plm.reliability(found, ["a", "b", "a"])
    with pytest.raises(plm.DataError, match=r"PLM803.*known answer"):
        plm.reliability(found)


def test_curves_are_drawn() -> None:
    pytest.importorskip("matplotlib")
    found = plm.reliability(ROWS)
    selective, reliable = found.plot(), found.plot("reliability")
    steps = next(line for line in selective.get_lines() if "surest" in str(line.get_label()))
    assert steps.get_ydata() == pytest.approx(found.curve[2])
    assert [c for line in selective.get_lines() if line.get_marker() == "o" for c in line.get_ydata()] == [
        1.0
    ]
    (container,) = reliable.containers
    assert container.lines[0].get_ydata() == pytest.approx([1.0, 0.5, 1.0])
    with pytest.raises(plm.DataError, match="PLM802"):
        found.plot("other")  # type: ignore[arg-type]
    assert isinstance(found, Reliability) and "0.7 .. 0.8" in found._repr_html_()


def test_the_page_has_both_curves_as_lines(tmp_path: Path) -> None:
    write_scores(plm.reliability(ROWS), str(tmp_path / "scores.html"))
    page = (tmp_path / "scores.html").read_text(encoding="utf-8")
    lines = re.findall(r'<polyline[^>]* class="([^"]*)"', page)
    assert len(lines) >= 4 and all("line" in kind.split() for kind in lines), "else they are filled"
