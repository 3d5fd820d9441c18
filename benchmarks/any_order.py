"""A policy that fills a text in any order, trained by VarGrad: a masked model, beside the same one trained from left to right.

    python -m training.tiny.masked --out DIR
    python -m benchmarks.any_order --masked DIR [--row 0] [--steps 300] [--draws 2000] [--out FILE]

The target is a sentence between two others under `tiny`, at most `LONGEST` tokens, whose posterior is listed. A trajectory draws the
length, then a place of those still masked, each alike, and the token that stands there. Its order is drawn at random whatever the text
is, so given a text all orders are as likely, and the 1 / L! of either side cancels in the weight of a trajectory (τ, z):

    w = R(z) p(τ | z) / q(τ, z) = R(z) / [ l(L) Π_i p(z_i | what is filled before i) ]

which is unbiased for the evidence whatever the model says (an order that is chosen by the model, the surest place first, would have to be
counted in q). VarGrad (Richter et al. 2020) makes log w alike among the trajectories of a step, over all orders, beside the likelihood of the best
texts so far in orders of their own, so what is learnt is every conditional of the posterior: with a word of the middle known, the same policy fills what is around it, untrained. The rows of the table:

- `start`: the masked model as it is; `any order`, `left to right`: after the steps in either order, filling in that order;
- `... , a word known`: one token of the likeliest text is given in its place, with its length, and the rest is filled.

Of each: ESS/N, log ΣwN⁻¹ beside the listing's, and the total variation of the weighted draws to the listed posterior; the same number of
exact draws is the last row's, which nothing can be below by more than chance.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads slow small models down

import numpy as np
import torch
from attrs import evolve, frozen
from torch import Tensor

from benchmarks.quality import Listing, exact_listing
from posterior_lm.api.query import loads
from posterior_lm.infer.fill import by_length
from posterior_lm.infer.weights import ess, log_evidence, normalize
from posterior_lm.lm.hf.masked import TransformersMasked
from posterior_lm.support.text import TextSupport
from posterior_lm.target.target import Target

LONGEST = 8
PROGRAM = f"""lm base = "tiny"
program between(opening: text, ending: text) {{
  latent middle: text(tokens=1..{LONGEST}, stop=".") ~ base(opening)
  observe [" ", ending] ~ base(opening, middle)
}}
"""
DATA = Path(__file__).resolve().parent.parent / "programs/data/story_infilling.jsonl"
BATCH, RATE, NORM = 64, 3e-4, 1.0
TEXTS = 128
"""Texts of a forward pass."""


@frozen(eq=False)
class Filler:
    """A masked model's module with the log shares of the lengths, both trained; what stands around the text, and where what may stand."""

    module: torch.nn.Module
    shares: Tensor
    before: tuple[int, ...]
    behind: tuple[int, ...]
    mask_id: int
    allowed: Mapping[int, np.ndarray]
    """By length L: (L, V) what may stand at each place; every text of these is in the support, in whatever order it is filled."""

    @property
    def lengths(self) -> list[int]:
        return list(self.allowed)


@frozen(eq=False)
class Filled:
    """N trajectories: texts, the places in the order in which they were filled, and log q (N,) with its gradient, nats."""

    texts: list[tuple[int, ...]]
    log_prob: Tensor


def filler(model: TransformersMasked, target: Target, row: Mapping[str, str]) -> Filler:
    """A copy of the model that fills the only latent of the target."""
    allowed = allowed_at(target.latent("middle").support)  # type: ignore[arg-type]
    encode = model.tokenizer.encode
    return Filler(
        copy.deepcopy(model.module).requires_grad_(True), torch.zeros(len(allowed), requires_grad=True),
        (*model.tokenizer.start_ids, *encode(row["opening"])), (*encode(" " + row["ending"]), *model.tokenizer.end_ids),
        model.mask_id, allowed,
    )  # fmt: skip


def allowed_at(support: TextSupport) -> dict[int, np.ndarray]:
    """By length L: (L, V) what may stand at each place of a text with a stop and no other constraint."""
    found = {}
    for length, sized in by_length(support).items():
        state, rows = sized.start(), []
        for _ in range(length):  # a stop alone: whatever is allowed leads to the same next ones
            rows.append(sized.allowed(state))
            state = sized.advance(state, int(np.flatnonzero(rows[-1])[0]))
        found[length] = np.stack(rows)
    return found


