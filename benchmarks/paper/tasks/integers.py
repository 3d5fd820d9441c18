"""Random integers: a policy that emits an integer with a chosen distribution.

Four targets: uniform over 0..100, Poisson and geometric cut to 0..100, and integers from 1 to
99 whose first digit follows Benford's law. The support is small, so the KL of a policy is
summed over it and not estimated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.paper.cells import Cell
from benchmarks.paper.policies import guide, train, untrained
from benchmarks.paper.task import Bench, Metric, Outcome, Row, Task

if TYPE_CHECKING:
    from posterior_lm.api.query import Query
    from posterior_lm.infer.guide import PriorGuide
    from posterior_lm.target.target import Target
    from posterior_lm.target.values import Value

PROGRAMS: Mapping[str, tuple[str, Row]] = {
    "uniform": ("random_integer", {"low": 0, "high": 100}),
    "poisson": ("random_poisson", {"mean": 20.0}),
    "geometric": ("random_geometric", {"p": 0.05}),
    "benford": ("random_benford", {"most": 99}),
}
"""Each target's program and the row that it is asked about."""


def known_rows(target: Target, row: Row, count: int, seed: int) -> list[dict[str, object]]:
    """Rows with integers drawn from the target itself: what supervised training is given."""
    values, log_p = listed(target)
    rng = np.random.default_rng([seed, 11])
    drawn = rng.choice(len(values), size=count, p=np.exp(log_p))
    return [{**row, "n": values[k].datum} for k in drawn]


def listed(target: Target) -> tuple[list[Value], np.ndarray]:
    """Every value of the support, and its log probability (V,) under the target, nats."""
    values = [target.value_of("n", ids) for ids in target.latents[0].support.values()]
    log_p = target.log_reward({"n": values})
    return values, log_p - np.logaddexp.reduce(log_p)


def divergence(log_q: np.ndarray, log_p: np.ndarray) -> float:
    """KL(q ‖ p) in nats over the V values of the support, (V,) each; values that q never draws add nothing."""
    alive = np.isfinite(log_q)
    return float(np.sum(np.exp(log_q[alive]) * (log_q[alive] - log_p[alive])))


def run(bench: Bench, cell: Cell) -> Outcome:
    """One method on one target."""
    program, row = PROGRAMS[cell.setting]
    query = bench.query(program)
    bound = query.given(row)
    if cell.method == "prompting":
        return _prompting(bench, cell, bound)
    size = bench.size("integers")
    target = bound.target()
    made: AbstractContextManager[PriorGuide]
    if cell.method == "base":
        made = untrained(query, target)
        note = ""
    else:
        known = cell.method == "sft"
        rows: list[Row] = list(known_rows(target, row, size.train, cell.seed)) if known else [row]
        trained = train(bench, cell, cell.method, query, rows)
        made = nullcontext(guide(query, target, trained.folder))
        note = trained.said
    values, log_p = listed(target)
    with made as policy:
        log_q = policy.log_prob({"n": values})
        drawn = policy.sample(np.random.default_rng([cell.seed, 12]), size.draws).values["n"]
    accepts = target.latents[0].support.accepts
    return Outcome(
        {
            "share_valid": float(np.mean([accepts(v.ids) for v in drawn])),
            "kl": divergence(log_q, log_p),
            "kl_draws": _of_draws([v.datum for v in drawn], values, log_p),
        },
        rows=1,
        shown={"values": [v.datum for v in values], "probs": np.exp(log_q).round(6).tolist(),
               "target": np.exp(log_p).round(6).tolist()},
        note=note,
    )  # fmt: skip


def _prompting(bench: Bench, cell: Cell, bound: Query) -> Outcome:
    """The frozen model without a mask: what it says is an integer of the range, or it is not."""
    values, log_p = listed(bound.target())
    drawn = bound.using("prompting", masked=False).draw(bench.size("integers").draws, seed=cell.seed).draws
    valid = [v.datum for v, r in zip(drawn.values["n"], drawn.log_reward, strict=True) if np.isfinite(r)]
    metrics = {"share_valid": len(valid) / len(drawn)}
    if valid:
        metrics["kl_draws"] = _of_draws(valid, values, log_p)
    counts = [valid.count(v.datum) / max(1, len(valid)) for v in values]
    return Outcome(metrics, rows=1, shown={"values": [v.datum for v in values], "probs": counts,
                   "target": np.exp(log_p).round(6).tolist()})  # fmt: skip


def _of_draws(drawn: Sequence[str | int], values: Sequence[Value], log_p: np.ndarray) -> float:
    from posterior_lm.metrics.numbers import kl_to_target

    found = kl_to_target(list(drawn), {v.datum: float(p) for v, p in zip(values, log_p, strict=True)})
    return math.inf if found.kl is None else found.kl


TASK = Task(
    name="integers",
    title="Random integers",
    metrics=(
        Metric("share_valid", "share of draws that are integers of the range", "%", "higher", 1),
        Metric("kl", "KL(policy ‖ target), summed over the range", "nats", "lower", 4),
        Metric("kl_draws", "the same from draws, those that are valid", "nats", "lower", 4),
    ),
    settings=lambda bench: tuple(PROGRAMS),
    methods=lambda bench, setting: ("base", "prompting", "sft", "ppo", "gflownet"),
    run=run,
)
