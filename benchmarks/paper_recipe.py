"""The released recipe of Hu et al. (2024), written again in our own words, as a baseline.

    python benchmarks/paper_recipe.py [--target middle] [--seconds 120] [--batch 64]

What makes it the recipe, and slow: the policy samples token by token with
gradients on, its key-value cache part of the graph; the reward scores every
prefix with a forward pass of its own over the whole string, padded on the right,
for every draw, equal or not; one row a step; modified sub-trajectory balance with
λ = 1, whose probability of stopping at the length cap is the policy's raw one
although the sampler forces the stop there; 25 % on-policy, 50 % tempered, 25 %
replayed; AdamW, 20 steps of linear warm-up, then a constant rate; nothing clipped.

Model, adapter, rank, support and targets are those of this package, and the
reward temperature is 1 throughout, so that the posterior is the optimum. Where
the released code loops over windows for λ = 1, this uses the closed form, which
is the same number and faster. Prints JSON lines; evaluation is not in `seconds`.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import sys
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from attrs import define, field, frozen
from torch import Tensor
from transformers import DynamicCache

from benchmarks.quality import HeldOut
from benchmarks.targets import PROGRAMS, KnownTarget, known_target
from posterior_lm.infer.guide import contexts_of
from posterior_lm.lm.hf.forward import Forward
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.protocol import Request, Scores
from posterior_lm.support.base import Support
from posterior_lm.target.prepared import PreparedProgram
from posterior_lm.target.target import Target
from posterior_lm.target.validate import validate_data
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.guide import PolicyGuide, readings_of

Ids = tuple[int, ...]

WARM_UP = 20
TEMPERATURES = (0.5, 2.0)
ON_POLICY, TEMPERED = 0.25, 0.5
CAPACITY = 50
NEAR = 0.25
"""Two strings closer than this share of their joint length in edits count as one."""


class PlainScorer(TransformersModel):
    """Scores every request in one right-padded forward pass; no prompt is shared, nothing packed.

    Equal requests reach a model once, and the recipe scores equal draws again: a call
    with less than `copies` requests is filled up with copies of them.
    """

    copies = 0

    @classmethod
    def like(cls, base: TransformersModel) -> PlainScorer:
        return cls(base._forward, base.tokenizer, base.identity, share_prompts=False, pack=False)

    def score(self, requests: Sequence[Request]) -> list[Scores]:
        batch = [requests[i % len(requests)] for i in range(max(self.copies, len(requests)))]
        ids = self._forward.padded([r.ids for r in batch])
        first = min(r.start for r in batch) - 1
        log_probs = torch.log_softmax(self._forward(ids, keep=ids.shape[1] - first), dim=-1)
        log_probs, ids = log_probs[: len(requests)], ids[: len(requests), first:]
        found = log_probs[:, :-1].gather(2, ids[:, 1:, None])[:, :, 0].double().cpu().numpy()
        eos = torch.logsumexp(log_probs[:, :, list(self.tokenizer.eos_ids)], dim=-1).double().cpu().numpy()
        spans = [(r.start - 1 - first, len(r.ids) - 1 - first) for r in requests]
        return [Scores(found[i, a:b], eos[i, a : b + 1]) for i, (a, b) in enumerate(spans)]


@frozen(eq=False)
class Rolled:
    """B trajectories. Letters: T the longest one's tokens before the stop.

    `ids` the tokens of each before the stop; `log_prob` (B, T + 1) log q of the first
    j tokens, `stop` (B, T + 1) log q of stopping after them, both with gradients and
    without meaning past a trajectory's own length.
    """

    ids: tuple[Ids, ...]
    log_prob: Tensor
    stop: Tensor


def roll(
    module: torch.nn.Module, context: Ids, support: Support, batch: int, generator: torch.Generator, *,
    temperature: float = 1.0, actions: Sequence[Ids] | None = None,
) -> Rolled:  # fmt: skip
    """Sample (or follow `actions`) one token at a time, gradients on, every cached tensor kept in the graph.

    Tokens are drawn from q^(1/temperature); `log_prob` and `stop` are those of q. After
    `support.max_tokens` − 1 tokens the stop is forced, and `stop` still is the raw log q.
    """
    (stop_id,) = support.stop_ids
    # The mask of a first token does not know the cap: the recipe's has no such knowledge anywhere.
    allowed = torch.from_numpy(support.allowed(support.start()).copy())
    cap = support.max_tokens - 1
    rows = torch.arange(batch)
    done = torch.zeros(batch, dtype=torch.bool)
    drawn: list[list[int]] = [[] for _ in range(batch)]
    total = torch.zeros(batch, dtype=torch.float64)
    totals, stops = [], []
    columns, cache = torch.tensor([context] * batch), DynamicCache(config=module.config)
    called = {Forward(module, 0, None).cache_name: cache}  # libraries rename it
    for t in range(cap + 1):
        made = module(input_ids=columns, use_cache=True, **called)
        log_q = torch.log_softmax(made.logits[:, -1].float().masked_fill(~allowed, -torch.inf), dim=-1)
        totals.append(total)
        stops.append(log_q[:, stop_id].double())
        if t == cap:
            break
        if actions is not None:
            token = torch.tensor([a[t] if t < len(a) else stop_id for a in actions])
        else:
            flat = torch.softmax(log_q.detach() / temperature, dim=-1)
            token = torch.multinomial(flat, 1, generator=generator)[:, 0]
        done = done | (token == stop_id)
        if bool(done.all()):
            break
        # A finished row goes on with padding, as its later columns are never looked at.
        token = torch.where(done, torch.full_like(token, stop_id), token)
        total = total + log_q[rows, token].double()
        for b in torch.nonzero(~done)[:, 0].tolist():
            drawn[b].append(int(token[b]))
        columns = token[:, None]
    return Rolled(tuple(map(tuple, drawn)), torch.stack(totals, dim=1), torch.stack(stops, dim=1))


def prefix_rewards(target: Target, ids: Sequence[Ids]) -> np.ndarray:
    """(B, T + 1) log R of stopping after j tokens, nats; one scoring pass over all B draws for each j."""
    (info,) = target.latents
    longest = max(map(len, ids))
    out = np.full((len(ids), longest + 1), -np.inf)
    for j in range(longest + 1):
        cut = [target.value_of(info.name, (*i[:j], *info.support.stop_ids)) for i in ids]
        column = target.evaluator.terms({info.name: cut}, len(cut)).sum(axis=1)
        inside = [j <= len(i) for i in ids]
        out[inside, j] = column[inside]
    return out


def subtb(log_prob: Tensor, stop: Tensor, log_reward: Tensor, lengths: Tensor) -> Tensor:
    """Modified sub-trajectory balance at λ = 1, pooled over the batch (Hu et al. 2024, eq. 3).

    With u_j = log q(z_1:j) + log q(stop | z_1:j) − log R(z_1:j stop), j = 0..n:
    Σ_b Σ_{i<j} (u_i − u_j)² / Σ_b m(m − 1)/2 with m = n + 1, and the inner sum is
    m Σ u² − (Σ u)². Shapes: (B, T + 1) each, `lengths` (B,) the n of each.
    """
    here = torch.arange(log_prob.shape[1])[None, :] <= lengths[:, None]
    u = torch.where(here, log_prob + stop - torch.where(here, log_reward, 0.0), 0.0)
    m = lengths.double() + 1
    # Centred first: the difference of two large sums would lose what float64 keeps.
    centred = torch.where(here, u - (u.sum(dim=1) / m)[:, None], 0.0)
    return (m * (centred**2).sum(dim=1)).sum() / (m * (m - 1) / 2).sum().clamp(min=1)


@lru_cache(maxsize=1 << 16)
def edits(a: Ids, b: Ids) -> int:
    """Levenshtein distance over tokens."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (x != y))
    return row[-1]


