"""A prediction as a value: probabilities with intervals, and the entropy in two parts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from attrs import field, frozen

from posterior_lm.api.posterior import Estimate, Posterior
from posterior_lm.api.posteriors import MOST_LINES
from posterior_lm.api.tables import dataset, frame
from posterior_lm.infer.verdict import level
from posterior_lm.lang.diagnostics import shown
from posterior_lm.lang.values import number_text
from posterior_lm.shown import Shown
from posterior_lm.target.values import Datum

if TYPE_CHECKING:
    import datasets
    import pandas
    from matplotlib.axes import Axes

Vote = Literal["soft", "hard", "likeliest"]
ROUNDING = 1e-9
"""By which sums of probabilities may be off."""


@frozen(eq=False)
class Prediction(Shown):
    """`probs` likeliest first; they and `other` sum to 1. `posterior` holds the draws they average over.

    `vote` says how: `soft` averages p(y | z) over the draws; `hard` lets each draw vote
    for its likeliest value, values that tie share the vote; `likeliest` is p(y | z) of
    the one draw that has, with its best value, the highest log reward of all. Entropies
    are those of the soft average over `probs`, in nats, whatever the vote.
    """

    name: str
    probs: tuple[tuple[Datum, float], ...]
    posterior: Posterior
    vote: Vote = "soft"
    estimates: Mapping[Datum, Estimate] = field(factory=dict)
    """Each probability with its standard error and a 90 % interval; empty for `likeliest`, and for what a
    decoder wrote, which is no sample of anything."""
    other: float = 0.0
    """The probability, estimated, of answers that are not among `probs`; 0 where the type lists its values."""
    entropy: float = 0.0
    aleatoric: float | None = None
    """The part of the entropy that the draws agree on, Σ w H(p(y | z)); None where values are compared by evidence."""
    epistemic: float | None = None
    """The rest of it: the mutual information of the answer and the draws."""
    doubted: tuple[Datum, ...] = ()
    """Values compared by evidence whose own draws are not to be trusted."""
    abstain: float | None = None
    """The largest probability of being wrong at which `answer` is given; None: it always is."""

    @property
    def probabilities(self) -> dict[Datum, float]:
        """The probability of each value, likeliest first."""
        return dict(self.probs)

    @property
    def best(self) -> Datum:
        """The likeliest value; of several the first in the order of the type."""
        return self.probs[0][0]

    @property
    def answer(self) -> Datum | None:
        """`best`; None where the prediction abstains."""
        return self.best if self.abstained is None else None

    @property
    def abstained(self) -> str | None:
        """Why there is no answer; None where there is one.

        There is one where `best` is wrong with probability 1 − p at most `abstain`, by the worse end of the
        90 % interval of p, and the draws are none that should not be trusted.
        """
        if self.abstain is None:
            return None
        found = level(self.posterior.draws)
        if found == "decoded":
            return "what a decoder wrote is no sample, so nothing tells how often it is wrong"
        if found == "bad":
            return "the draws are not to be trusted"
        if self.doubted:
            return f"the draws for {', '.join(map(shown, self.doubted))} are not to be trusted"
        wrong, bounds = 1 - self.probs[0][1], self.interval(self.best)
        most = wrong if bounds is None else 1 - bounds[0]
        if most <= self.abstain + ROUNDING:
            return None
        said = f"{shown(self.best)} is wrong with probability {number_text(wrong, 4)}"
        limit = number_text(self.abstain, 4)
        if wrong > self.abstain + ROUNDING:
            return f"{said}, more than {limit}"
        return f"{said}, but by its interval with up to {number_text(most, 4)}, more than {limit}: more draws may tell"

    def prob(self, value: Datum) -> float:
        """The probability of one value; 0 for one that is not of the type or was not drawn."""
        return self.probabilities.get(value, 0.0)

    def interval(self, value: Datum) -> tuple[float, float] | None:
        """A 90 % interval of the probability of a listed value; None where there are no `estimates`."""
        found = self.estimates.get(value)
        return None if found is None else (found.low, found.high)

    def __repr__(self) -> str:
        of = f"{len(self.probs):,} value{'s' * (len(self.probs) != 1)}"
        best = f"{shown(self.best)} with probability {number_text(self.probs[0][1], 4)}"
        bounds = self.interval(self.best)
        if bounds is not None and bounds[0] < bounds[1]:
            best += f" (90 %: {number_text(bounds[0], 4)} to {number_text(bounds[1], 4)})"
        why = self.abstained
        said = "" if why is None else f"no answer: {why}\n"
        return (
            f"<Prediction of {self.name}: {best}, of {of}, {self.vote} vote>\n"
            f"{said}over {self.posterior.summary}. {self.posterior.verdict}"
        )

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Bars of the values' probabilities with 90 % intervals; the axes. Raises DataError PLM732 without matplotlib."""
        return self._above("plots", ax)

    def columns(self) -> dict[str, list[Any]]:
        """One entry per value, likeliest first: `value`, `prob`, `se`, `low`, `high`; None where there is no number."""
        rows = [self._row(value, p) for value, p in self.probs]
        return {name: [row[name] for row in rows] for name in ("value", "prob", "se", "low", "high")}

    def to_pandas(self) -> pandas.DataFrame:
        """`columns` as a data frame. Raises DataError PLM732 without pandas."""
        return frame(self.columns())

    def to_json(self) -> dict[str, Any]:
        """The stable shape of `plm predict --format json`; numbers that are not there are None.

        `best` is `answer`: None where the prediction abstains.
        """
        whole = self.posterior.to_json(top=0)
        kept = ("program", "fingerprint", "lm", "method", "reason", "seed")
        return {
            **{k: whole[k] for k in kept},
            "name": self.name,
            "vote": self.vote,
            "best": self.answer,
            "abstain": self.abstain,
            "abstained": self.abstained,
            "predictions": [self._row(value, p) for value, p in self.probs],
            "other": self.other,
            "entropy": self.entropy,
            "aleatoric": self.aleatoric,
            "epistemic": self.epistemic,
            **{k: whole[k] for k in ("log_evidence", "ess", "khat", "n")},
        }

    def _row(self, value: Datum, p: float) -> dict[str, Any]:
        found = self.estimates.get(value)
        se = None if found is None or not math.isfinite(found.se) else found.se
        low, high = (None, None) if found is None else (found.low, found.high)
        return {"value": value, "prob": p, "se": se, "low": low, "high": high}


