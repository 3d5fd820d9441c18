"""Latents that no term ties together are listed part by part, and drawn from the posterior itself."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from posterior_lm.api.posterior import Posterior
from posterior_lm.api.query import Query, loads
from posterior_lm.infer.parts import listed_parts, parts
from posterior_lm.lang.diagnostics import InferenceError

TIED = """
program tied(xs: table(k: int(0..6)), seen: int(0..9)) {
  plate x in xs {
    latent n: int(0..99) ~ uniform()
    observe x.k ~ binomial(6, 0.02 + 0.009 * n)
  }
  latent a: int(0..19) ~ geometric(0.2)
  latent b: int(0..19) ~ poisson(1 + a)
  observe seen ~ poisson(0.5 + b)
  latent alone: one_of("x", "y", "z") ~ categorical([0.5, 0.2, 0.3])
  factor -1.5
}
"""


def query(ks: list[int]) -> Query:
    return loads(TIED).given(xs=[{"k": k} for k in ks], seen=4)


def binomial(k: int, p: float) -> float:
    return math.comb(6, k) * p**k * (1 - p) ** (6 - k)


def poisson(k: int, rate: float) -> float:
    return math.exp(k * math.log(rate) - rate - math.lgamma(k + 1))


def row_evidence(k: int) -> float:
    return sum(binomial(k, 0.02 + 0.009 * n) for n in range(100)) / 100


PAIR = {
    (a, b): 0.2 * 0.8**a * poisson(b, 1 + a) * poisson(4, 0.5 + b) for a, b in product(range(20), repeat=2)
}


def test_terms_say_which_latents_belong_together() -> None:
    found = parts(query([1, 5]).target())
    assert [names for names, _ in found] == [["n[0]"], ["n[1]"], ["a", "b"], ["alone"]]
    assert sum(len(atoms) for _, atoms in found) == 2 + 2 + 3 + 1


def test_draws_of_parts_are_draws_of_the_posterior() -> None:
    ks = [0, 1, 2, 3, 6] * 4
    posterior = query(ks).draw(2000, seed=3)
    assert posterior.draws.parts == 22 and posterior.method == "importance"
    known = math.fsum(math.log(row_evidence(k)) for k in ks) + math.log(sum(PAIR.values())) - 1.5
    assert posterior.log_evidence == pytest.approx(known, abs=1e-9)
    assert posterior.log_evidence_se == pytest.approx(0.0, abs=1e-9)
    assert np.ptp(posterior.draws.log_weights) < 1e-9, "every draw weighs the same"
    likeliest = max(PAIR, key=PAIR.__getitem__)
    prob = PAIR[likeliest] / sum(PAIR.values())
    asked = posterior.prob(lambda row: (row["a"], row["b"]) == likeliest)
    assert asked.value == pytest.approx(prob, abs=4 * math.sqrt(prob * (1 - prob) / 2000))
    assert posterior.prob('alone == "y"').value == pytest.approx(0.2, abs=0.03)
    assert "22 parts" in posterior.verdict and "22 parts" in posterior.draws.reason


def test_what_ties_all_latents_together_is_no_product() -> None:
    whole = TIED.replace("factor -1.5", 'factor if a > 3 and alone == "x" then -1 else 0')
    tied = loads(whole).given(xs=[{"k": 1}, {"k": 2}], seen=4)
    assert [names for names, _ in parts(tied.target())] == [["n[0]"], ["n[1]"], ["a", "b", "alone"]]


def test_a_list_that_no_value_satisfies_is_left_to_others() -> None:
    barren = TIED.replace("factor -1.5", "condition a > b + 19")
    with pytest.raises(InferenceError, match="PLM710"):
        loads(barren).given(xs=[{"k": 1}] * 3, seen=4).draw(50, seed=0)


def test_one_part_and_large_parts_are_not_listed_here() -> None:
    one = loads("program p() {\n  latent n: int(0..9) ~ uniform()\n}").target()
    assert listed_parts(one, 1000) is None
    large = loads(
        "program p() {\n  latent a: int(0..999) ~ uniform()\n  latent b: int(0..999) ~ uniform()\n"
        "  latent c: int(0..999) ~ uniform()\n  factor 0 - abs(a - b) / 9\n}"
    )
    assert listed_parts(large.target(), 1000) is None


def test_a_saved_posterior_keeps_what_is_known_of_it(tmp_path: Path) -> None:
    posterior = query([1] * 20).draw(200, seed=1)
    posterior.save(tmp_path)
    again = Posterior.load(tmp_path)
    assert again.draws.parts == 22 and again.verdict == posterior.verdict


def test_calibration_of_a_plate_lists_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty rows of a thousand values took minutes while each walk scored them all for particles."""
    from posterior_lm.infer import smc

    monkeypatch.setattr(smc.Smc, "init", lambda *_: pytest.fail("particles are drawn"))
    found = query([0, 1, 2, 3, 6] * 3).calibrate(simulate=16, draws=100, seed=2)
    assert found.passed and found.jeffreys == pytest.approx(0.0, abs=1e-9), found.verdict
