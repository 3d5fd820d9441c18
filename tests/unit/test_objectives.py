"""Objectives against their formulas written out in loops; dead draws, unequal rows, misfits."""

from __future__ import annotations

import math
from itertools import combinations, pairwise, product

import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from posterior_lm.infer.methods import OBJECTIVES, losses
from posterior_lm.train.objectives import DEAD, DetailedBalance, Objective, Trajectories, objective

INF = math.inf
PREFIXES = ["subtb", "db"]
NAMES = ["vargrad", "tb", *PREFIXES]


def nats(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def rows(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


def whole(log_prob: Tensor, log_reward: Tensor, row: Tensor) -> Trajectories:
    """Draws with one end point each, themselves, after one token."""
    alive = log_reward > -INF
    nothing = torch.zeros_like(log_reward)
    return Trajectories(
        log_prob,
        log_reward,
        row,
        torch.stack([nothing, torch.where(alive, log_prob, 0.0)], dim=1),
        torch.stack([nothing, torch.where(alive, log_reward, 0.0)], dim=1),
        torch.stack([torch.zeros_like(alive), alive], dim=1),
    )


def gradients(name: str, t: Trajectories, *leaves: Tensor, log_z: Tensor | None = None, **options: object):
    loss = objective(name, **options).loss(t, log_z)
    assert loss.value.dtype == torch.float64 and loss.value.shape == ()
    found = torch.autograd.grad(loss.value, leaves, allow_unused=True)
    return (
        loss.value.item(),
        loss.terms,
        *[torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)],
    )


# --------------------------------------------------------------- against loops

NUMBER = st.floats(-40, 40)


@st.composite
def blocks(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """log q, log R, rows, and the end points of up to seven draws of up to three rows, some dead."""
    n, width = draw(st.integers(1, 7)), draw(st.integers(1, 6))

    def column() -> Tensor:
        return nats(*draw(st.lists(NUMBER, min_size=n, max_size=n)))

    def block() -> Tensor:
        return torch.stack([nats(*draw(st.lists(NUMBER, min_size=width, max_size=width))) for _ in range(n)])

    row = rows(*draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    dead = torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    is_end = torch.tensor([draw(st.lists(st.booleans(), min_size=width, max_size=width)) for _ in range(n)])
    # Whether the empty value is an end point is up to the row.
    is_end[:, 0] = torch.tensor(draw(st.lists(st.booleans(), min_size=3, max_size=3)))[row]
    log_prob = column().requires_grad_()
    log_reward = torch.where(dead, -INF, column())
    return log_prob, log_reward, row, block().requires_grad_(), block(), is_end


def mean(terms: list[Tensor], zero: Tensor) -> Tensor:
    return sum(terms, zero.sum() * 0) / max(len(terms), 1)


def looped_vargrad(log_prob: Tensor, log_reward: Tensor, row: Tensor) -> tuple[Tensor, int]:
    terms = []
    for r in set(row.tolist()):
        mine = [i for i in range(len(row)) if row[i] == r]
        u = [log_prob[i] - log_reward[i] for i in mine if log_reward[i] > -INF]
        dead = [log_prob[i] - log_prob[i].detach() + DEAD for i in mine if log_reward[i] == -INF]
        if len(u) < 2 and not dead:
            continue
        centre = sum(u) / len(u) if u else 0.0
        alive = [(x - centre) ** 2 * len(u) / (len(u) - 1) for x in u] if len(u) >= 2 else []
        terms.append(sum(alive + [x**2 for x in dead]) / len(mine))
    return mean(terms, log_prob), len(terms)


def looped_prefixes(
    log_prob: Tensor, log_reward: Tensor, row: Tensor, u: Tensor, is_end: Tensor, lam: float | None
) -> tuple[Tensor, int]:
    """`db` where there is no λ. The root's u is found as the minimum over the row, with its gradient."""
    places = [[t for t in range(u.shape[1]) if ends[t]] for ends in is_end]
    rootless = [bool(p) and p[0] != 0 for p in places]

    def links(vertices: list[int]) -> list[tuple[int, int, float]]:
        if lam is None:
            return [(i, j, 1.0) for i, j in pairwise(vertices)]
        return [(i, j, lam ** (j - i - 1)) for i, j in combinations(vertices, 2)]

    roots: dict[int, tuple[Tensor, float]] = {}
    for r in set(row.tolist()):
        mine = [n for n in range(len(row)) if row[n] == r and rootless[n]]
        if len(mine) < 2:
            continue
        top, bottom = u.sum() * 0, 0.0
        for n in mine:
            found = links([0, *places[n]])
            total = sum(w for _, _, w in found)
            top = top + sum(w * u[n, j] for i, j, w in found if i == 0) / total
            bottom += sum(w for i, _, w in found if i == 0) / total
        roots[r] = (top / bottom, bottom)
    terms = []
    for n in range(len(row)):
        value = {t: u[n, t] for t in places[n]}
        if rootless[n] and int(row[n]) in roots:
            value[0] = roots[int(row[n])][0]
        found = links(sorted(value))
        dead = log_reward[n] == -INF
        term = u.sum() * 0
        if found:
            squares = sum(w * (value[i] - value[j]) ** 2 for i, j, w in found)
            term = term + squares / sum(w for _, _, w in found)
        if dead:
            term = term + (log_prob[n] - log_prob[n].detach() + DEAD) ** 2
        if found or dead:
            terms.append(term)
    return mean(terms, u), len(terms)


@given(blocks())
def test_vargrad_is_its_formula(block: tuple[Tensor, ...]) -> None:
    log_prob, log_reward, row, *_ = block
    expected, terms = looped_vargrad(log_prob, log_reward, row)
    (slope,) = torch.autograd.grad(expected, log_prob)
    value, found, gradient = gradients("vargrad", Trajectories(log_prob, log_reward, row), log_prob)
    assert found == terms
    assert value == pytest.approx(expected.item(), rel=1e-9, abs=1e-9)
    torch.testing.assert_close(gradient, slope, rtol=1e-9, atol=1e-9)


@given(blocks(), st.lists(NUMBER, min_size=4, max_size=4))
def test_tb_is_its_formula(block: tuple[Tensor, ...], constants: list[float]) -> None:
    log_prob, log_reward, row, *_ = block
    log_z = nats(*constants).requires_grad_()
    residuals = [
        log_prob[i] - log_prob[i].detach() + DEAD
        if log_reward[i] == -INF
        else log_z[row[i]] + log_prob[i] - log_reward[i]
        for i in range(len(row))
    ]
    expected = sum(r**2 for r in residuals) / len(row) + log_z.sum() * 0
    slopes = torch.autograd.grad(expected, (log_prob, log_z))
    t = Trajectories(log_prob, log_reward, row)
    value, terms, *found = gradients("tb", t, log_prob, log_z, log_z=log_z)
    assert terms == len(row)
    assert value == pytest.approx(expected.item(), rel=1e-9)
    for gradient, slope in zip(found, slopes, strict=True):
        torch.testing.assert_close(gradient, slope, rtol=1e-9, atol=1e-9)


@given(blocks(), st.sampled_from([1, 1.0, 0.9, 0.5, 0.05, None]))
def test_prefix_balance_is_its_formula(block: tuple[Tensor, ...], lam: float | None) -> None:
    log_prob, log_reward, row, end_log_prob, end_log_reward, is_end = block
    expected, terms = looped_prefixes(log_prob, log_reward, row, end_log_prob - end_log_reward, is_end, lam)
    slopes = torch.autograd.grad(expected, (log_prob, end_log_prob), allow_unused=True)
    t = Trajectories(log_prob, log_reward, row, end_log_prob, end_log_reward, is_end)
    name, options = ("db", {}) if lam is None else ("subtb", {"lam": lam})
    value, found, *gradient = gradients(name, t, log_prob, end_log_prob, **options)
    assert found == terms
    assert value == pytest.approx(expected.item(), rel=1e-9, abs=1e-9)
    for one, slope in zip(gradient, slopes, strict=True):
        torch.testing.assert_close(
            one, torch.zeros_like(one) if slope is None else slope, rtol=1e-8, atol=1e-8
        )


def test_written_out_by_hand() -> None:
    """End points after 0, 2 and 3 tokens with u = 1, 4, 8; and a draw with u = 1, 2 after 0 and 1."""
    u = torch.stack([nats(1, 0, 4, 8), nats(1, 2, 0, 0)])
    is_end = torch.tensor([[True, False, True, True], [True, True, False, False]])
    t = Trajectories(nats(-1, -2), nats(0, 0), rows(0, 0), u, torch.zeros_like(u), is_end)

    def loss(name: str, **options: float) -> float:
        return objective(name, **options).loss(t).value.item()

    assert loss("subtb") == pytest.approx(((9 + 49 + 16) / 3 + 1) / 2)
    assert loss("subtb", lam=0.5) == pytest.approx(((9 / 2 + 49 / 4 + 16) / 1.75 + 1) / 2)
    assert loss("db") == pytest.approx(((9 + 16) / 2 + 1) / 2)
    assert loss("vargrad") == pytest.approx(0.5)


def test_subtb_near_lambda_zero_is_db_where_every_prefix_may_stop() -> None:
    generator = torch.Generator().manual_seed(2)
    u = torch.randn(4, 6, generator=generator, dtype=torch.float64).cumsum(dim=1)
    is_end = torch.arange(6) <= rows(5, 3, 1, 4)[:, None]
    t = Trajectories(nats(0, 0, 0, 0), nats(0, 0, 0, 0), rows(0, 0, 0, 1), u, torch.zeros_like(u), is_end)
    db = objective("db").loss(t).value
    torch.testing.assert_close(objective("subtb", lam=1e-12).loss(t).value, db)
    assert abs(objective("subtb").loss(t).value - db) > 0.1


@pytest.mark.parametrize("lam", [1.0, 0.7])
def test_a_large_common_shift_costs_no_digits(lam: float) -> None:
    generator = torch.Generator().manual_seed(4)
    u = torch.randn(3, 40, generator=generator, dtype=torch.float64)
    is_end = torch.ones(3, 40, dtype=torch.bool)
    t = Trajectories(nats(0, 0, 0), nats(0, 0, 0), rows(0, 0, 0), u, torch.zeros_like(u), is_end)
    loss = objective("subtb", lam=lam)
    shifted = loss.loss(evolve(t, end_log_prob=u + 1e7)).value
    torch.testing.assert_close(shifted, loss.loss(t).value, rtol=1e-7, atol=0)


# ---------------------------------------------------------------- dead draws and rows


@pytest.mark.parametrize("name", NAMES)
def test_dead_draws_push_log_prob_down_and_nothing_else(name: str) -> None:
    log_prob = nats(-1, -3, -2).requires_grad_()
    log_z = nats(0.5).requires_grad_()
    t = whole(log_prob, nats(-INF, -INF, -INF), rows(0, 0, 0))
    value, terms, gradient, slope = gradients(name, t, log_prob, log_z, log_z=log_z)
    assert value == DEAD**2
    assert DEAD > 0
    assert terms == (1 if name == "vargrad" else 3)
    torch.testing.assert_close(gradient, nats(2 * DEAD, 2 * DEAD, 2 * DEAD) / 3)
    assert slope.item() == 0


@pytest.mark.parametrize("name", NAMES)
def test_dead_draws_say_nothing_of_the_evidence(name: str) -> None:
    """Two alive draws with u = 1 and 4, one dead: what the alive ones feel does not see its log q."""
    found = []
    for last in (-2.0, -30.0):
        log_prob = nats(-1, 2, last).requires_grad_()
        log_z = nats(-2.5).requires_grad_()
        t = whole(log_prob, nats(-2, -2, -INF), rows(0, 0, 0))
        value, _, gradient, slope = gradients(name, t, log_prob, log_z, log_z=log_z)
        found.append((value, *gradient.tolist(), slope.item()))
    assert found[0] == found[1]
    # By hand: residuals ∓1.5 and DEAD; Bessel's 2/(2−1) for vargrad.
    alive = 2 * 1.5**2 * (2 if name == "vargrad" else 1)
    assert found[0][0] == pytest.approx((alive + DEAD**2) / 3)
    assert found[0][3] == pytest.approx(2 * DEAD / 3)
    assert found[0][1] < 0 < found[0][2]


@pytest.mark.parametrize("name", NAMES)
def test_dead_draws_that_the_guide_cannot_make_do_not_count(name: str) -> None:
    log_prob = nats(-1, 2, -INF).requires_grad_()
    log_z = nats(-2.0)
    with_it = gradients(name, whole(log_prob, nats(-2, -2, -INF), rows(0, 0, 0)), log_prob, log_z=log_z)
    two = nats(-1, 2).requires_grad_()
    without = gradients(name, whole(two, nats(-2, -2), rows(0, 0)), two, log_z=log_z)
    assert with_it[:2] == without[:2]
    assert with_it[2].tolist() == [*without[2].tolist(), 0.0]


@pytest.mark.parametrize("name", PREFIXES)
def test_a_dead_draw_still_balances_its_prefixes(name: str) -> None:
    u = torch.stack([nats(1, 4, 0)])
    is_end = torch.tensor([[True, True, False]])
    t = Trajectories(nats(-3), nats(-INF), rows(0), u, torch.zeros_like(u), is_end)
    loss = objective(name).loss(t)
    assert (loss.value.item(), loss.terms) == (9 + DEAD**2, 1)


def test_rows_of_unequal_size_count_alike() -> None:
    """Sample variances 0.5, 1 and none, of 2, 3 and 1 draws."""
    t = Trajectories(nats(1, 2, 1, 2, 3, 9), nats(0, 0, 0, 0, 0, 0), rows(2, 2, 0, 0, 0, 3))
    loss = objective("vargrad").loss(t)
    assert (loss.value.item(), loss.terms) == (pytest.approx((0.5 + 1) / 2), 2)
    shuffled = rows(4, 0, 5, 2, 1, 3)
    mixed = Trajectories(t.log_prob[shuffled], t.log_reward, t.row[shuffled])
    assert objective("vargrad").loss(mixed).value.item() == pytest.approx(0.75)


NOTHING = [(name, rewards) for name in NAMES for rewards in ((), (-INF, -INF), (-5.0,))]
# A learned log evidence makes one draw enough.
NOTHING.remove(("tb", (-5.0,)))


@pytest.mark.parametrize(("name", "log_reward"), NOTHING)
def test_without_terms_the_loss_is_zero_and_goes_backward(name: str, log_reward: tuple[float, ...]) -> None:
    n = len(log_reward)
    log_prob = nats(*[-INF if n == 2 else -1.0] * n).requires_grad_()
    log_z = nats(0.3).requires_grad_()
    t = whole(log_prob, nats(*log_reward), rows(*[0] * n))
    value, terms, gradient, slope = gradients(name, t, log_prob, log_z, log_z=log_z)
    assert (value, terms) == (0, 0)
    assert gradient.tolist() == [0.0] * n
    assert slope.item() == 0
    # With several processes a gradient that is missing on one of them would block the others.
    again = whole(log_prob, nats(*log_reward), rows(*[0] * n))
    objective(name).loss(again, log_z).value.backward()
    assert log_prob.grad is not None and (name != "tb" or log_z.grad is not None)


@pytest.mark.parametrize("name", PREFIXES)
def test_what_is_no_end_point_has_no_meaning_and_no_gradient(name: str) -> None:
    ends = torch.stack([nats(1, -INF, 4, math.nan), nats(2, 3, 7, INF)]).requires_grad_()
    rewards = torch.stack([nats(0, math.nan, 0, -INF), nats(0, 0, 0, 0)])
    is_end = torch.tensor([[True, False, True, False], [True, True, False, False]])
    t = Trajectories(nats(0, 0), nats(0, 0), rows(0, 0), ends, rewards, is_end)
    value, terms, gradient = gradients(name, t, ends)
    assert (value, terms) == (pytest.approx((9 + 1) / 2), 2)
    assert torch.equal(gradient != 0, is_end)


def test_lambda_whose_weights_underflow_leaves_no_link() -> None:
    u = torch.zeros(1, 200, dtype=torch.float64)
    u[0, -1] = 3.0
    is_end = torch.zeros(1, 200, dtype=torch.bool)
    is_end[0, 0] = is_end[0, -1] = True
    t = Trajectories(nats(0), nats(0), rows(0), u, torch.zeros_like(u), is_end)
    faint = objective("subtb", lam=0.001).loss(t)
    assert (faint.value.item(), faint.terms) == (0, 0)
    assert objective("subtb", lam=0.1).loss(t).value.item() == pytest.approx(9)
    # Two draws whose root is too far off, with a link of their own.
    is_end[0, 0], is_end[0, -2] = False, True
    two = Trajectories(
        nats(0, 0), nats(0, 0), rows(0, 0), u.repeat(2, 1), torch.zeros(2, 200).double(), is_end.repeat(2, 1)
    )
    assert objective("subtb", lam=0.001).loss(two).value.item() == pytest.approx(9)


# ------------------------------------------------------------------------ misfits


def healthy() -> Trajectories:
    u = torch.stack([nats(1, 4), nats(2, 3)])
    return Trajectories(nats(-1, -2), nats(-3, -4), rows(0, 0), u, u / 2, torch.ones(2, 2, dtype=torch.bool))


def spoiled(column: str, number: float) -> Trajectories:
    wrong = getattr(healthy(), column).clone()
    wrong.view(-1)[-1] = number
    return evolve(healthy(), **{column: wrong})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("column", ["log_prob", "log_reward"])
@pytest.mark.parametrize("number", [math.nan, INF])
def test_not_a_number_names_its_argument(name: str, column: str, number: float) -> None:
    objective(name).loss(healthy(), nats(0))
    with pytest.raises(ValueError, match=rf"^{column}: .* at draw 1$"):
        objective(name).loss(spoiled(column, number), nats(0))


@pytest.mark.parametrize("name", PREFIXES)
@pytest.mark.parametrize("column", ["end_log_prob", "end_log_reward"])
@pytest.mark.parametrize("number", [math.nan, INF, -INF])
def test_an_end_point_is_finite(name: str, column: str, number: float) -> None:
    with pytest.raises(ValueError, match=rf"^{column}: .* at draw 1$"):
        objective(name).loss(spoiled(column, number))


@pytest.mark.parametrize("name", NAMES)
def test_a_value_with_a_reward_that_the_guide_cannot_draw(name: str) -> None:
    with pytest.raises(ValueError, match=r"^log_prob: .* at draw 1$"):
        objective(name).loss(spoiled("log_prob", -INF), nats(0))


@pytest.mark.parametrize("log_z", [None, nats(math.nan), nats(INF), nats(), torch.zeros(1), nats(0)[None]])
def test_log_z_of_every_row(log_z: Tensor | None) -> None:
    with pytest.raises(ValueError, match=r"^log_z: "):
        objective("tb").loss(healthy(), log_z)


@pytest.mark.parametrize(
    ("named", "changes"),
    [
        ("row", {"row": torch.zeros(2)}),
        ("row", {"row": rows(0, -1)}),
        ("row", {"row": rows(0, 0)[None]}),
        ("log_prob", {"log_prob": torch.zeros(2)}),
        ("log_reward", {"log_reward": nats(1, 2, 3)}),
        ("end_log_prob", {"end_log_prob": None}),
        ("end_log_prob", {"end_log_prob": torch.zeros(2, 2)}),
        ("end_log_reward", {"end_log_reward": nats(1, 2)}),
        ("is_end", {"is_end": None}),
        ("is_end", {"is_end": torch.ones(2, 2)}),
        ("is_end", {"is_end": torch.ones(3, 2, dtype=torch.bool)}),
        ("is_end", {"is_end": torch.ones(2, dtype=torch.bool)}),
        ("is_end", {"is_end": torch.ones(2, 0, dtype=torch.bool)}),
    ],
)
def test_shapes_and_types_name_their_argument(named: str, changes: dict) -> None:
    with pytest.raises(ValueError, match=f"^(end_log_prob, .*)?{named}(, .*)?: "):
        objective("subtb").loss(evolve(healthy(), **changes))


def test_by_name() -> None:
    for name in losses():
        found: Objective = objective(name)
        assert found.name == name
        assert OBJECTIVES[name].needs_prefixes == (name in PREFIXES)
        assert found.needs_log_z == (name == "tb")
    assert list(losses()) == NAMES
    with pytest.raises(ValueError, match="vargrad, tb, subtb, db"):
        objective("rloo")
    with pytest.raises(ValueError, match="lam"):
        objective("vargrad", lam=0.5)


@pytest.mark.parametrize("lam", [0, -0.5, 1.01, math.nan, INF, True, "0.5", None])
def test_lambda_lies_above_zero_and_at_most_at_one(lam: object) -> None:
    with pytest.raises(ValueError, match=r"^lam: "):
        objective("subtb", lam=lam)


# --------------------------------------------------------------- places that hardly count


@pytest.mark.parametrize("weights", [(1.0, 0.3, 0.8, 0.05), (0.2, 1.0, 0.5, 1.0), (1.0, 1.0, 1.0, 1.0)])
def test_db_with_weights_is_the_average_over_random_chains(weights: tuple[float, ...]) -> None:
    """Each vertex is part of the chain with probability ω: Σ over subsets of neighbours' squares."""
    u = nats(0.3, -1.2, 2.5, 0.9)
    mean = 0.0
    for kept in product([False, True], repeat=4):
        chance = math.prod(w if k else 1 - w for w, k in zip(weights, kept, strict=True))
        chain = [i for i in range(4) if kept[i]]
        mean += chance * sum(float(u[i] - u[j]) ** 2 for i, j in pairwise(chain))
    balance = DetailedBalance()
    assert float(balance._squares(u[None], nats(*weights)[None])) == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize("name", PREFIXES)
def test_with_a_clip_hopeless_places_count_little_and_whole_draws_the_most(name: str) -> None:
    """Two draws of a row that are off by one nat; one of them has a hopeless place that is off by ten."""
    log_reward = nats(-2.0, -3.0)
    end_log_prob = torch.stack([nats(-40.0, -2.5), nats(0.0, -2.0)]).requires_grad_()
    end_log_reward = torch.stack([nats(-50.0, -2.0), nats(0.0, -3.0)])
    is_end = torch.tensor([[True, True], [False, True]])
    t = Trajectories(
        end_log_prob.detach()[:, 1], log_reward, rows(0, 0), end_log_prob, end_log_reward, is_end
    )
    _, _, plain = gradients(name, t, end_log_prob)
    _, _, kept = gradients(name, t, end_log_prob, clip=2.0)
    assert abs(float(plain[0, 0])) > 5 and 0 < abs(float(kept[0, 0])) < 0.01
    root = (-0.5 + 1.0) / 2
    for n, u in ((0, -0.5), (1, 1.0)):
        assert float(kept[n, 1]) == pytest.approx(u - root, rel=0.02), "half of 2 (u − root), over two draws"


@pytest.mark.parametrize("name", ["vargrad", *PREFIXES])
def test_with_a_clip_a_row_of_whole_draws_pulls_as_much_up_as_down(name: str) -> None:
    """Else draws that come from a replay buffer would be pushed away for being likelier than the guide's own."""
    u = nats(-0.4, 0.1, 9.0, 1.2, 0.3, -30.0)
    log_reward = nats(-2.0, -3.0, -50.0, -1.0, -4.0, -3.5)
    end_log_prob = torch.stack([torch.zeros(6, dtype=torch.float64), log_reward + u], dim=1).requires_grad_()
    end_log_reward = torch.stack([torch.zeros(6, dtype=torch.float64), log_reward], dim=1)
    is_end = torch.tensor([[False, True]] * 6)
    t = Trajectories(
        end_log_prob[:, 1], log_reward, rows(0, 0, 0, 0, 1, 1), end_log_prob, end_log_reward, is_end
    )
    _, _, pull = gradients(name, t, end_log_prob, clip=2.0)
    for row in (slice(0, 4), slice(4, 6)):
        assert float(pull[row, 1].sum()) == pytest.approx(0.0, abs=1e-9)
    assert float(pull[2, 1]) > 0.1 > -0.1 > float(pull[0, 1])


@pytest.mark.parametrize("name", PREFIXES)
def test_with_a_clip_a_hopeless_draw_is_pushed_down_though_its_beginning_is_likelier(name: str) -> None:
    """Each such draw is rare, but all of them together may be much of what the guide draws."""
    end_log_prob = torch.stack([nats(-9.0, -1.0), nats(-9.0, -2.0), nats(-7.0, -16.0)]).requires_grad_()
    end_log_reward = torch.stack([nats(-30.0, -1.5), nats(-30.0, -2.0), nats(-30.0, -100.0)])
    t = Trajectories(
        end_log_prob.detach()[:, 1],
        end_log_reward[:, 1],
        rows(0, 0, 0),
        end_log_prob,
        end_log_reward,
        torch.ones(3, 2, dtype=torch.bool),
    )
    _, _, pull = gradients(name, t, end_log_prob, clip=2.0)
    assert float(pull[2, 1]) > 0.2
    assert abs(float(pull[0, 0])) < 0.01 and abs(float(pull[1, 0])) < 0.01


def test_a_clip_bounds_what_tb_pulls() -> None:
    log_prob = nats(-1.0, -30.0).requires_grad_()
    t = whole(log_prob, nats(-1.5, -2.0), rows(0, 0))
    _, _, kept = gradients("tb", t, log_prob, log_z=nats(0.0), clip=2.0)
    assert kept.tolist() == pytest.approx([0.5, -2.0])


@pytest.mark.parametrize("name", PREFIXES)
def test_with_a_clip_no_place_counts_for_nothing(name: str) -> None:
    """The shares of this place underflow; were its weight 0, its u could be anything at loss zero."""
    end_log_prob = torch.stack([nats(-900.0, -2.0), nats(0.0, -3.0)]).requires_grad_()
    end_log_reward = torch.stack([nats(-1000.0, -2.0), nats(0.0, -3.0)])
    is_end = torch.tensor([[True, True], [False, True]])
    t = Trajectories(
        end_log_prob.detach()[:, 1], nats(-2.0, -3.0), rows(0, 0), end_log_prob, end_log_reward, is_end
    )
    value, _, kept = gradients(name, t, end_log_prob, clip=2.0)
    assert value > 0 and float(kept[0, 0]) > 0
