"""The genlm-control side of `peers.py`: reads one job per line, prints one result per line.

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
from genlm.control import AWRS, BoolFSA, Potential, PromptedLLM, direct_token_sampler


class Inside(Potential):
    """0 nats for what a table of states allows next, −inf for the rest: no automaton can be faster."""

    def __init__(self, llm, table):
        super().__init__(llm.vocab, tables=llm.tables)
        (self.stop,) = llm.token_maps.eos_idxs
        self.table = table
        self.ids = np.array([*(token.token_id for token in llm.vocab), self.stop])

    def after(self, context):
        state = 0
        for token in context:
            state = self.table[state, token.token_id]
            if state < 0:
                return -1
        return state

    async def logw_next(self, context):
        return self.make_lazy_weights(np.where(self.table[self.after(context)][self.ids] >= 0, 0.0, -np.inf))

    async def prefix(self, context):
        return 0.0 if self.after(context) >= 0 else -np.inf

    async def complete(self, context):
        state = self.after(context)
        return 0.0 if state >= 0 and self.table[state, self.stop] >= 0 else -np.inf


class Observed(Potential):
    """log p(text | prompt, value, stop), in nats, once the value is complete."""

    def __init__(self, llm, ids):
        super().__init__(llm.vocab, tables=llm.tables)
        self.llm, self.text = llm, llm.decode_tokens(ids)

    def is_terminal_only(self):
        return True

    async def prefix(self, context):
        return 0.0

    async def complete(self, context):
        value = self.llm.encode_tokens([*context, *self.llm.token_maps.eos_token_objs])
        return await self.llm.spawn(prompt_ids=self.llm.prompt_ids + value).log_probability(self.text)


def main(path):
    with open(path, encoding="utf-8") as file:
        spec = json.load(file)
    llm = PromptedLLM.from_name(
        spec["model"], backend="hf", eos_byte_strings=[b"."], batch_size=spec["batch"], timeout=0.0
    )
    llm = llm.spawn(prompt_ids=spec["prompt"])
    inside = Inside(llm, np.load(spec["table"])["next"])
    critic = Observed(llm, spec["observed"]) if spec["observed"] else None
    samplers = {"direct": direct_token_sampler(llm * inside)}
    if spec["body"]:
        samplers["awrs"] = AWRS(llm, BoolFSA.from_regex(spec["body"]).coerce(llm, f=b"".join))
    seen = {"tokens": 0, "calls": 0}

    def count(_module, args, options):
        ids = options["input_ids"] if "input_ids" in options else args[0]
        seen["tokens"] += ids.numel()
        seen["calls"] += 1

    llm.model.model.register_forward_pre_hook(count, with_kwargs=True)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        torch.manual_seed(job["seed"])
        np.random.seed(job["seed"])
        llm.model.clear_cache()
        llm.model.clear_kv_cache()
        seen.update(tokens=0, calls=0)
        sampler = samplers[job.get("sampler", "direct")]
        began = time.perf_counter()
        llm.model.cache_kv(spec["prompt"])
        found = asyncio.run(
            sampler.smc(
                n_particles=job["particles"],
                ess_threshold=0.5 if job["method"] == "smc" else 0.0,
                max_tokens=spec["max_tokens"],
                critic=critic,
            )
        )
        seconds = time.perf_counter() - began
        print(json.dumps({"log_evidence": float(found.log_ml), "seconds": seconds, **seen}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
