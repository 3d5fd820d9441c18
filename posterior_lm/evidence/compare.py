"""Every method that applies to one binding of a program, beside the exact posterior."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from attrs import evolve

from posterior_lm.ask import policy_offer
from posterior_lm.evidence.comparison import Comparison, Measured
from posterior_lm.evidence.distance import Listing
from posterior_lm.infer.auto import infer
from posterior_lm.infer.base import Draws, Info
from posterior_lm.infer.methods import AUTO, EXACT, METHODS
from posterior_lm.infer.request import Request
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lm.counting import Count, CountingModel
from posterior_lm.target.prepared import Data, PreparedProgram
from posterior_lm.target.target import Target

DRAWS = 1000
NO_DRAWS = ("PLM540", "PLM702", "PLM703", "PLM706", "PLM710", "PLM711")
"""What one method may fail with where others do not."""


def compare(
    program: PreparedProgram,
    request: Request,
    row: Data,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    budget: float | None = None,
    progress: Callable[[Info], None] | None = None,
) -> Comparison:
    """Each method with `draws` draws, and the exact posterior where it can be listed.

    What needs a policy takes part where there is one; the others propose as they do without
    one. `budget` is in seconds, for each method. Raises ValueError for fewer than 2 draws.
    """
    if draws < 2:
        raise ValueError("a comparison needs at least 2 draws")
    data = program.validate(row)
    tell = progress or (lambda info: None)
    tell(Info(False, EXACT))
    # First, so that what a process does only once is in no method's time.
    listing, words = exact_posterior(
        _bound(program, data, Count()), request.named(EXACT).of(program)[1], seed, budget
    )
    found = []
    names = [
        name
        for name, method in METHODS.items()
        if name not in (AUTO, EXACT)
        and (not method.needs_policy or request.policy is not None)
        and (not method.decoder or name == request.method)
    ]
    for k, name in enumerate(names):
        tell(Info(False, name, k / len(names)))
        found.append(_measured(program, request.named(name), data, draws, seed, budget, listing))
    return Comparison(
        program=program.graph.name,
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


def _bound(program: PreparedProgram, data: Data, count: Count) -> Target:
    """The target, with models that count."""
    models: dict[str, Any] = {alias: CountingModel(model, count) for alias, model in program.models.items()}
    return program.with_models(models).bind_valid(data)


def _measured(
    program: PreparedProgram, request: Request, data: Data, n: int, seed: int, budget: float | None,
    listing: Listing | None,
) -> Measured:  # fmt: skip
    count, began = Count(), time.monotonic()
    name, options = request.of(program)
    rng = np.random.default_rng(seed)
    try:
        bound = _bound(program, data, count)
        guide = _policy(program, request, bound, count) if METHODS[name].needs_policy else None
        draws = infer(bound, method=name, options=options, n=n, rng=rng, guide=guide, budget=budget)
    except InferenceError as problem:
        if not all(d.code in NO_DRAWS for d in problem.diagnostics):
            raise
        said = problem.diagnostics[0].message
        return Measured(name, count.tokens, time.monotonic() - began, failed=said)
    return _numbers(name, draws, listing, count.tokens, time.monotonic() - began)


def _policy(program: PreparedProgram, request: Request, bound: Target, count: Count) -> Any:
    """The policy as a guide, whose model counts too."""
    offer = policy_offer(program, request, bound)
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
