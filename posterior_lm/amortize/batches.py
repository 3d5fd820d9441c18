"""Draws as the paths that a guide walks, scored together; the part that both stages share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from posterior_lm.amortize.paths import Path, path_maker
from posterior_lm.amortize.reading import Reading
from posterior_lm.amortize.teacher import score_paths
from posterior_lm.infer.choose import Chooser
from posterior_lm.infer.contexts import contexts_of
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.infer.rollout import roll_out
from posterior_lm.infer.walk import finished
from posterior_lm.lm.transformers import TransformersModel
from posterior_lm.support.base import Ending, Support
from posterior_lm.target.target import Target
from posterior_lm.target.values import Value

_makers: dict[int, tuple[Support, object]] = {}


@frozen(eq=False)
class Walked:
    """One draw of every latent: its paths through the adapted model, and log q of what the prior drew, nats."""

    paths: tuple[Path, ...]
    rest: float = 0.0


def ending_of(support: Support) -> Ending:
    """How a guide ends a value: by the stop string, else by end-of-text."""
    return "stop" if support.ending == "stop" else "eos"


def walk(target: Target, readings: Mapping[str, Reading], values: Mapping[str, Value]) -> Walked:
    """The paths of one draw's latents. Raises ValueError for a value outside its support."""
    paths: list[Path] = []
    rest = 0.0
    drawn: dict[str, tuple[Value, ...]] = {}
    for info in target.latents:
        reading = readings.get(info.name)
        value = values[info.name]
        if reading is not None:
            context = contexts_of(target, reading.lm, reading.pieces, drawn, 1)[0][0]
            paths.append(_maker(info.support)(context, value.ids))
        else:
            rest += _prior_log_prob(target, info.name, drawn, value)
        drawn[info.name] = (value,)
    return Walked(tuple(paths), rest)


def _maker(support: Support):
    known = _makers.get(id(support))
    if known is None or known[0] is not support:
        if len(_makers) >= 256:
            _makers.clear()
        known = _makers[id(support)] = (support, path_maker(support))
    return known[1]


def _prior_log_prob(target: Target, name: str, drawn: Mapping[str, tuple[Value, ...]], value: Value) -> float:
    info = target.latent(name)
    candidates = [target.value_of(name, ids) for ids in info.support.values()]
    row = PriorGuide(target).prior_scores(info, candidates, drawn, 1)[0]
    return float(row[[c.ids for c in candidates].index(value.ids)] - np.logaddexp.reduce(row))


@frozen(eq=False)
class Scored:
    """log q of N draws with gradient: `log_prob` (N,); for one latent `end_log_prob` and `is_end` (N, T + 1)."""

    log_prob: Tensor
    end_log_prob: Tensor | None
    is_end: Tensor | None


def score_draws(
    model: TransformersModel, draws: Sequence[Walked], *, ends: bool = False, columns: int
) -> Scored:
    """log q of each draw. Equal paths are scored once; `ends` is for draws of a single path."""
    places: dict[tuple[tuple[int, ...], tuple[int, ...], int], int] = {}
    distinct: list[Path] = []
    owner, place = [], []
    for n, draw in enumerate(draws):
        for path in draw.paths:
            key = (path.context, path.ids, id(path.masks))
            if key not in places:
                places[key] = len(distinct)
                distinct.append(path)
            owner.append(n)
            place.append(places[key])
    device = model._forward.device
    scores = score_paths(model, distinct, ends=ends, columns=columns)
    rest = torch.tensor([d.rest for d in draws], dtype=torch.float64, device=device)
    index = torch.as_tensor(place, device=device)
    log_prob = rest.index_add(0, torch.as_tensor(owner, device=device), scores.log_prob[index])
    if scores.end_log_prob is None or scores.is_end is None:
        return Scored(log_prob, None, None)
    return Scored(log_prob, scores.end_log_prob[index], scores.is_end[index])


def propose(
    model: TransformersModel, targets: Sequence[Target], readings: Sequence[Mapping[str, Reading]],
    rngs: Sequence[np.random.Generator], exponents: Sequence[float],
) -> list[dict[str, Value]]:  # fmt: skip
    """One draw of every latent for each target, many rows side by side; each draw has its own generator.

    Each token is drawn in proportion to q to the power of the draw's exponent.
    """
    from posterior_lm.infer.choose import SampleEach

    drawn: list[dict[str, Value]] = [{} for _ in targets]
    for k in range(max((len(t.latents) for t in targets), default=0)):
        groups: dict[tuple[str, int], list[int]] = {}
        for d, target in enumerate(targets):
            if k < len(target.latents):
                info = target.latents[k]
                groups.setdefault((info.name, id(info.support)), []).append(d)
        for (name, _), mine in groups.items():
            powers = np.array([exponents[d] for d in mine])
            chooser: Chooser = SampleEach([rngs[d] for d in mine], None if np.all(powers == 1) else powers)
            if name in readings[mine[0]]:
                contexts: list[tuple[int, ...]] = []
                known: dict[tuple[int, tuple], tuple[int, ...]] = {}
                for d in mine:
                    key = (id(targets[d]), tuple(v.ids for v in drawn[d].values()))
                    if key not in known:
                        reading = readings[d][name]
                        columns = {n: (v,) for n, v in drawn[d].items()}
                        known[key] = contexts_of(targets[d], reading.lm, reading.pieces, columns, 1)[0][0]
                    contexts.append(known[key])
                support = targets[mine[0]].latents[k].support
                walked = roll_out(model, contexts, support, chooser, ending=ending_of(support))
                for d, one in zip(mine, walked.values, strict=True):
                    drawn[d][name] = targets[d].value_of(name, one)
                continue
            for place, d in enumerate(mine):
                lone = SampleEach([rngs[mine[place]]])
                columns = {n: (v,) for n, v in drawn[d].items()}
                walk = finished(PriorGuide(targets[d]).begin(targets[d].latents[k], columns, 1), lone)
                drawn[d][name] = targets[d].value_of(name, walk.values[0])
    return drawn
