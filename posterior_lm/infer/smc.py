"""Sequential Monte Carlo: particles drawn latent by latent, token by token, and resampled on the way.

A particle's log weight is log γ − log q of what it holds so far: the model's mass on what
the support allowed at each token, and every term of the log reward as soon as its latents
are finished. Where the weights have become unequal the particles are resampled just before
the next choice, so never after the last one: resampling there would hide the spread of the
weights and help nothing. Draws that can no longer satisfy a condition are dropped at once.

Nothing is resampled for what is observed after a single text until the text is whole: a
look-ahead is there (`look_ahead`), but none that was tried beats plain importance sampling on
infilling (docs/how-to/choose-a-method.md). There the draws are those of importance sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from attrs import evolve, field, frozen

from posterior_lm.infer.backend import Backend
from posterior_lm.infer.base import Draws, Info, Particles
from posterior_lm.infer.children import LARGE
from posterior_lm.infer.conditional_smc import log_evidence_given
from posterior_lm.infer.dead import all_dead, all_dead_on_the_way
from posterior_lm.infer.guide import Guide, PriorGuide
from posterior_lm.infer.particles import Chance, Dice, Swarm, together
from posterior_lm.infer.ready import Stage, log_terms, stages
from posterior_lm.infer.steered import Steered, StepGuide
from posterior_lm.infer.twists import ConditionTwist, LookAhead, Twist
from posterior_lm.infer.weights import logsumexp
from posterior_lm.lang.diagnostics import InferenceError, error
from posterior_lm.target.prefix_tests import PrefixTests
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.values import Value, Values

if TYPE_CHECKING:
    from posterior_lm.infer.auto import Offer


@frozen(eq=False)
class State:
    """What to draw with, and the swarms that are finished."""

    target: Target
    guide: StepGuide
    swarms: tuple[Draws, ...] = ()
    drawn: int = 0
    dead: int = 0
    """Particles of swarms of which none survived: an evidence of 0 each, beside the others'."""


@frozen
class Smc:
    """`step` runs a swarm; `sample` runs what is missing of n draws and puts all swarms together.

    Without a `batch` there is one swarm. With one, `run` can stop between swarms of that
    many particles, which are independent of each other.
    """

    draws: int = 0
    batch: int | None = None
    threshold: float = 0.5
    resample: str = "systematic"
    look_ahead: float = 0.0
    twists: tuple[Twist, ...] = ()
    """Further twists, for instance learned ones."""
    chance: Callable[[np.random.Generator, str], Chance] = Dice
    name: str = field(default="smc", init=False)

    def init(self, rng: np.random.Generator, target: Target, guide: Guide | None) -> State:
        """Raises InferenceError PLM711 for a guide that cannot draw one latent after the other."""
        guide = guide or PriorGuide(target)
        if not isinstance(guide, StepGuide):
            raise InferenceError(
                error(
                    "PLM711",
                    f"the guide `{guide.name}` draws all latents at once, and smc weighs them one by one",
                    help="use `importance` with this guide, or give it a method `latent`",
                )
            )
        return State(target, guide)

    def step(self, rng: np.random.Generator, state: State) -> tuple[State, Info]:
        if self.batch is None or state.drawn >= self.draws:
            return state, Info(done=True)
        state = self._run(rng, state, min(self.batch, self.draws - state.drawn))
        return state, Info(state.drawn >= self.draws, f"{state.drawn} draws", state.drawn / self.draws)

    def _run(self, rng: np.random.Generator, state: State, n: int) -> State:
        """Raises InferenceError PLM702 or PLM710 where the last swarm dies and no other lives."""
        drawn = state.drawn + n
        try:
            draws = self._swarm(rng, state, n)
        except InferenceError as problem:
            died = all(d.code in ("PLM702", "PLM710") for d in problem.diagnostics)
            if not died or (drawn >= self.draws and not state.swarms):
                raise
            return evolve(state, drawn=drawn, dead=state.dead + n)
        return evolve(state, swarms=(*state.swarms, draws), drawn=drawn)

    def sample(self, rng: np.random.Generator, state: State, n: int) -> Draws:
        if self.batch is None and state.drawn < n:
            state = self._run(rng, state, n - state.drawn)
        if not state.swarms:  # out of budget with dead swarms alone: one more says what killed them
            state = self._run(rng, evolve(state, drawn=max(state.drawn, self.draws)), self.batch or n)
        if len(state.swarms) == 1 and not state.dead:
            return state.swarms[0]
        swarms = state.swarms if not state.dead else (*state.swarms, _nothing(state.swarms[0], state.dead))
        return Draws(
            {name: tuple(v for one in swarms for v in one.values[name]) for name in state.target.names},
            np.concatenate([one.log_weights for one in swarms]),
            np.concatenate([one.log_reward for one in swarms]),
            self.name,
            np.concatenate([one.log_prob for one in swarms if one.log_prob is not None]),
            particles=together(
                [one.particles for one in swarms if one.particles is not None],
                np.array([logsumexp(one.log_weights) for one in swarms]),
            ),
        )

    # ------------------------------------------------------------- one swarm

    def _swarm(self, rng: np.random.Generator, state: State, n: int) -> Draws:
        target, guide = state.target, state.guide
        swarm = Swarm(n, self.chance(rng, self.resample), self.threshold)
        twists: list[Twist] = [ConditionTwist(target), *self.twists]
        if self.look_ahead > 0:
            twists.append(LookAhead(target, self.look_ahead))
        plan = stages(target)
        for k, (info, stage) in enumerate(zip(target.latents, plan, strict=True)):
            last = k == len(plan) - 1
            if k:
                swarm.resample()
            _draw_latent(target, guide, swarm, info, stage, twists, last=last)
        return _finish(target, swarm, plan)


