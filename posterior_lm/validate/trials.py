"""Trials: methods run on the database of known posteriors, and what became of them, class by class.

A run is *off* where its log evidence is further from the true one than three of its standard errors, and
*wrong* where it is off or its total variation is above `FAR`; else it is *sound*. What a verdict says
of it is held against that: `trusted` are Exact, Good and Usable, `doubted` is "Do not trust".
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from attrs import evolve, frozen

from posterior_lm.api.engine import draw
from posterior_lm.api.posterior import Posterior
from posterior_lm.graph.ops import spelled
from posterior_lm.infer.base import Info
from posterior_lm.infer.methods import METHODS
from posterior_lm.infer.request import Request
from posterior_lm.infer.verdict import level
from posterior_lm.infer.weights import Z90
from posterior_lm.lang.diagnostics import InferenceError, ModelError
from posterior_lm.lang.values import number_text
from posterior_lm.lm.counting import Count
from posterior_lm.predict.by_draws import intervals, marginal
from posterior_lm.storage import plain
from posterior_lm.target.prepared import PreparedProgram
from posterior_lm.validate.comparison import NO_DRAWS, bound_counting
from posterior_lm.validate.database import Answer, Entry

SEEDS = 10
FAR = 0.3
"""A total variation above this is wrong, whatever is asked of the posterior."""
ERRORS = 3.0
"""Standard errors of its own that a log evidence may be off."""
NEAR = 2.0
"""Times the best method's error at equal seconds that `auto` may have."""
CHANCE = 0.02
"""A total variation that a few seeds cannot tell from none."""
ROUNDING = 1e-4
"""Nats that models of float32 are off by in one batch or another; no error is smaller than that."""
TRUSTED = ("exact", "good", "usable")
DOUBTED = "bad"


@frozen
class Run:
    """One run of a method on a target, beside the answer.

    `error` is the log evidence less the true one and `se` its standard error, nats, also where the answer does not show it;
    `tv` the total variation;
    `holds` whether the 90 % interval of the log evidence, that of the probability of the likeliest half, and that which `plm predict`
    gives the likeliest value of one latent, hold the true number. None where the method does not say. `failed` is the code of the error in place of draws.
    """

    kind: str
    target: str
    method: str
    seed: int
    seconds: float
    tokens: int
    level: str = ""
    tv: float | None = None
    error: float | None = None
    se: float | None = None
    holds: tuple[bool | None, bool | None, bool | None] = (None, None, None)
    failed: str = ""
    whole: bool = False
    """Whether every value was listed: no other seed gives anything else."""
    broken: bool = False
    """Whether a list and its sure bound of the rest cannot both be right."""

    @property
    def errors(self) -> float | None:
        """The error in standard errors."""
        return (
            None
            if self.error is None or self.se is None
            else abs(self.error) / max(self.se, ROUNDING / ERRORS)
        )

    @property
    def wrong(self) -> bool:
        return (self.tv or 0.0) > FAR or (self.errors or 0.0) > ERRORS


def run(program: PreparedProgram, entry: Entry, method: str, seed: int, n: int | None, budget: float | None,
        progress: Callable[[Info], None] | None) -> Run:  # fmt: skip
    """One run at default settings, binding included; errors of inference are a result too."""
    count, began = Count(), time.monotonic()
    try:
        target = bound_counting(program, program.validate(entry.answer.given), count)
        posterior = draw(program, target, Request(method), n, seed=seed, budget=budget, progress=progress)
    except InferenceError as problem:
        code = problem.diagnostics[0].code
        if code not in NO_DRAWS:
            raise
        return Run(entry.kind, entry.name, method, seed, time.monotonic() - began, count.tokens, failed=code)
    found = Run(entry.kind, entry.name, method, seed, time.monotonic() - began, count.tokens)
    return _judged(found, posterior, entry.answer)


def _judged(found: Run, posterior: Posterior, answer: Answer) -> Run:
    evidence, said, se = posterior.log_evidence, posterior.log_evidence_se, posterior.draws.log_evidence_se
    error = None if evidence is None else evidence - answer.log_evidence
    near = ROUNDING + 2 * answer.left_out
    covers = None if error is None or said is None or math.isinf(said) else abs(error) <= Z90 * said + near
    values, prob = answer.likely
    names = tuple(posterior.draws.values)
    asked = posterior.prob(lambda row: tuple(row[name] for name in names) in values)
    return evolve(
        found,
        level=level(posterior.draws),
        tv=answer.distance(posterior),
        error=error,
        se=se,
        holds=(covers, asked.low - near <= prob <= asked.high + near, _predicted(posterior, answer, near)),
        whole=posterior.draws.certificate is not None and posterior.draws.certificate.complete,
        broken=_is_broken(posterior, answer, near),
    )


