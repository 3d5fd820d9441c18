"""Markov chain Monte Carlo over values: several chains side by side, one batch of model calls for all.

The slow baseline: it needs no guide and no weights, and it says nothing of the evidence.
What it proposes, and why that leaves the posterior as it is, is in `moves`.

How far the chains agree is said by R-hat and the bulk effective sample size, by arviz-stats: the
rank-normalised split versions of Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021).
R-hat near 1 (they advise below 1.01) says that the chains cannot be told apart; it never
says that a mode that none of them visited does not exist.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from arviz_stats.base import array_stats
from attrs import evolve, field, frozen

from posterior_lm.infer import weights
from posterior_lm.infer.base import Backend, Info
from posterior_lm.infer.choosers import Sample
from posterior_lm.infer.draws import Chains, Draws
from posterior_lm.infer.guide import Guide, PriorGuide, Proposal, weighed
from posterior_lm.infer.moves import (
    Proposed,
    Site,
    accept,
    conditional,
    from_guide,
    independence,
    pick_cuts,
    sites,
    small,
    suffix,
)
from posterior_lm.infer.weights import all_dead
from posterior_lm.support.finite import FiniteSupport
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.values import ABSENT, Value, take

START = 16
"""Draws per chain that its first value is resampled from, so that few chains begin far out."""
MOST = 1024
"""Draws without one of positive weight after which the chains have nowhere to begin."""
BLOCK = 40
"""Moves that are planned at once: what the independence moves among them propose is drawn in one batch."""
SHARES = {"mixed": 0.9, "suffix": 0.0, "independence": 1.0}
"""How many of the moves are independence moves. A suffix move costs seven times as much: its model calls wait for
each other. At 9 in 10 the two take about equal time."""


@frozen(eq=False)
class Snapshot:
    """Where C chains stand: a value of every latent, and the log reward (C,)."""

    values: dict[str, tuple[Value, ...]]
    log_reward: np.ndarray


@frozen(eq=False)
class State:
    """The chains after each move so far, the last of them `now`.

    `guided` (C,) is the guide's log probability of what each chain holds, where `known`.
    `accepted` has the number of acceptances of each move, of the chains together. `planned` are the next
    moves: what an independence move proposes, with its log rewards (C,), or None for a suffix move.
    """

    target: Target
    guide: Guide
    prior: PriorGuide
    sites: tuple[Site, ...]
    now: Snapshot
    guided: np.ndarray
    known: np.ndarray
    past: tuple[Snapshot, ...] = ()
    accepted: tuple[int, ...] = ()
    planned: tuple[tuple[Proposal, np.ndarray] | None, ...] = ()


@frozen(kw_only=True)
class Mcmc:
    """`steps` moves of each of `chains` chains; the first `warmup` share of them is thrown away.

    `move` is "suffix" (redraw a latent from a random place on, from the prior under the mask;
    finite latents from their conditional), "independence" (redraw everything from the guide),
    or "mixed" (independence nine times in ten: their proposals do not depend on the chains, so
    they are drawn in one batch and cost little). `sample` gives at most n draws, evenly over the chains
    and over what follows the warm-up, with equal weights. R-hat and the bulk ESS are of all that
    follows the warm-up, but the ESS is at most the number of draws that are kept.
    """

    steps: int = 1000
    chains: int = 8
    warmup: float = 0.25
    move: Literal["mixed", "suffix", "independence"] = "mixed"
    name: str = field(default="mcmc", init=False)

    def init(self, rng: np.random.Generator, target: Target, guide: Guide | None) -> State:
        """Each chain begins at one of `START` draws from the guide, resampled by weight.

        A chain whose draws are all dead begins where the draws of the others may.
        Raises InferenceError PLM702 where none of `MOST` draws has a positive weight.
        """
        prior = PriorGuide(target)
        if guide is None or (type(guide) is PriorGuide and guide.reads == "prior"):
            guide = prior
        now, log_prob = self._begin(rng, target, guide)
        known = np.ones(self.chains, dtype=bool)
        return State(target, guide, prior, sites(prior), now, log_prob, known)

    def _begin(self, rng: np.random.Generator, target: Target, guide: Guide) -> tuple[Snapshot, np.ndarray]:
        size = START * self.chains
        dead: list[np.ndarray] = []
        while True:
            proposal = guide.sample(rng, size)
            terms = np.broadcast_to(target.terms(proposal.values), (size, len(target.statements)))
            log_reward = weighed(proposal, terms.sum(axis=1))
            log_w = log_reward - proposal.log_prob
            if np.isfinite(log_w).any():
                break
            dead.append(terms)
            if sum(map(len, dead)) >= MOST:
                raise all_dead(target, np.concatenate(dead))
        rows = []
        for chain in range(self.chains):
            mine = np.arange(chain * START, (chain + 1) * START)
            mine = mine if np.isfinite(log_w[mine]).any() else np.arange(size)
            rows.append(int(rng.choice(mine, p=weights.normalize(log_w[mine]))))
        values = {name: tuple(column[d] for d in rows) for name, column in proposal.values.items()}
        return Snapshot(values, log_reward[rows]), proposal.log_prob[rows]

    def step(self, rng: np.random.Generator, state: State) -> tuple[State, Info]:
        """Moves of every chain up to a suffix move or the end of what is planned, which is `BLOCK` moves at a time."""
        past, accepted = list(state.past), list(state.accepted)
        planned = list(state.planned or self._plan(rng, state))
        while planned:
            guided = planned.pop(0)
            state, moved = self._redraw(rng, state) if guided is None else self._to(rng, state, *guided)
            past.append(state.now)
            accepted.append(int(moved.sum()))
            if guided is None:
                break
        state = evolve(state, past=tuple(past), accepted=tuple(accepted), planned=tuple(planned))
        share = np.mean(accepted[-BLOCK:]) / self.chains
        note = f"{len(past)} of {self.steps} moves of {self.chains} chains, {share:.0%} accepted of late"
        return state, Info(len(past) >= self.steps, note, len(past) / self.steps)

    def _plan(self, rng: np.random.Generator, state: State) -> list[tuple[Proposal, np.ndarray] | None]:
        """The next moves."""
        anew = rng.random(min(BLOCK, self.steps - len(state.past))) < SHARES[self.move]
        count = int(anew.sum())
        if not count:
            return [None] * len(anew)
        proposals = _parts(*from_guide(rng, state.target, state.guide, count * self.chains), count)
        return [next(proposals) if guided else None for guided in anew]

    def _redraw(self, rng: np.random.Generator, state: State) -> tuple[State, np.ndarray]:
        """A suffix move, or a draw from a conditional, of all chains at one site."""
        if not state.sites:
            return state, np.ones(self.chains, dtype=bool)  # without a latent there is one value
        site = state.sites[int(rng.integers(len(state.sites)))]
        info = state.target.latent(site.latent)
        held, choose = state.now, Sample(rng)
        if small(info) and not site.readers:
            found = conditional(state.target, choose, info, held.values, self.chains)
        else:
            cuts = pick_cuts(rng, info, held.values[site.latent])
            found = suffix(state.prior, choose, site, cuts, held.values, held.log_reward)
        taken = accept(rng, found.log_ratio)
        guided, known = state.guided, state.known & ~taken
        if state.guide is state.prior and found.gain is not None:
            guided, known = guided.copy(), state.known
            guided[taken] += found.gain[taken]
        return evolve(state, now=_taken(held, found, taken), guided=guided, known=known), taken

    def _to(
        self, rng: np.random.Generator, state: State, proposal: Proposal, rewards: np.ndarray
    ) -> tuple[State, np.ndarray]:
        """An independence move of all chains, to values that were drawn from the guide."""
        held, guided = state.now, state.guided
        asked = np.flatnonzero(~state.known)
        if len(asked):
            guided = guided.copy()
            guided[asked] = state.guide.log_prob(take(held.values, asked.tolist()))
        found = independence(proposal, rewards, guided, held.log_reward)
        taken = accept(rng, found.log_ratio)
        guided = np.where(taken, proposal.log_prob, guided)
        known = np.ones(self.chains, dtype=bool)
        return evolve(state, now=_taken(held, found, taken), guided=guided, known=known), taken

    def sample(self, rng: np.random.Generator, state: State, n: int) -> Draws:
        """At most n draws; fewer where the chains have made fewer moves."""
        first = int(self.warmup * len(state.past))
        kept = state.past[first:] or (state.now,)
        values = {name: [snap.values[name] for snap in kept] for name in state.target.names}
        log_reward = np.array([snap.log_reward for snap in kept])
        rhat, bulk_ess = agreement(features_of(state.target, values, log_reward))
        each = min(len(kept), -(-n // self.chains))
        # Evenly spaced moves, the last one among them; what is too much is left out of the oldest.
        rows = (np.arange(1, each + 1) * len(kept)) // each - 1
        places = [(int(row), chain) for row in rows for chain in range(self.chains)][-n:]
        accepted = state.accepted[first:]
        return Draws(
            {name: tuple(column[row][chain] for row, chain in places) for name, column in values.items()},
            np.zeros(len(places)),
            np.array([log_reward[place] for place in places]),
            self.name,
            chains=Chains(
                self.chains,
                np.array([chain for _, chain in places]),
                rhat,
                None if bulk_ess is None else min(bulk_ess, float(len(places))),
                float(np.mean(accepted) / self.chains) if accepted else 1.0,
            ),
        )


def _parts(proposal: Proposal, rewards: np.ndarray, count: int) -> Iterator[tuple[Proposal, np.ndarray]]:
    """The draws in `count` parts of equal size."""
    for rows in np.split(np.arange(len(rewards)), count):
        some = take(proposal.values, rows.tolist())
        yield Proposal({k: tuple(v) for k, v in some.items()}, proposal.log_prob[rows]), rewards[rows]


def _taken(held: Snapshot, found: Proposed, taken: np.ndarray) -> Snapshot:
    """The new value where it was accepted, the old one elsewhere."""
    values = {
        name: tuple(
            new if yes else old for old, new, yes in zip(column, found.values[name], taken, strict=True)
        )
        for name, column in held.values.items()
    }
    return Snapshot(values, np.where(taken, found.log_reward, held.log_reward))


# ---------------------------------------------------------------- how far the chains agree


COMMON = 3
LEAST = 8
"""Draws of a chain below which nothing is said: its two halves need four draws each."""


def agreement(features: Mapping[str, np.ndarray]) -> tuple[float | None, float | None]:
    """The worst R-hat and the least bulk ESS over features (C chains, K draws each).

    A feature that never changes in any chain says nothing and is left out; (None, None) where
    all are left out, or K is below `LEAST`. R-hat is +inf where every half of every chain
    stands still, and not all at the same place. One chain is compared half with half.
    """
    worst: list[float] = []
    least: list[float] = []
    for column in features.values():
        if column.shape[1] >= LEAST and np.ptp(column) > 0:
            worst.append(_rhat(column))
            least.append(_bulk_ess(column))
    return (max(worst), min(least)) if worst else (None, None)


def _rhat(column: np.ndarray) -> float:
    half = column.shape[1] // 2
    # (2C, K // 2); an odd draw in the middle is left out, as arviz does.
    halves = np.concatenate([column[:, :half], column[:, -half:]])
    if np.all(np.ptp(halves, axis=1) == 0):
        return math.inf
    # arviz wants two chains at least; the halves of one chain are two.
    chains = column if len(column) > 1 else halves
    with np.errstate(all="ignore"):  # a feature with two values has a constant distance from its median
        value = float(array_stats.rhat(chains, method="rank"))
    return value if math.isfinite(value) else math.inf


def _bulk_ess(column: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        value = float(array_stats.ess(column, method="bulk"))
    # As many as there are places where a chain stands still, where nothing better can be said.
    return value if math.isfinite(value) else float(len(np.unique(column)))


def features_of(
    target: Target, values: Mapping[str, Sequence[Sequence[Value]]], log_reward: np.ndarray
) -> dict[str, np.ndarray]:
    """(C, K) numbers that chains are compared by: the log reward, one for each latent, and whether the commonest values are held.

    A text stands for its number of tokens, a value of a finite type for its place in the type: two texts of one length
    and reward look alike by these, so the `COMMON` commonest values of all chains together are told apart.
    `values` holds K rows of C values per latent, `log_reward` (K, C).
    """
    found = {"log_reward": log_reward.T.astype(np.float64)}
    whole = [[tuple(v.text for v in latents) for latents in zip(*rows, strict=True)]
             for rows in zip(*(values[info.name] for info in target.latents), strict=True)]  # fmt: skip
    counts = Counter(value for row in whole for value in row)
    for value, _ in counts.most_common(COMMON):
        found[f"holds {value}"] = np.array(
            [[held == value for held in row] for row in whole], dtype=np.float64
        ).T
    for info in target.latents:
        rows = values[info.name]
        found[info.name] = np.array([[_number(info, v) for v in row] for row in rows], dtype=np.float64).T
    return found


def _number(info: LatentInfo, value: Value) -> int:
    if isinstance(info.support, FiniteSupport):
        if value == ABSENT:
            return -1
        place = info.support.spec.number(value.datum)
        assert place is not None
        return place
    return len(value.ids)


# ---------------------------------------------------------------- as a method


class _Mcmc(Backend):
    def build(self, target: Target, options: Mapping[str, object], n: int, batch: int | None) -> Mcmc:
        kept = {k: v for k, v in options.items() if k in ("warmup", "move")}
        whole = {k: int(str(v)) for k, v in options.items() if k in ("steps", "chains")}
        return Mcmc(**kept, **whole)  # type: ignore[arg-type]


BACKEND = _Mcmc()
