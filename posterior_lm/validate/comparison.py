"""Comparison: every method that applies to one binding of a program, beside the exact posterior.

Draws are as far from a listed posterior as the total variation of their weights says; one cell
holds all that is not listed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve, fields, frozen

from posterior_lm.api.engine import policy_offer
from posterior_lm.api.tables import frame
from posterior_lm.infer.auto import infer
from posterior_lm.infer.base import Info
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.methods import AUTO, EXACT, METHODS, MIXTURE
from posterior_lm.infer.request import Request
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lang.values import number_text
from posterior_lm.lm.counting import Count, CountingModel
from posterior_lm.shown import Shown
from posterior_lm.storage import plain
from posterior_lm.target.prepared import Data, PreparedProgram
from posterior_lm.target.target import Target

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

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
    # First, so that what a process does only once is in no method's time.
    target = bound_counting(program, data, Count())
    tell(Info(False, EXACT))
    listing, words = exact_posterior(target, request.named(EXACT).of(program)[1], seed, budget)
    found = []
    names = [
        name
        for name, method in METHODS.items()
        if name not in (AUTO, EXACT)
        and (
            not method.needs_policy
            or request.policy is not None
            or (name == MIXTURE and program.graph.filled)
        )
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


def bound_counting(program: PreparedProgram, data: Data, count: Count) -> Target:
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
        bound = bound_counting(program, data, count)
        guide = (
            _policy(program, request, bound, count) if request.policy and METHODS[name].needs_policy else None
        )
        draws = infer(
            bound, method=name, options=options, n=n, rng=rng, guide=guide, budget=budget, look=False
        )
    except InferenceError as problem:
        if not all(d.code in NO_DRAWS for d in problem.diagnostics):
            raise
        said = problem.diagnostics[0].message
        return Measured(name, count.tokens, time.monotonic() - began, failed=said)
    return _numbers(name, draws, listing, count.tokens, time.monotonic() - began)


def _policy(program: PreparedProgram, request: Request, bound: Target, count: Count) -> Any:
    """The policy as a guide, whose model counts too; where it draws as the prior, that is the bound program's own."""
    offer = policy_offer(program, request, bound)
    assert offer is not None
    guide: Any = offer.guide()
    model = getattr(guide, "model", None)
    return guide if model is None else evolve(guide, model=CountingModel(model, count))


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


# ------------------------------------------------------------------------------- what was found


@frozen
class Measured:
    """One method's draws: distances to the exact posterior, what the draws say of themselves, what they cost.

    `tv` is total variation over the listed values, `error` the log evidence less the exact
    one in nats; both None without an exact posterior. `tokens` are model tokens. Where a
    method gave no draws, `failed` says why, and the numbers are None.
    """

    method: str
    tokens: int
    seconds: float
    tv: float | None = None
    log_evidence: float | None = None
    error: float | None = None
    ess: float | None = None
    ancestors: int | None = None
    khat: float | None = None
    failed: str = ""