def conditionals(policy: Filler, texts: Sequence[Sequence[int]], places: Sequence[int]) -> Tensor:
    """(N, V) log p of what stands at one masked place of each text, over what may stand there."""
    out = []
    for begin in range(0, len(texts), TEXTS):
        some, asked = texts[begin : begin + TEXTS], places[begin : begin + TEXTS]
        rows = [(*policy.before, *text, *policy.behind) for text in some]
        width = max(map(len, rows))
        ids = torch.tensor([(*row, *[0] * (width - len(row))) for row in rows])
        seen = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        logits = policy.module(input_ids=ids, attention_mask=seen).logits
        at = torch.tensor([len(policy.before) + place for place in asked])
        allowed = np.stack(
            [policy.allowed[len(text)][place] for text, place in zip(some, asked, strict=True)]
        )
        size = allowed.shape[1]
        said = logits[torch.arange(len(some)), at][:, :size].masked_fill(
            ~torch.from_numpy(allowed), -torch.inf
        )
        out.append(torch.log_softmax(said, dim=-1))
    return torch.cat(out)


def fill(
    policy: Filler, n: int, rng: np.random.Generator, *, any_order: bool, known: Mapping[int, int] | None = None,
    length: int | None = None, made: Sequence[tuple[int, ...]] | None = None,
) -> Filled:  # fmt: skip
    """N trajectories; with `known` tokens by place, and then the `length`, only the other places are filled.

    Of texts that were `made` before, new trajectories that end in them.
    """
    known = known or {}
    shares = torch.log_softmax(policy.shares.double(), dim=0)
    lengths = policy.lengths
    if made is not None:
        picked = np.array([lengths.index(len(text)) for text in made])
        log_prob = shares[torch.from_numpy(picked)]
    elif length is None:
        picked = rng.choice(len(lengths), size=n, p=shares.exp().detach().numpy())
        log_prob = shares[torch.from_numpy(picked)]
    else:
        picked, log_prob = np.full(n, lengths.index(length)), torch.zeros(n, dtype=torch.float64)
    texts = [[known.get(place, policy.mask_id) for place in range(lengths[k])] for k in picked]
    free = [[place for place in range(len(text)) if place not in known] for text in texts]
    orders = [rng.permutation(some).tolist() if any_order else some for some in free]
    for turn in range(max(map(len, orders))):
        mine = [d for d in range(n) if turn < len(orders[d])]
        places = [orders[d][turn] for d in mine]
        said = conditionals(policy, [texts[d] for d in mine], places)
        if made is None:
            tokens = (said.detach() + torch.from_numpy(rng.gumbel(size=said.shape))).argmax(dim=-1)
        else:
            tokens = torch.tensor([made[d][place] for d, place in zip(mine, places, strict=True)])
        log_prob = log_prob.index_add(0, torch.tensor(mine), said[torch.arange(len(mine)), tokens].double())
        for d, place, token in zip(mine, places, tokens.tolist(), strict=True):
            texts[d][place] = token
    return Filled([tuple(text) for text in texts], log_prob)


