"""Every move of the chains is reversible: the whole transition matrix is written out.

A matrix entry is Σ over the places to cut of P(cut) · q(z → z') · min(1, e^ρ). The number of
places is the one that the code asks its generator for, and q is the product of the probabilities
that the code hands to whatever chooses; only ρ is the code's own claim.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from attrs import define, field

from posterior_lm.infer.guide import PriorGuide, Proposal
from posterior_lm.infer.moves import (
    Proposed,
    Site,
    accept,
    conditional,
    independence,
    pick_cuts,
    sites,
    small,
    suffix,
)
from posterior_lm.target.target import Target
from posterior_lm.target.values import Value, take
from tests.brute import Brute, log_sum
from tests.strategies import compiled, table, values_of

MODEL = table(("a", "b", ".", "ab"), seed=31, order=2, max_tokens=30)
DIGITS = table(("0", "1", "2", "a", " "), seed=32, order=1, max_tokens=30)

PROGRAMS = {
    "stop": 'latent z: text(tokens=1..3, stop=".") ~ base("a") observe "ab" ~ base(z)',
    "stop of two tokens": 'latent z: text(tokens=2..4, stop="b.") ~ base() ^ 1.7 factor -0.4 * chars(z)',
    "end of text, power": 'latent z: text(tokens=0..2) ~ base("b") ^ 2 observe "a" ~ base(z)',
    "free": 'latent z: text(tokens=1..3, end="free", chars="ab") ~ base("b") observe "a" ~ base(z)',
    "canonical": 'latent z: text(tokens=1..2, canonical=true) ~ base() factor 0.8 * chars(z)',
    "negative power": 'latent z: text(tokens=1..2) ~ base("ab") ^ -0.5',
    "dead values": 'latent z: text(tokens=0..2) ~ base("a") condition not contains(z, "a") or chars(z) > 2',
    "two texts": """latent x: text(tokens=1..2, stop="b") ~ base() latent z: text(tokens=0..1) ~ base(x)
                    observe "a" ~ base(z, x) condition z != x""",
    "text, finite, text": """latent x: text(tokens=1..2, stop=".") ~ base("b")
                  latent o: one_of("a", "b.", ".") ~ base(x) ^ 2
                  latent z: text(tokens=1..1) ~ base(o, x) observe "ab" ~ base(z)""",
    "strangers": """latent x: text(tokens=0..1) ~ base("a") latent y: text(tokens=0..1) ~ base("b")
                    latent z: text(tokens=0..1) ~ base(y) observe "a" ~ base(x, y)""",
}  # fmt: skip
NUMBERS = {
    "binomial": 'latent n: int(0..2) ~ binomial(4, 0.3) ^ 2 latent m: int(0..2) ~ choice(base(n)) condition n >= m',
    "many numbers": 'latent n: int(0..40) ~ poisson(3) latent z: text(tokens=0..1) ~ base() factor 0.3 * n * chars(z)',
}  # fmt: skip
CASES = [(n, b, MODEL) for n, b in PROGRAMS.items()] + [(n, b, DIGITS) for n, b in NUMBERS.items()]
cases = pytest.mark.parametrize(("body", "model"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
Ids = tuple[int, ...]


@define
class Listed:
    """Every value of a small target, the dead ones too, by the slow reading."""

    target: Target
    values: dict[str, list[Value]]
    log_reward: np.ndarray

    @classmethod
    def of(cls, body: str, model: object) -> Listed:
        source = f'lm base = "b"\nprogram p() {{ {body} }}'
        target, brute = compiled(source, {}, {"base": model}), Brute(source, {}, {"base": model})
        rows = list(brute.assignments())
        rewards = np.array([brute.log_reward(row) for row in rows])
        assert np.ptp(rewards[np.isfinite(rewards)]) > 1  # skewed
        return cls(target, values_of(target, rows), rewards)

    def __len__(self) -> int:
        return len(self.log_reward)

    @property
    def posterior(self) -> np.ndarray:
        return np.exp(self.log_reward - log_sum(self.log_reward))

    def keys(self, *without: str) -> list[tuple[Ids, ...]]:
        """What identifies each value, some latents left out."""
        names = [n for n in self.target.names if n not in without]
        return [tuple(self.values[n][d].ids for n in names) for d in range(len(self))]


@define
class Places:
    """A generator that is asked for integers below `high` once, and tells what `high` was."""

    high: np.ndarray = field(factory=lambda: np.zeros(0, dtype=int))

    def integers(self, low: int, high: Sequence[int]) -> np.ndarray:
        assert low == 0
        self.high = np.array(high)
        return np.zeros(len(high), dtype=int)


@define
class Forced:
    """Chooses given tokens, latent by latent, and adds up the log probability of choosing them."""

    columns: Sequence[Sequence[Ids]]
    log_q: np.ndarray = field(init=False)
    at: int = -1
    seen: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.seen = len(self.columns[0])
        self.log_q = np.zeros(self.seen)

    def tokens(self, draws: np.ndarray, point: np.ndarray, step: int, probs: np.ndarray) -> np.ndarray:
        self.at += step == 0  # each latent's tokens begin with step 0
        stop = probs.shape[1] - 1
        ids = [self.columns[self.at][d] for d in draws]
        picked = np.array([one[step] if step < len(one) else stop for one in ids], dtype=int)
        self._add(draws, probs[point, picked] / probs[point].sum(axis=1))
        return picked

    def values(self, draws: np.ndarray, probs: np.ndarray, ids: Sequence[Ids]) -> np.ndarray:
        if self.seen == len(self.log_q) and len(draws):
            self.at, self.seen = self.at + 1, 0
        self.seen += len(draws)
        picked = np.array([list(ids).index(self.columns[self.at][d]) for d in draws], dtype=int)
        self._add(draws, probs[picked] / probs.sum())
        return picked

    def _add(self, draws: np.ndarray, share: np.ndarray) -> None:
        with np.errstate(divide="ignore"):
            self.log_q[draws] += np.log(share)


def by_suffix(case: Listed, site: Site) -> np.ndarray:
    """(S, S) the matrix of one site's move, its diagonal the share that is proposed and not accepted."""
    prior, info = PriorGuide(case.target), case.target.latent(site.latent)
    places = Places(np.ones(len(case), dtype=int))
    pick_cuts(places, info, case.values[site.latent])  # type: ignore[arg-type]
    moved, ids = (site.latent, *site.readers), [v.ids for v in case.values[site.latent]]
    kin: dict[tuple, list[int]] = {}
    for d, key in enumerate(case.keys(*moved)):
        kin.setdefault(key, []).append(d)
    triples = [
        (z, t, other)
        for z, key in enumerate(case.keys(*moved))
        if np.isfinite(case.log_reward[z])
        for t in range(places.high[z])
        for other in kin[key]
        if info.type != "text" or (ids[other][:t] == ids[z][:t])
    ]
    old, cuts, new = map(list, zip(*triples, strict=True))
    columns = [
        [case.values[name][d].ids[t if name == site.latent and info.type == "text" else 0 :] for d, t in
         zip(new, cuts, strict=True)]
        for name in case.target.names if name in moved
    ]  # fmt: skip
    choose = Forced(columns)
    found = suffix(prior, choose, site, np.array(cuts), take(case.values, old), case.log_reward[old])
    assert [tuple(found.values[n][k].ids for n in case.target.names) for k in range(len(new))] == [
        case.keys()[d] for d in new
    ]
    return matrix(case, old, new, choose.log_q - np.log(places.high[old]), found)