@frozen
class Comparison(Shown):
    """Methods beside the exact posterior of one binding; `log_evidence` is None where it cannot be listed."""

    program: str
    draws: int
    seed: int
    methods: tuple[Measured, ...]
    log_evidence: float | None
    listed: str
    """What is known of the exact posterior, in words."""
    noise: float | None
    """Expected total variation of as many exact draws."""

    def __repr__(self) -> str:
        head, rows = self.cells()
        wide = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, wide, strict=True)) for row in (head, *rows)]
        return "\n".join(
            [f"<Comparison of {self.program}: {self.draws:,} draws of each method>", *lines, *self.notes()]
        )

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """A bar a method: its total variation, or without an exact posterior its log evidence; the axes.

        Raises DataError PLM732 without matplotlib.
        """
        return self._above("plots", ax)

    def columns(self) -> dict[str, list[Any]]:
        """One entry per method, by the fields of `Measured`; None where there is no number."""
        return {f.name: [getattr(m, f.name) for m in self.methods] for f in fields(Measured)}

    def to_pandas(self) -> pandas.DataFrame:
        """`columns` as a data frame. Raises DataError PLM732 without pandas."""
        return frame(self.columns())

    def to_json(self) -> dict[str, Any]:
        """The stable shape of `plm compare --format json`; what is not finite is None."""
        exact = None if self.log_evidence is None else {"log_evidence": self.log_evidence}
        return {"exact": exact, "methods": [_row(one) for one in self.methods]}

    def cells(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The head and the rows of the table for people."""
        head = ("method", "TV", "log evidence", "error", "ESS", "ancestors", "k-hat", "tokens", "seconds")
        rows: list[tuple[str, ...]] = [
            (
                m.method, number_text(m.tv, 3), number_text(m.log_evidence, 3), number_text(m.error, 3), number_text(m.ess, 1),
                "-" if m.ancestors is None else str(m.ancestors), number_text(m.khat, 2), f"{m.tokens}",
                f"{m.seconds:.2f}",
            )
            for m in self.methods
        ]  # fmt: skip
        return head, rows

    def notes(self) -> list[str]:
        """What the table alone does not say."""
        found = [self.listed]
        if self.noise is not None:
            found.append(
                f"{self.draws} independent exact draws would have a TV of about {self.noise:.3f}, by chance alone"
            )
        return [*found, *(f"{m.method}: {m.failed}" for m in self.methods if m.failed)]


NUMBERS: Sequence[str] = ("tv", "log_evidence", "error", "ess", "ancestors", "khat", "tokens", "seconds")


def _row(one: Measured) -> dict[str, Any]:
    found: dict[str, Any] = plain({name: getattr(one, name) for name in ("method", *NUMBERS)})
    return found


# ------------------------------------------------------------------------------- distance to a listed posterior

ROUNDING = 1e-6
"""Least mass that is credited outside a listing: float32 knows its sums no better."""
REPEATS = 200
"""Times that exact draws are drawn again to see how far they are off by chance alone."""
LOOSE = 0.05
"""A list that may leave out more of the posterior than this is no yardstick."""


def total_variation(p: np.ndarray, q: np.ndarray, rest: float) -> float:
    """½ Σ |p − q| over N cells (N,) and one more with p = `rest` and q = 1 − Σ q."""
    return 0.5 * (float(np.abs(p - q).sum()) + abs(rest - (1.0 - float(q.sum()))))


def cell_distances(log_p: np.ndarray, log_q: np.ndarray, rest: float) -> tuple[float, float]:
    """Total variation and KL(p ‖ q), nats, over N cells (N,) and one more with p = `rest`, q = 1 − Σ exp(log_q).

    KL = Σ p log(p / q), with 0 log 0 = 0.
    """
    p, q = np.exp(log_p), np.exp(log_q)
    kl = float(np.sum(p * (log_p - log_q)))
    if rest > 0:
        kl += rest * (math.log(rest) - math.log(max(1.0 - float(q.sum()), ROUNDING)))
    return total_variation(p, q, rest), kl


@frozen(eq=False)
class Listing:
    """A posterior by its listed values: (N,) their probabilities, and the share `rest` of all others."""

    places: Mapping[tuple, int]
    probs: np.ndarray
    rest: float
    log_evidence: float
    """Nats, what was not listed included."""

    @classmethod
    def of(cls, draws: Draws) -> Listing | None:
        """From listed values; None where more than `LOOSE` of the posterior may be missing."""
        certificate = draws.certificate
        if certificate is None or certificate.likely_missing_share > LOOSE:
            return None
        outside = 0.0 if certificate.complete else certificate.estimate or 0.0
        log_evidence = certificate.covered + math.log1p(outside)
        probs = np.exp(draws.log_reward - log_evidence)
        return cls(
            {key: k for k, key in enumerate(_keys(draws))}, probs, outside / (1.0 + outside), log_evidence
        )

    def distance(self, draws: Draws) -> float:
        """Total variation between the listed posterior and the weights of N draws, one cell for what is not listed.

        Chance alone makes it positive, the more the fewer draws there are: see `noise`.
        """
        q = np.zeros(len(self.probs))
        for key, weight in zip(_keys(draws), draws.normalized_weights, strict=True):
            if key in self.places:
                q[self.places[key]] += weight
        return total_variation(self.probs, q, self.rest)

    def noise(self, n: int, rng: np.random.Generator) -> float:
        """Expected total variation of n independent exact draws, from `REPEATS` sets of them."""
        cells = np.append(self.probs, self.rest)
        counts = rng.multinomial(n, cells / cells.sum(), size=REPEATS)
        return float(np.mean([total_variation(self.probs, c[:-1] / n, self.rest) for c in counts]))


def _keys(draws: Draws) -> list[tuple]:
    columns = list(draws.values.values())
    return [tuple(column[d].ids for column in columns) for d in range(len(draws))]