def train(
    policy: Filler, target: Target, steps: int, seed: int, *, any_order: bool, rate: float = RATE
) -> None:
    """VarGrad on the policy's own draws, and the likelihood of as many texts that were seen, drawn by their rewards.

    What it began as goes on drawing too, so that no text is lost because the policy has left it.
    """
    start = evolve(policy, module=copy.deepcopy(policy.module), shares=policy.shares.detach().clone())
    parameters = [*policy.module.parameters(), policy.shares]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    rng = np.random.default_rng(seed)
    seen: dict[tuple[int, ...], float] = {}
    for step in range(steps):
        own = fill(policy, BATCH // 2, rng, any_order=any_order)
        reward = log_reward(target, own.texts)
        seen |= zip(own.texts, reward.tolist(), strict=True)
        with torch.no_grad():
            others = fill(start, BATCH // 2, rng, any_order=any_order).texts
        seen |= zip(others, log_reward(target, others).tolist(), strict=True)
        texts = list(seen)
        again = rng.choice(len(texts), size=BATCH // 2, p=normalize(np.array(list(seen.values()))))
        known = fill(policy, BATCH // 2, rng, any_order=any_order, made=[texts[k] for k in again])
        spread = (own.log_prob - reward).var()
        # The worst texts are 40 nats below the best: beside them nothing else would be felt.
        loss = spread / spread.detach().clamp(min=1.0) - known.log_prob.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, NORM)
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        optimizer.step()
        if (step + 1) % 20 == 0:
            print(
                f"step {step + 1}  variance of log w {float(spread.detach()):.2f}, log q {float(known.log_prob.detach().mean()):.2f}",
                flush=True,
            )


def log_reward(target: Target, texts: Sequence[tuple[int, ...]]) -> Tensor:
    """(N,) nats."""
    found = target.log_reward({"middle": [target.value_of("middle", ids) for ids in texts]})
    return torch.from_numpy(np.broadcast_to(found, (len(texts),)).copy())


@torch.inference_mode()
def measured(
    policy: Filler, target: Target, listing: Listing, draws: int, *, any_order: bool, known: bool
) -> dict[str, float]:
    """Of draws with the seed 1: ESS/N, the log evidence less the listing's, and the total variation of the weighted draws."""
    place, length = None, None
    if known:
        listing, place = with_a_word(listing)
        length = len(listing.values[0])
    given = {} if place is None else {place: listing.values[0][place]}
    drawn = fill(policy, draws, np.random.default_rng(1), any_order=any_order, known=given, length=length)
    log_weight = (log_reward(target, drawn.texts) - drawn.log_prob).numpy()
    weights = np.exp(log_weight - log_weight.max())
    return {
        "ess": ess(log_weight) / draws,
        "log_evidence": log_evidence(log_weight) - listing.log_evidence,
        "tv": distance(listing, drawn.texts, weights / weights.sum()),
    }


def with_a_word(listing: Listing) -> tuple[Listing, int]:
    """The posterior given the middle token of its likeliest text, and its length; and the place of that token."""
    best = listing.values[int(np.argmax(listing.log_prob))]
    place = len(best) // 2
    agree = [k for k, ids in enumerate(listing.values) if len(ids) == len(best) and ids[place] == best[place]]
    log_prob = listing.log_prob[agree]
    order = np.argsort(-log_prob, kind="stable")
    mass = float(np.logaddexp.reduce(log_prob))
    part = evolve(
        listing, values=tuple(listing.values[agree[k]] for k in order), log_prob=log_prob[order] - mass,
        rest=0.0, log_evidence=listing.log_evidence + mass,
    )  # fmt: skip
    return part, place


def distance(listing: Listing, texts: Sequence[tuple[int, ...]], shares: np.ndarray) -> float:
    """Total variation of weighted draws to a listed posterior, what it does not list taken as one value."""
    number = {ids: k for k, ids in enumerate(listing.values)}
    found = np.zeros(len(number) + 1)
    np.add.at(found, [number.get(ids, len(number)) for ids in texts], shares)
    return float(np.abs(found - np.append(np.exp(listing.log_prob), listing.rest)).sum() / 2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="A policy that fills a text in any order.")
    parser.add_argument("--masked", type=Path, required=True)
    parser.add_argument("--row", type=int, default=0)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    line = json.loads(DATA.read_text(encoding="utf-8").splitlines()[given.row])
    row = {name: line[name] for name in ("opening", "ending")}
    query = loads(PROGRAM, "<between>")
    target, model = query.given(row).target(), TransformersMasked.from_folder(given.masked)
    listing = exact_listing(query, row)
    print(f"listed: {len(listing.values)} texts, {listing.rest:.1%} of the posterior left out", flush=True)
    rows: dict[str, dict[str, float]] = {}
    for trained, any_order in (("start", True), ("any order", True), ("left to right", False)):
        policy = filler(model, target, row)
        if trained != "start":
            train(policy, target, given.steps, 0, any_order=any_order)
        for known in (False, True):
            found = measured(policy, target, listing, given.draws, any_order=any_order, known=known)
            rows[trained + ", a word known" * known] = found
    for known in (False, True):
        one = with_a_word(listing)[0] if known else listing
        p = np.append(np.exp(one.log_prob), one.rest)
        drawn = np.random.default_rng(1).multinomial(given.draws, p / p.sum()) / given.draws
        rows["exact draws" + ", a word known" * known] = {
            "ess": 1.0,
            "log_evidence": 0.0,
            "tv": float(np.abs(drawn - p).sum() / 2),
        }
    for name, found in rows.items():
        print(
            f"{name}: ESS/N {found['ess']:.3f}, log evidence {found['log_evidence']:+.3f}, TV {found['tv']:.3f}"
        )
    if given.out:
        given.out.write_text(
            json.dumps({"row": given.row, "steps": given.steps, "draws": given.draws, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
