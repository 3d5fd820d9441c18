"""The terms by the latent that completes them: together they are the log reward, and each is known when it says so."""

from __future__ import annotations

import numpy as np
import pytest

from posterior_lm.infer.guide import PriorGuide
from posterior_lm.infer.schedule import log_terms, stages
from tests.strategies import compiled, table

MODEL = table(("a", "b", ".", " "), seed=71, order=2, max_tokens=40)
TEMPERED = """temper 1.7 { latent x: text(tokens=1..2) ~ base("a") ^ 0.5 observe x ~ base("b") }
              factor 0.3 * chars(x)
              latent n: int(0..2) ~ binomial(2, 0.4) ^ 3 observe "b" ~ base(x, "a") ^ 2
              condition chars(x) >= n observe "a." ~ base("b") factor 0.5"""
PLATE = """plate r in rows { latent z: text(tokens=1..2, stop=".") ~ base(r.t)
                             observe r.t ~ base(z) ^ 2 condition chars(z) < 9 }"""
ROWS = {"rows": [{"t": "a"}, {"t": "b."}, {"t": "ab"}]}
NESTED = "latent z: text(tokens=1..2) ~ base() temper 0.5 { plate r in rows { observe r.t ~ base(z) ^ r.b } }"
POWERS = {"rows": [{"t": "a", "b": 2.0}, {"t": "b", "b": 3.0}]}


@pytest.mark.parametrize(
    ("parameters", "body", "data"),
    [("", TEMPERED, {}), ("rows: table(t: text)", PLATE, ROWS), ("rows: table(t: text, b: real)", NESTED, POWERS)],
)  # fmt: skip
def test_the_stages_add_up_to_the_log_reward(parameters: str, body: str, data: dict) -> None:
    target = compiled(f'lm base = "b"\nprogram p({parameters}) {{ {body} }}', data, {"base": MODEL})
    values = PriorGuide(target).sample(np.random.default_rng(3), 40).values
    total, known = np.zeros((40, len(target.statements))), {}
    for info, stage in zip(target.latents, stages(target), strict=True):
        known[info.name] = values[info.name]  # what comes later is not there yet
        terms, scores = log_terms(target, (stage.prior, *stage.others), known, 40)
        total += terms
        assert {stage.prior.node} & set(scores) == ({stage.prior.node} if info.type == "text" else set())
    wanted = target.terms(values)
    read = [k for k, i in enumerate(target.graph.sink.inputs) if i not in target.graph.fixed]
    assert 0 < len(read) <= len(target.statements)
    np.testing.assert_allclose(total[:, read], wanted[:, read], rtol=1e-9, atol=1e-9)
    assert (
        np.isfinite(wanted).any()
        and (total[:, [k for k in range(len(wanted[0])) if k not in read]] == 0).all()
    )


def test_a_rows_terms_are_known_with_its_own_latent() -> None:
    source = f'lm base = "b"\nprogram p(rows: table(t: text)) {{ {PLATE} }}'
    plan = stages(compiled(source, ROWS, {"base": MODEL}))
    assert [len(stage.others) for stage in plan] == [2, 2, 2]
    assert [[a.exponent for a in stage.others] for stage in plan] == [[2.0, 1.0]] * 3
    assert [len(stage.tests) for stage in plan] == [1, 1, 1]
