"""What the table is to show, task by task, computed from its figures: reached, missed, or not measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from attrs import asdict, frozen

from benchmarks.paper.summary import Entry, figure
from benchmarks.paper.tasks.continuation import BASELINES, FIDELITY, OURS


@frozen
class Claim:
    """One claim: in words, the figure it rests on, the aim, and whether that is reached; None where it was not measured."""

    task: str
    said: str
    value: float | None
    aim: float
    reached: bool | None

    def to_json(self) -> dict[str, Any]:
        """As in `paper.json`."""
        return asdict(self)

    def row(self) -> list[str]:
        """As a line of the table of aims."""
        if self.value is None:
            return [self.task, self.said, f"{self.aim:g}", "–", "not measured"]
        return [self.task, self.said, f"{self.aim:g}", f"{self.value:.3g}", "yes" if self.reached else "no"]


@frozen
class Dominance:
    """A baseline against one of ours: how much higher its fidelity (nats) and its diversity are.

    Fidelity is the mean log-likelihood, or the mean log reward where texts are not meant to be likely.

    It dominates where both are higher.
    """

    setting: str
    baseline: str
    ours: str
    fidelity: float
    diversity: float

    @property
    def dominates(self) -> bool:
        return self.fidelity > 0 and self.diversity > 0

    @property
    def dominated(self) -> bool:
        return self.fidelity < 0 and self.diversity < 0


def dominances(found: Sequence[Entry]) -> list[Dominance]:
    """Every decoding baseline against each of our policies of its setting."""
    rows: list[Dominance] = []
    for setting in dict.fromkeys(e.setting for e in found if e.task == "continuation"):
        points = _points(found, setting)
        for baseline in (m for m in points if m in BASELINES):
            for ours in (m for m in points if m.startswith(OURS)):
                (a, b), (c, d) = points[baseline], points[ours]
                rows.append(Dominance(setting, baseline, ours, a - c, b - d))
    return rows


def _points(found: Sequence[Entry], setting: str) -> dict[str, tuple[float, float]]:
    points = {}
    for method in dict.fromkeys(e.method for e in found if (e.task, e.setting) == ("continuation", setting)):
        pair = [figure(found, "continuation", setting, method, m) for m in (FIDELITY[setting], "diversity")]
        if all(e is not None and e.mean is not None for e in pair):
            points[method] = (pair[0].mean, pair[1].mean)  # type: ignore[union-attr]
    return points  # type: ignore[return-value]


def claims(found: Sequence[Entry]) -> list[Claim]:
    """The claims that the figures at hand can settle; of a policy that no list was made for, that it was not measured."""
    return [*_integers(found), *_continuation(found), *_infilling(found), *_labels(found), *_sums(found)]


def _mean(found: Sequence[Entry], *key: str) -> float | None:
    entry = figure(found, *key)
    return None if entry is None else entry.mean


def _integers(found: Sequence[Entry]) -> Iterator[Claim]:
    for setting in ("uniform", "poisson", "geometric", "benford"):
        for method, metric, aim, least, said in (
            ("gflownet", "share_valid", 1.0, True, "valid integers of the policy"),
            ("gflownet", "kl", 0.01, False, "KL of the policy to the target, nats"),
            ("base", "kl", 0.5, True, "KL of the frozen model to the target, nats"),
        ):
            value = _mean(found, "integers", setting, method, metric)
            if value is not None:
                reached = value >= aim if least else value <= aim
                yield Claim(
                    "integers", f"{setting}: {said}, at {'least' if least else 'most'}", value, aim, reached
                )


def _continuation(found: Sequence[Entry]) -> Iterator[Claim]:
    rows = dominances(found)
    for setting in dict.fromkeys(row.setting for row in rows):
        own = [row for row in rows if row.setting == setting]
        count = sum(row.dominates for row in own)
        yield Claim(
            "continuation",
            f"{setting}: pairs in which a decoding baseline has both a higher mean "
            f"{FIDELITY[setting].replace('_', ' ')} and a higher diversity than one of our policies, of {len(own)}, at most",
            float(count), 0.0, count == 0,
        )  # fmt: skip


def _infilling(found: Sequence[Entry]) -> Iterator[Claim]:
    value = _mean(found, "infilling", "infilling", "gflownet", "tv")
    said = "total variation of the policy to the exact posterior, at most"
    if value is not None:
        yield Claim("infilling", said, value, 0.10, value <= 0.10)
    elif _mean(found, "infilling", "infilling", "gflownet", "log_reward") is not None:
        yield Claim("infilling", said, None, 0.10, None)


def _labels(found: Sequence[Entry]) -> Iterator[Claim]:
    yield from _lead(found, "subjectivity", "10 labels", "sft", ("accuracy",), 0.10)


def _sums(found: Sequence[Entry]) -> Iterator[Claim]:
    metrics = ("accuracy", "accuracy_hard", "accuracy_tool")
    for other in ("ppo", "sft"):
        yield from _lead(found, "arithmetic", "5 operands", other, metrics, 0.30)


def _lead(
    found: Sequence[Entry], task: str, setting: str, other: str, metrics: Sequence[str], aim: float
) -> Iterator[Claim]:
    """How far our policies, without and with EM, are ahead of another method, by each metric."""
    for ours in ("gflownet", "gflownet+em"):
        for metric in metrics:
            a, b = _mean(found, task, setting, ours, metric), _mean(found, task, setting, other, metric)
            if a is not None and b is not None and math.isfinite(a - b):
                said = f"{setting}: {metric} of {ours} over {other}, at least"
                yield Claim(task, said, a - b, aim, a - b >= aim - 1e-9)
