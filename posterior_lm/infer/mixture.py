"""One proposal made of several: a draw is weighed by the probability that any of them gives it.

    q_a(z) = Σ_k a_k q_k(z),    log w(z) = log reward(z) − log q_a(z)

This is the balance heuristic (Veach & Guibas 1995): where one proposal cannot draw what
another can, the draws of the other have bounded weights all the same. How many draws each
makes is stratified, a_k N but for rounding at random, so that E[draws of k] = a_k N and

    E[1/N Σ_i w(z_i)] = Σ_k a_k E_{q_k}[w] = Σ_z q_a(z) w(z) = evidence

for every N, with less variance than N draws of q_a (Owen & Zhou 2000).

The first part of the draws, the pilot, is made with equal shares. The shares of the others
minimise the second moment of the weights, E_{q_a}[w²] = Σ_z reward(z)² / q_a(z), which is
convex in a (He & Owen 2014) and estimated from the pilot. The pilot's draws are kept with the
weights of their own shares: given the pilot the shares of the rest are constants, so the mean
weight of either part has the evidence as its expectation, and so has the mean over both.
Weighing the pilot by shares that it has chosen itself would not.

The prior's share is never below `FLOOR`. Since q_a ≥ a_prior q_prior, the second moment is at
most 1 / a_prior times the prior's: N draws of the mixture are worth at least a_prior N of the
prior, whatever the others are.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from attrs import evolve, field, frozen

from posterior_lm.infer.base import Backend, Info, Offer
from posterior_lm.infer.draws import Draws, MixtureReport
from posterior_lm.infer.guide import Guide, PriorGuide, Proposal, joined, weighed
from posterior_lm.infer.listing import listed_early
from posterior_lm.infer.prefix_expansion import LARGE
from posterior_lm.infer.weights import all_dead, log_shares
from posterior_lm.infer.wider_guides import (
    ElsewhereGuide,
    FlatGuide,
    ListGuide,
    elsewhere,
    flatter,
)
from posterior_lm.target.target import Target
from posterior_lm.target.values import Value, Values, distinct, take

FLOOR = 0.1
"""The least share of the prior, and so the most of a perfect policy's draws that the prior can cost."""
PILOT = 0.125
"""Part of the draws with equal shares."""
FEWEST, MOST = 32, 512
"""Draws of a pilot: with fewer the shares stay equal, and more tell little that these have not."""
STEPS = 200
"""Of the search for the best shares, which then are within a hundredth."""
NEEDLESS = 0.02
"""A share below this is none: every other draw would be scored for it."""


@frozen(eq=False)
class MixtureGuide:
    """K guides with shares (K,) that sum to 1; the first is the prior. A guide without a share is not asked."""

    prior: PriorGuide
    others: tuple[Guide, ...]
    shares: np.ndarray

    @property
    def guides(self) -> tuple[Guide, ...]:
        return (self.prior, *self.others)

    @property
    def name(self) -> str:
        return " and ".join(
            f"{guide.name} ({share:.2f})" for guide, share in zip(self.guides, self.shares, strict=True)
        )

    def sample(self, rng: np.random.Generator, n: int) -> Proposal:
        return self.proposed(rng, n)[0]

    def log_prob(self, values: Values) -> np.ndarray:
        asked = np.flatnonzero(self.shares)
        columns = [self.guides[k].log_prob(values) for k in asked]
        return mixed(np.stack(columns, axis=1), self.shares[asked])

    def proposed(self, rng: np.random.Generator, n: int) -> tuple[Proposal, np.ndarray]:
        """n draws, one guide's after another's, and their log probability (n, K) under each; −∞ without a share."""
        counts = allocated(rng, self.shares, n)
        parts = {k: self.guides[k].sample(rng, int(counts[k])) for k in np.flatnonzero(counts).tolist()}
        columns = np.full((n, len(counts)), -np.inf)
        for k in np.flatnonzero(self.shares).tolist():
            columns[:, k] = np.concatenate([self._log_prob(k, i, parts) for i in sorted(parts)])
        whole = joined([parts[i] for i in sorted(parts)], self.prior.target.names)
        return evolve(whole, log_prob=mixed(columns, self.shares)), columns

    def _log_prob(self, k: int, i: int, parts: dict[int, Proposal]) -> np.ndarray:
        """The log probability under guide k of what guide i drew; the prior's pass leaves its scores in `parts`."""
        drawn = parts[i]
        if k == i:
            return drawn.log_prob
        first, where = distinct(drawn.values, range(len(drawn.log_prob)))
        some = take(drawn.values, first)
        if k:
            return self.guides[k].log_prob(some)[where]
        found = self.prior.retraced(some)
        scores = {node: column[where] for node, column in found.scores.items()}
        parts[i] = evolve(drawn, scores={**drawn.scores, **scores})
        return found.log_prob[where]


