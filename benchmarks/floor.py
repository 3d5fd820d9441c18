"""Three ratios in one run: packed prefixes, shared prefill, and the importance sampler against its floor.

    python benchmarks/floor.py [--rounds 5] [--draws 256] [--json FILE]

Each ratio is the median over rounds in which both sides run back to back on the
same machine, `tiny` and the first row of the infilling data:

1. `log_reward_prefixes`: T + 1 scoring passes over one packed pass (and over the
   plain batched computation), with the largest difference between the results;
2. scoring after one long prompt: prefill for every row over one shared prefill;
3. the importance sampler's seconds over bare model calls on the same token
   positions: every forward call of the sampler is recorded and replayed alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads slow small models down
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.calls import Recorder, bare_seconds
from posterior_lm import load
from posterior_lm.infer.base import run
from posterior_lm.infer.importance import Importance
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.protocol import Request
from posterior_lm.lm.tiny import WEIGHTS
from posterior_lm.target.prefixes import cuts
from posterior_lm.target.target import Target

ROOT = Path(__file__).resolve().parent.parent


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ratio(slow: Callable[[], object], fast: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Median of slow/fast over rounds, and the two medians in seconds."""
    slow(), fast()
    pairs = [(seconds(slow), seconds(fast)) for _ in range(rounds)]
    return (
        statistics.median(s / f for s, f in pairs),
        statistics.median(s for s, _ in pairs),
        statistics.median(f for _, f in pairs),
    )


def infilling() -> tuple[Target, TransformersModel]:
    row = json.loads((ROOT / "programs/data/story_infilling.jsonl").read_text().splitlines()[0])
    target = load(ROOT / "programs/story_infilling.plm").given(row).target()
    model = target.models["base"]
    assert isinstance(model, TransformersModel)
    return target, model


def packed_prefixes(target: Target, draws: int, rounds: int) -> dict[str, float]:
    values = run(Importance(), target, n=draws, rng=np.random.default_rng(0)).values
    distinct = list({v.ids: v for v in values["middle"]}.values())[:64]
    values = {"middle": distinct}
    info = target.latents[0]
    found, longest = cuts(target, values, info)

    def passes() -> np.ndarray:
        """One scoring pass per place to stop, each over all draws."""
        out = np.full((len(distinct), longest + 1), -np.inf)
        for after in range(longest + 1):
            here = [c for c in found if c.after == after]
            if here:
                log_reward = target.log_reward({"middle": [c.value for c in here]})
                for cut, number in zip(here, log_reward, strict=True):
                    out[cut.draw, after] = number
        return out

    def packed() -> np.ndarray:
        return target.log_reward_prefixes(values)

    def plain() -> np.ndarray:
        return target.log_reward_prefixes(values, packed=False)

    one, many = packed(), passes()
    both = np.isfinite(one) & np.isfinite(many)
    assert np.array_equal(np.isfinite(one), np.isfinite(many))
    against_passes, slow, fast = ratio(passes, packed, rounds)
    against_plain, _, _ = ratio(plain, packed, rounds)
    return {
        "passes_over_packed": against_passes,
        "plain_batched_over_packed": against_plain,
        "passes_seconds": slow,
        "packed_seconds": fast,
        "largest_difference": float(np.max(np.abs(one[both] - many[both]))),
        "draws": len(distinct),
        "tokens": longest,
    }


def shared_prefill(rounds: int) -> dict[str, float]:
    with_cache = TransformersModel.from_folder(WEIGHTS, device="cpu")
    without = TransformersModel(*_parts(with_cache), share_prompts=False)
    rng = np.random.default_rng(0)
    size = with_cache.tokenizer.vocabulary_size
    prompt = tuple(int(i) for i in rng.integers(10, size, 200))
    requests = [
        Request(prompt + tuple(int(i) for i in rng.integers(10, size, 16)), len(prompt), len(prompt))
        for _ in range(64)
    ]
    found, slow, fast = ratio(lambda: without.score(requests), lambda: with_cache.score(requests), rounds)
    return {"none_over_shared": found, "none_seconds": slow, "shared_seconds": fast}


def _parts(model: TransformersModel) -> tuple:
    return model._forward, model.tokenizer, model.identity


def importance_floor(target: Target, model: TransformersModel, draws: int, rounds: int) -> dict[str, float]:
    def sampler(seed: int = 0) -> object:
        return run(Importance(), target, n=draws, rng=np.random.default_rng(seed))

    sampler()
    with Recorder().watching(model) as recorder:
        sampler()
    bare_seconds(model, recorder.calls)
    pairs = [(seconds(sampler), bare_seconds(model, recorder.calls)) for _ in range(rounds)]
    return {
        "sampler_over_floor": statistics.median(s / f for s, f in pairs),
        "sampler_seconds": statistics.median(s for s, _ in pairs),
        "floor_seconds": statistics.median(f for _, f in pairs),
        "calls": len(recorder.calls),
        "positions": recorder.positions,
        "draws": draws,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=256)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args(argv)
    target, model = infilling()
    figures = {
        "packed_prefixes": packed_prefixes(target, options.draws, options.rounds),
        "shared_prefill": shared_prefill(options.rounds),
        "importance_floor": importance_floor(target, model, options.draws, options.rounds),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    for name, group in figures.items():
        if isinstance(group, dict):
            print(name)
            for key, value in group.items():
                print(f"  {key:28} {value:.4g}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