def matrix(
    case: Listed, old: Sequence[int], new: Sequence[int], log_q: np.ndarray, found: Proposed
) -> np.ndarray:
    np.testing.assert_allclose(found.log_reward, case.log_reward[list(new)], rtol=1e-9, atol=1e-9)
    proposed, moves = np.zeros((2, len(case), len(case)))
    np.add.at(proposed, (old, new), np.exp(log_q))
    np.add.at(moves, (old, new), np.exp(log_q + np.minimum(0, found.log_ratio)))
    alive = np.isfinite(case.log_reward)
    np.testing.assert_allclose(proposed[alive].sum(axis=1), 1, atol=1e-9)
    stays = np.where(alive, 1 - moves.sum(axis=1), 1)
    return moves + np.diag(stays)


def balanced(case: Listed, moves: np.ndarray) -> None:
    """Reversible, hence stationary; and something moves."""
    flow = case.posterior[:, None] * moves
    np.testing.assert_allclose(flow, flow.T, atol=1e-12)
    np.testing.assert_allclose(case.posterior @ moves, case.posterior, atol=1e-12)
    assert (moves >= -1e-12).all() and np.abs(moves - np.eye(len(case))).max() > 1e-3


@cases
def test_redrawing_a_suffix_is_reversible(body: str, model: object) -> None:
    case = Listed.of(body, model)
    for site in sites(PriorGuide(case.target)):
        balanced(case, by_suffix(case, site))


