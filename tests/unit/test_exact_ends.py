"""A search that finds nothing ends and says so; a list that is asked for no mass holds a value."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.infer import listing
from posterior_lm.infer.auto import MINUTE, backend_of
from posterior_lm.infer.exact import IDLE
from posterior_lm.infer.listing import listed_early, listed_within
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


# ------------------------------------------------------------------------------- what would take too long

DICE = """lm base = "unused"
program dice() {
  latent z: list(int(1..4), 1..4, end="b") ~ base()
  plate d in z { condition d >= previous(d, 0) }
  factor 0.3 * len(z)
}"""
DIGITS = TabularModel.from_dict(
    {
        "tokens": [*"1234b"],
        "order": 0,
        "max_tokens": 60,
        "rows": {"": {c: 0.19 for c in "1234b"} | {"<eos>": 0.05}},
    }
)
TEXT = """lm base = "unused"
program texts() {
  latent z: text(tokens=5..5, chars="1234", end="free") ~ base()
  observe "b" ~ base(z)
}"""


class Clock:
    """Seconds that pass where a model computes, and nowhere else."""

    now, each = 100.0, 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock, asked = Clock(), TabularModel.next_log_probs

    def slow(self: TabularModel, ids: Sequence[int]) -> np.ndarray:
        clock.now += clock.each
        return asked(self, ids)

    monkeypatch.setattr(TabularModel, "next_log_probs", slow)
    monkeypatch.setattr(time, "monotonic", clock)
    yield clock


def drawn(program: str, **how: object) -> plm.Posterior:
    return plm.loads(program).lm(base=DIGITS).draw(50, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("program", [DICE, TEXT])
def test_a_list_that_would_take_too_long_is_left_and_that_is_said(program: str, clock: Clock) -> None:
    assert drawn(program).method == "exact", "no time passes"
    target, began = plm.loads(program).lm(base=DIGITS).target(), clock.now
    clock.each = 1e-3
    algorithm = backend_of("exact").build(target, {}, 50, None)
    whole, none = listed_within(target, algorithm, 1e9, None, np.random.default_rng(0))
    assert none is None and whole is not None and whole.certificate is not None
    took = clock.now - began
    clock.each = 1e-3 * 0.6 * MINUTE / took
    assert drawn(program).method == "exact", "it ends within a minute"
    assert drawn(program, budget=2 * MINUTE).method == "exact"
    began = clock.now
    clock.each *= 8.0
    found = drawn(program)
    assert found.method != "exact" and clock.now - began < 8 * MINUTE
    (foretold,) = map(
        float, re.findall(r"to list every value would take about (\d+) s, above 60", found.reason)
    )
    assert 0.4 < foretold / (4.8 * MINUTE) < 2.5
    assert "more than 20000" not in found.reason
    assert drawn(program, budget=10 * MINUTE).method == "exact"
    assert drawn(program, budget=2 * MINUTE).method != "exact"


def test_a_list_beside_draws_keeps_to_its_seconds_and_to_what_the_draws_cost(clock: Clock) -> None:
    """Each of 256 texts is followed by a choice of 64, so a step that opens many of them asks for thousands of scores."""
    choices = ", ".join(f'"{a}{b}{c}"' for a in "1234" for b in "1234" for c in "1234")
    body = f'latent z: text(tokens=4..4, chars="1234", end="free") ~ base() latent c: one_of({choices}) ~ base(z)'
    target = (
        plm.loads(f'lm base = "unused"\nprogram p() {{ {body} observe "b" ~ base(z, c) }}')
        .lm(base=DIGITS)
        .target()
    )

    def took(n: int, seconds: float | None) -> float:
        began = clock.now
        listed_early(target, n, seconds)
        return clock.now - began

    clock.each = 1e-3
    one = 64 * 3e-3  # what a choice costs
    assert took(1000, None) > 200 * one
    for seconds in (5.0, 10.0):
        assert 0.5 * seconds < took(1000, seconds) < 1.2 * seconds
    assert took(40, None) < 50 * one, "so many choices would forty draws ask for"


def test_a_list_that_is_nearly_done_is_brought_to_its_end(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that a budget ends is what there is of it, with its bound."""
    target = plm.loads(TEXT).lm(base=DIGITS).target()
    algorithm = backend_of("exact").build(target, {}, 50, None)
    clock.each = 1e-3

    def listed(seconds: float, budget: float | None = None) -> tuple[plm.Draws | None, float | None, float]:
        began = clock.now
        return *listed_within(target, algorithm, seconds, budget, np.random.default_rng(0)), clock.now - began

    took = listed(1e9)[2]
    some, foretold, spent = listed(0.3 * took)
    assert foretold is not None and spent < 0.8 * took and (some is None or not some.certificate.complete)  # type: ignore[union-attr]
    monkeypatch.setattr(listing, "NEARLY", 0.0)
    assert listed(0.3 * took)[1:] == (None, took)
    some, foretold, spent = listed(took, 0.6 * took)
    assert foretold is None and some is not None and 0.6 * took < spent < took
    assert some.certificate is not None and not some.certificate.complete and len(some) > 100
