"""Laws of the objectives: zero at the exact posterior for any draws, and nowhere near it otherwise.

The target is a table that is small enough to write out: values of at most three tokens from an
alphabet of three, with a prefix that may not stop, a token that may not follow another, values
without reward, a stop that is forced at the length cap, and skewed rewards whose evidence differs
between rows by many nats. In one of the two trees the empty value is no end point (a minimum length).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise, product

import pytest
import torch
from attrs import evolve, frozen
from torch import Tensor

from posterior_lm.infer.methods import losses
from posterior_lm.train.objectives import Trajectories, objective

TOKENS, CAP, ROWS = 3, 3, 3
STOP = TOKENS
ZERO, WRONG = 1e-10, 1e-3
MAY_NOT_STOP = (1,)
FORBIDDEN = (0, 2)
"""A token that may not follow the other."""
DEAD_VALUES = {0: [(2, 1), (0, 0, 1)], 1: [(2,), (1, 2, 0)], 2: [(0, 0, 1), (2, 2)]}
"""By row: inner end points and values at the cap whose condition is false."""

CLIP = {"clip": 2.0}
NAMES = [
    ("vargrad", {}), ("tb", {}), ("subtb", {}), ("subtb", {"lam": 0.6}), ("db", {}),
    ("subtb", CLIP), ("subtb", {"lam": 0.6, **CLIP}), ("db", CLIP),
]  # fmt: skip
LABELS = ["vargrad", "tb", "subtb", "subtb-0.6", "db", "subtb-clip", "subtb-0.6-clip", "db-clip"]
EVERY = pytest.mark.parametrize(("name", "options"), NAMES, ids=LABELS)
PREFIXES = pytest.mark.parametrize(("name", "options"), NAMES[2:], ids=LABELS[2:])
WHOLE = pytest.mark.parametrize(("name", "options"), NAMES[:2], ids=LABELS[:2])
TREES = pytest.mark.parametrize("least", [0, 1], ids=["stops-at-once", "least-1"])


@frozen(eq=False)
class Tree:
    """A tree of V states with the log reward (R, V) of stopping in each, and the masks of a policy.

    `allowed` (V, 4) the tokens and the stop; `steps` (V, 3) the flat actions that lead to a state,
    padded with V · 4; `path` (V, 4) the states on the way to it, itself last, and `on_path` whether
    there is one.
    """

    states: tuple[tuple[int, ...], ...]
    log_reward: Tensor
    allowed: Tensor
    steps: Tensor
    path: Tensor
    on_path: Tensor

    @property
    def alive(self) -> Tensor:
        return self.log_reward > -torch.inf

    @property
    def log_z(self) -> Tensor:
        return self.log_reward.logsumexp(dim=1)

    @property
    def posterior(self) -> Tensor:
        return (self.log_reward - self.log_z[:, None]).exp()


@cache
def tree(least: int) -> Tree:
    states = tuple(
        s
        for n in range(CAP + 1)
        for s in product(range(TOKENS), repeat=n)
        if FORBIDDEN not in list(pairwise(s))
    )
    place = {s: i for i, s in enumerate(states)}
    size = len(states)
    allowed = torch.zeros(size, TOKENS + 1, dtype=torch.bool)
    steps = torch.full((size, CAP), size * (TOKENS + 1))
    path = torch.zeros(size, CAP + 1, dtype=torch.int64)
    on_path = torch.zeros(size, CAP + 1, dtype=torch.bool)
    for s, i in place.items():
        allowed[i, STOP] = len(s) >= least and s != MAY_NOT_STOP
        for token in range(TOKENS):
            allowed[i, token] = (*s, token) in place
        for t, token in enumerate(s):
            steps[i, t] = place[s[:t]] * (TOKENS + 1) + token
        for t in range(len(s) + 1):
            path[i, t], on_path[i, t] = place[s[:t]], True
    noise = torch.randn(ROWS, size, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    log_reward = 1.3 * noise + torch.tensor([-17.0, -3.0, 4.0], dtype=torch.float64)[:, None]
    log_reward[:, ~allowed[:, STOP]] = -torch.inf
    for row, dead in DEAD_VALUES.items():
        for s in dead:
            log_reward[row, place[s]] = -torch.inf
    return Tree(states, log_reward, allowed, steps, path, on_path)


def flow_policy(t: Tree, log_reward: Tensor, leak: Tensor | None = None) -> Tensor:
    """(R, V, 4) log probabilities of the actions where the flow through a state is what stops below it.

    `leak` (R, V), a log, is extra flow that goes on below states at the cap.
    """
    flow = torch.full_like(log_reward, -torch.inf) if leak is None else leak.clone()
    policy = torch.full((*log_reward.shape, TOKENS + 1), -torch.inf, dtype=torch.float64)
    place = {s: i for i, s in enumerate(t.states)}
    for s, i in reversed(place.items()):
        below = [place.get((*s, token)) for token in range(TOKENS)]
        for token, child in enumerate(below):
            if child is not None:
                policy[:, i, token] = flow[:, child]
        policy[:, i, STOP] = log_reward[:, i]
        flow[:, i] = torch.logaddexp(flow[:, i], policy[:, i].logsumexp(dim=-1))
        policy[:, i] = torch.where(flow[:, i, None] > -torch.inf, policy[:, i] - flow[:, i, None], -torch.inf)
        # Below a state without reward there is nothing to balance: any policy does.
        lost = (flow[:, i] == -torch.inf)[:, None] & t.allowed[i]
        policy[:, i] = torch.where(lost, -t.allowed[i].sum().double().log(), policy[:, i])
    return policy


def exact(t: Tree) -> Tensor:
    return flow_policy(t, t.log_reward)


def masked_policy(t: Tree, logits: Tensor) -> Tensor:
    return torch.where(t.allowed, logits, -torch.inf).log_softmax(dim=-1)


def value_log_prob(t: Tree, policy: Tensor) -> Tensor:
    """(R, V) log q of every value: of its tokens, and of stopping then."""
    flat = torch.cat([policy.flatten(1), torch.zeros(ROWS, 1, dtype=torch.float64)], dim=1)
    return flat[:, t.steps].sum(dim=-1) + policy[:, :, STOP]


def draw(t: Tree, policy: Tensor, row: Tensor, value: Tensor) -> Trajectories:
    """The draws `value` (N,) of `row` (N,) as the objectives see them."""
    log_prob = value_log_prob(t, policy)
    ends = t.path[value]
    is_end = t.on_path[value] & t.alive[row[:, None], ends]
    return Trajectories(
        log_prob[row, value],
        t.log_reward[row, value],
        row,
        torch.where(is_end, log_prob[row[:, None], ends], 0.0),
        torch.where(is_end, t.log_reward[row[:, None], ends], 0.0),
        is_end,
    )


def sampled(t: Tree, probs: Tensor, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows and values of n draws a row from `probs` (R, V)."""
    values = torch.multinomial(probs, n, replacement=True, generator=torch.Generator().manual_seed(seed))
    return torch.arange(ROWS).repeat_interleave(n), values.flatten()


