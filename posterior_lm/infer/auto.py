"""Choosing a method by name or automatically, with the reason in one line."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from attrs import evolve

from posterior_lm.infer.base import WORSE, Backend, InferenceAlgorithm, Info, Offer, run
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.exact import Exact
from posterior_lm.infer.guide import Guide, PriorGuide
from posterior_lm.infer.importance import Importance
from posterior_lm.infer.listing import is_whole, listed_early, listed_within
from posterior_lm.infer.methods import AUTO, EXACT, METHODS, MIXTURE, Method
from posterior_lm.infer.mixture import FLOOR, Mixture, mixture_of
from posterior_lm.infer.parts import listed_parts
from posterior_lm.infer.prefix_expansion import LARGE
from posterior_lm.infer.second_look import looked, respelled
from posterior_lm.infer.server_draws import cost
from posterior_lm.infer.verdict import FEW, MANY
from posterior_lm.lang.diagnostics import InferenceError, ModelError
from posterior_lm.target.target import LatentInfo, Target

BUDGET_BATCH = 64
"""Draws between two looks at the clock, where there is a budget."""

CHECK = 64
"""Draws by each of two methods that are compared on the row itself, where both would do."""
CLEARLY = 0.5
"""An ESS below this part of the other's is worse by more than 64 draws can err."""
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


def choose(
    target: Target, method: str, policy: Offer | None = None, *, listed: bool = True
) -> tuple[str, str]:
    """The method to run and why; not `listed`, where a list would take too long.

    Raises InferenceError PLM627 for a method that needs a policy without one.
    """
    named = METHODS[method]
    if named.needs_policy and policy is None and not (method == MIXTURE and target.graph.filled):
        raise InferenceError.of(
            "PLM627",
            "no policy: run `plm fit` first",
            help="then give its folder with `--policy DIR`, or `query.policy(DIR)`; "
            "`auto` and `importance` need none",
        )
    if named.proposes and policy is not None:
        reason = f"{method} was asked for, proposing with {policy.name}, {policy.state}"
        if policy.level not in ("good", "usable"):
            reason += "; warning: compare with the method auto before you trust this"
        return method, reason
    if named.decoder and policy is not None:
        return method, f"{method} was asked for, decoding {policy.name}, {policy.state}"
    if method != AUTO:
        return method, f"{method} was asked for"
    chosen, why = next(
        (one, why)
        for one in asked()
        if (listed or one.name != EXACT) and (why := one.load().applies(target, policy)) is not None
    )
    return chosen.name, f"{chosen.name}: {why}"


def rather_than_a_policy(target: Target) -> bool:
    """Whether `auto` takes something else here, however good a policy there is."""
    before = (one for one in asked() if one.auto < METHODS[MIXTURE].auto)
    return any(one.load().applies(target, None) is not None for one in before)


def doubt(
    target: Target, policy: Guide, rng: np.random.Generator, n: int = CHECK, *, listed: bool = True
) -> str | None:
    """Why the mixture with the policy is worse on this row than what `auto` takes without it; None if it is not.

    By n draws of each; `listed` as for `choose`. Importance sampling from the prior is a part of the mixture, and not tried.
    """
    rival = choose(target, AUTO, listed=listed)[0]
    if rival == asked()[-1].name:
        return None
    own_ess, own_evidence = _trial(target, MIXTURE, policy, rng, n)
    rival_ess, rival_evidence = _trial(target, rival, None, rng, n)
    if rival_evidence == -np.inf or own_evidence > rival_evidence + UNSEEN:
        return None  # the rival's draws have missed what the others have found
    if own_evidence < rival_evidence - UNSEEN:
        missed = "none" if own_evidence == -np.inf else f"e^-{rival_evidence - own_evidence:.1f}"
        return f"with it draws of this row find {missed} of the evidence that {rival} finds"
    if own_ess < CLEARLY * rival_ess:
        return f"with it the ESS on this row is {own_ess:.1f} of {n}, and {rival_ess:.1f} by {rival}"
    return None


WORTH = 0.02
"""The part of the draws that they should be worth, else wider proposals are tried too; and `FEW` at least."""


