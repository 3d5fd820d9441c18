"""A method as a test of it needs one: draws of a target, and the weight of a value from outside among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from attrs import field, frozen

from posterior_lm.api.engine import policy_offer
from posterior_lm.infer import auto
from posterior_lm.infer.base import run
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.guide import Guide, PriorGuide
from posterior_lm.infer.importance import Importance
from posterior_lm.infer.methods import AUTO, METHODS
from posterior_lm.infer.request import Request
from posterior_lm.target.prepared import PreparedProgram
from posterior_lm.target.target import Target
from posterior_lm.target.values import Value


@frozen(eq=False)
class MethodUnderTest:
    """A method by name, `draw(target, n, rng)`, and the guide that a result's draws were proposed with.

    `options` are those of the method.
    """

    name: str
    draw: Callable[[Target, int, np.random.Generator], Draws]
    guide: Callable[[Target, Draws], Guide]
    options: Mapping[str, object] = field(factory=dict)


def method_under_test(program: PreparedProgram, request: Request) -> MethodUnderTest:
    """The requested method with its options and its policy, as `Query.draw` runs it."""
    method, options = request.of(program)

    def draw(target: Target, n: int, rng: np.random.Generator) -> Draws:
        return auto.infer(
            target,
            method=method,
            options=options,
            n=n,
            rng=rng,
            policy=policy_offer(program, request, target),
        )

    def guide(target: Target, draws: Draws) -> Guide:
        # Under auto the policy may have been refused on this row; the draws say so by their method.
        if METHODS[draws.method].needs_policy or (method != AUTO and request.policy is not None):
            offer = policy_offer(program, request, target)
            assert offer is not None
            return offer.guide()
        return PriorGuide(target, reads="guide" if options.get("proposal") == "guide" else "prior")

    return MethodUnderTest(method, draw, guide, options)


def guided(guide_of: Callable[[Target], Guide], name: str = Importance().name) -> MethodUnderTest:
    """Importance sampling that proposes with the guide that `guide_of` gives for each target."""

    def draw(target: Target, n: int, rng: np.random.Generator) -> Draws:
        return run(Importance(), target, n=n, rng=rng, guide=guide_of(target))

    return MethodUnderTest(name, draw, lambda target, draws: guide_of(target))


# ------------------------------------------------------------------------------- bounds of the log evidence


@frozen
class Bounds:
    """Of one row's log evidence, nats; None for a method that gives none.

    `share` is the exact draw's weight relative to the sum of the draws' weights, None
    where it has none; +∞ where the method cannot draw it.
    """

    lower: float | None
    upper: float | None
    share: float | None


def bounds(
    method: MethodUnderTest,
    target: Target,
    draws: Draws,
    exact: Mapping[str, Value],
    rng: np.random.Generator,
) -> Bounds:
    """From N draws, and the same N with an exact posterior draw z* among them.

    E log 1/N Σ w(z_i) ≤ log Z ≤ E log 1/(N+1) [w(z*) + Σ w(z_i)] (Burda et al. 2016; Zhao
    et al. 2024). With N values on both sides the gap is the symmetrised KL divergence of
    choosing one of N draws by weight from the same with the chosen one drawn exactly, and
    so at least that of the chosen draw from the posterior (Grosse, Ancha & Roy 2016);
    here it lies between those of N and of N + 1.
    Listed values are held between their sum and the sure bound of the certificate.
    """
    lower = draws.log_evidence
    if lower is None:  # of chains and decoders
        return Bounds(None, None, None)
    if draws.certificate is not None:
        whole = draws.certificate.complete
        return Bounds(lower, lower if whole else float(np.logaddexp(lower, draws.certificate.rest)), None)
    guide = method.guide(target, draws)
    backend = auto.backend_of(draws.method)
    return Bounds(lower, *backend.upper_bound(target, method.options, draws, guide, exact, rng))
