"""The numbers of a page: a posterior, its program bound to data, and every term of its draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

from posterior_lm.lang.diagnostics import DataError
from posterior_lm.report.tokens import Reading, read_tokens
from posterior_lm.target.values import distinct, take

if TYPE_CHECKING:
    from posterior_lm.api.posterior import Posterior
    from posterior_lm.target.target import Target

MOST_SCORED = 5000
"""Distinct draws whose terms are computed; the heaviest, where there are more."""
SHOWN = 10
"""Draws that are shown token by token and term by term."""
_TOLERANCE = 0.05
"""Nats that a log reward may move when it is computed again in batches of another size, in 16-bit floats."""


@frozen
class Heavy:
    """A distinct token sequence among the draws: its first draw, and the weight of all its draws."""

    draw: int
    weight: float


@frozen(eq=False)
class Terms:
    """(K,) mean, standard deviation, 5 % and 95 % quantile of every term under the posterior, in nats.

    `covered` is the posterior weight of the draws that were scored; `shown` (M, K) has the
    terms of the heaviest draws.
    """

    mean: np.ndarray
    sd: np.ndarray
    low: np.ndarray
    high: np.ndarray
    covered: float
    shown: np.ndarray


@frozen(eq=False)
class Facts:
    """One posterior as a page shows it; `row` is its number in a data file."""

    posterior: Posterior
    target: Target
    given: Mapping[str, object]
    row: int | None
    heavy: tuple[Heavy, ...]
    terms: Terms
    readings: tuple[tuple[Reading, ...], ...]
    """For each shown draw, what its models read token by token."""


def gather(target: Target, posterior: Posterior, row: int | None = None) -> Facts:
    """Scores the draws term by term and the heaviest ones token by token.

    Raises DataError PLM740 where the posterior is one of another program, of other data
    or of another model than the target's.
    """
    if posterior.fingerprint != target.program.fingerprint:
        raise _other(f"another program: its fingerprint is {posterior.fingerprint[:12]}, not "
                     f"{target.program.fingerprint[:12]}")  # fmt: skip
    heavy = heaviest(posterior)
    scored = heavy[:MOST_SCORED]
    first = [h.draw for h in scored]
    terms = target.terms(take(posterior.draws.values, first))
    off = np.abs(terms.sum(axis=1) - posterior.draws.log_reward[first])
    if len(off) and not float(off.max()) <= _TOLERANCE:
        raise _other(f"other data or models: a log reward is off by {float(off.max()):.3g} nats")
    shown = heavy[:SHOWN]
    return Facts(
        posterior=posterior,
        target=target,
        given=dict(target.data),
        row=row,
        heavy=heavy,
        terms=_terms(terms, np.array([h.weight for h in scored])),
        readings=read_tokens(target, take(posterior.draws.values, [h.draw for h in shown]), len(shown)),
    )


def heaviest(posterior: Posterior) -> tuple[Heavy, ...]:
    """The distinct token sequences with a positive weight, heaviest first."""
    alive = np.flatnonzero(posterior.weights > 0)
    first, where = distinct(posterior.draws.values, alive.tolist())
    mass = np.bincount(where, weights=posterior.weights[alive]).tolist()
    return tuple(
        Heavy(d, w) for d, w in sorted(zip(first, mass, strict=True), key=lambda item: (-item[1], item[0]))
    )


def _terms(terms: np.ndarray, weights: np.ndarray) -> Terms:
    covered = float(weights.sum())
    w = weights[:, None] / covered
    mean = (w * terms).sum(axis=0)
    sd = np.sqrt((w * (terms - mean) ** 2).sum(axis=0))
    low, high = (_quantile(terms, weights / covered, q) for q in (0.05, 0.95))
    return Terms(mean, sd, low, high, min(1.0, covered), terms[:SHOWN])


def _quantile(columns: np.ndarray, weights: np.ndarray, q: float) -> np.ndarray:
    """(K,) the least value of each column (N, K) below or at which at least a share q of the weight lies."""
    found = []
    for column in columns.T:
        order = np.argsort(column, kind="stable")
        at = int(np.searchsorted(np.cumsum(weights[order]), q - 1e-12))
        found.append(column[order[min(at, len(order) - 1)]])
    return np.array(found)


def _other(what: str) -> DataError:
    return DataError.of(
        "PLM740",
        f"these draws are of {what}",
        help="report a posterior with the query that it was drawn with",
    )
