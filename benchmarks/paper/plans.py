"""How much of everything a bench does: rows, draws, training steps, as data.

Steps, never seconds: a figure can then be made again on another machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import asdict, field, frozen

TRAINED = ("sft", "ppo", "gflownet")
"""Methods that learn weights; their learning rates are searched for alike."""
RATES = (0.001, 0.004, 0.016)
"""Learning rates that are tried for each trained method of each task on `tiny`."""


@frozen(kw_only=True)
class Size:
    """The size of one task.

    `train` and `test` rows, `draws` of each test row, `steps` of training of each trained
    method, `search` steps for each of `rates` before (0: the first rate is taken), `fit`
    further settings of a fit, `more` what only this task has.
    """

    train: int
    test: int
    draws: int
    steps: int
    search: int = 0
    rates: tuple[float, ...] = RATES
    fit: Mapping[str, Any] = field(factory=dict)
    more: Mapping[str, Any] = field(factory=dict)


@frozen(kw_only=True)
class Plan:
    """A size for every task, and how many seeds."""

    name: str
    seeds: int
    sizes: Mapping[str, Size]

    def to_json(self) -> dict[str, Any]:
        """Every number but the seeds: more seeds only add cells."""
        return {"name": self.name, "sizes": {task: asdict(size) for task, size in self.sizes.items()}}


FULL = Plan(
    name="full",
    seeds=3,
    sizes={
        "integers": Size(
            train=512, test=1, draws=2000, steps=120, search=24,
            fit={"rows": 1, "draws": 128, "certify_rows": 0, "certify_draws": 50},
        ),
        "continuation": Size(
            train=200, test=16, draws=40, steps=200, search=16,
            fit={"rows": 16, "draws": 16, "certify_rows": 0, "certify_draws": 50},
            more={"betas": [1.25, 1.5, 2.0], "chain": 300},
        ),
        "infilling": Size(
            train=400, test=8, draws=200, steps=320, search=160,
            fit={"certify_rows": 0, "certify_draws": 50},
            more={"listed": 1500, "chain": 400, "reverse": {"steps": 120, "pairs": 64}},
        ),
        "subjectivity": Size(
            train=50, test=120, draws=16, steps=80, search=80,
            fit={"certify_rows": 0, "certify_draws": 50, "sleep": 0.0, "simulated": 0.0, "held_out": 0},
            more={"labels": [10, 20, 50], "rounds": 2},
        ),
        "arithmetic": Size(
            train=400, test=100, draws=10, steps=120, search=16,
            fit={"certify_rows": 0, "certify_draws": 50, "sleep": 0.0, "simulated": 0.0, "held_out": 0},
            more={"demos": 50, "shots": 2},
        ),
    },
)  # fmt: skip
"""Between two and three hours on two cores with `tiny`."""

QUICK = Plan(
    name="quick",
    seeds=1,
    sizes={
        "integers": Size(
            train=128, test=1, draws=200, steps=12,
            rates=(0.004,), fit={"rows": 1, "draws": 64, "certify_rows": 0, "certify_draws": 10},
        ),
        "continuation": Size(
            train=40, test=3, draws=10, steps=20, rates=(0.004,),
            fit={"rows": 8, "draws": 8, "certify_rows": 0, "certify_draws": 10},
            more={"betas": [1.5], "chain": 100},
        ),
        "infilling": Size(
            train=60, test=2, draws=60, steps=12, rates=(0.004,),
            fit={"pairs": 24, "rows": 4, "draws": 8, "certify_rows": 0, "certify_draws": 10},
            more={"listed": 600, "chain": 100, "reverse": {}},
        ),
        "subjectivity": Size(
            train=10, test=40, draws=16, steps=16, rates=(0.004,),
            fit={"rows": 8, "draws": 8, "certify_rows": 0, "certify_draws": 10, "sleep": 0.0,
                 "simulated": 0.0, "held_out": 0},
            more={"labels": [10], "rounds": 1},
        ),
        "arithmetic": Size(
            train=40, test=20, draws=5, steps=10, rates=(0.004,),
            fit={"rows": 8, "draws": 8, "certify_rows": 0, "certify_draws": 10, "sleep": 0.0,
                 "simulated": 0.0, "held_out": 0},
            more={"demos": 10, "shots": 1},
        ),
    },
)  # fmt: skip
"""Every path of the full one within minutes; its figures are of no worth."""

SMALL = Plan(
    name="small",
    seeds=1,
    sizes={
        "integers": Size(
            train=512, test=1, draws=300, steps=60,
            rates=(0.001,), fit={"rows": 1, "draws": 64, "certify_rows": 0, "certify_draws": 50},
        ),
        "continuation": Size(
            train=200, test=16, draws=16, steps=40, rates=(0.001,),
            fit={"pairs": 16, "rows": 4, "draws": 8, "certify_rows": 0, "certify_draws": 10, "budget": 1800.0},
            more={"betas": [1.5], "chain": 100},
        ),
        "infilling": Size(
            train=200, test=20, draws=40, steps=40, rates=(0.001,),
            fit={"pairs": 16, "rows": 4, "draws": 8, "certify_rows": 0, "certify_draws": 10, "budget": 1800.0},
            more={"listed": 600, "chain": 100, "reverse": {}},
        ),
        "subjectivity": Size(
            train=50, test=200, draws=8, steps=20, rates=(0.001,),
            fit={"pairs": 10, "rows": 4, "draws": 8, "certify_rows": 0, "certify_draws": 10, "sleep": 0.0,
                 "simulated": 0.0, "held_out": 0},
            more={"labels": [10, 20, 50], "rounds": 1},
        ),
        "arithmetic": Size(
            train=100, test=20, draws=4, steps=40, rates=(0.001,),
            fit={"pairs": 8, "rows": 4, "draws": 8, "certify_rows": 0, "certify_draws": 10, "sleep": 0.0,
                 "simulated": 0.0, "held_out": 0},
            more={"demos": 50, "shots": 2, "examples": 6},
        ),
    },
)  # fmt: skip
"""For a model of a hundred million parameters on a processor: one seed, few rows, one rate for all.

A fit of texts also ends after half an hour, since looks at a policy take longer than its steps; a cell says how many steps that were.
"""
