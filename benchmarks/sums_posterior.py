"""What the posterior of the sums' steps holds, given the answer: what a policy trained to it would draw.

    python -m benchmarks.sums_posterior [--lm base=smollm2,dtype=bfloat16] [--rows 3] [--particles 192] [--shots 2] [--examples 6]

For the first test questions of each number of operands that `benchmarks.paper` asks: the log reward of the right steps, the log
evidence by smc, which makes the difference of the two the log probability of the right steps, nats; and the share of the
swarm's weights whose tool ended at the answer. One JSON line a question.
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np

from benchmarks.paper import sums_data
from benchmarks.paper.tasks.arithmetic import demonstrated, last_result
from posterior_lm.api.query import load
from posterior_lm.cli.given import model_named
from posterior_lm.cli.options import pairs
from posterior_lm.infer.weights import normalize
from posterior_lm.installed import find
from posterior_lm.lang.diagnostics import PlmError


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lm", default="", metavar="base=MODEL", help="another model than tiny")
    parser.add_argument("--rows", type=int, default=3, help="questions of each number of operands")
    parser.add_argument("--particles", type=int, default=192)
    parser.add_argument("--shots", type=int, default=2, help="sums that the prompt shows worked")
    parser.add_argument(
        "--examples", type=int, default=0, help="in their place, so many of three and four operands"
    )
    options = parser.parse_args()
    found = sums_data.split(train=100, demos=50, test=options.rows, seed=0)
    worked = sums_data.worked_prompt(options.shots)
    worked = demonstrated(found.demos[: options.examples]) if options.examples else worked
    query = load(find("programs", "arithmetic_with_tool.plm")).given(demos=worked)
    if options.lm:
        named = pairs("--lm", [options.lm], "ALIAS=MODEL")
        query = query.lm(**{alias: model_named(text) for alias, text in named.items()})
    try:
        _ = query.prepared.models
    except PlmError as problem:
        print(problem.diagnostics[0].message, file=sys.stderr)
        return 1
    for operands, rows in found.test.items():
        for row in rows:
            asked = query.given(question=row["question"], answer=row["answer"])
            target = asked.target()
            right = float(target.log_reward({"steps": [target.value("steps", row["steps"])]})[0])
            draws = asked.using("smc", particles=options.particles).draw(seed=1).draws
            assert draws.log_evidence is not None
            shares, texts = normalize(draws.log_weights), [value.text for value in draws.values["steps"]]
            ends = np.array([last_result(text) == row["answer"] for text in texts])
            line = {
                "operands": operands, "question": row["question"], "right": row["steps"],
                "log_prob_right": round(right - draws.log_evidence, 2), "log_evidence": round(draws.log_evidence, 2),
                "ends_at_answer": round(float(shares[ends].sum()), 3), "ess": round(draws.ess, 1),
                "heaviest": texts[int(shares.argmax())],
            }  # fmt: skip
            print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
