"""Finite types up to the stated million: in seconds, and each value asked for once."""

from __future__ import annotations

import math
import resource
import time

import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.lang.diagnostics import CompileError
from posterior_lm.lm.counting import CountingModel
from posterior_lm.lm.tabular import TabularModel


def test_a_million_values_are_drawn_in_seconds() -> None:
    query = plm.loads("program p() { latent n: int(1..1000000) ~ uniform() }")
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = query.using("importance").draw(200)
    assert time.process_time() - began < 40
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # kB
    assert found.log_evidence == pytest.approx(0.0, abs=1e-9)
    assert all(isinstance(v.datum, int) and 1 <= v.datum <= 10**6 for v in found.draws.values["n"])
    with pytest.raises(CompileError, match="too many to list"):
        plm.loads("program p() { latent n: int(0..1000000) ~ uniform() }").draw(5)


def test_values_are_listed_as_they_are_found_one_by_one(rng: np.random.Generator) -> None:
    model = TabularModel.random(["1", "2", "12", "3", " "], order=1, rng=rng)
    for text in ("int(1..33)", 'one_of("12", "1", "3 2", "21")', 'int(1..3, lead=" ")'):
        body = f'lm base = "unused"\nprogram p() {{ latent z: {text} ~ choice(base("1")) condition z == z }}'
        if text.startswith("int(1..33"):
            body = body.replace("33", "3").replace("z == z", "z > 1")
        target = plm.loads(body).lm(base=model).target()
        support = target.latent("z").support
        assert target.listed("z") == [target.value_of("z", ids) for ids in support.values()]


def choices(n: int, extra: str = "") -> str:
    words = ", ".join(f'"{"ab"[k % 2]}{"ba" * (k // 2)}"' for k in range(n))
    return f'lm base = "unused"\nprogram p() {{ latent z: one_of({words}) ~ choice(base("a")){extra} }}'


def test_choice_asks_for_each_value_once_after_a_context(rng: np.random.Generator) -> None:
    table = TabularModel.random(["a", "b"], order=1, max_tokens=500, rng=rng)
    asked = []
    for n in (40, 80):
        model = CountingModel(table)
        target = plm.loads(choices(n)).lm(base=model).target()
        values = {"z": target.listed("z")}
        start = model.tokens
        terms = target.terms(values).sum(axis=1)
        asked.append(model.tokens - start)
        assert math.fsum(np.exp(terms)) == pytest.approx(1.0)
    # Twice the values of twice the length: four times the tokens, and not eight.
    assert asked[1] <= 4.5 * asked[0]


def test_choice_by_draw_is_as_it_was(rng: np.random.Generator) -> None:
    """Another context by draw, and a power: the masses that a loop over the values gives."""
    model = TabularModel.random(["a", "b", "1", "2"], order=1, rng=rng)
    text = (
        'lm base = "unused"\nprogram p(hi: int) {\n  latent y: one_of("a", "b") ~ base("a")\n'
        "  latent n: int(1..hi) ~ choice(base(y)) ^ 0.5\n}\n"
    )
    target = plm.loads(text).lm(base=model).given(hi=2).target()
    pairs = [(y, n) for y in target.listed("y") for n in target.listed("n")]
    terms = target.terms({"y": [y for y, _ in pairs], "n": [n for _, n in pairs]})
    for k, (y, _) in enumerate(pairs):
        mine = [terms[j, 1] for j, (other, _) in enumerate(pairs) if other == y]
        assert math.fsum(np.exp(2 * np.array(mine))) == pytest.approx(1.0), k
        log_p = model.next_log_probs(model.tokenizer.encode(y.text))
        raw = [log_p[model.tokenizer.encode(f"{n}")[0]] for n in (1, 2)]
        assert mine[1] - mine[0] == pytest.approx(0.5 * (raw[1] - raw[0]))


def test_a_model_that_no_latent_changes_makes_no_list_dear() -> None:
    """One value of thirty thousand holds the mass, and a term beside it asks a model for the same number every time."""
    body = 'latent n: int(0..30000) ~ uniform() factor if n == 12345 then 12 else 0 observe "1" ~ base()'
    model = TabularModel.random(["1", "2"], order=0, rng=np.random.default_rng(0))
    found = plm.loads(f'lm base = "unused"\nprogram p() {{ {body} }}').lm(base=model).draw(seed=0)
    assert found.method == "exact"
    assert dict(found.marginal("n"))[12345] == pytest.approx(math.exp(12) / (math.exp(12) + 30000))
