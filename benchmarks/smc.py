"""Sequential Monte Carlo against importance sampling: error of the evidence at equal particles and per model token.

    python benchmarks/smc.py [--runs 24] [--particles 128] [--only NAME …] [--out FILE]

The model is `tiny`. For every target: the root mean square error of the log evidence over
independent runs, the model tokens of one run, the particles alive at the end, and the
same with four times the draws, since draws that share tokens come cheaper by the dozen. The
reference is many draws in independent swarms (that of a table is the sum over its rows, each
alone), and its own error is printed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads slow small models down

import numpy as np

from posterior_lm import loads
from posterior_lm.infer.base import InferenceAlgorithm, run
from posterior_lm.infer.importance import Importance
from posterior_lm.infer.smc import Smc
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lm.counting import CountingModel
from posterior_lm.lm.protocol import LanguageModel
from posterior_lm.lm.resolve import load_model
from posterior_lm.target.target import Target

DATA = Path(__file__).resolve().parent.parent / "programs/data/story_infilling.jsonl"
SWARM = 2000
"""Particles of each swarm of a reference."""
INFILLING = """
  latent middle: text(tokens=1..25, stop="."OPTIONS) ~ base(opening)
  observe [" ", ending] ~ base(opening, middle)
"""
ROWS = """
  plate r in rows {
    latent middle: text(tokens=1..25, stop=".") ~ base(r.opening)
    observe [" ", r.ending] ~ base(r.opening, middle)
  }
"""
FIRST = """
  latent first: text(tokens=1..25, stop=".") ~ base()
  observe [" ", ending] ~ base(first)
"""
LETTERS = ', chars=" ACDEHIMSTabcdefghijklmnrstuvwy"'
PATTERN = r', pattern=r" (He|She|Tom) [a-z]+ (the|a|his) [a-z ]+\."'

PROGRAMS: Mapping[str, str] = {
    "infilling": INFILLING.replace("OPTIONS", ""),
    "first sentence": FIRST,
    "letters": INFILLING.replace("OPTIONS", LETTERS),
    "pattern": INFILLING.replace("OPTIONS", PATTERN),
    "contains": INFILLING.replace("OPTIONS", "") + '  condition contains(middle, "ball")\n',
    "few words": INFILLING.replace("OPTIONS", "") + "  condition words(middle) <= 6\n",
    "two rows": ROWS,
    "four rows": ROWS,
}
"""Bodies of programs; the last two have a text for every row of a table."""


def target_of(name: str, model: LanguageModel) -> tuple[Target, list[Target]]:
    """The target, and the targets whose evidences multiply to its own: itself, or one per row."""
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    if "rows" not in name:
        whole = _bound(f"opening: text, ending: text) {{{PROGRAMS[name]}}}", rows[0], model)
        return whole, [whole]
    table = rows[1 : 3 if name == "two rows" else 5]
    whole = _bound(f"rows: table(opening: text, ending: text)) {{{ROWS}}}", {"rows": table}, model)
    alone = [_bound(f"opening: text, ending: text) {{{PROGRAMS['infilling']}}}", row, model) for row in table]
    return whole, alone


def _bound(rest: str, data: Mapping[str, object], model: LanguageModel) -> Target:
    source = f'lm base = "tiny"\nprogram p({rest}'
    return loads(source).lm(base=model).given(data).target()


def contenders(particles: int) -> dict[str, tuple[InferenceAlgorithm, int]]:
    """Algorithms by name, and how many draws each makes."""
    return {
        "importance": (Importance(), particles),
        "importance, 4 times the draws": (Importance(), 4 * particles),
        "smc": (Smc(), particles),
        "smc, look_ahead=0.5": (Smc(look_ahead=0.5), particles),
        "smc, look_ahead=1": (Smc(look_ahead=1.0), particles),
    }


def measure(name: str, runs: int, particles: int, reference_draws: int) -> dict[str, object]:
    """Figures of one target."""
    counting = CountingModel(load_model("tiny"))
    target, parts = target_of(name, counting)
    logs, variance = [], 0.0
    for k, part in enumerate(parts):
        algorithm = Smc(draws=reference_draws, batch=SWARM)
        one = run(algorithm, part, n=reference_draws, rng=np.random.default_rng([7, k]))
        assert one.log_evidence is not None and one.log_evidence_se is not None
        logs.append(one.log_evidence)
        variance += one.log_evidence_se**2
    reference, reference_se = sum(logs), math.sqrt(variance)
    found: dict[str, object] = {
        "reference": reference,
        "reference_se": reference_se,
        "methods": {},
    }
    print(f"{name}: log evidence {reference:.3f} ± {reference_se:.3f}", flush=True)
    for label, (algorithm, n) in contenders(particles).items():
        if "look_ahead" in label and name not in ("infilling", "first sentence"):
            continue
        ratios, tokens, ancestors, began = [], [], [], time.perf_counter()
        for seed in range(runs):
            before = counting.tokens
            try:
                draws = run(algorithm, target, n=n, rng=np.random.default_rng(seed))
                assert draws.log_evidence is not None
                ratios.append(draws.log_evidence - reference)
                ancestors.append(draws.particles.ancestors if draws.particles else n)
            except InferenceError:
                ratios.append(-math.inf)
            tokens.append(counting.tokens - before)
        alive = np.array([r for r in ratios if math.isfinite(r)])
        one = {
            "draws": n,
            "rmse": float(np.sqrt(np.mean(alive**2))) if len(alive) else None,
            "relative_variance": float(np.mean((np.exp(ratios) - 1) ** 2)),
            "tokens": float(np.mean(tokens)),
            "ancestors": float(np.mean(ancestors)) if ancestors else 0.0,
            "all_dead": len(ratios) - len(alive),
            "seconds": (time.perf_counter() - began) / runs,
        }
        found["methods"][label] = one  # type: ignore[index]
        print(
            f"  {label:30s} rmse {one['rmse']:.3f}  relative variance {one['relative_variance']:.4f}  "
            f"tokens {one['tokens']:7.0f}  ancestors {one['ancestors']:5.0f}  dead {one['all_dead']}",
            flush=True,
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--particles", type=int, default=128)
    parser.add_argument("--reference", type=int, default=30_000)
    parser.add_argument("--only", nargs="*", choices=list(PROGRAMS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = {
        name: measure(name, args.runs, args.particles, args.reference) for name in args.only or PROGRAMS
    }
    if args.out is not None:
        whole = {"runs": args.runs, "particles": args.particles, "model": load_model("tiny").identity.digest}
        args.out.write_text(json.dumps({**whole, "targets": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
