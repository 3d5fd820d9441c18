"""A search that finds nothing ends and says so; a list that is asked for no mass holds a value."""

from __future__ import annotations

import time

import pytest

import posterior_lm as plm
from posterior_lm.infer.exact import IDLE
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lm.tabular import TabularModel

TABLE = TabularModel.from_dict(
    {"tokens": ["a", "b"], "order": 0, "max_tokens": 60, "rows": {"": {"a": 0.5, "b": 0.4, "<eos>": 0.1}}}
)


def asked(type_: str) -> plm.Query:
    return plm.loads(f'lm base = "unused"\nprogram p() {{ latent z: {type_} ~ base() }}').lm(base=TABLE)


def test_a_search_that_finds_nothing_ends_and_says_so() -> None:
    began = time.process_time()
    with pytest.raises(InferenceError) as caught:
        asked("text(tokens=30..40)").using("exact", values=200).draw()
    (found,) = caught.value.diagnostics
    assert found.code == "PLM706" and "likeliest beginnings" in found.message
    assert int(found.message.split(" likeliest")[0].rsplit(" ", 1)[1].replace(",", "")) > IDLE * 200
    assert "budget" not in str(found.help) and "fewer tokens" in str(found.help)
    assert time.process_time() - began < 30


def test_a_search_that_finds_little_gives_what_it_found() -> None:
    """And its bound says that more is left."""
    found = asked("text(tokens=1..40)").using("exact", values=300, mass=0.2).draw()
    assert found.draws.certificate is not None and not found.draws.certificate.complete
    assert found.draws.certificate.missing_share <= 0.8


def test_a_small_support_is_listed_to_its_end() -> None:
    """Two values of twenty tokens are found after forty beginnings, however few values are asked for."""
    found = asked('text(tokens=20..20, pattern=r"a{20}|b{20}", end="free")').draw()
    assert found.method == "exact" and found.n == 2
    assert found.draws.certificate is not None and found.draws.certificate.complete


def test_no_mass_asks_for_one_value() -> None:
    found = asked("text(tokens=1..6)").using("exact", mass=0.0).draw()
    assert found.n >= 1 and found.draws.certificate is not None
    assert found.draws.certificate.missing_share < 1


@pytest.mark.parametrize("n", [0, -1, 2.5, "5", True, 10**5000], ids=range(6))
def test_a_number_of_draws_is_a_whole_one(n: object) -> None:
    with pytest.raises(InferenceError, match="PLM802") as caught:
        asked("text(tokens=1..6)").using("importance").draw(n)  # type: ignore[arg-type]
    assert "`n` is a whole number" in caught.value.diagnostics[0].message and caught.value.diagnostics[0].help


@pytest.mark.parametrize("seed", [-1, 1.5, "0", None, False])
def test_a_seed_is_a_whole_number(seed: object) -> None:
    with pytest.raises(InferenceError, match="PLM802"):
        asked("text(tokens=1..6)").draw(seed=seed)  # type: ignore[arg-type]
    assert asked("text(tokens=1..3)").draw(20, seed=10**40).n > 0