def _nothing(like: Draws, n: int) -> Draws:
    """n dead draws with the values of one that lives."""
    shown = int(np.argmax(like.log_weights))
    return Draws(
        {name: (column[shown],) * n for name, column in like.values.items()},
        np.full(n, -np.inf),
        np.full(n, -np.inf),
        "smc",
        np.zeros(n),
        particles=Particles(least_ess=0.0, ancestors=0, resampled=0, origin=np.arange(n)),
    )


def _draw_latent(
    target: Target, guide: StepGuide, swarm: Swarm, info: LatentInfo, stage: Stage, twists: Sequence[Twist], *,
    last: bool,
) -> None:  # fmt: skip
    weighs = guide.is_prior(info)
    # The end-of-text that a full length forces is a term of its own: it is only worth a
    # step of the model where something can still be resampled for it.
    steer = Steered(swarm, info, twists, weighs, scores_forced=not last)
    before = swarm.log_ratio.copy()
    swarm.mass[:] = 0.0
    ids, log_q = guide.latent(info, swarm.values, swarm.n, steer)
    alive = swarm.alive
    if not alive.any():
        raise all_dead_on_the_way(target, info, int(np.isfinite(before).sum()))
    made = {one: target.value_of(info.name, one) for one in {ids[d] for d in np.flatnonzero(alive)}}
    shown = int(np.flatnonzero(alive)[0])
    # A dead particle holds another's values: its weight is zero, and they are whole.
    keep = np.where(alive, np.arange(swarm.n), shown)
    swarm.values = {name: [column[d] for d in keep] for name, column in swarm.values.items()}
    swarm.scores = {node: column[keep] for node, column in swarm.scores.items()}
    swarm.values[info.name] = [made[ids[d]] for d in keep]
    if weighs and steer.tells_the_prior:
        swarm.scores[stage.prior.node] = ((log_q + swarm.mass) / stage.prior.exponent)[keep]
    swarm.log_q = (swarm.log_q + log_q)[keep]
    swarm.twist[:] = 0.0
    if last:
        return  # the log reward is computed whole
    atoms = stage.others if weighs else (stage.prior, *stage.others)
    if not atoms:
        return
    first, where = _distinct(swarm.values, np.flatnonzero(alive))
    few = {name: [column[d] for d in first] for name, column in swarm.values.items()}
    terms, scores = log_terms(target, atoms, few, len(first))
    ready = np.full(swarm.n, -np.inf)
    ready[alive] = terms.sum(axis=1)[where]
    if np.isneginf(ready).all():
        raise all_dead(target, terms[where])
    swarm.log_ratio = swarm.log_ratio + ready - (0.0 if weighs else log_q)
    for node, column in scores.items():
        whole = np.zeros(swarm.n)
        whole[alive] = column[where]
        swarm.scores[node] = whole


