"""Choosing a method by name or automatically, with the reason in one line."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from attrs import evolve, frozen

from posterior_lm.infer.base import Draws, InferenceAlgorithm, Info, run
from posterior_lm.infer.exact import Exact
from posterior_lm.infer.guide import Guide, PriorGuide
from posterior_lm.infer.importance import Importance
from posterior_lm.infer.ready import stages
from posterior_lm.infer.smc import Smc
from posterior_lm.infer.weights import ess, log_evidence
from posterior_lm.lang.diagnostics import InferenceError, ModelError, error
from posterior_lm.lang.signatures import DECODERS
from posterior_lm.target.prefix_tests import PrefixTests
from posterior_lm.target.target import Target

SMALL = 20_000
"""Values that exact enumeration lists in a second or two with a small model."""

BUDGET_BATCH = 64
"""Draws between two looks at the clock, where there is a budget."""

PROPOSING = ("gflownet", "importance", "smc", "mcmc")
"""Methods that propose with a policy where there is one."""

CHECK = 64
"""Draws of the policy and of the prior that are compared on the row itself before a policy is used."""
CLEARLY = 0.5
"""The policy's ESS below this part of the prior's is worse by more than 64 draws can err."""
UNSEEN = 3.0
"""Nats. An unbiased estimate of the evidence is above it by 3 nats in at most 5 % of the cases
(Markov's inequality), so whose estimate is that far above the other's has seen mass that the other has not."""


@frozen(eq=False)
class Offer:
    """A stored policy: where it lies, what its certificate says, and how to make its guide.

    `level` is good, usable, poor or uncertified; `beats_prior` whether its mean ESS is above
    the prior's.
    """

    where: str
    level: str
    beats_prior: bool
    guide: Callable[[], Guide]

    @property
    def name(self) -> str:
        return f"the policy in {self.where}"

    @property
    def trusted(self) -> bool:
        """Whether `auto` may use it."""
        return self.level == "good" or (self.level == "usable" and self.beats_prior)

    @property
    def state(self) -> str:
        """Its verdict, in words that follow its name."""
        return "which is not certified" if self.level == "uncertified" else f"whose verdict is {self.level}"


def support_size(target: Target, limit: int = SMALL) -> int | None:
    """The number of joint values, or None above `limit`."""
    total = 1
    for info in target.latents:
        size = info.support.count_values(limit)
        if size is None or (total := total * size) > limit:
            return None
    return total


def choose(target: Target, method: str, policy: Offer | None = None) -> tuple[str, str]:
    """The method to run and why; "gflownet" where the policy is to propose.

    Raises InferenceError PLM627 for gflownet without a policy.
    """
    if method == "gflownet" and policy is None:
        raise InferenceError(
            error(
                "PLM627",
                "no policy: run `plm fit` first",
                help="then give its folder with `--policy DIR`, or `query.policy(DIR)`; "
                "`auto` and `importance` need none",
            )
        )
    if method in PROPOSING and policy is not None:
        reason = f"{method} was asked for, proposing with {policy.name}, {policy.state}"
        if policy.level in ("poor", "uncertified"):
            reason += "; warning: compare with the method auto before you trust this"
        return method, reason
    if method in DECODERS and policy is not None:
        return method, f"{method} was asked for, decoding {policy.name}, {policy.state}"
    if method != "auto":
        return method, f"{method} was asked for"
    size = support_size(target)
    if size is not None:
        return "exact", f"exact: the support has {size} value{'s' * (size != 1)}, at most {SMALL}"
    large = f"the support has more than {SMALL} values"
    if policy is not None and policy.trusted:
        return "gflownet", f"gflownet: {large}, and they are drawn from {policy.name}, {policy.state}"
    pays = on_the_way(target)
    name = "importance" if pays is None else "smc"
    reason = f"{name}: {large}, so they are drawn from the prior" + (f", and {pays}" if pays else "")
    if policy is not None:
        beaten = policy.level == "usable"
        why = "the prior is as good a proposal" if beaten else f"its verdict is {policy.level}"
        why = "it is not certified" if policy.level == "uncertified" else why
        reason += f"; {policy.name} is not used, since {why}"
    return name, reason


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
    if method != "auto":
        return name, reason, guide
    # A stream of its own: the draws that follow are those that would have come without a check.
    doubts = doubt(target, guide, rng.spawn(1)[0])
    if doubts is None:
        return name, reason, guide
    return (
        "importance",
        f"importance: drawn from the prior; {policy.name} is not used, since {doubts}",
        None,
    )


def _algorithm(
    target: Target, name: str, options: Mapping[str, object], n: int, batch: int | None
) -> InferenceAlgorithm[Any]:
    """The algorithm of that name with its options."""
    if name == "exact":
        values = options.get("values") or support_size(target) or Exact().values
        return Exact(values=int(str(values)), mass=float(str(options.get("mass", Exact().mass))))
    if name == "smc":
        kept = {k: v for k, v in options.items() if k in ("threshold", "resample", "look_ahead")}
        return Smc(draws=n, batch=batch, **kept)  # type: ignore[arg-type]
    if name == "mcmc":
        from posterior_lm.infer.mcmc import Mcmc

        kept = {k: v for k, v in options.items() if k in ("warmup", "move")}
        whole = {k: int(str(v)) for k, v in options.items() if k in ("steps", "chains")}
        return Mcmc(**kept, **whole)  # type: ignore[arg-type]
    if name in DECODERS:
        from posterior_lm.baselines.decoders import decoder

        return decoder(name, options, n)
    return Importance(draws=n, batch=batch)


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
    """Draws by the named method; `options` are those of `signatures.METHODS[method]`.

    An explicit `guide` stands before a `policy`. Under auto a policy is compared with the
    prior on this target first.
    """
    began = time.monotonic()
    if guide is not None and method == "gflownet":
        name, reason = method, "gflownet was asked for"
    else:
        name, reason = choose(target, method, policy if guide is None else None)
    if name != "exact":
        if guide is not None:
            reason = f"{reason}, proposing with {guide.name}"
        elif policy is not None and (method != "auto" or name == "gflownet"):
            name, reason, guide = _proposal(target, method, name, reason, policy, rng)
        elif options.get("proposal") == "guide" and name not in DECODERS:
            guide = PriorGuide(target, reads="guide")
            reason = f"{reason}, proposing with {guide.name}"
    algorithm = _algorithm(target, name, options, n, None if budget is None else BUDGET_BATCH)
    left = None if budget is None else max(0.0, budget - (time.monotonic() - began))
    draws = run(algorithm, target, n=n, rng=rng, guide=guide, budget=left, progress=progress)
    if name != "exact" and budget is not None and len(draws) < n:
        reason = f"{reason}; the budget of {budget:g} s ended it after {len(draws)} of {n} draws"
    return evolve(draws, reason=reason, method=name if name == "gflownet" else draws.method)
