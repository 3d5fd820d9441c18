"""Calls at the number of threads that is chosen, beside the fastest of one and all threads by hand.

    OMP_WAIT_POLICY=passive python -m benchmarks.threads [--model tiny] [--dtype float32] [--out FILE]

The choice is measured anew in a cache folder of its own. Then rounds in turn: a decode call of 64 rows
with the choice as the package makes it, the same call with one thread, and with all. The ratio is of the
medians, the choice's over the smaller of the others; and likewise for a scoring and a training pass. Run it without
OMP_NUM_THREADS, which would settle the choice.

`--data-rows N` measures instead `plm run --data` of so many rows: one process of one thread, one of all, and
two of one thread with half of the rows each, starts included; and whether the answers are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from posterior_lm.lm.hf.threads import COLUMNS, FIXED_BY, PHASES, WORK, giving, is_fixed, threads, threads_of
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.resolve import load_model

ROOT = Path(__file__).resolve().parent.parent
AIM = 1.15


@contextmanager
def measured_anew() -> Iterator[None]:
    """An empty cache folder inside this block, so that the choice is the machine's today."""
    before = os.environ.get("POSTERIOR_LM_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["POSTERIOR_LM_CACHE"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["POSTERIOR_LM_CACHE"]
            else:
                os.environ["POSTERIOR_LM_CACHE"] = before


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def chosen_over_best(model: TransformersModel, rounds: int = 15) -> dict[str, dict[str, float]]:
    """By phase: the choice, how long it took to find, and its calls over the fastest of one and all threads."""
    forward, all_threads = model._forward, torch.get_num_threads()
    found = {}
    for phase in PHASES:
        work = WORK[phase](forward)
        columns = None if phase == "backward" else COLUMNS[phase]

        def chosen(work: Callable[[], object] = work, columns: int | None = columns) -> None:
            with threads(forward, columns):
                work()

        with measured_anew():
            finding = seconds(chosen)
        times: dict[str, list[float]] = {"chosen": [], "one": [], "all": []}
        for turn in range(rounds + 1):
            for name, number in (("chosen", None), ("one", 1), ("all", all_threads)):
                with giving(number or all_threads):
                    took = seconds(chosen if number is None else work)
                if turn:
                    times[name].append(took)
        medians = {name: statistics.median(each) for name, each in times.items()}
        found[phase] = {
            "threads": threads_of(forward.module, model.identity).used[phase],
            "of": all_threads,
            "seconds_to_find": finding,
            **{f"{name}_ms": 1e3 * each for name, each in medians.items()},
            "ratio": medians["chosen"] / min(medians["one"], medians["all"]),
        }
    return found


def processes(rows: int, draws: int = 200) -> dict[str, object]:
    """Seconds of story infilling over so many rows by one process and by two, and whether they answer alike."""
    known = (ROOT / "programs/data/story_infilling.jsonl").read_text().splitlines()
    lines = [known[k % len(known)] for k in range(rows)]
    env = {name: value for name, value in os.environ.items() if name not in FIXED_BY}
    env |= {"PYTHONPATH": str(ROOT)}
    command = [
        *(sys.executable, "-m", "posterior_lm", "run", str(ROOT / "programs/story_infilling.plm")),
        *("-n", str(draws), "--format", "json", "--data"),
    ]

    def asked(parts: list[list[str]], number: int) -> tuple[float, list[object]]:
        with tempfile.TemporaryDirectory() as folder:
            running = []
            began = time.perf_counter()
            for k, part in enumerate(parts):
                path = Path(folder) / f"{k}.jsonl"
                path.write_text("\n".join(part) + "\n")
                own = [*command, str(path), "--threads", str(number)]
                running.append(subprocess.Popen(own, env=env, stdout=subprocess.PIPE))
            answers = [json.loads(one.communicate()[0]) for one in running]
            return time.perf_counter() - began, [answer for some in answers for answer in some]

    half = rows // 2
    one, answers = asked([lines], 1)
    two, again = asked([lines[:half], lines[half:]], 1)
    every, _ = asked([lines], os.cpu_count() or 1)
    return {
        "rows": rows, "one_of_one": one, "one_of_all": every, "two_of_one": two,
        "ratio": min(one, every) / two, "same": answers == again, "load": os.getloadavg()[0],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["tiny"], help="names or folders")
    parser.add_argument("--dtype")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--data-rows", type=int, metavar="N")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.data_rows:
        print(json.dumps(processes(args.data_rows)))
        return
    if is_fixed() or torch.get_num_threads() == 1:
        sys.exit("threads: there is nothing to choose, with one core or with OMP_NUM_THREADS set")
    whole: dict[str, object] = {
        "torch": torch.__version__, "wait policy": os.environ["OMP_WAIT_POLICY"], "load": os.getloadavg()[0],
    }  # fmt: skip
    for name in args.model:
        model = load_model(name, dtype=args.dtype, device="cpu")
        assert isinstance(model, TransformersModel)
        rows = whole[name] = chosen_over_best(model, args.rounds)
        for phase, row in rows.items():
            print(f"{name} {phase:8s} {row['threads']:.0f} of {row['of']:.0f} threads, found in {row['seconds_to_find']:.2f} s: "
                  f"{row['chosen_ms']:.1f} ms, one {row['one_ms']:.1f}, all {row['all_ms']:.1f}, "
                  f"ratio {row['ratio']:.2f} (aim {AIM})", flush=True)  # fmt: skip
    if args.out is not None:
        args.out.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