def on_policy(t: Tree) -> tuple[Tensor, Tensor]:
    return sampled(t, t.posterior, 40, 3)


def uniform(t: Tree) -> tuple[Tensor, Tensor]:
    return sampled(t, t.alive.double(), 25, 4)


def every_value(t: Tree) -> tuple[Tensor, Tensor]:
    """Every value of the support once, those without a reward too."""
    row, value = t.allowed[:, STOP].repeat(ROWS, 1).nonzero(as_tuple=True)
    return row, value


def total_variation(t: Tree, policy: Tensor) -> Tensor:
    """(R,) between the values that the policy draws, those without a reward too, and the posterior."""
    return (value_log_prob(t, policy).exp() - t.posterior).abs().sum(dim=1) / 2


def value_of(name: str, options: dict, draws: Trajectories, log_z: Tensor) -> float:
    return float(objective(name, **options).loss(draws, log_z).value)


# ------------------------------------------------------------------- the optimum


@TREES
def test_the_exact_policy_draws_the_posterior(least: int) -> None:
    """The hand-built tree is what it should be: skewed, with different evidences, and solved."""
    t = tree(least)
    assert float(total_variation(t, exact(t)).max()) < 1e-12
    assert float(t.posterior.max(dim=1).values.min()) > 3 / len(t.states)
    assert float(t.log_z.diff().abs().min()) > 5
    assert [len(t.states[i]) for i in range(len(t.states)) if not t.allowed[i, STOP]] == [*[0] * least, 1]


