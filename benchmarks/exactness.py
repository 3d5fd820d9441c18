"""How exact a trained policy is: five targets with known posteriors, every objective.

    OMP_WAIT_POLICY=passive python -m benchmarks.exactness [--targets middle,plate] [--objectives vargrad,tb]
        [--steps N] [--trial 0.02] [--seed S] [--cache DIR] [--out benchmarks/results/exactness.json]

For each target the policy is trained with the default recipe on rows from the
world, and compared with the exact posterior of held-out rows. The sleep phase is
the same whatever the objective, so it is run once and every objective goes on from
there; seconds count both stages, and no evaluation. With one process a core,
`OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m benchmarks.exactness`, every step is shared.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import numpy as np
import torch

from benchmarks.quality import HeldOut
from benchmarks.targets import PROGRAMS, known_target
from posterior_lm.infer.methods import OBJECTIVES, losses
from posterior_lm.target.validate import validate_data
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.enumerated import EnumeratedRows
from posterior_lm.train.guide import PolicyGuide
from posterior_lm.train.judge import Judge
from posterior_lm.train.parallel import World, join_world
from posterior_lm.train.rows import Rows, split
from posterior_lm.train.settings import FitSettings, settings_of
from posterior_lm.train.simulate import Simulator
from posterior_lm.train.sleep_phase import SleepPhase
from posterior_lm.train.trainer import Trainer

AIM = {"tv": 0.08, "worst": 0.15, "ess": 0.9, "seconds": 180}


CANDIDATES, ROWS = 8, 6
"""Held-out rows that are listed, and how many of them are compared at most."""
UNLISTED = 0.05
"""Rows whose listing leaves out more than this share are passed over: their distance would be too kind."""


def listed(held_out: HeldOut) -> HeldOut:
    kept = [k for k, listing in enumerate(held_out.listings) if listing.rest <= UNLISTED][:ROWS]
    return HeldOut(
        tuple(held_out.targets[k] for k in kept), tuple(held_out.listings[k] for k in kept), held_out.models
    )


def trainer_of(
    rows: Rows, adapter: Adapter, settings: FitSettings, simulator: Simulator, world: World | None = None,
    *, looks: bool = False,
) -> Trainer:  # fmt: skip
    """A trainer for the rows, with the stages that `plm fit` would run, and with its `looks` by rows that are held out."""
    numbers, held_out = split(len(rows), settings.held_out if looks else 0, settings.seed)
    simulates = settings.sleep != 0 and not simulator.unsimulated
    sleep_phase = SleepPhase(rows, numbers, simulator, settings.pairs, settings.seed) if simulates else None
    enumerated, world = None, world or World()
    if settings.sleep != 0 and settings.listed != 0:
        enumerated = EnumeratedRows.of(rows, numbers, settings.pairs, settings.seed, world)
    exact = sleep_phase is not None and simulator.exact
    resolved = settings.resolved(exact=exact, listed=0 if enumerated is None else len(enumerated.numbers))
    judge = Judge(rows, held_out or numbers, settings.seed, world) if looks else None
    return Trainer(rows, numbers, adapter, resolved, sleep_phase, world, simulator, enumerated, judge)


def run(
    name: str, objectives: list[str], options: dict[str, object], cache: Path, world: World
) -> list[dict[str, object]]:
    """Train and measure one target; a result for each objective, of the process that leads."""
    known = known_target(name, held_out=CANDIDATES)
    held_out = listed(HeldOut.of(known, cache=cache)) if world.is_main else None
    graph = known.query.graph
    program = known.query.prepared
    models = program.models
    data = [validate_data(graph, row) for row in known.train]
    results: list[dict[str, object]] = []
    slept: dict[bool, tuple[dict, dict, dict]] = {}
    for objective in objectives:
        settings = settings_of({**options, "objective": objective})
        rows = Rows(program, data)
        simulator = Simulator(program, data, alike=True)
        lm = next(iter(rows.readings(0).values())).lm
        adapter = Adapter.new(models[lm], rank=settings.rank, alpha=settings.alpha, seed=settings.seed)
        trainer = trainer_of(rows, adapter, settings, simulator, world, looks=True)
        if OBJECTIVES[objective].needs_prefixes and name == "tabular":
            adapter.close()  # a value of a finite type has no prefixes that are values
            continue
        # What is listed of a row is stored with the rewards of its prefixes where the objective needs them.
        lists = trainer.enumerated is not None and trainer.enumerated.cells is None
        kind = lists and OBJECTIVES[objective].needs_prefixes
        if kind in slept:
            trainer.restore(*slept[kind])
        progress = None
        while not trainer.finished:
            if kind not in slept and trainer.stage() == "balance":
                trainer.forget()
                slept[kind] = (trainer.tensors(), trainer.replay.to_arrays(), trainer.state())
            progress = trainer.step()
        trainer.settle()
        if held_out is not None:
            report = held_out.measure(lambda target, adapter=adapter: PolicyGuide.of(target, adapter))
            assert progress is not None
            results.append(
                {"target": name, "objective": objective, "seconds": round(trainer.seconds, 1),
                 "steps": trainer.steps_done, "training_ess": progress.ess, **report.figures()}
            )  # fmt: skip
            print(json.dumps(results[-1]), flush=True)
        world.wait()
        adapter.close()
    return results


def table(results: list[dict[str, object]]) -> str:
    """The results as Markdown, beside what is aimed at."""
    lines = [
        f"| target | objective | mean TV (aim {AIM['tv']}) | worst row ({AIM['worst']}) | ESS/N ({AIM['ess']}) | seconds ({AIM['seconds']}) |",
        "|---|---|---|---|---|---|",
    ]
    for r in results:
        lines.append(
            f"| {r['target']} | {r['objective']} | {r['tv_mean']:.3f} | {r['tv_worst']:.3f} | {r['ess_share_mean']:.2f} | {r['seconds']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Total variation of trained policies to exact posteriors.")
    parser.add_argument("--targets", default=",".join(PROGRAMS))
    parser.add_argument("--objectives", default=",".join(losses()))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--trial", type=float, help="share of the training of one trial; 0: nothing is tried")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path(".cache/listings"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    options: dict[str, object] = {"seed": args.seed}
    options |= {name: value for name in ("steps", "trial") if (value := getattr(args, name)) is not None}
    world, results = join_world(), []
    for name in args.targets.split(","):
        results += run(name, args.objectives.split(","), options, args.cache, world)
    if not world.is_main:
        return
    print(table(results))
    if args.out is not None:
        machine = {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
                   "processes": world.size, "torch": torch.__version__, "numpy": np.__version__}  # fmt: skip
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(
            json.dumps({"machine": machine, "options": options, "results": results}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
