"""The llamppl side of `peers.py`: reads one job per line, prints one result per line.

Runs in an environment of its own and imports nothing of ours. It gets every setting that
makes it faster and changes no answer: one batch for all particles, no waiting for more
queries, the prompt's keys and values kept.
"""

import asyncio
import json
import os
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
from llamppl import CachedCausalLM, LMContext, Model, smc_standard


class Value(Model):
    """A value that a table of states allows, then the observed tokens."""

    def __init__(self, lm, spec, allowed, table):
        super().__init__()
        self.context = LMContext(lm, spec["prompt_text"])
        self.spec, self.allowed, self.table = spec, allowed, table
        self.state, self.drawn = 0, 0

    def immutable_properties(self):
        return {"spec", "allowed", "table"}

    async def step(self):
        await self.observe(self.context.mask_dist(self.allowed[self.state]), True)
        token = await self.sample(self.context.next_token())
        self.state = int(self.table[self.state, token.token_id])
        self.drawn += 1
        if token.token_id == self.spec["stop"] or self.drawn == self.spec["max_tokens"]:
            for observed in self.spec["observed"]:
                await self.observe(self.context.next_token(), observed)
            self.finish()


def main(path):
    with open(path, encoding="utf-8") as file:
        spec = json.load(file)
    lm = CachedCausalLM.from_pretrained(spec["model"], backend="hf", batch_size=spec["batch"], timeout=0.0)
    table = np.load(spec["table"])["next"]
    allowed = [set(np.flatnonzero(row >= 0).tolist()) for row in table]
    assert LMContext(lm, spec["prompt_text"]).tokens == spec["prompt"], "the prompt has other tokens here"
    seen = {"tokens": 0, "calls": 0}

    def count(_module, args, options):
        ids = options["input_ids"] if "input_ids" in options else args[0]
        seen["tokens"] += ids.numel()
        seen["calls"] += 1

    lm.model.model.register_forward_pre_hook(count, with_kwargs=True)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        torch.manual_seed(job["seed"])
        np.random.seed(job["seed"])
        lm.clear_cache()
        lm.model.clear_kv_cache()
        seen.update(tokens=0, calls=0)
        began = time.perf_counter()
        lm.cache_kv(spec["prompt"])
        particles = asyncio.run(
            smc_standard(
                Value(lm, spec, allowed, table),
                job["particles"],
                ess_threshold=0.5 if job["method"] == "smc" else 0.0,
            )
        )
        seconds = time.perf_counter() - began
        weights = np.array([p.weight for p in particles])
        log_evidence = float(np.logaddexp.reduce(weights) - np.log(len(weights)))
        print(json.dumps({"log_evidence": log_evidence, "seconds": seconds, **seen}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