@EVERY
@TREES
@pytest.mark.parametrize("draws", [on_policy, uniform, every_value])
def test_zero_loss_and_gradient_at_the_posterior(
    name: str, options: dict, least: int, draws: Callable[[Tree], tuple[Tensor, Tensor]]
) -> None:
    t = tree(least)
    logits = exact(t).requires_grad_()
    log_z = t.log_z.requires_grad_()
    seen = draw(t, masked_policy(t, logits), *draws(t))
    loss = objective(name, **options).loss(seen, log_z)
    assert loss.terms > 0
    assert 0 <= loss.value < ZERO
    loss.value.backward()
    assert float(logits.grad.abs().max()) < 1e-8
    if name == "tb":
        assert float(log_z.grad.abs().max()) < 1e-8


# --------------------------------------------------------------- what must not be zero

Wrong = Callable[[Tree, Trajectories], Trajectories]


def flipped_log_prob(_: Tree, d: Trajectories) -> Trajectories:
    return evolve(d, log_prob=-d.log_prob, end_log_prob=-d.end_log_prob)


def flipped_log_reward(_: Tree, d: Trajectories) -> Trajectories:
    return evolve(d, log_reward=-d.log_reward, end_log_reward=-d.end_log_reward)


def shifted_prefix_rewards(t: Tree, d: Trajectories) -> Trajectories:
    """Every end point has the reward of the draw's next one, the last that of the first."""
    shifted = d.end_log_reward.clone()
    for n, ends in enumerate(d.is_end):
        shifted[n, ends] = shifted[n, ends].roll(-1)
    return evolve(d, end_log_reward=shifted)


@EVERY
@TREES
@pytest.mark.parametrize("wrong", [flipped_log_prob, flipped_log_reward])
def test_a_flipped_sign_is_seen(name: str, options: dict, least: int, wrong: Wrong) -> None:
    t = tree(least)
    seen = draw(t, exact(t), *uniform(t))
    assert value_of(name, options, wrong(t, seen), t.log_z) > WRONG


@PREFIXES
@TREES
def test_shifted_prefix_rewards_are_seen(name: str, options: dict, least: int) -> None:
    t = tree(least)
    seen = draw(t, exact(t), *uniform(t))
    assert value_of(name, options, shifted_prefix_rewards(t, seen), t.log_z) > WRONG


@PREFIXES
@TREES
def test_a_prefix_that_may_not_stop_is_no_end_point(name: str, options: dict, least: int) -> None:
    """Counted as one, with a reward of −99 and a stop that is unlikely rather than impossible."""
    t = tree(least)
    seen = draw(t, exact(t), *uniform(t))
    prefix = value_log_prob(t, evolve_stop(exact(t), 0.0))
    may_not = torch.tensor([not bool(a) for a in t.allowed[:, STOP]])
    ends = t.path[uniform(t)[1]]
    counted = t.on_path[uniform(t)[1]] & may_not[ends]
    assert bool(counted.any())
    log_prob = prefix[seen.row[:, None], ends] + torch.tensor(1e-3).log()
    counting = evolve(
        seen,
        end_log_prob=torch.where(counted, log_prob, seen.end_log_prob),
        end_log_reward=torch.where(counted, -99.0, seen.end_log_reward),
        is_end=seen.is_end | counted,
    )
    assert value_of(name, options, seen, t.log_z) < ZERO
    assert value_of(name, options, counting, t.log_z) > WRONG


def evolve_stop(policy: Tensor, log_stop: float) -> Tensor:
    stops = policy.clone()
    stops[:, :, STOP] = log_stop
    return stops


@TREES
def test_the_log_evidence_of_another_row_is_seen(least: int) -> None:
    t = tree(least)
    seen = draw(t, exact(t), *uniform(t))
    assert value_of("tb", {}, seen, t.log_z.roll(1)) > WRONG


