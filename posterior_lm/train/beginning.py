"""What a policy that has learnt nothing draws like: how it ends a free end, and at which power it draws.

Both are found from a few draws before the training, so that it begins near the posterior.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import numpy as np

from posterior_lm.infer.guide import PriorGuide, joined
from posterior_lm.infer.weights import log_shares
from posterior_lm.target.prepared import in_row
from posterior_lm.target.target import Target
from posterior_lm.target.values import ABSENT, take
from posterior_lm.train.adapter import check_model
from posterior_lm.train.course import Course
from posterior_lm.train.guide import PolicyGuide, own_readings, paths_of, readings_of
from posterior_lm.train.rows import Rows
from posterior_lm.train.scoring import stop_level

STOPPING = 8
"""Draws of the prior by which it is found how often a free end ends."""
ROUND, ROUNDS, FEW = 32, 8, 4
"""Draws at each power of a row at a time; how often; for how many rows."""
BEGUN = 0.03
"""Share of what is left of the budget that may pass in that."""
NEARER = 0.5
"""Nats by which a guide at the powers of the priors has to be nearer to the posterior to be taken."""
FURTHEST = 3.0
"""Nats that one row counts for at most: where none of its draws is near, one weight is all there is."""


def begin(rows: Rows, numbers: Sequence[int], lm: str, seed: int, course: Course, *, choose: bool) -> str:
    """Find how guides of these rows end free ends and, to `choose`, whether they draw at the powers of the priors; what to say of it.

    To choose is for guides that read the contexts of their priors. Where a prior has a power b other than 1, one may begin as
    the model at every choice to the power b, which is what `PriorGuide` is, or as the model. Neither is the power of the whole
    text: normalised choice by choice a flat one strays from what follows, a sharp one goes where the likeliest beginning
    leads. Which is nearer to the posterior differs by nats either way, so it is measured:
    Δ = KL(posterior‖q_1) − KL(posterior‖q_b) by draws of both, weighed as draws of their mixture.
    """
    rows.stop = _stop(rows, numbers[0], lm, seed, rows.powered)
    if not choose or not _differ(rows.target(numbers[0])):
        return ""
    stops = {False: rows.stop, True: _stop(rows, numbers[0], lm, seed, True)}
    course.move(None, "what a policy begins as")
    gain, draws = nearer(rows, numbers[:FEW], stops, seed, course.until(BEGUN))
    if gain is None or gain < NEARER:
        return ""
    rows.powered, rows.stop = True, stops[True]
    return f"the policy draws at the power of the prior: {gain:.1f} nats nearer to the posterior, by {draws} draws"


def nearer(
    rows: Rows, numbers: Sequence[int], stops: Mapping[bool, float | None], seed: int,
    late: Callable[[], bool] | None,
) -> tuple[float | None, int]:  # fmt: skip
    """Δ as `begin` has it, nats, averaged over these rows, None where no draw has a reward; and how many draws were made.

    Row by row in rounds, of which the first row has one whatever `late` says.
    """
    found: dict[int, list[np.ndarray]] = {}
    for some, number in product(range(ROUNDS), numbers):
        if found and late is not None and late():
            break
        with in_row(number):
            both = _drawn(rows.target(number), stops, [seed, 14, number, some])
        found.setdefault(number, []).append(both)
    gains = []
    for parts in found.values():
        log_weights, difference = np.concatenate(parts, axis=1)
        alive = np.isfinite(log_weights)
        if alive.any():
            gain = float(np.exp(log_shares(log_weights[alive])) @ difference[alive])
            gains.append(min(FURTHEST, max(-FURTHEST, gain)))
    draws = sum(part.shape[1] for parts in found.values() for part in parts)
    return (float(np.mean(gains)) if gains else None), draws


def _drawn(target: Target, stops: Mapping[bool, float | None], seed: list[int]) -> np.ndarray:
    """(2, 2 · ROUND) of draws of both beginnings the log of the reward over the sum of both q, and log q_b − log q_1."""
    lm = next(iter(own_readings(target).values())).lm
    model = check_model(target.models[lm])
    guides = [
        PolicyGuide(target, model=model, readings=own_readings(target, stops[powered], powered))
        for powered in (False, True)
    ]
    drawn = [guide.sample(np.random.default_rng([*seed, k]), ROUND) for k, guide in enumerate(guides)]
    values = joined(drawn, target.names).values
    plain, powered = (guide.log_prob(values) for guide in guides)
    return np.stack([target.log_reward(values) - np.logaddexp(plain, powered), powered - plain])


def _differ(target: Target) -> bool:
    """Whether there are powers, and guides that read what their priors do: one that reads something else does not begin as these."""
    readings = readings_of(target, "own", powered=True).values()
    return any(one.power != 1.0 for one in readings) and not any(one.stated for one in readings)


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
