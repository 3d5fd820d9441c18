"""Sequential Monte Carlo: particles drawn latent by latent, token by token, and resampled on the way.

A step is one choice of every particle: weigh by what may be chosen from, resample where the
weights have become unequal, choose, and drop who can no longer satisfy a condition. Once a
latent is whole its particles are weighed by the terms that it completes.

A particle's log weight is log γ − log q of what it holds so far: the model's mass on what
the support allowed at each token, and every term of the log reward as soon as its latents
are finished. Particles are resampled just before a choice, so never after the last one:
resampling there would hide the spread of the weights and help nothing.

Nothing is resampled for what is observed after a single text until the text is whole: a
look-ahead is there (`look_ahead`), but none that was tried beats plain importance sampling on
infilling (docs/how-to/choose-a-method.md). There the draws are those of importance sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from attrs import evolve, field, frozen

from posterior_lm.infer.base import Backend, Info, Offer, run
from posterior_lm.infer.choosers import Sample
from posterior_lm.infer.draws import Draws, SmcReport
from posterior_lm.infer.guide import Guide, PriorGuide, StepGuide
from posterior_lm.infer.particles import Chance, Dice, Particles, Retained, together
from posterior_lm.infer.prefix_expansion import LARGE
from posterior_lm.infer.rollout import Walk
from posterior_lm.infer.schedule import Atom, Stage, log_terms, on_the_way, stages
from posterior_lm.infer.twists import ConditionTwist, LookAhead, Twist, told
from posterior_lm.infer.weights import all_dead, all_dead_on_the_way, logsumexp
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.values import ABSENT, Value, distinct, take


@frozen(eq=False)
class Swarm:
    """Particles between two choices, where `place` latents are finished; `walk` draws the next one.

    `began` particles were alive when it was begun. Without a `walk` it is still to begin.
    """

    particles: Particles
    place: int = 0
    walk: Walk | None = None
    began: int = 0


@frozen(eq=False)
class State:
    """What to draw with, the swarms that are finished, and the one on its way."""

    target: Target
    guide: StepGuide
    plan: Sequence[Stage]
    twists: Sequence[Twist]
    swarms: tuple[Draws, ...] = ()
    drawn: int = 0
    dead: int = 0
    """Particles of swarms of which none survived: an evidence of 0 each, beside the others'."""
    death: InferenceError | None = None
    """What killed the last of those."""
    swarm: Swarm | None = None