@define
class Buffer:
    """The best `CAPACITY` draws of each row with their prefix rewards, near duplicates left out."""

    _heaps: dict[int, list[tuple[float, Ids, np.ndarray]]] = field(factory=dict)

    def add(self, row: int, ids: Sequence[Ids], rewards: np.ndarray) -> None:
        heap = self._heaps.setdefault(row, [])
        for one, column in zip(ids, rewards, strict=True):
            item = (float(column[len(one)]), one, column[: len(one) + 1])
            if any(one == known for _, known, _ in heap):
                continue
            near = next(
                (k for k, (_, known, _) in enumerate(heap) if edits(one, known) < NEAR * len(one + known)),
                None,
            )
            if near is not None:
                if heap[near][0] < item[0]:
                    heap[near] = item
                    heapq.heapify(heap)
            elif len(heap) < CAPACITY:
                heapq.heappush(heap, item)
            else:
                heapq.heappushpop(heap, item)

    def sample(self, row: int, batch: int, rng: np.random.Generator) -> tuple[list[Ids], np.ndarray] | None:
        """`batch` draws by softmax(log R) with replacement, or None where the row has none."""
        heap = self._heaps.get(row)
        if not heap:
            return None
        log_reward = np.array([r for r, _, _ in heap])
        p = np.exp(log_reward - log_reward.max())
        picked = [heap[i] for i in rng.choice(len(heap), batch, p=p / p.sum())]
        width = max(len(column) for _, _, column in picked)
        rewards = np.full((batch, width), -np.inf)
        for b, (_, _, column) in enumerate(picked):
            rewards[b, : len(column)] = column
        return [one for _, one, _ in picked], rewards