def _predicted(posterior: Posterior, answer: Answer, near: float) -> bool | None:
    """Whether the interval of the likeliest value holds: of the first latent of a finite type, or else of the first."""
    names = sorted(posterior.draws.values, key=lambda name: posterior.types.get(name) == "text")
    if not names:
        return None
    known = answer.marginals.get(names[0]) or {str(value[0]): prob for value, prob in answer.values}
    value, prob = max(known.items(), key=lambda item: item[1])
    draws = posterior.draws
    estimates = marginal(posterior, names[0], "soft").estimates
    said = {spelled(datum): e for datum, e in estimates.items() if datum is not None}
    if value in said:
        low, high = said[value].low, said[value].high
    else:
        n = math.inf if draws.exact else draws.independent or 1.0
        low, high = intervals([0.0], [0.0], n=n, missing=draws.missing)[0]
    return low - near <= prob <= high + near


def _is_broken(posterior: Posterior, answer: Answer, near: float) -> bool:
    bound = posterior.draws.certificate
    if bound is None:
        return False
    most = bound.covered if bound.complete else float(np.logaddexp(bound.covered, bound.rest))
    covered = posterior.log_evidence if posterior.log_evidence is not None else bound.covered
    held = covered - near <= answer.log_evidence <= max(most, covered) + near
    return not held or answer.distance(posterior) > bound.missing_share + 10 * near


# ------------------------------------------------------------------------------- many runs


def trials(
    targets: Sequence[Entry], *, models: Path | None = None, methods: Sequence[str] = (), seeds: int = SEEDS,
    seed: int = 0, n: int | None = None, budget: float | None = None,
    progress: Callable[[Info], None] | None = None,
) -> Trials:  # fmt: skip
    """Every method on every target with so many seeds from `seed` on.

    By default the methods that say what the log evidence is and need no policy. Targets whose model is not
    there are left out, and named.
    """
    methods = methods or [m.name for m in METHODS.values() if m.evidence and not m.needs_policy]
    tell = progress or (lambda info: None)
    runs: list[Run] = []
    absent: dict[str, str] = {}
    each = len(methods) * seeds
    total = len(targets) * each
    for place, entry in enumerate(targets):
        tell(Info(False, f"{entry.kind}/{entry.name}", place / len(targets)))
        try:
            program = entry.prepared(models)
        except ModelError as problem:
            absent[f"{entry.kind}/{entry.name}"] = problem.diagnostics[0].message
            continue
        for k, (method, own) in enumerate(product(methods, range(seed, seed + seeds))):
            inside = _inside(tell, f"{entry.kind}/{entry.name}, {method}", place * each + k, total)
            inside(Info(False))
            same = bool(k % seeds) and runs[-1].whole
            again = (
                evolve(runs[-1], seed=own) if same else run(program, entry, method, own, n, budget, inside)
            )
            runs.append(again)
    return Trials(tuple(runs), absent, seeds)


def _inside(tell: Callable[[Info], None], name: str, done: int, total: int) -> Callable[[Info], None]:
    """What a run tells of itself, as a part of the whole."""
    return lambda info: tell(Info(False, name, (done + min(1.0, info.fraction or 0.0)) / total))


