"""Answers from draws of a latent: p(y | x, z) for each candidate y, averaged or voted on.

The draws are taken as the policy proposes them, without weights: a policy trained on rows
with answers stands for p(z | x) itself here, and weights would take that back to the frozen
model's. `Query.predict` weighs, since there the program's own p(z | x) is asked about.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from posterior_lm.api.query import Query
    from posterior_lm.target.values import Value

Answer = TypeVar("Answer", bound=Hashable)


def answer_log_probs(
    query: Query, row: Mapping[str, object], name: str, answers: Sequence[object],
    values: Mapping[str, Sequence[Value]],
) -> np.ndarray:  # fmt: skip
    """(N, A) nats: what the `observe` statements say of each answer after each of N draws."""
    columns = []
    for answer in answers:
        target = query.given({**row, name: answer}).target()
        observed = [k for k, info in enumerate(target.statements) if info.keyword == "observe"]
        columns.append(target.terms(values)[:, observed].sum(axis=1))
    return np.stack(columns, axis=1)


def soft(log_probs: np.ndarray) -> np.ndarray:
    """(A,) the mean over N draws of p(answer | draw) among the candidates, from (N, A) nats.

    A draw after which no candidate is possible says nothing; flat where that holds of all.
    """
    alive = np.isfinite(log_probs.max(axis=1))
    if not alive.any():
        return np.full(log_probs.shape[1], 1 / log_probs.shape[1])
    kept = log_probs[alive]
    p = np.exp(kept - np.logaddexp.reduce(kept, axis=1, keepdims=True))
    return np.asarray(p.mean(axis=0))


def hard(log_probs: np.ndarray) -> np.ndarray:
    """(A,) the share of N draws that vote for each answer, from (N, A) nats; equal votes are shared."""
    best = log_probs == log_probs.max(axis=1, keepdims=True)
    best &= np.isfinite(log_probs)
    votes = best / np.maximum(best.sum(axis=1, keepdims=True), 1)
    alive = best.any(axis=1)
    if not alive.any():
        return np.full(log_probs.shape[1], 1 / log_probs.shape[1])
    return np.asarray(votes[alive].mean(axis=0))


def winner(answers: Sequence[Answer], shares: np.ndarray) -> Answer | None:
    """The answer with the largest share; None where several have it, which counts as wrong."""
    best = np.flatnonzero(np.isclose(shares, shares.max(), atol=1e-12))
    return answers[int(best[0])] if len(best) == 1 else None


def majority(votes: Sequence[Answer | None]) -> Answer | None:
    """The answer with the most votes; None, which counts as wrong, where several have them or nobody votes."""
    cast = [vote for vote in votes if vote is not None]
    counts = {vote: cast.count(vote) for vote in dict.fromkeys(cast)}
    best = [vote for vote, count in counts.items() if count == max(counts.values())]
    return best[0] if len(best) == 1 else None
