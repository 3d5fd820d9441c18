"""How decoders pick tokens: the likeliest one, by chance among the likely ones, or in beams.

Beam search and diverse beam search go over any language model, under a support.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from posterior_lm.infer.choosers import Chooser, Sample
from posterior_lm.infer.rollout import roll_out
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lm.protocol import LanguageModel, eos_log_probs
from posterior_lm.support.base import Ending, Support

Ids = tuple[int, ...]
ROWS = 256
"""Beams side by side, unless one context has more."""


@frozen(kw_only=True)
class Decoding:
    """A way to pick tokens: by chance (`sampled`), by `beams` side by side, or with neither the likeliest.

    `temperature` divides the logits under the mask; then only the `k` likeliest tokens stay (0: all),
    then the likeliest ones with mass `p`. `groups` and `penalty` are those of diverse beams.
    """

    sampled: bool = False
    temperature: float = 1.0
    p: float = 1.0
    k: int = 0
    beams: int = 0
    groups: int = 1
    penalty: float = 0.0


def decode(
    model: LanguageModel, contexts: Sequence[Ids], support: Support, how: Decoding, *,
    keep: int, rng: np.random.Generator, ending: Ending, eos_ids: Ids = (),
) -> list[list[Ids]]:  # fmt: skip
    """For each context its values: one, or with beams at most `keep`, best first; none where all beams died.

    `eos_ids` as for a `TextWalk`.
    """
    if not how.beams:
        choose = Likely(rng, how) if how.sampled else Likeliest()
        made = roll_out(model, contexts, support, choose, ending=ending, eos_ids=eos_ids)
        return [[one] for one in made.values]
    found: dict[Ids, list[Ids]] = {}
    distinct, size = list(dict.fromkeys(contexts)), max(1, ROWS // how.beams)
    for begin in range(0, len(distinct), size):
        part = distinct[begin : begin + size]
        values = beams(
            model, part, support, number=how.beams, groups=how.groups, penalty=how.penalty, ending=ending,
            eos_ids=eos_ids,
        )  # fmt: skip
        found |= zip(part, values, strict=True)
    return [found[context][:keep] for context in contexts]


def pick(scores: np.ndarray, how: Decoding, *, keep: int, rng: np.random.Generator) -> list[list[int]]:
    """For each row of log probabilities (R, C), of values in a list, the places that `how` picks.

    Diverse beams of one step are the likeliest values, each once.
    """
    if how.sampled:
        rows = np.arange(len(scores))
        probs = np.exp(scores - scores.max(axis=1, keepdims=True))
        return [[int(place)] for place in Likely(rng, how).tokens(rows, rows, 0, probs)]
    order = np.argsort(-scores, axis=1, kind="stable")
    most = min(keep, how.beams) if how.beams else 1
    return [[int(c) for c in row[:most] if scores[r, c] > -np.inf] for r, row in enumerate(order)]


def narrowed(probs: np.ndarray, how: Decoding) -> np.ndarray:
    """(U, C) probabilities at a token temperature, then of the k likeliest, then of the nucleus; not normalised.

    The nucleus is the smallest set of likeliest choices with mass at least p (Holtzman et al. 2020,
    eq. 2); k = 0 keeps all. Equal ones at the border: all stay for k, the first for p, as in the
    transformers library.
    """
    with np.errstate(divide="ignore"):
        logs = np.log(probs) / how.temperature
    probs = np.exp(logs - logs.max(axis=1, keepdims=True))
    if 0 < how.k < probs.shape[1]:
        least = np.partition(probs, -how.k, axis=1)[:, -how.k]
        probs = np.where(probs >= least[:, None], probs, 0.0)
    if how.p < 1.0:
        ranked = -np.sort(-probs, axis=1)
        before = np.cumsum(ranked, axis=1) - ranked
        count = (before < how.p * probs.sum(axis=1, keepdims=True)).sum(axis=1, keepdims=True)
        least = np.take_along_axis(ranked, count - 1, axis=1)
        above, equal = probs > least, probs == least
        first = np.cumsum(equal, axis=1) <= count - above.sum(axis=1, keepdims=True)
        probs = np.where(above | (equal & first), probs, 0.0)
    return probs


@frozen
class Likely(Chooser):
    """A `Chooser` by chance, of probabilities that `narrowed` has been over."""

    rng: np.random.Generator
    how: Decoding

    def tokens(self, draws: np.ndarray, point: np.ndarray, step: int, probs: np.ndarray) -> np.ndarray:
        return Sample(self.rng).tokens(draws, point, step, narrowed(probs, self.how))


@frozen
class Likeliest(Chooser):
    """A `Chooser` of the most probable token; of equal ones the first."""

    def tokens(self, draws: np.ndarray, point: np.ndarray, step: int, probs: np.ndarray) -> np.ndarray:
        return np.argmax(probs, axis=1)[point]


def likeliest(options: Mapping[str, Any], n: int) -> Decoding:
    """Greedy decoding. `options` of this and the next functions are a method's own with their defaults."""
    return Decoding()


def by_chance(options: Mapping[str, Any], n: int) -> Decoding:
    """Token by token, of all tokens or of the likeliest."""
    return Decoding(
        sampled=True, temperature=float(options["temperature"]), p=float(options.get("p", 1.0)),
        k=int(options.get("k", 0)),
    )  # fmt: skip


def in_beams(options: Mapping[str, Any], n: int) -> Decoding:
    """The best n of some beams, which keep apart in groups where there is a penalty for being alike.

    Raises InferenceError PLM770 for numbers that do not go together.
    """
    number, penalty = int(options.get("beams", n)), options.get("penalty")
    groups = 1 if penalty is None else int(options.get("groups", number))
    wrong = help = None
    if number < n:
        wrong = f"{number} beam{'s' * (number != 1)} cannot give {n} values"
        help = f"ask for `beams={n}` at least, or fewer values with `n`"
    elif number % groups:
        wrong = f"{number} beams cannot be divided into {groups} groups of equal size"
        help = "let `groups` divide `beams`"
    if wrong is not None:
        raise InferenceError.of("PLM770", wrong, help=help)
    return Decoding(beams=number, groups=groups, penalty=float(penalty or 0.0))


# ---------------------------------------------------------------- beams


@frozen(eq=False)
class _Beam:
    """An unfinished text: its tokens, its support state, its score, its row of the rollout."""

    ids: Ids
    state: object
    score: float
    row: int


def beams(
    model: LanguageModel, contexts: Sequence[Ids], support: Support, *, number: int, groups: int = 1,
    penalty: float = 0.0, ending: Ending, eos_ids: Ids = (),
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
        eos = eos_log_probs(log_probs, eos_ids or model.tokenizer.eos_ids)
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
            ended = finished[c, g]
            following: list[_Beam] = []
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
    return [[whole for whole, _ in sorted(one.items(), key=lambda item: -item[1])] for one in best]


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` greatest finite scores, greatest first, of equal ones the first."""
    flat = scores.reshape(-1)
    least = np.partition(flat, -count)[-count] if len(flat) > count else -np.inf
    places = np.flatnonzero((flat >= least) & (flat > -np.inf))
    return places[np.argsort(-flat[places], kind="stable")][:count]