@define(eq=False)
class Recipe:
    """The recipe on one program: `step` trains on one row."""

    known: KnownTarget
    adapter: Adapter
    batch: int
    rate: float
    seed: int
    scorer: PlainScorer = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    rng: np.random.Generator = field(init=False)
    generator: torch.Generator = field(init=False)
    buffer: Buffer = field(init=False, factory=Buffer)
    steps: int = field(init=False, default=0)
    _bound: dict[int, tuple[Target, Ids]] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self.scorer = PlainScorer.like(self.adapter.base)
        self.optimizer = torch.optim.AdamW(list(self.adapter.parameters.values()), lr=self.rate)
        self.rng = np.random.default_rng(self.seed)
        self.generator = torch.Generator().manual_seed(self.seed)

    def _row(self, number: int) -> tuple[Target, Ids]:
        if number not in self._bound:
            graph = self.known.query.graph
            target = PreparedProgram.of(graph, {"base": self.scorer}).bind_valid(
                validate_data(graph, self.known.train[number])
            )
            if len(target.latents) != 1 or len(target.latents[0].support.stop_ids) != 1:
                raise SystemExit("the recipe needs one latent that ends with a stop token of its own")
            reading = readings_of(target)[target.names[0]]
            self._bound[number] = target, contexts_of(target, reading.lm, reading.segments, {}, 1)[0][0]
        return self._bound[number]

    def step(self) -> float:
        """One row, `batch` draws, one update; returns the loss."""
        number = int(self.rng.integers(len(self.known.train)))
        target, context = self._row(number)
        support, module = target.latents[0].support, self.adapter.base._forward.module
        chance = self.rng.random()
        replayed = None
        if chance >= ON_POLICY + TEMPERED:
            replayed = self.buffer.sample(number, self.batch, self.rng)
        temperature = 1.0 if chance < ON_POLICY else float(self.rng.uniform(*TEMPERATURES))
        with self.adapter.on():
            rolled = roll(
                module, context, support, self.batch, self.generator, temperature=temperature,
                actions=None if replayed is None else replayed[0],
            )  # fmt: skip
        if replayed is None:
            self.scorer.copies = self.batch
            rewards = prefix_rewards(target, rolled.ids)
            self.buffer.add(number, rolled.ids, rewards)
        else:
            rewards = replayed[1]
        width = rolled.log_prob.shape[1]
        loss = subtb(
            rolled.log_prob, rolled.stop, torch.from_numpy(rewards)[:, :width],
            torch.tensor([len(i) for i in rolled.ids]),
        )  # fmt: skip
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * min(1.0, self.steps / WARM_UP)
        self.optimizer.zero_grad(set_to_none=True)
        with self.adapter.on():
            loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="middle", choices=[n for n in PROGRAMS if n != "tabular"])
    parser.add_argument("--seconds", type=float, default=120, help="of training, evaluation not counted")
    parser.add_argument("--batch", type=int, default=64, help="draws of the one row of a step")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--every", type=float, default=30, help="training seconds between evaluations")
    parser.add_argument(
        "--until", type=float, default=0, help="stop once the mean total variation is this low"
    )
    parser.add_argument("--rows", type=int, help="held-out rows to look at (default: all)")
    parser.add_argument("--cache", type=Path, help="keep the exact listings in this folder")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    known = known_target(options.target)
    held_out = HeldOut.of(known, cache=options.cache, rows=options.rows)
    adapter = Adapter.new(held_out.models["base"], rank=options.rank, seed=options.seed)
    recipe = Recipe(known, adapter, options.batch, options.rate, options.seed)
    about = {"target": options.target, "batch": options.batch, "rate": options.rate, "rank": options.rank}
    spent, due, losses = 0.0, options.every, []
    while True:
        began = time.perf_counter()
        losses.append(recipe.step())
        spent += time.perf_counter() - began
        if spent < due and spent < options.seconds:
            continue
        due += options.every
        found = held_out.measure(lambda target: PolicyGuide.of(target, adapter)).figures()
        trajectories = recipe.steps * options.batch
        line = {
            **about,
            "seconds": spent,
            "steps": recipe.steps,
            "trajectories": trajectories,
            "trajectories_per_second": trajectories / spent,
            "loss": float(np.mean(losses)),
            **found,
        }
        print(
            json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()}), flush=True
        )
        losses.clear()
        if spent >= options.seconds or found["tv_mean"] <= options.until:
            return 0


if __name__ == "__main__":
    sys.exit(main())
