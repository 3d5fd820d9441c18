"""Test quantities of simulation-based calibration: numbers that every draw has.

Quantities of the latents alone cannot tell the posterior from the prior; those that
read the data can (Modrák et al. 2023, §3), so the log reward and what the
observations add to it stand first.
"""

from __future__ import annotations

import numpy as np

from posterior_lm.lang.value_types import VALUE_TYPES
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.values import Value, Values

MOST = 8
"""Quantities of one program at most: each one more weakens the test of the others."""


def quantities(target: Target, values: Values) -> dict[str, np.ndarray]:
    """By name, (N,) numbers of N draws: log rewards in nats, lengths in tokens, numbers of finite latents.

    Log rewards are the target's own, not those that a method reports. Latents of a
    plate are added up over its rows. The names are the same for every row of a program.
    """
    # Equal draws get equal numbers, since the target scores them once.
    terms = target.terms(values)
    prior = np.array([info.keyword == "latent" for info in target.statements], dtype=bool)
    found = {"log reward": terms.sum(axis=1)}
    if prior.any() and not prior.all():
        found |= {"log prior": terms[:, prior].sum(axis=1), "other terms": terms[:, ~prior].sum(axis=1)}
    for info in target.latents:
        base = info.name.split("[", 1)[0]
        name = f"tokens of {base}" if info.type == "text" else base
        here = _numbers(info, values[info.name])
        found[name] = found[name] + here if name in found else here
    return dict(list(found.items())[:MOST])


def _numbers(info: LatentInfo, column: object) -> np.ndarray:
    values: list[Value] = list(column)  # type: ignore[call-overload]
    if info.type == "text":
        return np.array([len(v.ids) for v in values], dtype=np.float64)
    if VALUE_TYPES[info.type].kind == "int":
        return np.array([int(v.datum) for v in values], dtype=np.float64)
    places = {tuple(ids): k for k, ids in enumerate(info.support.values())}  # type: ignore[attr-defined]
    return np.array([places[v.ids] for v in values], dtype=np.float64)