@frozen(eq=False)
class Predictions(Shown, Sequence[Prediction]):
    """The prediction of each row of data, in their order; `known` is what the rows themselves hold, None where nothing.

    `reliability(found, found.known)` holds the ones against the others.
    """

    rows: tuple[Prediction, ...]
    known: tuple[Datum | None, ...]

    @overload
    def __getitem__(self, item: int) -> Prediction: ...
    @overload
    def __getitem__(self, item: slice) -> Predictions: ...
    def __getitem__(self, item: int | slice) -> Prediction | Predictions:
        return Predictions(self.rows[item], self.known[item]) if isinstance(item, slice) else self.rows[item]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.rows)

    def __repr__(self) -> str:
        of = f" of {self.rows[0].name}" if self.rows else ""
        lines = []
        for k, one in enumerate(self.rows[:MOST_LINES]):
            said = "no answer" if one.answer is None else shown(one.answer)
            known = "" if self.known[k] is None else f", known {shown(self.known[k])}"
            lines.append(f"  row {k}: {said}, probability {number_text(one.probs[0][1], 4)}{known}")
        more = [f"  … and {len(self) - MOST_LINES:,} more"] if len(self) > MOST_LINES else []
        return "\n".join([f"<Predictions{of}: {len(self):,} row{'s' * (len(self) != 1)}>", *lines, *more])

    def columns(self) -> dict[str, list[Any]]:
        """One entry per row: `answer`, `prob`, `se`, `low` and `high` of its likeliest value, and what is `known`."""
        best = [one._row(*one.probs[0]) for one in self.rows]
        numbers = {name: [row[name] for row in best] for name in ("prob", "se", "low", "high")}
        return {"answer": [one.answer for one in self.rows], **numbers, "known": list(self.known)}

    def to_pandas(self) -> pandas.DataFrame:
        """`columns` as a data frame. Raises DataError PLM732 without pandas."""
        return frame(self.columns())

    def to_datasets(self) -> datasets.Dataset:
        """`columns` as a dataset of Hugging Face. Raises DataError PLM732 without `datasets`."""
        return dataset(self.columns())
