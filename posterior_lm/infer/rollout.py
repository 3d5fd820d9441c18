"""Drawing text latents token by token under their support, all draws side by side.

Draws that share every token so far share one row of the model's batch: the work
grows with the distinct prefixes, not with the draws.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from posterior_lm.infer.choose import Chooser
from posterior_lm.lm.base import LanguageModel, eos_log_probs
from posterior_lm.support.base import Support


@frozen(eq=False)
class _Point:
    """A distinct prefix: its support state, its tokens, and the draws that stand there."""

    state: object
    ids: tuple[int, ...]
    draws: np.ndarray


def step_log_probs(
    log_probs: np.ndarray, eos: float, support: Support, state: object, drawn: int, exponent: float
) -> np.ndarray:
    """(V + 1,) log q of each next token and, last, of stopping; normalised over what is allowed.

    A free end has no probability of its own: it stops with 1 / (tokens left + 1).
    Where the model gives everything allowed probability zero, q is uniform over it
    (the weight of such a draw is zero).
    """
    allowed = support.allowed(state)
    size = len(allowed)
    out = np.full(size + 1, -np.inf)
    out[:size][allowed] = exponent * log_probs[:size][allowed]
    may_stop = support.may_stop(state)
    if may_stop and support.ending == "eos":
        out[size] = exponent * eos
    total = np.logaddexp.reduce(out)
    if total == -np.inf:
        out[:size][allowed] = 0.0
        out[size] = 0.0 if may_stop and support.ending == "eos" else -np.inf
        total = np.logaddexp.reduce(out)
    out -= total
    if may_stop and support.ending == "free":
        left = support.max_tokens - drawn
        out[:size] += np.log(left / (left + 1))
        out[size] = -np.log(left + 1)
    return out


def roll_out(
    model: LanguageModel,
    contexts: list[tuple[int, ...]],
    support: Support,
    choose: Chooser,
    *,
    exponent: float = 1.0,
    shared: int = 0,
) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """Tokens of N values after N contexts, and their log probability (N,), nats.

    With a `Follow` chooser the tokens are the given ones and a value outside the
    support gets −inf.
    """
    n = len(contexts)
    values: list[tuple[int, ...]] = [()] * n
    log_q = np.zeros(n)
    groups: dict[tuple[int, ...], list[int]] = {}
    for d, context in enumerate(contexts):
        groups.setdefault(context, []).append(d)
    points = [_Point(support.start(), (), np.array(draws)) for draws in groups.values()]
    starts = list(groups)
    live = [k for k, p in enumerate(points) if not _settled(support, p, values)]
    points, starts = [points[k] for k in live], [starts[k] for k in live]
    rollout = model.open(starts, shared=shared) if points else None
    step = 0
    while points:
        assert rollout is not None
        log_probs = rollout.log_probs
        eos = eos_log_probs(log_probs, model.tokenizer.eos_ids)
        rows: list[int] = []
        tokens: list[int] = []
        following: list[_Point] = []
        for row, point in enumerate(points):
            q = step_log_probs(
                np.asarray(log_probs[row], dtype=np.float64), float(eos[row]), support, point.state, step, exponent
            )
            picked = choose.tokens(point.draws, step, q)
            log_q[point.draws] += np.where(picked >= 0, q[picked], -np.inf)
            for token in np.unique(picked):
                draws = point.draws[picked == token]
                if token == len(q) - 1 or not np.isfinite(q[token]):
                    for d in draws:
                        values[d] = point.ids
                    continue
                child = _Point(support.advance(point.state, int(token)), (*point.ids, int(token)), draws)
                if not _settled(support, child, values):
                    rows.append(row)
                    tokens.append(int(token))
                    following.append(child)
        step += 1
        points = following
        if points:
            rollout = rollout.extend(np.array(rows), np.array(tokens))
    return values, log_q


def _settled(support: Support, point: _Point, values: list[tuple[int, ...]]) -> bool:
    """Whether nothing may follow; then the draws that stand there are done."""
    if not support.must_stop(point.state):
        return False
    for d in point.draws:
        values[d] = point.ids
    return True