def lacking(draws: Draws) -> str | None:
    """What is wrong with draws that flatter proposals may mend, in words before "so wider ones propose too"; None where nothing is."""
    look, worth = draws.second_look, draws.independent or 0.0
    if look is not None and (missed := look.missed(draws.log_evidence_se)):
        return f"its draws miss about {missed:.0%} of the evidence that a second look finds"
    if worth < max(FEW, WORTH * len(draws)) and len(draws) >= MANY:  # of fewer nobody expects more
        return f"its draws are worth {worth:.1f}"
    return None


def _helped(draws: Draws, second: Draws) -> bool:
    """Whether draws from the prior and from what is flatter together are better than those that lacked something."""
    if second.mixture is None or not any(second.mixture.shares[1:]):
        return False
    gained = _evidence(second) - _evidence(draws)
    more = (second.independent or 0.0) > (draws.independent or 0.0)
    return gained > UNSEEN or (gained > -UNSEEN and (draws.missing > 0 or more))


LISTING = 0.25
"""The most of a budget that a list may take before draws are made."""
WHOLE, MINUTE = 0.8, 60.0
"""The part of a budget that the list of a whole small support may take, and the seconds without one."""
LOOKING = 0.5
"""Of the seconds that draws took: what a second look at them may take, which has to be left of a budget."""


def affords(left: float | None, draws: Draws) -> bool:
    """Whether `left` seconds of a budget are enough for a second look; None where there is no budget."""
    return left is None or left > LOOKING * draws.seconds


def _evidence(draws: Draws) -> float:
    return -np.inf if draws.log_evidence is None else draws.log_evidence


