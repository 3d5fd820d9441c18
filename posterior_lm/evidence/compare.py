"""Every method that applies to one binding of a program, beside the exact posterior."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve

from posterior_lm.evidence.comparison import Comparison, Measured
from posterior_lm.evidence.distance import Listing
from posterior_lm.infer.auto import infer
from posterior_lm.infer.base import Draws, Info
from posterior_lm.infer.methods import AUTO, EXACT, METHODS
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lm.counting import Count, CountingModel
from posterior_lm.settings import resolve
from posterior_lm.target.target import Target

if TYPE_CHECKING:
    from posterior_lm.query import Query

DRAWS = 1000
NO_DRAWS = ("PLM540", "PLM702", "PLM703", "PLM706", "PLM710", "PLM711")
"""What one method may fail with where others do not."""


def compare(
    query: Query,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    budget: float | None = None,
    progress: Callable[[Info], None] | None = None,
) -> Comparison:
    """Each method with `draws` draws, and the exact posterior where it can be listed.

    What needs a policy takes part where the query has one; the others propose as they do without
    one. `budget` is in seconds, for each method. Raises ValueError for fewer than 2 draws.
    """
    if draws < 2:
        raise ValueError("a comparison needs at least 2 draws")
    tell = progress or (lambda info: None)
    tell(Info(False, EXACT))
    # First, so that what a process does only once is in no method's time.
    listing, words = exact_posterior(_bound(query, Count()), _options(query, EXACT), seed, budget)
    found = []
    names = [
        name
        for name, method in METHODS.items()
        if name not in (AUTO, EXACT)
        and (not method.needs_policy or query.policy_folder is not None)
        and (not method.decoder or name == query.method)
    ]
    for k, name in enumerate(names):
        tell(Info(False, name, k / len(names)))
        found.append(_measured(query, name, draws, seed, budget, listing))
    return Comparison(
        program=query.graph.name,
        draws=draws,
        seed=seed,
        methods=tuple(found),
        log_evidence=None if listing is None else listing.log_evidence,
        listed=words,
        noise=None if listing is None else listing.noise(draws, np.random.default_rng([seed, 31])),
    )


def exact_posterior(
    target: Target, options: Mapping[str, object], seed: int, budget: float | None
) -> tuple[Listing | None, str]:
    """The listed posterior, and what is known of it in words; None where too much is left out."""
    rng = np.random.default_rng([seed, 30])
    try:
        draws = infer(target, method=EXACT, options=options, n=1, rng=rng, budget=budget)
    except InferenceError as problem:
        if not any(d.code == "PLM706" for d in problem.diagnostics):
            raise
        return None, "the exact posterior is not known: the budget ended before a value was listed"
    certificate, listing = draws.certificate, Listing.of(draws)
    assert certificate is not None
    if listing is None:
        share = certificate.likely_missing_share
        return None, (
            f"the exact posterior is not known: {certificate.listed} values were listed, "
            f"and {share:.0%} of it may lie elsewhere"
        )
    left = (
        "all there are" if certificate.complete else f"about {listing.rest:.1g} of the posterior is in others"
    )
    return listing, f"exact log evidence {listing.log_evidence:.3f} nats: {certificate.listed} values, {left}"


def _bound(query: Query, count: Count) -> Target:
    """The query's target, with models that count."""
    from posterior_lm.ask import models_of, target

    models: dict[str, Any] = {
        alias: CountingModel(model, count) for alias, model in models_of(query, query.graph).items()
    }
    return target(query.lm(**models))


def _measured(
    query: Query, name: str, n: int, seed: int, budget: float | None, listing: Listing | None
) -> Measured:
    count, began, options = Count(), time.monotonic(), _options(query, name)
    rng = np.random.default_rng(seed)
    try:
        bound = _bound(query, count)
        guide = _policy(query, bound, count) if METHODS[name].needs_policy else None
        draws = infer(bound, method=name, options=options, n=n, rng=rng, guide=guide, budget=budget)
    except InferenceError as problem:
        if not all(d.code in NO_DRAWS for d in problem.diagnostics):
            raise
        said = problem.diagnostics[0].message
        return Measured(name, count.tokens, time.monotonic() - began, failed=said)
    return _numbers(name, draws, listing, count.tokens, time.monotonic() - began)


def _options(query: Query, name: str) -> dict[str, object]:
    """Those that the program states for the method, and `using` where it named this one."""
    own = query.options if query.method == name else {}
    return resolve(query.graph.infer, name, own, query.base_dir)[1]


def _policy(query: Query, bound: Target, count: Count) -> Any:
    """The policy as a guide, whose model counts too."""
    from posterior_lm.ask import policy_offer

    offer = policy_offer(query, bound)
    assert offer is not None
    guide: Any = offer.guide()
    return evolve(guide, model=CountingModel(guide.model, count))


def _numbers(name: str, draws: Draws, listing: Listing | None, tokens: int, seconds: float) -> Measured:
    log_evidence = draws.log_evidence
    known = listing is not None and log_evidence is not None
    return Measured(
        method=name,
        tokens=tokens,
        seconds=seconds,
        tv=None if listing is None else listing.distance(draws),
        log_evidence=log_evidence,
        error=log_evidence - listing.log_evidence if known else None,  # type: ignore[operator, union-attr]
        ess=draws.ess,
        ancestors=None if draws.particles is None else draws.particles.ancestors,
        khat=draws.khat,
    )
