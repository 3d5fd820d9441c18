"""Chains over transformers, whose caches go on from kept prefixes, against the sum over every value."""

from __future__ import annotations

import numpy as np
import pytest

from posterior_lm.infer.base import run
from posterior_lm.infer.exact import Exact
from posterior_lm.infer.mcmc import Mcmc
from tests.laws.models import build
from tests.strategies import assigned, compiled

BODY = """latent z: text(tokens=1..2, chars="the a", stop="e") ~ base("a") ^ 0.5
          latent y: one_of("ed", "a", "the") ~ base(z) observe "a" ~ base(y, z) ^ 0.2"""
SEED = 4


@pytest.mark.parametrize("model", ("gpt2", "llama"))
def test_chains_come_near_the_exact_posterior(model: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The total variation is what a thirtieth as many independent draws would have, and far from the prior's."""
    lm = build(model, tmp_path_factory.getbasetemp())
    target = compiled(f'lm base = "b"\nprogram p() {{\n{BODY}\n}}', {}, {"base": lm})
    exact = run(Exact(values=10**6, mass=1.0), target, n=1, rng=np.random.default_rng(0))
    assert exact.certificate is not None and exact.certificate.complete
    wanted = {assigned(target, exact.values, d): w for d, w in enumerate(exact.normalized_weights)}
    draws = run(Mcmc(chains=64, steps=160), target, n=10**6, rng=np.random.default_rng(SEED))
    assert len(draws) == 64 * 120
    share = dict.fromkeys(wanted, 0.0)
    for d in range(len(draws)):
        share[assigned(target, draws.values, d)] += 1 / len(draws)
    far = 0.5 * sum(abs(share[k] - p) for k, p in wanted.items())
    few = len(draws) / 30
    noise = 0.5 * sum(np.sqrt(2 / np.pi * p * (1 - p) / few) for p in wanted.values())
    assert far < noise < 0.1, (SEED, far, noise)