def test_rows_are_not_pooled() -> None:
    """At the optimum u is constant within a row; over rows it varies with their evidence."""
    t = tree(0)
    seen = draw(t, exact(t), *uniform(t))
    pooled = evolve(seen, row=torch.zeros_like(seen.row))
    assert value_of("vargrad", {}, seen, t.log_z) < ZERO
    assert value_of("vargrad", {}, pooled, t.log_z) > 10


@PREFIXES
def test_roots_of_rows_are_not_pooled(name: str, options: dict) -> None:
    t = tree(1)
    seen = draw(t, exact(t), *uniform(t))
    pooled = evolve(seen, row=torch.zeros_like(seen.row))
    assert value_of(name, options, pooled, t.log_z) > (1 if "clip" in options else 10)


# ------------------------------------------------------------------- anchors


def seen_from(options: dict) -> float:
    """What a loss of a wrong policy is above: with a clip, unlikely places count little and residuals are cut."""
    return 0.05 if "clip" in options else 0.1


def leaking(t: Tree, share: float) -> Tensor:
    """A policy of raw stop probabilities at the cap: flow of `share` times the evidence leaks past it.

    The leak sits below the least likely values, so what is drawn is far from the posterior.
    """
    leak = torch.full_like(t.log_reward, -torch.inf)
    at_cap = torch.tensor([len(s) == CAP for s in t.states])
    for row in range(ROWS):
        at = torch.where(at_cap & t.alive[row], t.log_reward[row], torch.inf).argmin()
        leak[row, at] = t.log_z[row] + torch.tensor(share).log()
    return flow_policy(t, t.log_reward, leak)


def forced_at_cap(t: Tree, policy: Tensor) -> Tensor:
    """What the sampler does, and what a mask shared with it says: log q(stop) = 0 at the cap."""
    at_cap = torch.tensor([len(s) == CAP for s in t.states])
    anchored = policy.clone()
    anchored[:, at_cap, STOP] = 0.0
    return anchored


@EVERY
@TREES
@pytest.mark.parametrize("share", [1.0, 10.0])
def test_an_unanchored_cap_admits_wrong_policies_at_zero_loss(
    name: str, options: dict, least: int, share: float
) -> None:
    """Why the mask matters: each balance holds for the raw stop probabilities, whatever leaks.

    The learned log evidence of `tb` is no help, since it would be learned too large.
    """
    t = tree(least)
    raw = leaking(t, share)
    anchored = forced_at_cap(t, raw)
    assert float(total_variation(t, anchored).min()) > 0.3
    row, value = uniform(t)
    learned = t.log_z + torch.tensor(1 + share).log()
    assert value_of(name, options, draw(t, raw, row, value), learned) < ZERO
    everything = draw(t, anchored, *every_value(t))
    assert value_of(name, options, everything, learned) > seen_from(options)