def _trial(
    target: Target, method: str, guide: Guide | None, rng: np.random.Generator, n: int
) -> tuple[float, float]:
    """The independent draws that n draws are worth, and their log evidence; 0 and −∞ where all are dead."""
    try:
        draws = run(backend_of(method).build(target, {}, n, None), target, n=n, rng=rng, guide=guide)
    except InferenceError as problem:
        if any(d.code not in ("PLM702", "PLM710") for d in problem.diagnostics):
            raise
        return 0.0, -np.inf
    return draws.independent or 0.0, _evidence(draws)


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
    look: bool = True,
) -> Draws:
    """Draws by the named method; `options` are those of `METHODS[method]`.

    An explicit `guide` stands before a `policy`. Under auto a policy proposes together with the
    prior, unless by its certificate that is better alone; where more is known to pay than importance sampling, both are tried on this
    target first. Without a policy it lists the values, or those of parts that no term ties together, where that costs no
    more than the draws, and has flatter proposals help where draws
    lack something. Texts of servers that tell no whole rows are drawn by these. With `look`, draws get a second look (`infer/second_look.py`).
    """
    began = time.monotonic()
    if progress is not None:  # what the target is made of is open by now
        progress(Info(False))
    worse = (
        policy if method == AUTO and guide is None and policy is not None and policy.level == WORSE else None
    )
    policy = None if worse is not None else policy
    if guide is not None and METHODS[method].needs_policy:
        name, reason = method, f"{method} was asked for"
    else:
        name, reason = choose(target, method, policy if guide is None else None)
    whole = early = parts = foretold = None
    if method == AUTO and name == EXACT and guide is None and not PriorGuide(target).by_server():
        most = MINUTE if budget is None else WHOLE * budget
        algorithm = backend_of(EXACT).build(target, options, n, None)
        assert isinstance(algorithm, Exact)
        listing, foretold = listed_within(target, algorithm, most, budget, rng, progress)
        if foretold is None:
            whole = listing
        else:
            early = listing
            name, reason = choose(target, AUTO, policy, listed=False)
            reason = reason.replace(
                LARGE, f"to list every value would take about {foretold:.0f} s, above {most:.0f}"
            )
    in_time = foretold is None
    if worse is not None:
        reason = (
            f"{reason}; {worse.name} is not used, since by its certificate the prior is the better proposal"
        )
    chosen = METHODS[name]
    if chosen.proposes or chosen.decoder:
        if guide is not None:
            reason = f"{reason}, proposing with {guide.name}"
        elif policy is not None and (method != AUTO or chosen.needs_policy):
            guide = policy.guide()
        elif options.get("proposal") == "guide" and chosen.proposes:
            guide = PriorGuide(target, reads="guide")
            reason = f"{reason}, proposing with {guide.name}"
    by_server: list[LatentInfo] = []
    if chosen.proposes or method == AUTO:
        by_server = (guide if isinstance(guide, PriorGuide) else PriorGuide(target)).by_server()
    if by_server and method == AUTO and policy is None:
        name = asked()[-1].name
        reason = f"{name}: what else there is takes whole rows of the vocabulary"

    batch = None if budget is None else BUDGET_BATCH

    def left() -> float | None:
        return None if budget is None else max(0.0, budget - (time.monotonic() - began))

    def ran(algorithm: InferenceAlgorithm[Any], guide: Guide | None, rng: np.random.Generator) -> Draws:
        if progress is not None:
            progress(Info(False))
        return run(algorithm, target, n=n, rng=rng, guide=guide, budget=left(), progress=progress)

    def drawn(name: str, guide: Guide | None) -> Draws:
        return ran(backend_of(name).build(target, options, n, batch), guide, rng)

    # What is tried beside the draws has streams of its own: they are those that would have come without it.
    alone = method == AUTO and policy is None and guide is None and not by_server
    if alone and name != EXACT:
        if progress is not None:
            progress(Info(False, "listing"))
        parts = listed_parts(target, n)
    if alone and name != EXACT and parts is None and in_time:
        early = listed_early(target, n, None if budget is None else LISTING * budget)
    if method == AUTO and name == MIXTURE and policy is not None and guide is not None:
        try:
            why = doubt(target, guide, rng.spawn(1)[0], listed=in_time)
            draws = None if why else drawn(name, guide)
        except ModelError as problem:
            if any(d.code != "PLM520" for d in problem.diagnostics):
                raise
            why, draws = "what it reads of this row does not fit into the model's window", None
        if draws is None:
            name, reason = choose(target, AUTO, listed=in_time)
            reason, guide = f"{reason}; {policy.name} is not used, since {why}", None
            draws = drawn(name, None)
    elif whole is not None:
        draws = whole
    elif parts is not None:
        count = len(parts.lists)
        name, draws = Importance().name, evolve(ran(Importance(n, batch), parts, rng), parts=count)
        reason = f"{name}: no term ties the latents of {count} parts together, and each part is listed"
    elif early is not None and is_whole(early):
        name, draws = EXACT, early
        reason = f"exact: its list was done after {len(early)} values, for no more than {n} draws cost"
    else:
        draws = drawn(name, guide)
    weighed = METHODS[name].evidence and not draws.exact and (guide is None or isinstance(guide, PriorGuide))
    weighed = (weighed or draws.chains is not None) and not by_server and not draws.parts
    if weighed and (look or alone) and affords(left(), draws):
        if progress is not None:
            progress(Info(False, "a second look"))
        early = early if alone else listed_early(target, len(draws), left())
        proposed = guide
        if guide is None and draws.mixture is not None:
            proposed = mixture_of(target, draws.mixture, None)
        draws = looked(target, draws, proposed, rng.spawn(1)[0], early)
        if alone and (why := lacking(draws)) and left() != 0.0:
            with suppress(InferenceError, ModelError):
                # What the second look has found may be more than a pilot finds again.
                least = FLOOR if draws.missing else 0.0
                second = ran(Mixture(n, batch, least, early), None, rng.spawn(1)[0])
                reason = f"{reason}; {why}"
                if _helped(draws, second):
                    name, draws, reason = MIXTURE, second, f"{reason}, so wider ones propose too"
                else:
                    reason = f"{reason}, but drawing from wider ones too is worth less"
    if by_server:
        reason = f"{reason}; {cost(target, by_server, draws)}"
    if look:
        draws = respelled(target, draws)
    if not draws.exact and budget is not None and len(draws) < n:
        reason = f"{reason}; the budget of {budget:g} s ended it after {len(draws)} of {n} draws"
    return evolve(draws, reason=reason, method=name)
