"""Values as paths through their supports: at every place, what may follow and what did.

A path is one value of one latent after one context. At each of its T + 1 places
the guide chooses among the allowed tokens and, where the value may stop, stopping.
A guide stops by the model's end-of-text probability wherever the support gives
stopping no token of its own, so that it can learn when to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from attrs import field, frozen

from posterior_lm.support.base import Support

STOP, FORCED, NEVER = -1, -2, -3
"""In place of a token: stopping is chosen; stopping is all that is left; stopping is not possible."""


@frozen(eq=False)
class Path:
    """The choices of one value. Letters: T tokens of the value.

    `masks` (T + 1,) one read-only (V,) array of allowed tokens per place, shared
    between paths; `may_stop` (T + 1,) whether stopping is among the choices there;
    `chosen` (T + 1,) the token taken, and at the end `STOP` or `FORCED`;
    `ends` (T + 1,) how the value that stops after t tokens does so: the token of
    the stop string, `STOP`, `FORCED`, or `NEVER` where t is no end point.
    """

    context: tuple[int, ...]
    ids: tuple[int, ...]
    masks: tuple[np.ndarray, ...] = field(repr=False)
    may_stop: tuple[bool, ...] = field(repr=False)
    chosen: tuple[int, ...] = field(repr=False)
    ends: tuple[int, ...] = field(repr=False)


def path_maker(support: Support) -> Callable[[tuple[int, ...], tuple[int, ...]], Path]:
    """A function (context, value) -> Path that remembers the values it has walked."""
    walked: dict[tuple[int, ...], Path] = {}

    def make(context: tuple[int, ...], ids: tuple[int, ...]) -> Path:
        known = walked.get(ids)
        if known is None:
            if len(walked) >= 1 << 14:
                walked.clear()
            known = walked[ids] = _walk(support, ids)
        return Path(context, ids, known.masks, known.may_stop, known.chosen, known.ends)

    return make


def _walk(support: Support, ids: Sequence[int]) -> Path:
    """The path of a value without its context. Raises ValueError for a value outside the support.

    A draw that is lost where nothing may follow (a dead draw) has a path too, and no end point there.
    """
    state = support.start()
    masks, may_stop, chosen, ends = [], [], [], []
    stop = support.stop_ids
    for t in range(len(ids) + 1):
        allowed = support.allowed(state)
        stops = support.may_stop(state)
        forced = support.must_stop(state)
        by_choice = stops and not forced and support.ending != "stop"
        masks.append(allowed)
        may_stop.append(by_choice)
        if t == len(ids):
            if not stops and not forced:
                raise ValueError(f"the tokens {tuple(ids)} are no value of the support")
            chosen.append(FORCED if forced else STOP)
            # A value that ends in the stop's own token was an end point one place earlier.
            again = support.ending == "stop" and len(stop) == 1 and tuple(ids[-1:]) == stop
            ends.append(NEVER if again or not stops else chosen[-1])
            break
        token = int(ids[t])
        if not (0 <= token < len(allowed) and allowed[token]):
            raise ValueError(f"the tokens {tuple(ids)} are no value of the support")
        chosen.append(token)
        if support.ending == "stop":
            ends.append(int(stop[0]) if len(stop) == 1 and allowed[stop[0]] else NEVER)
        else:
            ends.append(STOP if stops else NEVER)
        state = support.advance(state, token)
    return Path((), tuple(ids), tuple(masks), tuple(may_stop), tuple(chosen), tuple(ends))


def has_end_points(support: Support) -> bool:
    """Whether the log probability of stopping early is read off the same pass."""
    return support.ending != "stop" or len(support.stop_ids) == 1
