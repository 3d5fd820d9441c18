"""Choosing a method by name or automatically, with the reason in one line."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
from attrs import evolve

from posterior_lm.infer.base import Backend, Info, Offer, run
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.guide import Guide, PriorGuide
from posterior_lm.infer.methods import AUTO, METHODS, Method
from posterior_lm.infer.weights import ess, log_evidence
from posterior_lm.lang.diagnostics import InferenceError, ModelError
from posterior_lm.target.target import Target

BUDGET_BATCH = 64
"""Draws between two looks at the clock, where there is a budget."""

CHECK = 64
"""Draws of the policy and of the prior that are compared on the row itself before a policy is used."""
CLEARLY = 0.5
"""The policy's ESS below this part of the prior's is worse by more than 64 draws can err."""
UNSEEN = 3.0
"""Nats. An unbiased estimate of the evidence is above it by 3 nats in at most 5 % of the cases
(Markov's inequality), so whose estimate is that far above the other's has seen mass that the other has not."""


def backend_of(method: str) -> Backend:
    """What a method of the table does; for a name that it has not, what every method does."""
    found: Backend = METHODS[method].load() if method in METHODS else Backend()
    return found


def asked() -> list[Method]:
    """The methods that `auto` asks whether they apply, in its order; the last one always does."""
    return sorted((one for one in METHODS.values() if one.auto), key=lambda one: one.auto)


def choose(target: Target, method: str, policy: Offer | None = None) -> tuple[str, str]:
    """The method to run and why.

    Raises InferenceError PLM627 for a method that needs a policy without one.
    """
    named = METHODS[method]
    if named.needs_policy and policy is None:
        raise InferenceError.of(
            "PLM627",
            "no policy: run `plm fit` first",
            help="then give its folder with `--policy DIR`, or `query.policy(DIR)`; "
            "`auto` and `importance` need none",
        )
    if named.proposes and policy is not None:
        reason = f"{method} was asked for, proposing with {policy.name}, {policy.state}"
        if policy.level in ("poor", "uncertified"):
            reason += "; warning: compare with the method auto before you trust this"
        return method, reason
    if named.decoder and policy is not None:
        return method, f"{method} was asked for, decoding {policy.name}, {policy.state}"
    if method != AUTO:
        return method, f"{method} was asked for"
    chosen, why = next(
        (one, why) for one in asked() if (why := one.load().applies(target, policy)) is not None
    )
    reason = f"{chosen.name}: {why}"
    if policy is not None and chosen.proposes and not chosen.needs_policy:
        beaten = policy.level == "usable"
        why = "the prior is as good a proposal" if beaten else f"its verdict is {policy.level}"
        why = "it is not certified" if policy.level == "uncertified" else why
        reason += f"; {policy.name} is not used, since {why}"
    return chosen.name, reason


def rather_than_a_policy(target: Target) -> bool:
    """Whether `auto` takes something else here, however good a policy there is."""
    first = next(one for one in asked() if one.needs_policy or one.load().applies(target, None) is not None)
    return not first.needs_policy


def doubt(target: Target, policy: Guide, rng: np.random.Generator, n: int = CHECK) -> str | None:
    """Why the policy is a worse proposal for this row than the prior, by n draws of each; None if it is not."""
    try:
        own_ess, own_evidence = _trial(target, policy, rng, n)
    except ModelError as problem:
        if any(d.code != "PLM520" for d in problem.diagnostics):
            raise
        return "what it reads of this row does not fit into the model's window"
    prior_ess, prior_evidence = _trial(target, PriorGuide(target), rng, n)
    if prior_evidence == -np.inf or own_evidence > prior_evidence + UNSEEN:
        return None  # the prior's draws have missed what the policy's have found
    if own_evidence < prior_evidence - UNSEEN:
        missed = "none" if own_evidence == -np.inf else f"e^-{prior_evidence - own_evidence:.1f}"
        return f"on this row it finds {missed} of the evidence that the prior finds"
    if own_ess < CLEARLY * prior_ess:
        return f"on this row its ESS is {own_ess:.1f} of {n}, and the prior's {prior_ess:.1f}"
    return None


def _trial(target: Target, guide: Guide, rng: np.random.Generator, n: int) -> tuple[float, float]:
    """ESS and log evidence of n draws; 0 and −∞ where all are dead."""
    proposal = guide.sample(rng, n)
    weights = np.broadcast_to(target.log_reward(proposal.values), (n,)) - proposal.log_prob
    if np.all(np.isneginf(weights)):
        return 0.0, -np.inf
    return ess(weights), log_evidence(weights)


def _proposal(
    target: Target, method: str, name: str, reason: str, policy: Offer, rng: np.random.Generator
) -> tuple[str, str, Guide | None]:
    """The method, its reason and the policy's guide; the prior, and why, where auto finds a doubt."""
    guide = policy.guide()
    if method != AUTO:
        return name, reason, guide
    # A stream of its own: the draws that follow are those that would have come without a check.
    doubts = doubt(target, guide, rng.spawn(1)[0])
    if doubts is None:
        return name, reason, guide
    last = asked()[-1].name
    return last, f"{last}: drawn from the prior; {policy.name} is not used, since {doubts}", None


def infer(
    target: Target,
    *,
    method: str,
    options: Mapping[str, object],
    n: int,
    rng: np.random.Generator,
    guide: Guide | None = None,
    budget: float | None = None,
    progress: Callable[[Info], None] | None = None,
    policy: Offer | None = None,
) -> Draws:
    """Draws by the named method; `options` are those of `METHODS[method]`.

    An explicit `guide` stands before a `policy`. Under auto a policy is compared with the
    prior on this target first.
    """
    began = time.monotonic()
    if guide is not None and METHODS[method].needs_policy:
        name, reason = method, f"{method} was asked for"
    else:
        name, reason = choose(target, method, policy if guide is None else None)
    chosen = METHODS[name]
    if chosen.proposes or chosen.decoder:
        if guide is not None:
            reason = f"{reason}, proposing with {guide.name}"
        elif policy is not None and (method != AUTO or chosen.needs_policy):
            name, reason, guide = _proposal(target, method, name, reason, policy, rng)
        elif options.get("proposal") == "guide" and chosen.proposes:
            guide = PriorGuide(target, reads="guide")
            reason = f"{reason}, proposing with {guide.name}"
    algorithm = backend_of(name).build(target, options, n, None if budget is None else BUDGET_BATCH)
    left = None if budget is None else max(0.0, budget - (time.monotonic() - began))
    draws = run(algorithm, target, n=n, rng=rng, guide=guide, budget=left, progress=progress)
    if not draws.exact and budget is not None and len(draws) < n:
        reason = f"{reason}; the budget of {budget:g} s ended it after {len(draws)} of {n} draws"
    return evolve(draws, reason=reason, method=name)
