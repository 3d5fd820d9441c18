"""The peers' side of `db_peers.py`: reads one job per line, prints one result per line.

    python db_peers_child.py genlm|llamppl

Runs in an environment of its own. Tables are read by `posteriors/brute.py`, models by the peer; nothing else is ours.
"""

import asyncio
import json
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from posteriors import brute

PEER = sys.argv[1]
BATCH = 512


class Table:
    """A table as a model of token ids."""

    def __init__(self, name, names, eos):
        self.table, self.names = brute.opened(name), [*names]
        self.names[eos] = brute.EOS
        self.numbers = {name: k for k, name in enumerate(self.names)}
        self.seen = {}

    async def next(self, ids):
        key = tuple(ids[-self.table.order - 1 :]) if len(ids) > self.table.order else tuple(ids)
        if key not in self.seen:
            context = tuple(self.names[i] or brute.BOS for i in ids) or (brute.EOS,)
            row = np.full(len(self.names), -np.inf)
            for token, log_prob in self.table.next(context).items():
                row[self.numbers[token]] = log_prob
            self.seen[key] = row
        return self.seen[key]


class Neural:
    """A folder of transformers, as the peer runs it: batched and cached."""

    def __init__(self, folder):
        if PEER == "genlm":
            from genlm.backend.llm import AsyncTransformer

            self.lm = AsyncTransformer.from_name(folder, batch_size=BATCH, timeout=0.0)
        else:
            from llamppl import CachedCausalLM

            self.lm = CachedCausalLM.from_pretrained(folder, backend="hf", batch_size=BATCH, timeout=0.0)

    async def next(self, ids):
        return np.asarray(await self.lm.next_token_logprobs([*ids]), dtype=np.float64)


@cache
def opened(spec):
    lm = json.loads(spec)
    return Neural(lm["folder"]) if "folder" in lm else Table(lm["table"], lm["names"], lm["eos"])


class Told:
    """A target: log weights of what may come next, the end last, and the terms behind a value."""

    def __init__(self, spec):
        self.spec = spec
        found = np.load(spec["states"])
        self.table, self.ends = found["table"], found["ends"]
        self.lm = opened(json.dumps(spec["lm"]))

    async def weights(self, ids, state):
        """(V + 1,) nats, not normalised."""
        row, spec = self.table[state], self.spec
        inside = row >= 0
        scored = spec["ends"] and self.ends[state]
        logs = np.zeros(len(row))
        if inside.any() or scored:
            logs = spec["power"] * await self.lm.next([*spec["prompt"], *ids])
        end = logs[spec["lm"]["eos"]] if scored else 0.0
        return np.append(np.where(inside, logs, -np.inf), end if self.ends[state] else -np.inf)

    def after(self, ids):
        state = 0
        for token in ids:
            state = self.table[state, token]
        return state

    async def terms(self, ids):
        return sum([await self.term(one, [*ids]) for one in self.spec["terms"]], 0.0)

    async def term(self, one, ids):
        lm, context, scored = opened(json.dumps(one["lm"])), [*one["prompt"]], one["ids"]
        if scored is None:
            scored = ids + [one["lm"]["eos"]] * one["ends"]
        else:
            context += ids
        rows = await asyncio.gather(*(lm.next(context + scored[:k]) for k in range(len(scored))))
        return one["power"] * sum(float(row[token]) for row, token in zip(rows, scored, strict=True))


def genlm(told, job):
    from genlm.control import Potential, direct_token_sampler

    class Prior(Potential):
        async def logw_next(self, context):
            return self.make_lazy_weights(await told.weights(context, told.after(context)))

        async def prefix(self, context):
            steps = [await told.weights(context[:k], told.after(context[:k])) for k in range(len(context))]
            return float(sum(row[token] for row, token in zip(steps, context, strict=True)))

        async def complete(self, context):
            return await self.prefix(context) + float((await told.weights(context, told.after(context)))[-1])

    class Behind(Potential):
        def is_terminal_only(self):
            return True

        async def prefix(self, context):
            return 0.0

        async def complete(self, context):
            return await told.terms(context)

    vocabulary = list(range(told.table.shape[1]))
    critic = Behind(vocabulary) if told.spec["terms"] else None
    found = asyncio.run(
        direct_token_sampler(Prior(vocabulary)).smc(
            n_particles=job["particles"], ess_threshold=0.5 if job["method"] == "smc" else 0.0,
            max_tokens=told.spec["max_tokens"] + 1, critic=critic,
        )
    )  # fmt: skip
    return [[t for t in context if isinstance(t, int)] for context in found.contexts], np.array(
        found.log_weights
    )


def llamppl(told, job):
    from llamppl import LogCategorical, Model, smc_standard

    class Value(Model):
        def __init__(self):
            super().__init__()
            self.ids, self.state = [], 0

        async def step(self):
            logs = await told.weights(self.ids, self.state)
            if not np.isfinite(logs).any():
                self.score(-np.inf)
                self.finish()
                return
            self.score(float(np.logaddexp.reduce(logs)))
            token = int(await self.sample(LogCategorical(logs)))
            if token < len(logs) - 1:
                self.ids.append(token)
                self.state = int(told.table[self.state, token])
            else:
                self.score(await told.terms(self.ids))
                self.finish()

    threshold = 0.5 if job["method"] == "smc" else 0.0
    particles = asyncio.run(smc_standard(Value(), job["particles"], ess_threshold=threshold))
    return [p.ids for p in particles], np.array([p.weight for p in particles])


def main():
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        told = Told(job["spec"])
        torch.manual_seed(job["seed"])
        np.random.seed(job["seed"])
        if isinstance(told.lm, Neural):
            told.lm.lm.clear_cache()
        began = time.perf_counter()
        ids, logs = genlm(told, job) if PEER == "genlm" else llamppl(told, job)
        seconds = time.perf_counter() - began
        total = float(np.logaddexp.reduce(logs))
        weights = np.exp(logs - total).tolist() if np.isfinite(total) else [0.0] * len(logs)
        result = {
            "log_evidence": total - float(np.log(len(logs))),
            "seconds": seconds,
            "ids": ids,
            "weights": weights,
        }
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
