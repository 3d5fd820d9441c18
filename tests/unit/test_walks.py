"""Draws for training side by side: latents that no policy draws are drawn and scored together, each as it would be alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from posterior_lm.api.query import loads
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.target.target import Target
from posterior_lm.target.values import Value
from posterior_lm.train.gflownet_batch import propose, walks
from posterior_lm.train.guide import readings_of

# A number, a choice of the model's after it, a text that a policy draws, and a choice after all of them.
PROGRAM = """lm base = "tiny"
program p(x: text) {
  latent a: int(1..4, lead=" ") ~ categorical([0.1, 0.2, 0.3, 0.4])
  latent b: one_of(" red", " blue", " green") ~ choice(base(x, a))
  latent c: text(tokens=1..2, end="free") ~ base(x, a, b)
  latent d: one_of(" cat", " dog") ~ choice(base(x, c))
}"""


def targets() -> list[Target]:
    return [loads(PROGRAM).given(x=x).target() for x in ("Tom saw", "She has")]


def drawn(target: Target, n: int, seed: int) -> list[dict[str, Value]]:
    values = PriorGuide(target).sample(np.random.default_rng(seed), n).values
    return [{name: column[k] for name, column in values.items()} for k in range(n)]


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pasts of each call that scores every value of a latent."""
    asked: list[int] = []
    real = PriorGuide._prior_rows

    def counted(self: PriorGuide, info: object, candidates: object, past: object, rows: int) -> object:
        asked.append(rows)
        return real(self, info, candidates, past, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(PriorGuide, "_prior_rows", counted)
    return asked


def test_what_no_policy_draws_has_its_own_terms(rows: list[int]) -> None:
    target = targets()[0]
    draws = drawn(target, 40, 3)
    rows.clear()
    readings = {"c": readings_of(target)["c"]}
    found = np.array([w.rest for w in walks(target, readings, draws)])
    assert rows == [40, 40, 40], "one call for each of the three"
    terms = target.terms({name: [d[name] for d in draws] for name in target.names})
    np.testing.assert_allclose(found, terms[:, [0, 1, 3]].sum(axis=1), atol=1e-5)
    assert np.ptp(found) > 1.0
    alone = [walks(target, readings, [d])[0] for d in draws]
    np.testing.assert_allclose(found, [w.rest for w in alone], atol=1e-5)


def test_a_value_outside_its_support_is_refused() -> None:
    target = targets()[0]
    (draw,) = drawn(target, 1, 3)
    other = Value((1, 2, 3), "?", "?")
    with pytest.raises(ValueError):
        walks(target, {"c": readings_of(target)["c"]}, [{**draw, "b": other}])


def test_side_by_side_each_draw_is_what_it_would_be_alone(rows: list[int]) -> None:
    two = targets()
    of = [k % 2 for k in range(24)]
    lm = two[0].models[readings_of(two[0])["c"].lm]

    def made(some: list[int]) -> list[dict[str, Value]]:
        rngs = [np.random.default_rng([5, k]) for k in some]
        chosen = [two[of[k]] for k in some]
        reads: list[Mapping] = [{"c": readings_of(t)["c"]} for t in chosen]
        return propose(lm, chosen, reads, rngs, [1.0] * len(some))  # type: ignore[arg-type]

    whole = made(list(range(24)))
    assert len(rows) == 6, "one call for each of the two targets and of the three latents"
    assert whole == [made([k])[0] for k in range(24)]
    assert len({d["a"].datum for d in whole}) == 4 and len({d["b"].datum for d in whole}) > 1