@frozen
class Trials:
    """Runs, and the targets that were left out with the reason."""

    runs: tuple[Run, ...]
    absent: dict[str, str]
    seeds: int

    @property
    def faults(self) -> list[str]:
        """Targets whose list is not the known answer, in words: a mistake of the package, whatever a verdict says."""
        found = {f"{r.kind}/{r.target}": r for r in self.runs if r.broken}
        return [
            f"{name}: what {r.method} lists is {abs(r.error or 0.0):.3g} nats and a TV of {r.tv or 0.0:.3g} from what is known"
            for name, r in found.items()
        ]

    @property
    def near_best(self) -> dict[str, bool]:
        """By target, whether `auto` was within `NEAR` of the best other method's error at equal seconds.

        Errors are mean total variations, those of draws scaled to the seconds of `auto` (error² times seconds is constant);
        a list counts where it took no longer than `NEAR` times as long. Empty where `auto` ran alone, or not at all.
        """
        found = {}
        for name in dict.fromkeys(f"{r.kind}/{r.target}" for r in self.runs):
            costs = {
                method: self._cost(
                    [r for r in self.runs if (f"{r.kind}/{r.target}", r.method) == (name, method)]
                )
                for method in dict.fromkeys(r.method for r in self.runs)
            }
            mine = costs.pop("auto", None)
            tv, seconds, _ = mine or (math.inf, 1.0, False)
            others = [
                error if whole else error * math.sqrt(spent / seconds)
                for error, spent, whole in filter(None, costs.values())
                if not whole or spent <= NEAR * seconds
            ]
            if others and any(r.method == "auto" for r in self.runs):
                found[name] = tv <= NEAR * min(others) + CHANCE
        return found

    @staticmethod
    def _cost(runs: Sequence[Run]) -> tuple[float, float, bool] | None:
        """Mean TV, mean seconds, and whether it is a list; None where a run drew nothing."""
        if not runs or any(r.tv is None for r in runs):
            return None
        return (
            float(np.mean([r.tv for r in runs if r.tv is not None])),
            float(np.mean([r.seconds for r in runs])),
            any(r.whole for r in runs),
        )

    def to_json(self) -> dict[str, Any]:
        """The stable shape of `plm compare --db --format json`."""
        by_class = [
            {"method": method, "class": kind, **summary(runs)}
            for method, kind, runs in self._groups(lambda r: r.kind)
        ]
        by_target = [
            {"method": method, "target": name, **summary(runs)}
            for method, name, runs in self._groups(lambda r: f"{r.kind}/{r.target}")
        ]
        found: dict[str, Any] = plain(
            {
                "seeds": self.seeds,
                "classes": by_class,
                "targets": by_target,
                "left_out": self.absent,
                "faults": self.faults,
                "near_best": self.near_best,
            }
        )
        return found

    def _groups(self, of: Callable[[Run], str]) -> list[tuple[str, str, list[Run]]]:
        groups: dict[tuple[str, str], list[Run]] = {}
        for one in self.runs:
            groups.setdefault((one.method, of(one)), []).append(one)
        for method in dict.fromkeys(r.method for r in self.runs):
            groups[method, "all"] = [r for r in self.runs if r.method == method]
        order = list(dict.fromkeys(method for method, _ in groups))
        return [(m, name, groups[m, name]) for method in order for m, name in groups if m == method]

    def tables(self) -> dict[str, list[tuple[str, ...]]]:
        """For people: by method a row of `HEAD` for each class."""
        found: dict[str, list[tuple[str, ...]]] = {}
        for method, kind, runs in self._groups(lambda r: r.kind):
            found.setdefault(method, []).append(_cells(kind, summary(runs)))
        return found


HEAD = ("class", "runs", "none", "error", "in SE", "TV", "Z held", "p held", "y held", "wrong", "trusted wrong", "sound doubted",
        "seconds", "tokens")  # fmt: skip


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """What became of runs: counts, medians of |error| (nats), of it in standard errors and of TV, shares, and mean costs."""
    whole = [r for r in runs if not r.failed]
    wrong = [r for r in whole if r.wrong]
    sound = [r for r in whole if not r.wrong]
    trusted = [r for r in whole if r.level in TRUSTED]
    return {
        "runs": len(runs),
        "none": len(runs) - len(whole),
        "error": _median(abs(r.error) for r in whole if r.error is not None),
        "errors": _median(r.errors for r in whole if r.errors is not None),
        "tv": _median(r.tv for r in whole if r.tv is not None),
        "held_evidence": _share(r.holds[0] for r in whole),
        "held_prob": _share(r.holds[1] for r in whole),
        "held_prediction": _share(r.holds[2] for r in whole),
        "wrong": len(wrong),
        "trusted": len(trusted),
        "trusted_wrong": sum(r.wrong for r in trusted),
        "sound": len(sound),
        "sound_doubted": sum(r.level == DOUBTED for r in sound),
        "seconds": float(np.mean([r.seconds for r in runs])),
        "tokens": float(np.mean([r.tokens for r in runs])),
        "levels": {name: sum(r.level == name for r in whole) for name in sorted({r.level for r in whole})},
    }


def _median(numbers: Iterable[float | None]) -> float | None:
    found = [x for x in numbers if x is not None]
    return float(np.median(found)) if found else None


def _share(held: Iterable[bool | None]) -> float | None:
    found = [x for x in held if x is not None]
    return sum(found) / len(found) if found else None


def _cells(kind: str, one: dict[str, Any]) -> tuple[str, ...]:
    whole = one["runs"] - one["none"]
    return (
        kind, f"{one['runs']}", f"{one['none']}", number_text(one["error"], 3), number_text(one["errors"], 1),
        number_text(one["tv"], 3), _percent(one["held_evidence"]), _percent(one["held_prob"]),
        _percent(one["held_prediction"]),
        _percent(one["wrong"] / whole if whole else None), f"{one['trusted_wrong']} of {one['trusted']}",
        f"{one['sound_doubted']} of {one['sound']}", number_text(one["seconds"], 2), f"{one['tokens']:.0f}",
    )  # fmt: skip


def _percent(share: float | None) -> str:
    return "-" if share is None or math.isnan(share) else f"{share:.0%}"
