"""Beam search and diverse beam search over any language model, under a support.

transformers has its own beam search, which decoding a model of that library uses; it has dropped the
diverse one, and neither knows other models.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from posterior_lm.lm.base import LanguageModel, eos_log_probs
from posterior_lm.support.base import Ending, Support


@frozen(eq=False)
class _Beam:
    """An unfinished text: its tokens, its support state, its score, its row of the rollout."""

    ids: tuple[int, ...]
    state: object
    score: float
    row: int


def beams(
    model: LanguageModel, context: tuple[int, ...], support: Support, *, number: int, groups: int = 1,
    penalty: float = 0.0, ending: Ending,
) -> list[tuple[int, ...]]:  # fmt: skip
    """At most `number` distinct values, best first, by `number` beams in `groups` of equal size.

    A beam's score is the model's own log probability of its tokens, the end included (no length
    penalty, nothing renormalised), less `penalty` nats for each time that an earlier group took the
    same token at the same step: the Hamming diversity of Vijayakumar et al. 2018, algorithm 1. As in
    the transformers library a group keeps its 2 × size best continuations, those that end among the
    first `size` are finished, and it stops when no unfinished beam can get ahead of its `size` finished
    ones. One group without a penalty is plain beam search.
    """
    size = number // groups
    if support.must_stop(support.start()):
        return [()]
    rollout = model.open([context])
    running = [[_Beam((), support.start(), 0.0, 0)] for _ in range(groups)]
    finished: list[dict[tuple[int, ...], float]] = [{} for _ in range(groups)]
    while any(running):
        log_probs = rollout.log_probs.astype(np.float64)
        eos = eos_log_probs(log_probs, model.tokenizer.eos_ids)
        stopping = log_probs.shape[1]  # in place of a token
        taken = np.zeros(stopping + 1)
        for g, group in enumerate(running):
            if not group:
                continue
            scores = np.full((len(group), stopping + 1), -np.inf)
            for b, beam in enumerate(group):
                allowed = np.flatnonzero(support.allowed(beam.state))
                scores[b, allowed] = log_probs[beam.row, allowed]
                if ending == "eos" and support.may_stop(beam.state):
                    scores[b, stopping] = eos[beam.row]
                scores[b] += beam.score
            scores -= penalty * taken
            following: list[_Beam] = []
            for rank, place in enumerate(_best(scores, 2 * size)):
                b, token = divmod(int(place), stopping + 1)
                beam, score = group[b], float(scores[b, token])
                if token == stopping:
                    ended, whole, state = True, beam.ids, beam.state
                else:
                    whole, state = (*beam.ids, token), support.advance(beam.state, token)
                    ended = support.must_stop(state)
                if ended and rank < size:
                    finished[g][whole] = max(score, finished[g].get(whole, -np.inf))
                    taken[token] += 1
                elif not ended and len(following) < size:
                    following.append(_Beam(whole, state, score, beam.row))
                    taken[token] += 1
            held = sorted(finished[g].values(), reverse=True)[:size]
            # Scores only fall: an unfinished beam below the last of the finished ones stays there.
            done = len(held) == size and all(beam.score <= held[-1] for beam in following)
            running[g] = [] if done else following
        if any(running):
            flat = [beam for group in running for beam in group]
            rollout = rollout.extend(
                np.array([beam.row for beam in flat]), np.array([beam.ids[-1] for beam in flat])
            )
            rows = iter(range(len(flat)))
            running = [[_Beam(b.ids, b.state, b.score, next(rows)) for b in group] for group in running]
    best: dict[tuple[int, ...], float] = {}
    for ended_group in finished:
        for whole, score in sorted(ended_group.items(), key=lambda one: -one[1])[:size]:
            best[whole] = max(score, best.get(whole, -np.inf))
    return sorted(best, key=lambda one: -best[one])


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` greatest finite scores, greatest first, of equal ones the first."""
    flat = scores.reshape(-1)
    places = np.flatnonzero(np.isfinite(flat))
    if len(places) > count:
        least = np.partition(flat[places], -count)[-count]
        places = places[flat[places] >= least]
    return places[np.argsort(-flat[places], kind="stable")][:count]