def mixed(log_probs: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(N,) log Σ_k share_k q_k, from (N, K) log q_k and the shares (K,), of which some may be 0; N may be several axes."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.logaddexp.reduce(log_probs + np.log(shares), axis=-1))


def allocated(rng: np.random.Generator, shares: np.ndarray, n: int) -> np.ndarray:
    """(K,) whole numbers that sum to n, each share_k n on average and less than 1 from it."""
    ends = np.cumsum(shares)
    ends = (
        ends / ends[-1] * n
    )  # the last is n to the bit, and so are those before it that have no more to come
    return np.diff(np.floor(ends + rng.random()), prepend=0).astype(np.int64)


def best_shares(
    log_probs: np.ndarray, log_weights: np.ndarray, log_prob: np.ndarray, floor: np.ndarray | None = None
) -> np.ndarray:
    """(K,) the shares with the least second moment of the weights, at least `floor`: `FLOOR` of the first and 0 of others.

    From draws of a mixture: (N, K) log q_k, and (N,) their log weights and log probability under it. The
    second moment is Σ_i w_i² / Σ_k a_k r_ik with r_ik = q_k / q of draw i. By Jensen's inequality it is at most
    Σ_k a_k² B_k / a'_k at new shares a', with B_k its derivative at a, and the a'_k ∝ a_k √B_k that
    minimise this lower it at every step.
    """
    size = log_probs.shape[1]
    shares = np.full(size, 1.0 / size)
    if size == 1 or np.isneginf(log_weights).all():
        return shares
    alive = np.isfinite(log_weights)
    ratio = np.exp(log_probs[alive] - log_prob[alive, None])
    squared = np.exp(2 * (log_weights[alive] - log_weights[alive].max()))
    floor = FLOOR * np.eye(size)[0] if floor is None else floor
    rest = 1.0 - floor.sum()
    free = np.full(size, rest / size)
    for _ in range(STEPS):
        slope = (squared / (ratio @ (floor + free)) ** 2) @ ratio
        free = free * np.sqrt(slope)
        free *= rest / free.sum()
    shares = floor + free
    shares[1:][shares[1:] < NEEDLESS] = 0.0
    return np.asarray(shares / shares.sum())


# ---------------------------------------------------------------- as an algorithm


@frozen(eq=False)
class Part:
    """N draws of one step: `terms` (N, ·) of the log reward, `log_probs` (N, K) under each guide."""

    proposal: Proposal
    terms: np.ndarray
    log_probs: np.ndarray

    @classmethod
    def of(cls, target: Target, proposal: Proposal, log_probs: np.ndarray) -> Part:
        terms = target.terms(proposal.values, proposal.scores)
        # Without a latent there is one value, drawn N times.
        return cls(proposal, np.broadcast_to(terms, (len(log_probs), terms.shape[1])), log_probs)

    @property
    def log_reward(self) -> np.ndarray:
        return weighed(self.proposal, np.asarray(self.terms.sum(axis=1)))

    @property
    def log_weights(self) -> np.ndarray:
        # What a guide proposed has log q > −inf, so this is never −inf − −inf.
        return self.log_reward - self.proposal.log_prob


@frozen(eq=False)
class State:
    """What is drawn, and what the next draws come from; `pilot` is how many had equal shares, once others follow."""

    target: Target
    guide: MixtureGuide
    parts: tuple[Part, ...] = ()
    pilot: int = 0

    @property
    def drawn(self) -> int:
        return sum(len(part.proposal.log_prob) for part in self.parts)


@frozen
class Mixture:
    """A pilot with equal shares, then the rest of the draws with those found best; at most `batch` draws a step.

    The guide is one proposal beside the prior; what `guide` statements read is another, and with `flat` what is flatter
    and what other terms score texts by.
    """

    draws: int
    batch: int | None = None
    flat: float | None = None
    """Where it is given, what is flatter than the prior and other scores propose too, each with this share at least; where the pilot
    gives nothing but the prior a share, it ends there."""
    listed: Draws | None = None
    """Values that propose too, in proportion to their rewards."""
    name: str = field(default="mixture", init=False)

    @property
    def pilot(self) -> int:
        """How many draws the pilot has; 0 where they are too few to learn from."""
        size = min(MOST, round(PILOT * self.draws))
        return size if size >= FEWEST else 0

    def init(self, rng: np.random.Generator, target: Target, guide: Guide | None) -> State:
        others: list[Guide] = [PriorGuide(target, reads="guide")] if target.graph.guides else []
        others += [] if guide is None else [guide]
        others += [*flatter(target), *elsewhere(target)] if self.flat is not None else []
        if self.listed is not None:
            others.append(ListGuide(self.listed.values, log_shares(self.listed.log_reward)))
        shares = np.full(1 + len(others), 1.0 / (1 + len(others)))
        return State(target, MixtureGuide(PriorGuide(target), tuple(others), shares))

    def step(self, rng: np.random.Generator, state: State) -> tuple[State, Info]:
        drawn = state.drawn
        if drawn == self.pilot > 0:
            state = self._tuned(state)
            if self.flat is not None and not state.guide.shares[1:].any():
                return state, Info(True, f"{drawn} draws", drawn / self.draws)
        left = (self.pilot if drawn < self.pilot else self.draws) - drawn
        proposal, columns = state.guide.proposed(rng, min(self.batch or left, left))
        part = Part.of(state.target, proposal, columns)
        state = evolve(state, parts=(*state.parts, part))
        return state, Info(state.drawn >= self.draws, f"{state.drawn} draws", state.drawn / self.draws)

    def _tuned(self, state: State) -> State:
        """With the shares that the draws so far, which are the pilot, have found."""
        log_probs = np.concatenate([part.log_probs for part in state.parts])
        log_weights = np.concatenate([part.log_weights for part in state.parts])
        log_prob = np.concatenate([part.proposal.log_prob for part in state.parts])
        floor = [FLOOR, *(self._least(guide) for guide in state.guide.others)]
        shares = best_shares(log_probs, log_weights, log_prob, np.array(floor))
        return evolve(state, guide=evolve(state.guide, shares=shares), pilot=state.drawn)

    def _least(self, guide: Guide) -> float:
        return self.flat or 0.0 if isinstance(guide, FlatGuide | ElsewhereGuide) else 0.0

    def sample(self, rng: np.random.Generator, state: State, n: int) -> Draws:
        """Raises InferenceError PLM702 where every draw has weight zero."""
        whole = joined([part.proposal for part in state.parts], state.target.names)
        log_weights = np.concatenate([part.log_weights for part in state.parts])
        if np.isneginf(log_weights).all():
            raise all_dead(state.target, np.concatenate([part.terms for part in state.parts]))
        log_reward = np.concatenate([part.log_reward for part in state.parts])
        names = tuple(guide.name for guide in state.guide.guides)
        report = MixtureReport(names, tuple(state.guide.shares.tolist()), state.pilot)
        return Draws(whole.values, log_weights, log_reward, self.name, whole.log_prob, mixture=report)


def mixture_of(
    target: Target, report: MixtureReport, guide: Guide | None, listed: Draws | None = None
) -> MixtureGuide:
    """What the draws behind the pilot came from. Where flatter guides are among them, a policy is not."""
    flat = 0.0 if flatter(target)[0].name in report.names else None
    others = None if flat is not None or type(guide) is PriorGuide else guide
    begun = Mixture(1, flat=flat, listed=listed).init(np.random.default_rng(0), target, others)
    return evolve(begun.guide, shares=np.array(report.shares))


# ---------------------------------------------------------------- as a method


class _Mixture(Backend):
    def build(self, target: Target, options: Mapping[str, object], n: int, batch: int | None) -> Mixture:
        return Mixture(n, batch)

    def applies(self, target: Target, policy: Offer | None) -> str | None:
        if policy is None:
            other = PriorGuide(target, reads="guide").name if target.graph.filled else None
            return None if other is None else f"{LARGE}, and they are drawn from the prior and from {other}"
        return f"{LARGE}, and they are drawn from the prior and from {policy.name}, {policy.state}"

    def upper_bound(
        self, target: Target, options: Mapping[str, object], draws: Draws, guide: Guide,
        exact: Mapping[str, Value], rng: np.random.Generator,
    ) -> tuple[float, float | None]:  # fmt: skip
        """By the draws after the pilot, with z* added; no draw has a weight of its own.

        Given the pilot they are stratified draws of one mixture. A sum of independent draws, one guide's after
        another's, is below that of as many draws of the mixture in convex order (Hoeffding 1956), so the mean
        of the concave log is no smaller, and the bound for independent draws is one for these.
        """
        report = draws.mixture
        assert report is not None
        listed = listed_early(target, len(draws)) if ListGuide.name in report.names else None
        mixture = mixture_of(target, report, guide, listed)
        late = evolve(draws, log_weights=draws.log_weights[report.pilot :])
        return Backend.upper_bound(self, target, options, late, mixture, exact, rng)[0], None


BACKEND = _Mixture()
