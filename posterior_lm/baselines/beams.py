"""Beam search and diverse beam search over any language model, under a support."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen

from posterior_lm.lm.protocol import LanguageModel, eos_log_probs
from posterior_lm.support.base import Ending, Support

Ids = tuple[int, ...]


@frozen(eq=False)
class _Beam:
    """An unfinished text: its tokens, its support state, its score, its row of the rollout."""

    ids: Ids
    state: object
    score: float
    row: int


def beams(
    model: LanguageModel, contexts: Sequence[Ids], support: Support, *, number: int, groups: int = 1,
    penalty: float = 0.0, ending: Ending,
) -> list[list[Ids]]:  # fmt: skip
    """For each context at most `number` distinct values, best first, by `number` beams in `groups` of equal size.

    A beam's score is the model's own log probability of its tokens, the end included (no length
    penalty, nothing renormalised), less `penalty` nats for each time that an earlier group took the
    same token at the same step: the Hamming diversity of Vijayakumar et al. 2018, algorithm 1. As in
    the transformers library a group keeps its 2 × size best continuations, those that end among the
    first `size` are finished, and it stops when no unfinished beam can get ahead of its `size` finished
    ones. One group without a penalty is plain beam search.
    """
    size = number // groups
    if support.must_stop(support.start()):
        return [[()] for _ in contexts]
    rollout = model.open(contexts)
    running = {
        (c, g): [_Beam((), support.start(), 0.0, c)] for c in range(len(contexts)) for g in range(groups)
    }
    finished: dict[tuple[int, int], dict[Ids, float]] = {key: {} for key in running}
    while running:
        log_probs = rollout.log_probs
        eos = eos_log_probs(log_probs, model.tokenizer.eos_ids)
        stopping = log_probs.shape[1]  # in place of a token
        taken = {c: np.zeros(stopping + 1) for c, _ in running}
        followed: dict[tuple[int, int], list[_Beam]] = {}
        for (c, g), group in running.items():
            scores = np.full((len(group), stopping + 1), -np.inf)
            for b, beam in enumerate(group):
                allowed = support.allowed(beam.state)
                known = len(allowed)
                scores[b, :known] = np.where(allowed, log_probs[beam.row, :known], -np.inf)
                if ending == "eos" and support.may_stop(beam.state):
                    scores[b, stopping] = eos[beam.row]
                scores[b] += beam.score
            scores -= penalty * taken[c]
            ended, following = finished[c, g], []
            for rank, place in enumerate(_best(scores, 2 * size)):
                b, token = divmod(int(place), stopping + 1)
                beam, score = group[b], float(scores[b, token])
                if token == stopping:
                    whole, state, ends = beam.ids, beam.state, True
                else:
                    whole, state = (*beam.ids, token), support.advance(beam.state, token)
                    ends = support.must_stop(state)
                if ends and rank < size:
                    ended[whole] = max(score, ended.get(whole, -np.inf))
                    taken[c][token] += 1
                elif not ends and len(following) < size:
                    following.append(_Beam(whole, state, score, beam.row))
                    taken[c][token] += 1
            held = sorted(ended.values(), reverse=True)[:size]
            # Scores only fall: an unfinished beam below the last of the finished ones stays there.
            if following and not (len(held) == size and all(b.score <= held[-1] for b in following)):
                followed[c, g] = following
        flat = [beam for group in followed.values() for beam in group]
        if flat:
            rollout = rollout.extend(
                np.array([beam.row for beam in flat]), np.array([beam.ids[-1] for beam in flat])
            )
        row = iter(range(len(flat)))
        running = {
            key: [_Beam(b.ids, b.state, b.score, next(row)) for b in group] for key, group in followed.items()
        }
    best: list[dict[Ids, float]] = [{} for _ in contexts]
    for (c, _), ended in finished.items():
        for whole, score in sorted(ended.items(), key=lambda one: -one[1])[:size]:
            best[c][whole] = max(score, best[c].get(whole, -np.inf))
    return [sorted(one, key=lambda whole, one=one: -one[whole]) for one in best]


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` greatest finite scores, greatest first, of equal ones the first."""
    flat = scores.reshape(-1)
    least = np.partition(flat, -count)[-count] if len(flat) > count else -np.inf
    places = np.flatnonzero((flat >= least) & (flat > -np.inf))
    return places[np.argsort(-flat[places], kind="stable")][:count]
