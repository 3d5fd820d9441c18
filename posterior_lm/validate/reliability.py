"""Predictions against known answers: whether their probabilities are frequencies, and what is gained where the
unsure ones are left unanswered.

Letters: n rows, of each the confidence c, the probability of the best value, and whether that value is right.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from attrs import field, frozen

from posterior_lm.infer.weights import wilson
from posterior_lm.lang.diagnostics import DataError
from posterior_lm.lang.values import number_text as number
from posterior_lm.predict import Datum, Prediction
from posterior_lm.shown import Shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 10
ROUNDS, SEED = 400, 0
"""Of the simulation that says what a calibrated prediction's error would be."""
MOST_POINTS = 200
"""Points of a curve that are told; it is summed over all rows."""


@frozen
class Bin:
    """The rows with a confidence from `low` to below `high` (the last bin holds 1), and how many of them are right."""

    low: float
    high: float
    rows: int
    right: int
    confidence: float
    """Their mean confidence."""

    @property
    def accuracy(self) -> float:
        return self.right / self.rows

    @property
    def interval(self) -> tuple[float, float]:
        """90 %, of the accuracy (Wilson 1927)."""
        return wilson(self.accuracy, self.rows)


@frozen(eq=False)
class Reliability(Shown):
    """What was predicted, row by row, beside what is known. All arrays have n entries, in the order of the rows."""

    name: str
    confidence: np.ndarray = field(repr=False)
    right: np.ndarray = field(repr=False)
    answered: np.ndarray = field(repr=False)
    """Where the prediction did not abstain."""
    brier_scores: np.ndarray = field(repr=False)
    """Σ_y (p(y) − 1[y is the answer])², 0 to 2 (Brier 1950); what is not listed counts as one value."""
    log_scores: np.ndarray = field(repr=False)
    """log p(answer), nats; that of all that is not listed, for an answer that is not: at least its own."""
    abstain: float | None = None

    BIN_HEAD: ClassVar = ("confidence", "rows", "mean", "accuracy", "90 % interval")

    @property
    def rows(self) -> int:
        return len(self.right)

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def coverage(self) -> float:
        """The share of the rows that have an answer."""
        return float(self.answered.mean())

    @property
    def selective_accuracy(self) -> float | None:
        """The accuracy where there is an answer; None where there is none."""
        return float(self.right[self.answered].mean()) if self.answered.any() else None

    @property
    def curve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(K,) each: every confidence from the highest, the share of rows at least as sure, and their accuracy."""
        levels, ends, right = self._levels()
        return levels, ends / self.rows, right / ends

    def _levels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(K,) each: the distinct confidences from the highest, how many rows are as sure, how many of them right."""
        order = np.argsort(-self.confidence, kind="stable")
        sure = self.confidence[order]
        ends = np.append(np.flatnonzero(np.diff(sure)), len(sure) - 1)
        return sure[ends], ends + 1, np.cumsum(self.right[order])[ends]

    @property
    def aurc(self) -> float:
        """The area under the risk–coverage curve: the mean over k = 1 … n of the share of wrong answers among the k
        surest rows (Geifman & El-Yaniv 2017). Rows that tie are in any order, so their errors are spread evenly."""
        _, ends, right = self._levels()
        at = np.arange(1, self.rows + 1)
        wrong = np.interp(at, np.append(0, ends), np.append(0, ends - right))
        return float(np.mean(wrong / at))

    @property
    def least_aurc(self) -> float:
        """The same, were all that is right surer than all that is wrong."""
        at = np.arange(1, self.rows + 1)
        return float(np.mean(np.maximum(0, at - self.right.sum()) / at))

    @property
    def bins(self) -> tuple[Bin, ...]:
        """Ten of equal width, without the empty ones."""
        place = _places(self.confidence)
        found = []
        for k in np.unique(place):
            here = place == k
            found.append(
                Bin(k / BINS, (k + 1) / BINS, int(here.sum()), int(self.right[here].sum()),
                    float(self.confidence[here].mean()))
            )  # fmt: skip
        return tuple(found)

    @property
    def ece(self) -> float:
        """The expected calibration error: how far accuracy and confidence are apart in a bin, by its rows (Guo et al. 2017)."""
        return _gap(_places(self.confidence), self.right - self.confidence)

    @property
    def calibrated_ece(self) -> tuple[float, float]:
        """What it would be were each row right with the probability that it has: the mean, and what 95 % stay below."""
        rng, place = np.random.default_rng(SEED), _places(self.confidence)
        found = [
            _gap(place, (rng.random(self.rows) < self.confidence) - self.confidence) for _ in range(ROUNDS)
        ]
        return float(np.mean(found)), float(np.quantile(found, 0.95))

    @property
    def brier(self) -> float:
        return float(self.brier_scores.mean())

    @property
    def log_score(self) -> float:
        """Nats; −∞ where an answer was given probability zero."""
        return float(self.log_scores.mean())

    def lines(self) -> list[str]:
        """In words and numbers, for people."""
        n, right = self.rows, int(self.right.sum())
        found = [f"accuracy {self.accuracy:.4f}: {right} of {n} rows, {_between(wilson(self.accuracy, n))}"]
        if self.abstain is not None:
            asked, good = int(self.answered.sum()), int(self.right[self.answered].sum())
            found.append(f"answered {self.coverage:.4f}: {asked} of {n} rows")
            if self.selective_accuracy is not None:
                bounds = _between(wilson(self.selective_accuracy, asked))
                found.append(
                    f"accuracy of the answers {self.selective_accuracy:.4f}: {good} of {asked}, {bounds}"
                )
        mean, most = self.calibrated_ece
        found += [
            f"AURC {self.aurc:.4f}; {self.least_aurc:.4f} in the best order of the rows, {1 - self.accuracy:.4f} in no order",
            f"ECE {self.ece:.4f}; {mean:.4f} and up to {most:.4f} by chance, were the probabilities right",
            f"Brier score {_mean(self.brier_scores)}",
            f"log score {_mean(self.log_scores)} nats",
        ]
        if none := int(np.isneginf(self.log_scores).sum()):
            found.append(f"{none} of the answers had probability zero")
        return found

    def bin_rows(self) -> list[tuple[str, ...]]:
        """The reliability curve as cells under `BIN_HEAD`."""
        return [
            (f"{b.low:.1f} .. {b.high:.1f}", f"{b.rows:,}", f"{b.confidence:.4f}", f"{b.accuracy:.4f}",
             f"{b.interval[0]:.4f} .. {b.interval[1]:.4f}")
            for b in self.bins
        ]  # fmt: skip

    def __repr__(self) -> str:
        return f"<Reliability of {self.name}>\n" + "\n".join(self.lines())

    def plot(
        self, what: Literal["selective", "reliability"] = "selective", *, ax: Axes | None = None
    ) -> Axes:
        """Accuracy by the share of rows that are answered, or by confidence; the axes. Raises DataError PLM732."""
        return self._above("plots", what, ax)

    def to_json(self) -> dict[str, Any]:
        """The stable shape of `--scores FILE.json`; of a long curve so many points as can be seen."""
        mean, most = self.calibrated_ece
        levels, covered, accurate = self.curve
        keep = np.unique(np.linspace(0, len(levels) - 1, MOST_POINTS).round().astype(int))
        chosen = self.selective_accuracy
        return {
            "name": self.name, "rows": self.rows,
            "accuracy": self.accuracy, "accuracy_interval": list(wilson(self.accuracy, self.rows)),
            "abstain": self.abstain, "answered": int(self.answered.sum()), "coverage": self.coverage,
            "selective_accuracy": chosen,
            "selective_interval": None if chosen is None else list(wilson(chosen, int(self.answered.sum()))),
            "aurc": self.aurc, "least_aurc": self.least_aurc,
            "ece": self.ece, "calibrated_ece": {"mean": mean, "most": most},
            "brier": self.brier, "log_score": self.log_score,
            "impossible": int(np.isneginf(self.log_scores).sum()),
            "bins": [
                {"low": b.low, "high": b.high, "rows": b.rows, "confidence": b.confidence, "accuracy": b.accuracy,
                 "interval": list(b.interval)}
                for b in self.bins
            ],
            "curve": [
                {"confidence": float(levels[k]), "coverage": float(covered[k]), "accuracy": float(accurate[k])}
                for k in keep
            ],
        }  # fmt: skip


