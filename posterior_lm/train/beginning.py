"""What a policy that has learnt nothing draws like: how it ends a free end, and at which power it draws.

Both are found from a few draws before the training, so that it begins near the posterior.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from posterior_lm.infer.guide import PriorGuide, joined
from posterior_lm.infer.weights import logsumexp
from posterior_lm.target.prepared import in_row
from posterior_lm.target.target import Target
from posterior_lm.target.values import ABSENT, take
from posterior_lm.train.adapter import check_model
from posterior_lm.train.guide import PolicyGuide, own_readings, paths_of
from posterior_lm.train.rows import Rows
from posterior_lm.train.scoring import stop_level

STOPPING = 8
"""Draws of the prior by which it is found how often a free end ends."""
ROUND, ROUNDS, FEW = 32, 8, 4
"""Draws at each power of a row at a time; how often; for how many rows."""
NEARER = 0.5
"""Nats by which a guide at the powers of the priors has to be nearer to the posterior to be taken."""
FURTHEST = 3.0
"""Nats that one row counts for at most: where none of its draws is near, one weight is all there is."""


def begin(
    rows: Rows, numbers: Sequence[int], lm: str, seed: int, late: Callable[[], bool] | None, *, choose: bool
) -> str:
    """Find how guides of these rows end free ends and, to `choose`, whether they draw at the powers of the priors; what to say of it.

    Where a prior has a power b other than 1, a guide may begin as the model at every choice to the power b, which is what
    `PriorGuide` is, or as the model. Neither is the power of the whole text: normalised choice by choice a flat one strays from
    what follows, a sharp one goes where the likeliest beginning leads. Which is nearer to the posterior differs by nats
    either way, so it is measured: Δ = KL(posterior‖q_1) − KL(posterior‖q_b) by draws of both, weighed as draws of their mixture.
    """
    rows.stop = _stop(rows, numbers[0], lm, seed, rows.powered)
    if not choose or not any(_has_power(rows.target(number)) for number in numbers[:FEW]):
        return ""
    stops = {False: rows.stop, True: _stop(rows, numbers[0], lm, seed, True)}
    gains, draws = [], 0
    for number in numbers[:FEW]:
        with in_row(number):
            gain, some = _nearer(rows.target(number), stops, [seed, 14, number], late)
        draws += some
        gains += [] if gain is None else [min(FURTHEST, max(-FURTHEST, gain))]
    if not gains or (gain := float(np.mean(gains))) < NEARER:
        return ""
    rows.powered, rows.stop = True, stops[True]
    return f"the policy draws at the power of the prior: {gain:.1f} nats nearer to the posterior, by {draws} draws"


def _has_power(target: Target) -> bool:
    return any(reading.power != 1.0 for reading in own_readings(target, powered=True).values())


def _nearer(
    target: Target, stops: dict[bool, float | None], seed: list[int], late: Callable[[], bool] | None
) -> tuple[float | None, int]:
    """Δ as above of one row, None where no draw has a reward; and how many draws were made."""
    lm = next(iter(own_readings(target).values())).lm
    model = check_model(target.models[lm])
    guides = [
        PolicyGuide(target, model=model, readings=own_readings(target, stops[powered], powered))
        for powered in (False, True)
    ]
    log_weights, differences = [], []
    for some in range(ROUNDS):
        if some and late is not None and late():
            break
        drawn = [
            guide.sample(np.random.default_rng([*seed, some, k]), ROUND) for k, guide in enumerate(guides)
        ]
        values = joined(drawn, target.names).values
        log_q = np.stack([guide.log_prob(values) for guide in guides])
        log_weights.append(target.log_reward(values) - np.logaddexp.reduce(log_q, axis=0))
        differences.append(log_q[1] - log_q[0])
    log_w, difference = np.concatenate(log_weights), np.concatenate(differences)
    alive = np.isfinite(log_w)
    if not alive.any():
        return None, len(log_w)
    shares = np.exp(log_w[alive] - logsumexp(log_w[alive]))
    return float(shares @ difference[alive]), len(log_w)


def _stop(rows: Rows, number: int, lm: str, seed: int, powered: bool) -> float | None:
    """How guides stop where an end is free, by a few draws of the prior for a row; None where no latent has such an end."""
    target = rows.target(number)
    read = own_readings(target, 0.0, powered)
    free = [info for info in target.latents if info.support.ending == "free" and info.name in read]
    if not free:
        return None
    values = PriorGuide(target).sample(np.random.default_rng([seed, 13]), STOPPING).values
    paths = []
    for info in free:
        there = [d for d, value in enumerate(values[info.name]) if value != ABSENT]
        paths += paths_of(target, read[info.name], info, take(values, there), len(there))
    return stop_level(check_model(rows.program.models[lm]), paths)
