"""The bound never exceeds the log evidence, meets it at the exact posterior, and never falls.

On a table every sum is written out, so the M-step has a closed form; on a transformer the
posterior is enumerated and the M-step takes small gradient steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import attrs
import numpy as np
import pytest

from posterior_lm.api.query import Query, loads
from posterior_lm.em.m_step import lessons, m_step
from posterior_lm.em.rounds import bound_of, weighted, weighted_values
from posterior_lm.em.saved import adapted
from posterior_lm.em.split_model import split_model
from posterior_lm.infer.base import run
from posterior_lm.infer.exact import Exact
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.infer.weights import logsumexp, normalize
from posterior_lm.lm.protocol import LanguageModel
from posterior_lm.lm.tabular import TabularModel
from posterior_lm.target.target import Target
from posterior_lm.train.adapter import Adapter
from tests.unit.test_em_split_model import RATED

TOKENS = ["a", "b", "c", "u", "v", "w"]
CLASSES, SEEN = TOKENS[:3], TOKENS[3:]
PROGRAM = """
lm base = "unused.json"
program classes(one: text, two: text) {
  latent z: one_of("a", "b", "c") ~ categorical([0.6, 0.3, 0.1])
  observe one ~ base(z)
  observe two ~ base(z)
}
"""
PAIRS = ["uu"] * 7 + ["uv"] * 2 + ["vv"] * 3 + ["ww", "wv", "wu"]
START = {"a": [0.5, 0.3, 0.2], "b": [0.2, 0.6, 0.2], "c": [0.25, 0.3, 0.45]}
Table = Mapping[str, list[float]]


def model_of(table: Table) -> TabularModel:
    rows = {"": dict.fromkeys(TOKENS, 1 / 6)} | {z: dict(zip(SEEN, p, strict=True)) for z, p in table.items()}
    return TabularModel.from_dict({"tokens": TOKENS, "order": 1, "max_tokens": 9, "bos": False, "rows": rows})


def targets(table: Table) -> list[Target]:
    query = loads(PROGRAM)
    split = split_model(query.checked)
    query = attrs.evolve(query, module=split.module).lm(base=model_of(START), base_em=model_of(table))
    return [query.given(one=p[0], two=p[1]).target() for p in PAIRS]


def evidence(table: Table) -> float:
    """Mean log evidence, written out."""
    prior = np.array([0.6, 0.3, 0.1])
    p = np.array([table[z] for z in CLASSES])
    return float(
        np.mean([math.log(float(prior @ (p[:, SEEN.index(y[0])] * p[:, SEEN.index(y[1])]))) for y in PAIRS])
    )


def best_table(table: Table) -> Table:
    """The M-step in closed form: expected counts over their sum (Dempster et al. 1977, §4)."""
    counts = {z: np.zeros(3) for z in CLASSES}
    for pair, there in zip(PAIRS, targets(table), strict=True):
        draws = run(Exact(), there, n=1, rng=np.random.default_rng(0))
        row = weighted_values(there, draws.values, draws.log_reward)
        for value, weight in zip(row.values["z"], row.weights, strict=True):
            for y in pair:
                counts[str(value.datum)][SEEN.index(y)] += weight
    return {z: (c / c.sum()).tolist() for z, c in counts.items()}


def bound_at_the_posterior(table: Table, rng: np.random.Generator) -> tuple[float, float]:
    """Both bounds from draws of the exact posterior, whose log q is known."""
    rows = []
    for there in targets(table):
        draws = run(Exact(), there, n=1, rng=rng)
        log_q = np.log(normalize(draws.log_reward))
        picked = rng.choice(len(draws), size=5, p=np.exp(log_q))
        rows.append((draws.log_reward - log_q)[picked])
    found = bound_of(rows)
    return found.elbo, found.log_evidence


def test_with_exact_steps_the_bound_is_the_evidence_and_never_falls(rng: np.random.Generator) -> None:
    table: Table = START
    bounds = []
    for _ in range(8):
        elbo, tight = bound_at_the_posterior(table, rng)
        assert elbo == pytest.approx(evidence(table), abs=1e-9) == pytest.approx(tight, abs=1e-9)
        bounds.append(elbo)
        table = best_table(table)
    assert all(after >= before - 1e-12 for before, after in pairwise(bounds))
    assert bounds[1] > bounds[0] + 0.1 and bounds[-1] > bounds[1] + 0.02


def test_a_guide_that_is_not_exact_lies_below_and_the_importance_bound_between(
    rng: np.random.Generator,
) -> None:
    there = targets(START)[12]  # w twice: the prior is no posterior
    exact = run(Exact(), there, n=1, rng=rng)
    log_z = logsumexp(exact.log_reward)
    prior = np.exp([float(PriorGuide(there).log_prob({"z": (v,)})[0]) for v in exact.values["z"]])
    wanted = float(prior @ (exact.log_reward - np.log(prior)))
    draws = [weighted(there, PriorGuide(there), 10, rng).log_weights for _ in range(600)]
    found = bound_of(draws)
    se = float(np.std([w.mean() for w in draws]) / math.sqrt(len(draws)))
    assert found.elbo == pytest.approx(wanted, abs=4 * se) and wanted < log_z - 0.02
    assert found.elbo < found.log_evidence < log_z
    tighter = bound_of([np.concatenate(draws[k : k + 10]) for k in range(0, 600, 10)])
    assert found.log_evidence < tighter.log_evidence < log_z + 4 * se


def test_on_a_transformer_the_evidence_never_falls(rng: np.random.Generator) -> None:
    """The exact posterior by enumeration, and an M-step of small gradient steps on an adapter."""
    query = loads(RATED)
    base = query.prepared.models["base"]
    adapter = Adapter.new(base, rank=4, seed=1)
    split = attrs.evolve(query, module=split_model(query.checked).module)
    rows = [{"x": k, "label": "good" if k % 3 == 0 else "bad"} for k in range(6)]
    try:
        found = []
        for _ in range(5):
            drawn, log_z = _exact(split, rows, adapted(adapter), rng)
            found.append(log_z)
            m_step(adapter, lessons(drawn, "base_em"), steps=2, rate=3e-4, batch=6, draws=4, rng=rng)
    finally:
        adapter.close()
    assert all(after > before for before, after in pairwise(found))
    assert found[-1] > found[0] + 0.3


def _exact(
    query: Query, rows: list[dict[str, object]], model: LanguageModel, rng: np.random.Generator
) -> tuple[list, float]:
    drawn, total = [], []
    for row in rows:
        there = query.lm(base_em=model).given(row).target()
        draws = run(Exact(), there, n=1, rng=rng)
        drawn.append(weighted_values(there, draws.values, draws.log_reward))
        total.append(logsumexp(draws.log_reward))
    return drawn, float(np.mean(total))


def test_the_check_would_notice(rng: np.random.Generator) -> None:
    """With weights that are not the posterior's the bound can fall, which is what the tests above look for."""
    wrong: Callable[[Table], Table] = lambda table: {  # noqa: E731
        z: (np.roll(best_table(table)[z], 1)).tolist() for z in CLASSES
    }
    assert evidence(wrong(START)) < evidence(START) - 0.1
