"""Rows a second of `plm score --out` with one worker and two, and the peak memory of whoever reads and writes them.

`python -m benchmarks.many_rows --rows 10000 100000`: a program that scores three terms of a row without a model, so that
what is measured is reading, sending and writing; starts are included. `--lm` scores with a model. Peak memory is that of
the command's own process and of its largest worker, by getrusage.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FINITE = """
program rate(x: int(0..9), y: int(0..30)) {
  latent z: int(0..5) ~ uniform(0, 5)
  observe y ~ poisson(1 + x + z)
  factor 0.1 * z
}
"""
TEXTS = """
lm base = "tiny"

program said(x: int(0..9), y: int(0..30)) {
  latent z: int(0..5) ~ uniform(0, 5)
  observe " yes." ~ base("Is ", x, " more than ", z, "?")
}
"""


def measured(folder: Path, rows: int, workers: int) -> dict[str, object]:
    """Seconds, rows a second and peak MiB of one run in a process of its own."""
    out = folder / f"out-{rows}-{workers}"
    command = [sys.executable, "-m", "posterior_lm", "score", folder / "p.plm", "--data", folder / f"{rows}.jsonl",
               "--value", "z=2", "--out", out, "--workers", workers, "--shard-rows", 1000]  # fmt: skip
    began = time.monotonic()
    process = subprocess.Popen([str(part) for part in command], stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    if status:
        raise SystemExit(f"{command} ended with {status}")
    # What a process has used includes, of its children, the largest one alone, and apart from its own.
    return {"rows": rows, "workers": workers, "seconds": round(seconds, 1), "rows_per_second": round(rows / seconds),
            "peak_mib": round(used.ru_maxrss / 1024)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--lm", action="store_true", help="score with `tiny`")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "p.plm").write_text(TEXTS if asked.lm else FINITE)
        for rows in asked.rows:
            with open(folder / f"{rows}.jsonl", "w") as file:
                file.writelines(json.dumps({"x": k % 10, "y": k % 31}) + "\n" for k in range(rows))
            for workers in asked.workers:
                print(json.dumps({**measured(folder, rows, workers), "load": os.getloadavg()[0]}), flush=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(json.dumps({"largest_process_mib": round(peak)}))


if __name__ == "__main__":
    main()
