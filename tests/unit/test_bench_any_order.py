"""Texts that are filled in any order: trajectories weigh to the evidence and to the posterior, and training brings them nearer."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import numpy as np
import torch

from benchmarks.any_order import Filler, allowed_at, fill, log_reward, train
from posterior_lm.api.query import loads
from posterior_lm.infer.weights import ess, log_evidence, normalize
from posterior_lm.target.target import Target
from tests.strategies import table

TOKENS = ("a", "b", "ab", ".")
MASK = len(TOKENS) + 1
PROGRAM = """lm base = "table"
program p() {
  latent middle: text(tokens=1..3, stop=".") ~ base("")
  factor 2 * count(middle, "b")
}
"""


class Net(torch.nn.Module):
    """Logits of a place from the place and what stands to both sides of it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.own, self.left, self.right = (torch.nn.Embedding(MASK + 1, MASK + 1) for _ in range(3))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        ids = torch.where(attention_mask.bool(), input_ids, torch.full_like(input_ids, MASK))
        left, right = ids.roll(1, dims=1), ids.roll(-1, dims=1)
        return SimpleNamespace(logits=(self.own(ids) + self.left(left) + self.right(right)) / 2)


def posed() -> tuple[Target, Filler]:
    target = loads(PROGRAM).lm(base=table(TOKENS, seed=3)).target()
    allowed = allowed_at(target.latent("middle").support)  # type: ignore[arg-type]
    return target, Filler(Net(), torch.zeros(len(allowed), requires_grad=True), (0,), (1,), MASK, allowed)


def listed(target: Target, length: int | None = None) -> dict[tuple[int, ...], float]:
    """Log rewards of all texts, by brute force."""
    ends = TOKENS.index(".")
    texts = [(*some, ends) for n in range(3) for some in product(range(3), repeat=n)]
    texts = [text for text in texts if length in (None, len(text))]
    return dict(zip(texts, log_reward(target, texts).tolist(), strict=True))


def test_the_texts_are_those_of_the_support() -> None:
    target, policy = posed()
    assert sum(np.prod(rows.sum(axis=1)) for rows in policy.allowed.values()) == len(listed(target)) == 13


def test_what_is_drawn_is_a_distribution_over_texts() -> None:
    target, policy = posed()
    texts = [text for text in listed(target) for _ in range(300)]
    with torch.no_grad():
        made = fill(policy, len(texts), np.random.default_rng(0), any_order=True, made=texts)
    assert made.texts == texts
    assert abs(made.log_prob.exp().sum() / 300 - 1) < 0.02


def test_trajectories_in_any_order_weigh_to_the_posterior() -> None:
    target, policy = posed()
    exact = listed(target)
    log_z = np.logaddexp.reduce(list(exact.values()))
    with torch.no_grad():
        drawn = fill(policy, 6000, np.random.default_rng(0), any_order=True)
    log_weight = (log_reward(target, drawn.texts) - drawn.log_prob).numpy()
    assert abs(log_evidence(log_weight) - log_z) < 0.1
    weights = normalize(log_weight)
    for text, reward in exact.items():
        found = weights[[one == text for one in drawn.texts]].sum()
        assert abs(found - np.exp(reward - log_z)) < 0.04


def test_with_a_token_known_the_rest_weighs_to_the_posterior_given_it() -> None:
    target, policy = posed()
    exact = {text: reward for text, reward in listed(target, 3).items() if text[1] == 2}
    log_z = np.logaddexp.reduce(list(exact.values()))
    with torch.no_grad():
        drawn = fill(policy, 3000, np.random.default_rng(0), any_order=True, known={1: 2}, length=3)
    assert set(drawn.texts) == set(exact)
    assert abs(log_evidence((log_reward(target, drawn.texts) - drawn.log_prob).numpy()) - log_z) < 0.1


def test_training_evens_the_weights_in_every_order() -> None:
    target, policy = posed()

    def share() -> float:
        with torch.no_grad():
            drawn = fill(policy, 1000, np.random.default_rng(1), any_order=True)
        return ess((log_reward(target, drawn.texts) - drawn.log_prob).numpy()) / 1000

    before = share()
    train(policy, target, 120, 0, any_order=True, rate=0.05)
    assert share() > max(0.8, 2 * before)