@cases
def test_the_conditional_of_a_finite_latent_is_reversible(body: str, model: object) -> None:
    case = Listed.of(body, model)
    alive = np.flatnonzero(np.isfinite(case.log_reward))
    for info in case.target.latents:
        if not small(info):
            continue
        keys = case.keys(info.name)
        pairs = [(int(z), d) for z in alive for d in range(len(case)) if keys[d] == keys[z]]
        old, new = map(list, zip(*pairs, strict=True))
        candidates = list(info.support.values())
        column = [(candidates.index(case.values[info.name][d].ids),) for d in new]
        choose = Forced([column])
        found = conditional(case.target, choose, info, take(case.values, old), len(old))
        assert [v.ids for v in found.values[info.name]] == [case.values[info.name][d].ids for d in new]
        balanced(case, matrix(case, old, new, choose.log_q, found))


@cases
def test_proposals_from_a_guide_are_reversible(body: str, model: object) -> None:
    case = Listed.of(body, model)
    log_q = PriorGuide(case.target).log_prob(case.values)
    alive = np.flatnonzero(np.isfinite(case.log_reward))
    old, new = (g.ravel() for g in np.meshgrid(alive, np.flatnonzero(np.isfinite(log_q)), indexing="ij"))
    proposal = Proposal({k: tuple(v) for k, v in take(case.values, new).items()}, log_q[new])
    found = independence(proposal, case.target.log_reward(proposal.values), log_q[old], case.log_reward[old])
    balanced(case, matrix(case, old, new, log_q[new], found))


@cases
def test_every_value_can_be_reached(body: str, model: object) -> None:
    """By suffixes alone, where no condition ties latents together."""
    if body in (PROGRAMS["two texts"], NUMBERS["binomial"]):
        return
    case = Listed.of(body, model)
    found = sites(PriorGuide(case.target))
    moves = sum(by_suffix(case, site) for site in found) / len(found)
    alive = np.isfinite(case.log_reward)
    reached = np.linalg.matrix_power(moves[np.ix_(alive, alive)], 64)
    assert (reached > 0).all()


def test_which_latents_move_together() -> None:
    """A latent alone, and with those that read it, directly or not; never with a stranger."""

    def of(name: str) -> list[tuple[str, tuple[str, ...]]]:
        body = PROGRAMS.get(name, name)
        target = compiled(f'lm base = "b"\nprogram p() {{ {body} }}', {}, {"base": MODEL})
        return [(s.latent, s.readers) for s in sites(PriorGuide(target))]

    assert of("stop") == [("z", ())]
    assert of("strangers") == [("x", ()), ("y", ()), ("y", ("z",)), ("z", ())]
    assert of("text, finite, text") == [("x", ()), ("x", ("o", "z")), ("o", ()), ("o", ("z",)), ("z", ())]
    line = " ".join(
        f"latent {z}: text(tokens=1..1) ~ base({read})" for z, read in (("a", ""), ("b", "a"), ("c", "b"))
    )
    assert of(line) == [("a", ()), ("a", ("b", "c")), ("b", ()), ("b", ("c",)), ("c", ())]


def test_a_ratio_is_accepted_with_its_probability() -> None:
    """Against uniforms that lie evenly, so the share is exact to one part in their number."""

    @define
    class Even:
        def random(self, n: int) -> np.ndarray:
            return (np.arange(n) + 0.5) / n

    for ratio in (-np.inf, -7.0, -1.3, -0.2, 0.0, 0.4, np.inf):
        share = accept(Even(), np.full(10_000, ratio)).mean()  # type: ignore[arg-type]
        assert share == pytest.approx(min(1.0, np.exp(ratio)), abs=1e-4)
