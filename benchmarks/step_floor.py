"""A training step beside the model calls inside it.

    OMP_WAIT_POLICY=passive python -m benchmarks.step_floor [--target middle] [--steps 12] [--out FILE]

Every forward pass of the step (simulation, rollout, reward, teacher forcing) and
every backward pass goes through two places, which are timed; what remains is
everything else: supports, choices, binding, the objective, the optimiser. The
ratio is the step's seconds over those of the bare passes, on the same tokens, in
one run. Each stage is measured apart.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.exactness import trainer_of
from benchmarks.targets import known_target
from posterior_lm.lm.hf.forward import Forward
from posterior_lm.lm.hf.head import Places
from posterior_lm.target.validate import validate_data
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.rows import Rows
from posterior_lm.train.settings import settings_of
from posterior_lm.train.simulate import Simulator

AIM = 1.5


class Clock:
    """Seconds inside the passes, nested calls counted once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.depth = 0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            self.depth += 1
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.depth -= 1
                if self.depth == 0:
                    self.seconds += time.perf_counter() - began

        return run


@contextmanager
def timed_passes(clock: Clock) -> Iterator[None]:
    """Forward and backward passes are timed inside this block."""
    logits, places, read, backward = Forward.logits, Forward.places, Places.read, torch.Tensor.backward
    fill = Forward.fill
    Forward.fill = clock.timed(fill)  # type: ignore[method-assign]
    Forward.logits = clock.timed(logits)  # type: ignore[method-assign]
    Forward.places = clock.timed(places)  # type: ignore[method-assign]
    Places.read = clock.timed(read)  # type: ignore[method-assign]
    torch.Tensor.backward = clock.timed(backward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Forward.logits, Forward.places, Places.read = logits, places, read  # type: ignore[method-assign]
        Forward.fill = fill  # type: ignore[method-assign]
        torch.Tensor.backward = backward  # type: ignore[method-assign]


def measure(name: str, stage: str, steps: int) -> dict[str, float]:
    """The ratio of one stage's steps, and what goes into it."""
    known = known_target(name)
    graph = known.query.graph
    program = known.query.prepared
    models = program.models
    data = [validate_data(graph, row) for row in known.train]
    settings = settings_of({"sleep": 1.0 if stage == "sleep" else 0.0, "steps": 10_000, "seeds": 0})
    rows = Rows(program, data)
    lm = next(iter(rows.readings(0).values())).lm
    adapter = Adapter.new(models[lm], rank=settings.rank, seed=0)
    trainer = trainer_of(rows, adapter, settings, Simulator(program, data, alike=True))
    for _ in range(4):
        trainer.step()
    whole, bare, draws = [], [], 0.0
    for _ in range(steps):
        clock = Clock()
        with timed_passes(clock):
            began = time.perf_counter()
            progress = trainer.step()
            whole.append(time.perf_counter() - began)
        bare.append(clock.seconds)
        draws += progress.draws_per_second * whole[-1]
    adapter.close()
    # Four steps share one simulation, so single steps say little: sums do.
    return {
        "ratio": float(np.sum(whole) / np.sum(bare)),
        "step_seconds": float(np.mean(whole)),
        "bare_seconds": float(np.mean(bare)),
        "draws_per_second": draws / float(np.sum(whole)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Training steps beside the bare passes inside them.")
    parser.add_argument("--target", default="middle")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = {stage: measure(args.target, stage, args.steps) for stage in ("sleep", "balance")}
    for stage, row in found.items():
        print(f"{stage:8s}  step {row['step_seconds']:.3f} s, bare passes {row['bare_seconds']:.3f} s, "
              f"ratio {row['ratio']:.2f} (aim {AIM}), {row['draws_per_second']:.0f} draws/s")  # fmt: skip
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"target": args.target, "stages": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
