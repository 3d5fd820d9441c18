"""Seconds and memory of a balancing step against rows, draws, latent length and suffix length.

    OMP_WAIT_POLICY=passive python -m benchmarks.scaling [--steps 6] [--out benchmarks/results/scaling.json]

Each point is a process of its own, so its memory is its own. The program is an
infilling with a latent of exactly so many tokens and an observed text of about so
many; the figure that should stay flat, or fall, is seconds per draw.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = """
lm base = "tiny"
program scaled(opening: text, ending: text) {{
  latent middle: text(tokens={n}..{n}, end="free") ~ base(opening)
  observe [" ", ending] ~ base(opening, middle)
  guide middle ~ base("Beginning: ", opening, "\\nEnding: ", ending, "\\nMiddle:")
}}
"""
SENTENCE = "She went to the park with a friend."
POINT = {"rows": 8, "draws": 16, "latent": 8, "suffix": 8}
SWEEPS = {
    "rows": (1, 2, 4, 8, 16),
    "draws": (2, 4, 8, 16, 32),
    "latent": (4, 8, 16, 32),
    "suffix": (8, 16, 32, 64),
}


def point(rows: int, draws: int, latent: int, suffix: int, steps: int) -> dict[str, float]:
    """Seconds per step and per draw of one setting, and the process's peak memory in MiB."""
    from benchmarks.exactness import trainer_of
    from posterior_lm.api.query import loads
    from posterior_lm.target.validate import validate_data
    from posterior_lm.train.adapter import Adapter
    from posterior_lm.train.rows import Rows
    from posterior_lm.train.settings import settings_of
    from posterior_lm.train.simulate import Simulator

    query = loads(PROGRAM.format(n=latent))
    graph = query.graph
    names = ("Tom", "Mia", "Leo", "Anna", "Ben", "Kate", "Max", "Lucy")
    ending = " ".join([SENTENCE] * max(1, suffix // 9))
    data = [
        validate_data(graph, {"opening": f"{a} and {b} played in the park.", "ending": ending})
        for a in names for b in names if a != b
    ]  # fmt: skip
    program = query.prepared
    models = program.models
    settings = settings_of(
        {
            "sleep": 0.0,
            "rows": rows,
            "draws": draws,
            "steps": 10_000,
            "replayed": 0.0,
            "simulated": 0.0,
            "seeds": 0,
        }
    )
    book = Rows(program, data)
    adapter = Adapter.new(models["base"], rank=settings.rank, seed=0)
    trainer = trainer_of(book, adapter, settings, Simulator(program, data, alike=True))
    for _ in range(2):
        trainer.step()
    began = time.perf_counter()
    for _ in range(steps):
        trainer.step()
    seconds = (time.perf_counter() - began) / steps
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"step_seconds": seconds, "draw_milliseconds": 1e3 * seconds / (rows * draws), "peak_mib": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description="How a balancing step grows.")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point is not None:
        print(json.dumps(point(**args.point, steps=args.steps)))
        return
    results = []
    for name, values in SWEEPS.items():
        for value in values:
            asked = json.dumps({**POINT, name: value})
            command = [
                sys.executable,
                "-m",
                "benchmarks.scaling",
                "--steps",
                str(args.steps),
                "--point",
                asked,
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row = {"sweep": name, "value": value, **json.loads(done.stdout.splitlines()[-1])}
            results.append(row)
            print(f"{name:7s} {value:4d}  {row['step_seconds']:.3f} s a step, {row['draw_milliseconds']:.2f} ms a draw, "
                  f"{row['peak_mib']:.0f} MiB", flush=True)  # fmt: skip
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"point": POINT, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