@EVERY
@TREES
def test_an_unforced_stop_at_the_cap_is_seen_at_the_posterior(name: str, options: dict, least: int) -> None:
    t = tree(least)
    policy = exact(t)
    noise = torch.rand(policy.shape[:2], generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    at_cap = torch.tensor([len(s) == CAP for s in t.states])
    policy[:, :, STOP] = torch.where(at_cap, noise.log(), policy[:, :, STOP])
    alive = [x[t.alive[every_value(t)]] for x in every_value(t)]
    assert value_of(name, options, draw(t, policy, *alive), t.log_z) > WRONG


@PREFIXES
def test_without_the_root_branches_could_keep_their_own_constants(name: str, options: dict) -> None:
    """With a minimum length no end point is common to all draws; the row's root joins the branches."""
    t = tree(1)
    policy = exact(t)
    policy[:, 0, :TOKENS] = torch.tensor([0.05, 0.9, 0.05], dtype=torch.float64).log()
    assert float(total_variation(t, policy).min()) > 0.2
    alive = [x[t.alive[every_value(t)]] for x in every_value(t)]
    seen = draw(t, policy, *alive)
    alone = evolve(seen, row=torch.arange(len(seen.row)))
    assert value_of(name, options, alone, t.log_z) < ZERO
    assert value_of(name, options, seen, t.log_z) > seen_from(options)


# ------------------------------------------------------------------- gradients


def test_vargrad_is_unbiased_on_policy() -> None:
    """For every number of draws: E loss = Var_q(u), and E ∇loss = 2 ∇KL(q‖posterior)."""
    log_reward = torch.tensor([-3.0, 0.4, -1.0, -6.0], dtype=torch.float64)
    logits = torch.tensor([0.3, -1.0, 0.9, -0.2], dtype=torch.float64, requires_grad=True)
    log_q = logits.log_softmax(dim=0)
    u = log_q - log_reward
    kl = (log_q.exp() * u).sum()
    (kl_gradient,) = torch.autograd.grad(kl, logits, retain_graph=True)
    q = log_q.detach().exp()
    variance = (q * (u - kl) ** 2).sum().item()
    for k in (2, 3):
        mean, gradient = 0.0, torch.zeros(4, dtype=torch.float64)
        for values in product(range(4), repeat=k):
            at = torch.tensor(values)
            draws = Trajectories(log_q[at], log_reward[at], torch.zeros(k, dtype=torch.int64))
            loss = objective("vargrad").loss(draws).value
            (one,) = torch.autograd.grad(loss, logits, retain_graph=True)
            chance = q[at].prod()
            mean += float(chance * loss.detach())
            gradient += chance * one
        assert mean == pytest.approx(variance, rel=1e-12)
        torch.testing.assert_close(gradient, 2 * kl_gradient, rtol=1e-10, atol=1e-12)


def test_one_end_point_per_draw_is_vargrad() -> None:
    """Values of one length: prefix balance is trajectory balance, up to Bessel's correction."""
    t = tree(1)
    logits = torch.randn(t.allowed.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    logits = logits.expand(ROWS, -1, -1).clone().requires_grad_()
    at_cap = torch.tensor([len(s) == CAP for s in t.states])
    k = 10
    row, value = sampled(t, (t.alive & at_cap).double(), k, 6)
    seen = draw(t, masked_policy(t, logits), row, value)
    last = torch.nn.functional.one_hot(torch.full_like(row, CAP), CAP + 1).bool()
    whole = objective("vargrad").loss(seen).value * (k - 1) / k
    (expected,) = torch.autograd.grad(whole, logits, retain_graph=True)
    for name, options in NAMES[2:5]:  # with a clip the root is another estimate
        loss = objective(name, **options).loss(evolve(seen, is_end=last)).value
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        torch.testing.assert_close(loss, whole)
        torch.testing.assert_close(gradient, expected)


@EVERY
@pytest.mark.parametrize(
    "least", [pytest.param(0, marks=pytest.mark.slow, id="stops-at-once"), pytest.param(1, id="least-1")]
)
def test_training_reaches_the_posterior(name: str, options: dict, least: int) -> None:
    """From a random table, on-policy and tempered draws, which also hit values without a reward."""
    t = tree(least)
    generator = torch.Generator().manual_seed(21)
    logits = torch.randn(ROWS, *t.allowed.shape, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    # From 0, far from the evidence, the first hundred steps would only push every log q one way.
    log_z = (t.log_z + 1.5).requires_grad_()
    optimizer = torch.optim.Adam([{"params": [logits]}, {"params": [log_z], "lr": 0.5}], lr=0.2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 800)
    before = total_variation(t, masked_policy(t, logits.detach()))
    assert float(before.min()) > 0.2
    row = torch.arange(ROWS).repeat_interleave(48)
    for _ in range(800):
        with torch.no_grad():
            log_q = value_log_prob(t, masked_policy(t, logits))
            hot = torch.multinomial((log_q / 2).exp(), 16, replacement=True, generator=generator)
            own = torch.multinomial(log_q.exp(), 32, replacement=True, generator=generator)
        values = torch.cat([own, hot], dim=1).flatten()
        seen = draw(t, masked_policy(t, logits), row, values)
        loss = objective(name, **options).loss(seen, log_z)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        schedule.step()
    after = total_variation(t, masked_policy(t, logits.detach()))
    assert float(after.max()) < (0.02 if "clip" in options else 0.01), after
    if name == "tb":
        assert float((log_z.detach() - t.log_z).abs().max()) < 0.05


def test_every_objective_obeys_these_laws() -> None:
    assert {name for name, _ in NAMES} == set(losses())