def _distinct(values: Values, draws: np.ndarray) -> tuple[list[int], np.ndarray]:
    """The first of the draws (M,) with each combination of values, and (M,) which of them each draw equals."""
    places: dict[tuple, int] = {}
    first: list[int] = []
    where = np.empty(len(draws), dtype=np.int64)
    for m, d in enumerate(draws.tolist()):
        key = tuple(column[d].ids for column in values.values())
        if key not in places:
            places[key] = len(first)
            first.append(d)
        where[m] = places[key]
    return first, where


def _finish(target: Target, swarm: Swarm, plan: Sequence[Stage]) -> Draws:
    """Draws with the whole log reward in their weights."""
    alive = np.flatnonzero(swarm.alive)
    first, where = _distinct(swarm.values, alive)
    few = {name: [column[d] for d in first] for name, column in swarm.values.items()}
    given = {node: column[first].tolist() for node, column in swarm.scores.items()}
    terms = target.evaluator.terms(few, len(first), given)
    if np.isneginf(terms.sum(axis=1)).all():
        raise all_dead(target, terms[where])
    at = np.zeros(swarm.n, dtype=np.int64)
    at[alive] = where
    log_reward = terms.sum(axis=1)[at]
    log_weights = swarm.log_evidence + log_reward - swarm.log_q - swarm.paid
    log_weights[~swarm.alive] = -np.inf
    return Draws(
        {name: tuple(column) for name, column in swarm.values.items()},
        log_weights,
        log_reward,
        "smc",
        swarm.log_q,
        particles=swarm.report(log_weights),
    )


class _Smc(Backend):
    def build(self, target: Target, options: Mapping[str, object], n: int, batch: int | None) -> Smc:
        kept = {k: v for k, v in options.items() if k in ("threshold", "resample", "look_ahead")}
        return Smc(draws=n, batch=batch, **kept)  # type: ignore[arg-type]

    def applies(self, target: Target, policy: Offer | None) -> str | None:
        pays = on_the_way(target)
        return None if pays is None else f"{LARGE}, so they are drawn from the prior, and {pays}"

    def upper_bound(
        self, target: Target, options: Mapping[str, object], draws: Draws, guide: Guide,
        exact: Mapping[str, Value], rng: np.random.Generator,
    ) -> tuple[float, float | None]:  # fmt: skip
        """By a run in which one particle goes where the exact draw goes; no draw has a weight of its own."""
        smc = self.build(target, options, len(draws), None)
        return log_evidence_given(smc, target, guide, exact, len(draws), rng), None


def on_the_way(target: Target) -> str | None:
    """What particles can be told before they are whole, in words that follow a comma; None where there is nothing."""
    for info in target.latents:
        if info.support is not target.evaluator.supports[info.name]:
            return f"a condition leaves `{info.name}` only some of the tokens"
        if info.type == "text" and not PrefixTests.of(target, info.name).empty:
            return f"a condition can rule out the beginnings of `{info.name}`"
    for info, stage in list(zip(target.latents, stages(target), strict=True))[:-1]:
        if stage.others:
            return f"`{info.name}` is weighed before the next latent is drawn"
    return None


BACKEND = _Smc()