@frozen
class Smc:
    """Swarms of particles until there are `draws`; `sample` draws what is missing of n and puts them together.

    Without a `batch` there is one swarm. With one there are several of that many particles, which are
    independent of each other, and a budget ends the run with those that are finished: what a swarm on
    its way holds is dropped. The first one is finished in any case, so that there is something to show,
    and so that the draws are the first of those that there would be without a budget.
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
            raise InferenceError.of(
                "PLM711",
                f"the guide `{guide.name}` draws all latents at once, and smc weighs them one by one",
                help="use `importance` with this guide, or give it the methods of a `StepGuide`",
            )
        ahead = (LookAhead(target, self.look_ahead),) if self.look_ahead > 0 else ()
        return State(target, guide, stages(target), (ConditionTwist(target), *self.twists, *ahead))

    def step(self, rng: np.random.Generator, state: State) -> tuple[State, Info]:
        """One more choice of every particle: a token, or a value of a finite type."""
        if state.drawn >= self.draws:
            return state, Info(done=True)
        state = self._choose(rng, state, self.draws)
        drawn, note = float(state.drawn), f"{state.drawn} draws"
        if (swarm := state.swarm) is not None:
            longest = state.target.latents[swarm.place].support.max_tokens
            part = 0.0 if swarm.walk is None else min(1.0, swarm.walk.steps / longest)
            share = (swarm.place + part) / len(state.plan)
            drawn += share * swarm.particles.n
            note = f"{note}, {share:.0%} of {swarm.particles.n} more"
        return state, Info(state.drawn >= self.draws, note, drawn / self.draws, state.drawn)

    def sample(self, rng: np.random.Generator, state: State, n: int) -> Draws:
        """Raises InferenceError PLM702 or PLM710 where every swarm has died."""
        while state.drawn < n and (self.batch is None or not state.drawn):
            state = self._choose(rng, state, n)
        if not state.swarms:
            assert state.death is not None
            raise state.death
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

    def _choose(self, rng: np.random.Generator, state: State, n: int) -> State:
        """One choice of the swarm on its way to n draws, or of a new one; a swarm may end or die of it."""
        left = n - state.drawn
        swarm = state.swarm or Swarm(Particles.begin(min(self.batch or left, left)))
        drawn = state.drawn + swarm.particles.n
        try:
            swarm = self._advanced(self.chance(rng, self.resample), state, swarm)
            if swarm.place < len(state.plan):
                return evolve(state, swarm=swarm)
            draws = _finished(state.target, swarm.particles)
        except InferenceError as problem:
            if any(d.code not in ("PLM702", "PLM710") for d in problem.diagnostics):
                raise
            dead = state.dead + swarm.particles.n
            return evolve(state, swarm=None, drawn=drawn, dead=dead, death=problem)
        return evolve(state, swarm=None, drawn=drawn, swarms=(*state.swarms, draws))

    def _advanced(self, chance: Chance, state: State, swarm: Swarm) -> Swarm:
        """Weigh, resample, choose, drop the dead; and weigh again where a latent is whole."""
        if not state.plan:
            return swarm
        target, guide, particles, walk = state.target, state.guide, swarm.particles, swarm.walk
        info, stage = target.latents[swarm.place], state.plan[swarm.place]
        last, weighs = swarm.place == len(state.plan) - 1, guide.is_prior(info)
        if walk is None:
            if swarm.place:
                particles, _ = particles.resample(chance, self.threshold)
            swarm = evolve(swarm, began=int(particles.alive.sum()))
            # The end-of-text that a full length forces is a term of its own: it is only worth a
            # step of the model where something can still be resampled for it.
            there = target.there(info, particles.values, particles.n)
            alive = particles.alive if there is None else particles.alive & there
            walk = guide.begin(info, particles.values, particles.n, alive=alive, late=not last)
        if walk.goes_on:
            walk, log_mass = walk.ahead()
            if weighs:
                particles = particles.weighed(log_mass)
            particles, ancestors = particles.resample(chance, self.threshold)
            walk = walk.moved(ancestors, particles.alive).step(chance)
            log_psi = told(state.twists, info, walk.stand, particles.values, particles.twist)
            if (lean := walk.lean) is not None:
                for point in walk.stand:
                    log_psi[point.draws] += lean[point.draws]
            particles = particles.twisted(log_psi)
            walk = walk.moved(None, particles.alive)
        if walk.goes_on:
            return evolve(swarm, particles=particles, walk=walk)
        if not particles.alive.any():
            raise all_dead_on_the_way(target, info, swarm.began)
        # Whether log q + Σ log mass holds all of a value's own term, its end included.
        scored = info.support.ending in ("stop", "value") or (info.support.ending == "eos" and not last)
        particles = _holding(target, particles, info, walk, stage.prior if weighs and scored else None)
        atoms = stage.others if weighs else (stage.prior, *stage.others)
        if atoms and not last:  # the log reward of whole draws is computed whole
            particles = _with_terms(target, particles, atoms)
            particles = particles if weighs else particles.weighed(-walk.log_q)
        return Swarm(particles, swarm.place + 1)


def _nothing(like: Draws, n: int) -> Draws:
    """n dead draws with the values of one that lives."""
    shown = int(np.argmax(like.log_weights))
    values = {name: (column[shown],) * n for name, column in like.values.items()}
    report = SmcReport(least_ess=0.0, ancestors=0, resampled=0, origin=np.arange(n))
    return Draws(values, np.full(n, -np.inf), np.full(n, -np.inf), "smc", np.zeros(n), particles=report)


def _holding(
    target: Target, particles: Particles, info: LatentInfo, walk: Walk, prior: Atom | None
) -> Particles:
    """With the values of a finished latent, and the score of its `prior` where drawing it has found that out."""
    alive = particles.alive
    # A dead particle holds another's values: its weight is zero, and they are whole.
    keep = np.where(alive, np.arange(particles.n), np.flatnonzero(alive)[0])
    values = take(particles.values, keep.tolist())
    there = target.there(info, values, particles.n)
    values[info.name] = list(target.made(info, [walk.values[int(d)] for d in keep], there))
    scores = {node: column[keep] for node, column in particles.scores.items()}
    if prior is not None:
        scores[prior.node] = ((walk.log_q + walk.log_mass) / prior.exponent)[keep]
    log_q = (particles.log_q + walk.log_q)[keep]
    return evolve(particles, values=values, scores=scores, log_q=log_q, twist=np.zeros(particles.n))


def _with_terms(target: Target, particles: Particles, atoms: tuple[Atom, ...]) -> Particles:
    """Weighed by terms that can be computed now. Raises InferenceError PLM702 where they rule out all."""
    alive = np.flatnonzero(particles.alive)
    first, where = distinct(particles.values, alive.tolist())
    terms, found = log_terms(target, atoms, take(particles.values, first), len(first))
    gained = np.full(particles.n, -np.inf)
    gained[alive] = terms.sum(axis=1)[where]
    if np.isneginf(gained).all():
        raise all_dead(target, terms[where])
    scores = dict(particles.scores)
    for node, column in found.items():
        scores[node] = np.zeros(particles.n)
        scores[node][alive] = column[where]
    return evolve(particles.weighed(gained), scores=scores)


def _finished(target: Target, particles: Particles) -> Draws:
    """Draws with the whole log reward in their weights. Raises InferenceError PLM702 where all are dead."""
    alive = np.flatnonzero(particles.alive)
    known = {node: column[alive] for node, column in particles.scores.items()}
    terms = target.terms(take(particles.values, alive.tolist()), known)
    # Without a latent there is one value, held by all.
    terms = np.broadcast_to(terms, (len(alive), terms.shape[1]))
    if np.isneginf(terms.sum(axis=1)).all():
        raise all_dead(target, terms)
    at = np.zeros(particles.n, dtype=np.int64)
    at[alive] = np.arange(len(alive))
    log_reward = terms.sum(axis=1)[at]
    log_weights = particles.log_evidence + log_reward - particles.log_q - particles.paid
    log_weights[~particles.alive] = -np.inf
    values = {name: tuple(column) for name, column in particles.values.items()}
    report = particles.report(log_weights)
    return Draws(values, log_weights, log_reward, "smc", particles.log_q, particles=report)


# ---------------------------------------------------------------- as a method


def swarm_beside(
    smc: Smc,
    target: Target,
    guide: Guide | None,
    values: Mapping[str, Value],
    n: int,
    rng: np.random.Generator,
) -> Draws:
    """n particles, of which the first has these values; its log_prob is −∞ where the guide cannot draw them.

    With z* an exact posterior draw kept among N particles, E[1/Ẑ] = 1/Z, so E log Ẑ ≥ log Z:
    the other side of the bound that a run without it gives; and given the particles, z* is each of them
    with the probability that its weight says (Andrieu, Doucet & Holenstein 2010, §4.3, conditional SMC;
    Grosse, Ghahramani & Adams 2015).
    """
    held = [values[name].ids for name in target.names if values[name] != ABSENT]
    retained = Retained(Sample(rng), held)
    kept = evolve(smc, draws=n, batch=None, chance=lambda rng, scheme: retained)
    return run(kept, target, n=n, rng=rng, guide=guide)


class _Smc(Backend):
    def build(self, target: Target, options: Mapping[str, object], n: int, batch: int | None) -> Smc:
        kept = {k: v for k, v in options.items() if k in ("threshold", "resample", "look_ahead")}
        return Smc(draws=n, batch=batch, **kept)  # type: ignore[arg-type]

    def applies(self, target: Target, policy: Offer | None) -> str | None:
        pays = on_the_way(target)
        return None if pays is None else f"{LARGE}, so they are drawn from the prior, and {pays}"

    def beside(
        self, target: Target, options: Mapping[str, object], guide: Guide, exact: Mapping[str, Value], n: int,
        rng: np.random.Generator,
    ) -> Draws:  # fmt: skip
        """By a run in which one particle goes where the exact draw goes."""
        return swarm_beside(self.build(target, options, n, None), target, guide, exact, n, rng)


BACKEND = _Smc()
