"""Bounds, weights and the M-step, each beside what it should be written out."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager

import attrs
import numpy as np
import pytest
import torch

from posterior_lm.api.query import loads
from posterior_lm.em.m_step import (
    FEW_HELD,
    LOOK,
    LOOKS,
    SETTLED,
    Lesson,
    _backward,
    _drawn,
    _fitting,
    columns_of,
    divided,
    lessons,
    m_step,
    surrogate,
)
from posterior_lm.em.rounds import Bound, Raised, Round, best_of, bound_of, weighted_values, why_done
from posterior_lm.em.saved import adapted
from posterior_lm.em.split_model import split_model
from posterior_lm.em.trained_terms import Line, Part
from posterior_lm.infer.base import run
from posterior_lm.infer.exact import Exact
from posterior_lm.infer.weights import logsumexp, normalize
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lm.protocol import Request
from posterior_lm.storage import plain, structured
from posterior_lm.target.target import Target
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.memory import Fit, recomputing
from tests.unit.test_em_split_model import RATED

m_step_module = sys.modules["posterior_lm.em.m_step"]
ROWS = [{"x": k, "label": "good" if k % 3 == 0 else "bad"} for k in range(6)]


@pytest.fixture
def adapter() -> Iterator[Adapter]:
    made = Adapter.new(loads(RATED).prepared.models["base"], rank=2, seed=3)
    yield made
    made.close()


def targets(adapter: Adapter) -> list[Target]:
    query = loads(RATED)
    query = attrs.evolve(query, module=split_model(query.checked).module).lm(base_em=adapted(adapter))
    return [query.given(row).target() for row in ROWS]


def exact_lessons(adapter: Adapter) -> tuple[list[Lesson], float]:
    """Every value of n with its posterior weight, and the mean log evidence."""
    rows, evidence = [], []
    for there in targets(adapter):
        draws = run(Exact(), there, n=1, rng=np.random.default_rng(0))
        rows.append(weighted_values(there, draws.values, draws.log_reward))
        evidence.append(logsumexp(draws.log_reward))
    return lessons(rows, "base_em"), float(np.mean(evidence))


# ------------------------------------------------------------------------------- bounds


def test_bounds_by_hand() -> None:
    found = bound_of([np.log([1.0, 3.0]), np.log([0.5, 0.5, 2.0])])
    assert found.elbo == pytest.approx((0.5 * math.log(3) + (2 * math.log(0.5) + math.log(2)) / 3) / 2)
    assert found.log_evidence == pytest.approx((math.log(2) + math.log(1)) / 2)
    assert found.ess == pytest.approx((16 / 10 / 2 + 9 / 4.5 / 3) / 2) and found.rows == 2
    assert found.elbo < found.log_evidence


def test_a_dead_draw_leaves_only_the_importance_bound() -> None:
    found = bound_of([np.array([0.0, -math.inf])])
    assert found.elbo == -math.inf and found.log_evidence == pytest.approx(-math.log(2))
    assert bound_of([np.full(2, -math.inf)]) == Bound(-math.inf, -math.inf, 0.0, 1)


def test_equal_draws_are_one_with_their_weights_together(adapter: Adapter) -> None:
    there = targets(adapter)[0]
    values = {"n": [there.value("n", n) for n in (2, 0, 2, 1)]}
    found = weighted_values(there, values, np.log([0.1, 0.3, 0.2, 0.0 + 1e-320]) + 5)
    assert [v.datum for v in found.values["n"]][:2] == [2, 0]
    np.testing.assert_allclose(found.weights[:2], [0.5, 0.5])
    assert found.weights.sum() == pytest.approx(1)
    gone = weighted_values(there, values, np.full(4, -math.inf))
    assert gone.values == {"n": []} and not len(gone.weights) and lessons([gone], "base_em") == []


# ------------------------------------------------------------------------------- the M-step


def test_the_surrogate_is_the_weighted_log_likelihood(adapter: Adapter) -> None:
    taught, _ = exact_lessons(adapter)
    wanted = []
    for there in targets(adapter):
        draws = run(Exact(), there, n=1, rng=np.random.default_rng(0))
        likelihood = there.terms(draws.values)[:, 1]
        wanted.append(float(normalize(draws.log_reward) @ likelihood))
    assert surrogate(adapter.model(), taught) == pytest.approx(np.mean(wanted), abs=1e-4)
    assert np.ptp(wanted) > 0.1


def test_a_step_raises_q_and_the_evidence_by_at_least_as_much(
    adapter: Adapter, rng: np.random.Generator
) -> None:
    taught, before = exact_lessons(adapter)
    raised = m_step(adapter, taught, steps=3, rate=1e-3, batch=4, draws=2, rng=rng)
    _, after = exact_lessons(adapter)
    assert raised is not None and raised.kept and raised.after > raised.before + 0.01
    assert raised.after == pytest.approx(surrogate(adapter.model(), taught), abs=1e-6)
    assert after - before >= raised.after - raised.before - 1e-4


def test_steps_that_lower_q_are_taken_back(adapter: Adapter, rng: np.random.Generator) -> None:
    taught, _ = exact_lessons(adapter)
    m_step(adapter, taught, steps=30, rate=1e-2, batch=8, draws=8, rng=rng)
    good = adapter.tensors()
    raised = m_step(adapter, taught, steps=2, rate=3.0, batch=1, draws=1, rng=rng)
    assert raised is not None and not raised.kept and raised.after == raised.before
    assert all(torch.equal(good[k], v) for k, v in adapter.tensors().items())


def test_a_step_ends_where_its_own_q_has_settled(adapter: Adapter, rng: np.random.Generator) -> None:
    taught, _ = exact_lessons(adapter)
    raised = m_step(
        adapter, taught, steps=400, rate=1e-2, batch=8, draws=8, rng=rng, held_out=taught[: FEW_HELD - 1]
    )
    assert raised is not None and raised.kept and 3 * LOOK <= raised.steps <= 200 and raised.steps % LOOK == 0
    more = m_step(adapter, taught, steps=2 * LOOK, rate=1e-2, batch=8, draws=8, rng=rng)
    assert more is not None and more.after - raised.after < 20 * SETTLED < raised.after - raised.before


def test_a_step_ends_where_rows_that_are_held_out_get_worse(
    adapter: Adapter, rng: np.random.Generator
) -> None:
    """Half of the rows are labelled as the others are not, so what all have in common rises first, and the rest falls."""
    taught, _ = exact_lessons(adapter)
    odd = [row for k, row in enumerate(taught) if k % 3 == 0]
    even = [row for k, row in enumerate(taught) if k % 3]
    first = adapter.tensors()
    told: list[int] = []
    raised = m_step(
        adapter, odd, steps=200, rate=1e-2, batch=8, draws=8, rng=rng, held_out=even, tick=told.append
    )
    assert raised is not None and len(told) - raised.steps == LOOKS * LOOK and len(told) < 200
    kept, weights = surrogate(adapter.model(), even), adapter.tensors()
    adapter.restore(first)
    m_step(
        adapter, odd, steps=raised.steps, rate=1e-2, batch=8, draws=8, rng=rng
    )  # all rows, all draws: no chance in it
    assert raised.kept and raised.steps
    for name, t in adapter.tensors().items():
        torch.testing.assert_close(weights[name], t, atol=1e-4, rtol=1e-3)
    m_step(adapter, odd, steps=LOOKS * LOOK, rate=1e-2, batch=8, draws=8, rng=rng)
    assert surrogate(adapter.model(), even) < kept - 0.1


def test_rows_held_out_that_are_alike_keep_the_last_of_the_steps(
    adapter: Adapter, rng: np.random.Generator
) -> None:
    taught, _ = exact_lessons(adapter)
    raised = m_step(adapter, taught, steps=13, rate=1e-3, batch=8, draws=8, rng=rng, held_out=taught)
    assert raised is not None and raised.steps == 13 and raised.kept


def test_a_step_that_is_stopped_is_taken_back(adapter: Adapter, rng: np.random.Generator) -> None:
    taught, _ = exact_lessons(adapter)
    before, asked = adapter.tensors(), iter((False, False, True))
    found = m_step(adapter, taught, steps=9, rate=1e-2, batch=8, draws=8, rng=rng, stop=lambda: next(asked))
    assert found is None
    assert all(torch.equal(before[k], v) for k, v in adapter.tensors().items())


# ------------------------------------------------------------------------------- in memory


def test_parts_hold_so_many_columns_where_beginnings_are_shared() -> None:
    def term(*context: int) -> tuple[Part, ...]:
        return (Part(1.0, (Line(context, (8, 9), ends=True),)),)

    terms = [term(1, 2, 3, 4), term(1, 2, 3, 5), term(1, 2, 6), term(7)]
    assert columns_of(terms) == 7 + 4 + 4 + 4 and columns_of(terms[1:2]) == 7
    assert divided(terms, 11) == [[0, 1], [2, 3]] and divided(terms, 18) == [[0, 1, 2], [3]]
    assert divided(terms, 1) == [[0], [1], [2], [3]] and divided(terms, 99) == [[0, 1, 2, 3]]


@pytest.mark.parametrize("recomputed", [False, True])
def test_small_parts_have_the_gradient_of_the_whole(
    adapter: Adapter, recomputed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[Adapter] = []

    def watched(of: Adapter) -> AbstractContextManager[None]:
        entered.append(of)
        return recomputing(of)

    monkeypatch.setattr(m_step_module, "recomputing", watched)
    taught, _ = exact_lessons(adapter)
    with torch.no_grad():
        for name, parameter in adapter.parameters.items():
            if "lora_B" in name:
                parameter.add_(0.05)

    def gradient(fit: Fit) -> tuple[float, dict[str, torch.Tensor]]:
        for parameter in adapter.parameters.values():
            parameter.grad = None
        q, found = _backward(adapter, taught, fit)
        assert found == fit
        return q, {k: p.grad.clone() for k, p in adapter.parameters.items() if p.grad is not None}

    whole, wanted = gradient(Fit(1 << 14))
    q, found = gradient(Fit(20, recomputed))
    assert q == pytest.approx(whole, abs=1e-5) and q == pytest.approx(
        surrogate(adapter.model(), taught), abs=1e-4
    )
    assert bool(entered) is recomputed
    assert set(found) == set(wanted) and any(g.abs().max() > 1e-3 for g in wanted.values())
    for name, g in wanted.items():
        torch.testing.assert_close(found[name], g, atol=2e-4, rtol=1e-3)


def test_a_pass_is_as_large_as_memory_allows(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    taught, _ = exact_lessons(adapter)
    found = []
    for free in (1 << 40, 24 << 20):
        monkeypatch.setattr(m_step_module, "free_memory", lambda device, free=free: free)
        found.append(_fitting(adapter, taught, 1 << 14).columns)
    assert found[0] == 1 << 14 and 64 <= found[1] < found[0]
    monkeypatch.setattr(m_step_module, "free_memory", lambda device: 1 << 10)
    with pytest.raises(InferenceError) as caught:
        m_step(adapter, taught, steps=1, rate=1e-2, batch=8, draws=8, rng=np.random.default_rng(0))
    assert caught.value.diagnostics[0].code == "PLM626"


def test_nothing_but_the_adapter_moves(adapter: Adapter, rng: np.random.Generator) -> None:
    other = Adapter.new(adapter.base, rank=2, seed=9)
    try:
        request = [Request((1, 5, 7, 8), 1)]
        base, guide = adapter.base.score(request)[0].tokens, other.tensors()
        mine = adapter.tensors()
        taught, _ = exact_lessons(adapter)
        m_step(adapter, taught, steps=2, rate=1e-2, batch=8, draws=8, rng=rng)
        np.testing.assert_array_equal(adapter.base.score(request)[0].tokens, base)
        assert all(torch.equal(guide[k], v) for k, v in other.tensors().items())
        assert any(not torch.equal(mine[k], v) for k, v in adapter.tensors().items())
    finally:
        other.close()


def test_a_gradient_that_is_no_number_is_refused_and_nothing_kept(
    adapter: Adapter, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught, _ = exact_lessons(adapter)
    before = adapter.tensors()
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *a: torch.tensor(math.nan))
    with pytest.raises(InferenceError) as caught:
        m_step(adapter, taught, steps=2, rate=1e-2, batch=8, draws=8, rng=rng)
    assert caught.value.diagnostics[0].code == "PLM626"
    assert all(torch.equal(before[k], v) for k, v in adapter.tensors().items())


def test_draws_of_a_step_stand_for_all_of_them(rng: np.random.Generator) -> None:
    weights = np.array([0.6, 0.05, 0.25, 0.1])
    row = Lesson(((),) * 4, weights)
    assert _drawn(row, 4, rng) is row
    marked = Lesson(tuple((k,) for k in range(4)), weights)  # type: ignore[arg-type]
    total = np.zeros(4)
    for _ in range(2000):
        some = _drawn(marked, 3, rng)
        assert some.weights.sum() == pytest.approx(1)
        for term, w in zip(some.terms, some.weights, strict=True):
            total[term[0]] += w / 2000  # type: ignore[index]
    np.testing.assert_allclose(total, weights, atol=0.03)


# ------------------------------------------------------------------------------- when it ends


def rounds(*held: float | None, kept: bool = True) -> tuple[Round, ...]:
    return tuple(
        Round(
            k, Bound(-9.0, -8.0 + 0.1 * k, 0.5, 4), None if h is None else Bound(-9.0, h, 0.5, 1),
            None if k == 0 else Raised(-1.0, -0.5, kept), "d", 1.0,
        )
        for k, h in enumerate(held)
    )  # fmt: skip


def test_rounds_end_when_the_held_out_bound_no_longer_rises() -> None:
    assert why_done(rounds(-5, -4, -4.5), 9, 2) is None
    assert "2 rounds" in str(why_done(rounds(-5, -4, -4.5, -4.2), 9, 2))
    assert "1 round" in str(why_done(rounds(-5, -5), 9, 1))
    assert best_of(rounds(-5, -4, -4.5)).number == 1 and best_of(rounds(-5, -5)).number == 0
    assert why_done((), 0, 1) is None


def test_without_held_out_rows_only_their_number_ends_rounds() -> None:
    assert why_done(rounds(None, None, None), 3, 1) is None
    assert why_done(rounds(None, None, None, None), 3, 1) == "3 rounds are done"
    assert best_of(rounds(None, None, None)).number == 2


def test_an_m_step_without_a_rise_ends_rounds() -> None:
    assert "nothing to raise" in str(why_done(rounds(-5, -4, kept=False), 9, 2))


def test_a_round_comes_back_from_json() -> None:
    for one in rounds(-5, None, -math.inf):
        assert structured(Round, plain(one)) == one
