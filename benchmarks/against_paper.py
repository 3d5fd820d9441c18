"""Our recipe and that of Hu et al. (2024) in one run: trajectories a second, and seconds to a total variation.

    OMP_WAIT_POLICY=passive python -m benchmarks.against_paper [--target middle] [--until 0.2] [--patience 8]
        [--batches 64,256] [--cpu] [--cache DIR] [--out benchmarks/results/against_paper.json]

Same program, model, adapter, rank, rows and held-out rows. Ours is the default
recipe with its schedule shortened to `--steps`, since it is to be stopped at
`--until`. Then the released recipe trains until it is as near or has had
`--patience` times as many seconds; if it is not there by then, the ratio is a lower
bound and says so. Speed is compared at equal numbers of trajectories a step, on
the balancing steps, which do the same work: sample, score, one gradient. With `--cpu`
seconds are those of the process, which other work on the machine does not shorten.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.exactness import listed, trainer_of
from benchmarks.paper_recipe import Recipe
from benchmarks.quality import HeldOut
from benchmarks.targets import KnownTarget, known_target
from posterior_lm.target.validate import validate_data
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.guide import PolicyGuide
from posterior_lm.train.rows import Rows
from posterior_lm.train.settings import settings_of
from posterior_lm.train.simulate import Simulator
from posterior_lm.train.trainer import Trainer

RANK = 32
SPEED_STEPS = 8


def ours(known: KnownTarget, held_out: HeldOut, options: dict[str, object]) -> tuple[Trainer, Adapter]:
    """A trainer of ours on the target's rows."""
    graph, models = known.query.graph, dict(held_out.models)
    program = known.query.prepared.with_models(models)
    data = [validate_data(graph, row) for row in known.train]
    settings = settings_of({"rank": RANK, **options})
    rows = Rows(program, data)
    lm = next(iter(rows.readings(0).values())).lm
    adapter = Adapter.new(models[lm], rank=settings.rank, seed=settings.seed)
    return trainer_of(rows, adapter, settings, Simulator(program, data, alike=True)), adapter


def tv(held_out: HeldOut, adapter: Adapter) -> float:
    return held_out.measure(lambda target: PolicyGuide.of(target, adapter), draws=20).figures()["tv_mean"]


def time_to(
    held_out: HeldOut, step: Any, adapter: Adapter, until: float, every: float, limit: float
) -> dict[str, Any]:
    """Training seconds until the mean total variation is at most `until`; evaluation is not counted."""
    spent, due, trace = 0.0, every, []
    while True:
        began = time.perf_counter()
        step()
        spent += time.perf_counter() - began
        if spent < due and spent < limit:
            continue
        due += every
        trace.append((round(spent, 1), round(tv(held_out, adapter), 4)))
        print(json.dumps(trace[-1]), flush=True)
        if trace[-1][1] <= until or spent >= limit:
            return {"seconds": spent, "reached": trace[-1][1] <= until, "trace": trace}


def speed(step: Any, trajectories: int) -> float:
    """Trajectories a second over a few steps, the first two aside."""
    for _ in range(2):
        step()
    began = time.perf_counter()
    for _ in range(SPEED_STEPS):
        step()
    return SPEED_STEPS * trajectories / (time.perf_counter() - began)


def speeds_at(known: KnownTarget, held_out: HeldOut, batch: int, rate: float) -> dict[str, float]:
    """Trajectories a second of both recipes at so many a step: ours are 16 draws of each row."""
    rows = max(1, batch // 16)
    trainer, adapter = ours(
        known, held_out,
        {"sleep": 0.0, "rows": rows, "draws": batch // rows, "seeds": 0, "simulated": 0.0, "steps": 10_000},
    )  # fmt: skip
    fast = speed(trainer.step, batch)
    adapter.close()
    adapter = Adapter.new(held_out.models["base"], rank=RANK, seed=0)
    slow = speed(Recipe(known, adapter, batch, rate, 0).step, batch)
    adapter.close()
    found = {"batch": batch, "ours": fast, "theirs": slow, "faster": fast / slow}
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Our recipe beside the released one.")
    parser.add_argument("--target", default="middle")
    parser.add_argument("--until", type=float, default=0.2)
    parser.add_argument("--steps", type=int, default=100, help="of our schedule")
    parser.add_argument("--patience", type=float, default=8.0)
    parser.add_argument("--rate", type=float, default=1e-3, help="the released recipe's learning rate")
    parser.add_argument("--batch", type=int, default=64, help="of the released recipe while it trains")
    parser.add_argument("--batches", default="64,256", help="trajectories a step at which speed is compared")
    parser.add_argument("--cpu", action="store_true", help="seconds of the process, not of the wall")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.cpu:
        time.monotonic = time.perf_counter = time.process_time
    known = known_target(args.target)
    held_out = listed(HeldOut.of(known, cache=args.cache))

    trainer, adapter = ours(known, held_out, {"steps": args.steps})
    mine = time_to(held_out, trainer.step, adapter, args.until, 5.0, 600.0)
    adapter.close()
    adapter = Adapter.new(held_out.models["base"], rank=RANK, seed=0)
    recipe = Recipe(known, adapter, args.batch, args.rate, 0)
    theirs = time_to(held_out, recipe.step, adapter, args.until, 30.0, args.patience * mine["seconds"])
    adapter.close()

    speeds = [speeds_at(known, held_out, int(batch), args.rate) for batch in args.batches.split(",")]
    result = {
        "target": args.target, "batch": args.batch, "until": args.until,
        "ours": mine, "theirs": theirs,
        "sooner": theirs["seconds"] / mine["seconds"], "sooner_is_a_lower_bound": not theirs["reached"],
        "clock": "cpu" if args.cpu else "wall", "threads": torch.get_num_threads(), "trajectories_per_second": speeds,
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