def reliability(
    predictions: Iterable[Prediction | Mapping[str, Any]], answers: Sequence[Datum | None] | None = None
) -> Reliability:
    """Predictions beside the known answers, which are those of the rows themselves where none are given.

    A prediction may be its JSON, as `results` reads it from a folder. Rows without a result and rows whose answer is
    None are left out. Raises DataError PLM803 where no row is left, or the answers are more or fewer.
    """
    name, abstain, found, answered = "", None, [], []
    for row, truth in _pairs(predictions, answers):
        if truth is not None and "predictions" in row:
            name, abstain = row["name"], row.get("abstain")
            found.append(_score(row, truth))
            answered.append(row.get("abstained") is None)
    if not found:
        raise DataError.of(
            "PLM803", "no prediction has a known answer", help="let a column of the data hold it"
        )
    confidence, right, brier, log = np.array(found).T
    return Reliability(name, confidence, right > 0, np.array(answered), brier, log, abstain)


def _pairs(
    predictions: Iterable[Prediction | Mapping[str, Any]], answers: Sequence[Datum | None] | None
) -> Iterator[tuple[Mapping[str, Any], Datum | None]]:
    count = 0
    for count, found in enumerate(predictions, start=1):
        row = found if isinstance(found, Mapping) else found.to_json()
        if answers is None:
            yield row, row.get("answer")
        elif count <= len(answers):
            yield row, answers[count - 1]
    if answers is not None and count != len(answers):
        raise DataError.of("PLM803", f"{count} predictions cannot be held against {len(answers)} answers")


def _score(row: Mapping[str, Any], truth: Datum) -> tuple[float, bool, float, float]:
    """Confidence, whether the best value is right, Brier score and log score of a prediction."""
    probs = {one["value"]: float(one["prob"]) for one in row["predictions"]}
    best, other = row["predictions"][0], float(row["other"])
    mass = probs.get(truth, other)
    squares = sum(p * p for p in probs.values()) + other * other
    return (
        best["prob"],
        best["value"] == truth,
        squares - 2 * mass + 1,
        math.log(mass) if mass > 0 else -math.inf,
    )


def _places(confidence: np.ndarray) -> np.ndarray:
    """(n,) the bin of each row."""
    found: np.ndarray = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return found


def _gap(place: np.ndarray, off: np.ndarray) -> float:
    """Σ over the bins of |Σ off|, over the number of rows."""
    return float(np.abs(np.bincount(place, weights=off)).sum() / len(off))


def _between(bounds: tuple[float, float]) -> str:
    return f"90 %: {bounds[0]:.4f} .. {bounds[1]:.4f}"


def _mean(scores: np.ndarray) -> str:
    """The mean, and its standard error where there is one."""
    mean = float(scores.mean())
    if len(scores) < 2 or not math.isfinite(mean):
        return number(mean, 4)
    return f"{number(mean, 4)} ± {number(float(scores.std(ddof=1)) / math.sqrt(len(scores)), 4)}"
