"""A masked model as the proposal for a text between two others, beside the prior, at equal draws.

    python -m training.tiny.masked --out DIR
    python -m benchmarks.filling --masked DIR [--draws 400] [--seeds 3] [--out FILE]

The targets are the infilling rows of `programs/data` under `tiny`. Of each row: ESS/N by importance sampling from the prior and from
the masked model, and by the mixture that `auto` draws from, the mean over seeds; and the log evidence with its
standard deviation over them. The median over the rows is what is quoted.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads slow small models down

import numpy as np

import posterior_lm as plm

DATA = Path(__file__).resolve().parent.parent / "programs/data/story_infilling.jsonl"
PROGRAM = """lm base = "tiny"
lm d = masked("masked")

program between(opening: text, ending: text) {
  latent middle: text(tokens=1..25, stop=".") ~ base(opening)
  guide middle ~ d(opening, middle, " ", ending)
  observe [" ", ending] ~ base(opening, middle)
}
"""
METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "prior": ("importance", {}),
    "masked": ("importance", {"proposal": "guide"}),
    "mixture": ("mixture", {}),
}


def measured(query: plm.Query, draws: int, seeds: int) -> dict[str, dict[str, float]]:
    """By proposal: ESS/N, the log evidence and how much it differs between seeds, nats."""
    out = {}
    for name, (method, options) in METHODS.items():
        found = [query.using(method, **options).draw(draws, seed=seed) for seed in range(seeds)]
        evidence = [posterior.log_evidence for posterior in found]
        out[name] = {
            "ess": float(np.mean([(posterior.draws.ess or 0.0) / draws for posterior in found])),
            "log_evidence": float(np.mean(evidence)),
            "sd": float(np.std(evidence, ddof=1)),
        }
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="A masked model as a proposal, beside the prior.")
    parser.add_argument("--masked", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    query, rows = plm.loads(PROGRAM).lm(d=given.masked), []
    for line in DATA.read_text(encoding="utf-8").splitlines():
        row = {name: json.loads(line)[name] for name in ("opening", "ending")}
        rows.append(measured(query.given(**row), given.draws, given.seeds))
        shown = "  ".join(
            f"{k} {v['ess']:.3f} ({v['log_evidence']:.2f} ± {v['sd']:.2f})" for k, v in rows[-1].items()
        )
        print(f"row {len(rows) - 1}: {shown}", flush=True)
    for name in METHODS:
        print(f"median ESS/N, {name}: {np.median([row[name]['ess'] for row in rows]):.3f}")
    if given.out:
        given.out.write_text(json.dumps({"draws": given.draws, "seeds": given.seeds, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
