"""Distributions that are not language models, against their formulas and their sums."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from posterior_lm.lang.values import ChoiceSpec, IntSpec
from posterior_lm.target.functions import DISTS, ParameterError

RANGE = IntSpec(2, 6)
CHOICES = ChoiceSpec(("a", "b", "c"))


@given(st.integers(-3, 60), st.floats(0.001, 30))
def test_poisson(k: int, rate: float) -> None:
    assert DISTS["poisson"]((rate,), None)(k) == pytest.approx(
        stats.poisson.logpmf(k, rate), rel=1e-9, abs=1e-9
    )


@given(st.integers(-3, 60), st.floats(0.001, 1))
def test_geometric_counts_failures(k: int, p: float) -> None:
    wanted = stats.geom.logpmf(k + 1, p)  # scipy counts trials
    assert DISTS["geometric"]((p,), None)(k) == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@given(st.integers(-3, 25), st.integers(0, 20), st.floats(0, 1))
def test_binomial(k: int, n: int, p: float) -> None:
    got = DISTS["binomial"]((n, p), None)(k)
    wanted = stats.binom.logpmf(k, n, p)
    assert got == pytest.approx(wanted, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("p", (0, 1, 0.0, 1.0))
def test_edges(p: float) -> None:
    assert [math.exp(DISTS["binomial"]((2, p), None)(k)) for k in range(3)] == [1 - p, 0, p]
    assert [math.exp(DISTS["poisson"]((0,), None)(k)) for k in range(3)] == [1, 0, 0]
    assert [math.exp(DISTS["geometric"]((1,), None)(k)) for k in range(3)] == [1, 0, 0]


def test_uniform() -> None:
    uniform = DISTS["uniform"]
    assert [uniform((), RANGE)(v) for v in (1, 2, 6, 7)] == pytest.approx(
        [-math.inf, -math.log(5), -math.log(5), -math.inf]
    )
    assert uniform((3, 4), RANGE)(4) == pytest.approx(-math.log(2))
    assert uniform((3, 4), RANGE)(5) == -math.inf
    assert uniform((), CHOICES)("b") == pytest.approx(-math.log(3))
    assert uniform((), CHOICES)("d") == -math.inf
    assert uniform((-2, -2), None)(-2) == 0


def test_categorical_is_in_order_of_declaration() -> None:
    categorical = DISTS["categorical"]
    probs = ((0.5, 0.3, 0.2),)
    assert [math.exp(categorical(probs, CHOICES)(c)) for c in "abcd"] == pytest.approx([0.5, 0.3, 0.2, 0])
    five = ((0.1, 0.2, 0.3, 0.4, 0),)
    assert [math.exp(categorical(five, RANGE)(k)) for k in range(1, 8)] == pytest.approx(
        [0, 0.1, 0.2, 0.3, 0.4, 0, 0]
    )
    assert [math.exp(categorical(probs, None)(k)) for k in range(-1, 4)] == pytest.approx(
        [0, 0.5, 0.3, 0.2, 0]
    )


def test_each_sums_to_one() -> None:
    for name, args in (
        ("poisson", (3.5,)),
        ("geometric", (0.2,)),
        ("binomial", (7, 0.4)),
        ("uniform", (3, 9)),
    ):
        assert math.fsum(math.exp(DISTS[name](args, None)(k)) for k in range(200)) == pytest.approx(
            1, abs=1e-9
        )


WRONG = [
    ("poisson", (-0.1,)), ("poisson", (math.nan,)), ("poisson", (math.inf,)), ("poisson", ("a",)), ("poisson", (True,)),
    ("geometric", (0,)), ("geometric", (1.01,)), ("geometric", (-0.2,)), ("geometric", (math.nan,)),
    ("binomial", (-1, 0.5)), ("binomial", (2.5, 0.5)), ("binomial", (2, 1.5)), ("binomial", (2, -0.5)),
    ("uniform", (3, 2)), ("uniform", (0.5, 2)), ("uniform", (0, math.inf)), ("uniform", ()),
    ("categorical", ((0.5, 0.6),)), ("categorical", ((-0.1, 1.1),)), ("categorical", ((0.5, math.nan),)),
    ("categorical", ((),)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args"), WRONG)
def test_parameters_out_of_range_are_refused(name: str, args: tuple) -> None:
    with pytest.raises(ParameterError):
        DISTS[name](args, None)(1)


def test_as_many_probabilities_as_values() -> None:
    with pytest.raises(ParameterError, match="2 probabilities for 3 values"):
        DISTS["categorical"](((0.5, 0.5),), CHOICES)("a")


def test_places() -> None:
    assert [RANGE.number(v) for v in (1, 2, 6, 7, "2", 2.0)] == [None, 0, 4, None, None, None]
    assert IntSpec(3, 2).size == 0
    assert [CHOICES.number(v) for v in ("a", "c", "x", 0)] == [0, 2, None, None]
