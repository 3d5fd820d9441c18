"""Drawing text latents token by token under their support, all draws side by side.

Draws that share every token so far share one row of the model's batch: the work
grows with the distinct prefixes, not with the draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from attrs import frozen

from posterior_lm.infer.choose import Chooser, Steering
from posterior_lm.lang.diagnostics import InferenceError, error
from posterior_lm.lm.base import LanguageModel, eos_log_probs
from posterior_lm.support.base import Ending, Support
from posterior_lm.support.splices import tokens_left, uncounted

BLOCK = 1 << 22
"""Points × vocabulary at a time: 2^22 float64 are 32 MB per temporary."""


@frozen(eq=False)
class _Point:
    """A distinct prefix: its support state, its tokens, and the draws that stand there."""

    state: object
    ids: tuple[int, ...]
    draws: np.ndarray


def step_log_probs(
    log_probs: np.ndarray,
    eos: np.ndarray,
    support: Support,
    states: Sequence[object],
    drawn: Sequence[int],
    exponent: float,
    ending: Ending | None = None,
) -> np.ndarray:
    """(U, V + 1) log q of each next token and, last, of stopping; normalised over what is allowed.

    Shapes: log_probs (U, at least V) and eos (U,) from the model; a support state and
    the number of tokens drawn so far for each of the U points. A free end has no
    probability of its own: it stops with 1 / (tokens left + 1). Where the model gives everything
    allowed probability zero, q is uniform over it (the weight of such a draw is zero).
    `ending` replaces the support's own: with "eos" a guide stops by the model's end-of-text.
    """
    return _normalized(log_probs, eos, support, states, drawn, exponent, ending or support.ending)[0]


def _normalized(
    log_probs: np.ndarray, eos: np.ndarray, support: Support, states: Sequence[object], drawn: Sequence[int],
    exponent: float, ending: Ending,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """What `step_log_probs` returns, and (U,) the log of what it was divided by: the mass inside the support.

    That mass is 1 of a token that the target does not count.
    """
    size = len(support.allowed(states[0]))
    out = np.full((len(states), size + 1), -np.inf)
    of_state: dict[object, list[int]] = {}
    for u, state in enumerate(states):
        of_state.setdefault(state, []).append(u)
    free, nothing = np.zeros(len(states), dtype=bool), np.zeros(len(states), dtype=bool)
    silent = np.zeros(len(states), dtype=bool)
    for state, points in of_state.items():
        silent[points] = uncounted(support, state)
        allowed = np.flatnonzero(support.allowed(state))
        rows = np.array(points)[:, None]
        out[rows, allowed] = exponent * log_probs[rows, allowed]
        if support.may_stop(state):
            if ending == "eos":
                out[points, size] = exponent * eos[points]
            elif ending == "free":
                free[points] = True
        dead = np.array(points)[np.isneginf(out[points]).all(axis=1)]
        if len(dead):
            nothing[dead] = True
            out[dead[:, None], allowed] = 0.0
            out[dead, size] = 0.0 if support.may_stop(state) and ending == "eos" else -np.inf
    top = out.max(axis=1, keepdims=True)
    if np.isnan(top).any():
        raise InferenceError(
            error(
                "PLM701",
                "the probabilities that the model gives its next token are not numbers",
                help="check the model's weights, or use dtype float32",
            )
        )
    mass = top + np.log(np.exp(out - top).sum(axis=1, keepdims=True))
    out -= mass
    if free.any():
        left = np.array(
            [tokens_left(support, s, d) for s, d, f in zip(states, drawn, free, strict=True) if f]
        )
        out[free, :size] += np.log(left / (left + 1))[:, None]
        out[free, size] = -np.log(left + 1)
    return out, np.where(silent, 0.0, np.where(nothing, -np.inf, mass[:, 0]))


def roll_out(
    model: LanguageModel,
    contexts: Sequence[tuple[int, ...]],
    support: Support,
    choose: Chooser,
    *,
    exponent: float = 1.0,
    shared: int = 0,
    begun: Sequence[tuple[int, ...]] | None = None,
    ending: Ending | None = None,
) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """Tokens of N values after N contexts, and their log probability (N,), nats.

    With a `Follow` chooser the tokens are the given ones and a value outside the
    support gets −inf. `begun` holds first tokens that the values have already; the
    log probability is then that of the rest. `ending` as in `step_log_probs`. A
    `Steering` chooser may resample the draws before each choice; both results are
    then those of the draws as they stand at the end.
    """
    values, log_q, _, _ = _roll_out(
        model,
        contexts,
        support,
        choose,
        exponent,
        shared,
        begun,
        ending or support.ending,
        scores_forced=False,
    )
    return values, log_q


def roll_out_with_mass(
    model: LanguageModel, contexts: Sequence[tuple[int, ...]], support: Support, choose: Chooser, *,
    exponent: float = 1.0, shared: int = 0,
) -> tuple[list[tuple[int, ...]], np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """`roll_out`, (N,) Σ_t log of the model's mass on what was allowed, which log q was divided by, and (N,) `last`.

    With exponent 1 and an ending that is scored, log q + log mass is the model's own
    log probability, that of a forced end-of-text included; `last` is its last summand,
    the log probability of the last token or of stopping.
    """
    return _roll_out(
        model, contexts, support, choose, exponent, shared, None, support.ending, scores_forced=True
    )


def _roll_out(
    model: LanguageModel, contexts: Sequence[tuple[int, ...]], support: Support, choose: Chooser,
    exponent: float, shared: int, begun: Sequence[tuple[int, ...]] | None, ending: Ending, *,
    scores_forced: bool,
) -> tuple[list[tuple[int, ...]], np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """What both return; with `scores_forced` a forced end-of-text is looked up, which costs a step."""
    steer = choose if isinstance(choose, Steering) else None
    values: list[tuple[int, ...]] = [()] * len(contexts)
    log_q, log_mass, last = (np.zeros(len(contexts)) for _ in range(3))
    groups: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    alive = np.ones(len(contexts), dtype=bool) if steer is None else steer.alive()
    for d, context in enumerate(contexts):
        if not alive[d]:
            continue
        groups.setdefault((context, begun[d] if begun is not None else ()), []).append(d)
    points = [_Point(_after(support, ids), ids, np.array(draws)) for (_, ids), draws in groups.items()]
    starts = [context + ids for context, ids in groups]
    late = (scores_forced or (steer is not None and steer.scores_forced)) and ending == "eos"
    live = [k for k, p in enumerate(points) if not _settled(support, p, values, late)]
    points = [points[k] for k in live]
    rollout = model.open([starts[k] for k in live], shared=shared) if points else None
    step = 0
    while points:
        assert rollout is not None
        rows: list[int] = []
        tokens: list[int] = []
        following: list[_Point] = []
        ended: list[_Point] = []
        log_probs, eos = rollout.log_probs, eos_log_probs(rollout.log_probs, model.tokenizer.eos_ids)

        def looked_up(
            where: np.ndarray,
            part: Sequence[_Point],
            log_probs: np.ndarray = log_probs,
            eos: np.ndarray = eos,
        ) -> tuple[np.ndarray, np.ndarray]:
            states, drawn = [p.state for p in part], [len(p.ids) for p in part]
            return _normalized(log_probs[where], eos[where], support, states, drawn, exponent, ending)

        block = max(1, BLOCK // log_probs.shape[1])
        row = np.arange(len(points))  # of the rollout
        if steer is not None:
            parts = [(row[b : b + block], points[b : b + block]) for b in range(0, len(points), block)]
            standing = np.concatenate([looked_up(*part)[1] for part in parts])
            heads = [len(p.draws) for p in points]
            ancestors = steer.before(np.concatenate([p.draws for p in points]), np.repeat(standing, heads))
            if ancestors is not None:
                values = [values[a] for a in ancestors]
                log_q, log_mass, last = log_q[ancestors], log_mass[ancestors], last[ancestors]
            points = _moved(points, ancestors, steer.alive())
            row = np.flatnonzero([len(p.draws) > 0 for p in points])
            points = [points[k] for k in row]
        for begin in range(0, len(points), block):
            part = points[begin : begin + block]
            q, mass = looked_up(row[begin : begin + len(part)], part)
            draws = np.concatenate([p.draws for p in part])
            at = np.repeat(np.arange(len(part)), [len(p.draws) for p in part])
            picked = choose.tokens(draws, at, step, np.exp(q))
            log_q[draws] += q[at, picked]
            log_mass[draws] += mass[at]
            last[draws] = q[at, picked] + mass[at]
            for place, token, mine in _families(at, picked, draws):
                point = part[place]
                if token == q.shape[1] - 1 or q[place, token] == -np.inf:
                    for d in mine:
                        values[d] = point.ids
                    ended.append(_Point(point.state, point.ids, mine))
                    continue
                child = _Point(support.advance(point.state, token), (*point.ids, token), mine)
                if _settled(support, child, values, late):
                    ended.append(child)
                else:
                    rows.append(int(row[begin + place]))
                    tokens.append(token)
                    following.append(child)
        step += 1
        if steer is not None:
            stand = ended + following
            whole = [True] * len(ended) + [False] * len(following)
            steer.after([p.ids for p in stand], whole, [p.draws for p in stand])
            following = _moved(following, None, steer.alive())
            kept = [k for k, p in enumerate(following) if len(p.draws)]
            rows, tokens, following = ([one[k] for k in kept] for one in (rows, tokens, following))  # type: ignore[assignment]
        points = following
        if points:
            rollout = rollout.extend(np.array(rows), np.array(tokens))
    return values, log_q, log_mass, last


def _moved(points: list[_Point], ancestors: np.ndarray | None, alive: np.ndarray) -> list[_Point]:
    """The points with the draws that stand there now."""
    draws = descendants([p.draws for p in points], ancestors, alive)
    return [_Point(p.state, p.ids, mine) for p, mine in zip(points, draws, strict=True)]


def descendants(
    groups: Sequence[np.ndarray], ancestors: np.ndarray | None, alive: np.ndarray
) -> list[np.ndarray]:
    """Each group of draws after resampling: the draws whose ancestor was in it and that are alive (N,)."""
    where = np.full(len(alive), -1)
    for k, draws in enumerate(groups):
        where[draws] = k
    if ancestors is not None:
        where = where[ancestors]
    where[~alive] = -1
    order = np.argsort(where, kind="stable")
    bounds = np.searchsorted(where[order], np.arange(len(groups) + 1))
    return [order[begin:end] for begin, end in pairwise(bounds)]


def _after(support: Support, ids: tuple[int, ...]) -> object:
    state = support.start()
    for token in ids:
        state = support.advance(state, token)
    return state


def _families(at: np.ndarray, picked: np.ndarray, draws: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
    """The draws that took the same token from the same point, points in order."""
    order = np.lexsort((draws, picked, at))
    at, picked, draws = at[order], picked[order], draws[order]
    new = np.flatnonzero(np.r_[True, (np.diff(at) != 0) | (np.diff(picked) != 0)])
    ends = np.r_[new[1:], len(at)]
    return [(int(at[b]), int(picked[b]), draws[b:e]) for b, e in zip(new, ends, strict=True)]


def _settled(support: Support, point: _Point, values: list[tuple[int, ...]], late: bool) -> bool:
    """Whether nothing may follow; then the draws that stand there are done.

    With `late` only dead ones are: others have their forced end looked up first.
    """
    if not support.must_stop(point.state) or (late and support.may_stop(point.state)):
        return False
    for d in point.draws:
        values[d] = point.ids
    return True
