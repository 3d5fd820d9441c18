"""The log reward of stopping after every token, one packed pass per draw.

A score that reads the latent once is a trunk (the tokens up to and with the
latent's) and one branch per place to stop: the stop string's tokens where there
are any, then what follows the latent. `Request.branches` scores them all in one
forward pass under a block attention mask, and a score that rides on another is
read off the same branches. A cut that several draws share is scored once.
Whatever else reads the latent is evaluated on the cut values as usual.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

from posterior_lm.graph.nodes import LmScore
from posterior_lm.lm.protocol import Branch, Request, Scores
from posterior_lm.target.scores import Batch, ScorePlan, counted, hosts_and_riders
from posterior_lm.target.segments import Speller, Splice
from posterior_lm.target.values import ABSENT, Value, Values, count, distinct, take

if TYPE_CHECKING:
    from posterior_lm.target.target import LatentInfo, Target


@frozen
class Cut:
    """The value of draw `draw` that stops after its first `after` tokens."""

    draw: int
    after: int
    value: Value


def cuts(target: Target, values: Values, info: LatentInfo) -> tuple[list[Cut], int]:
    """Every cut that is in the support, and T, the longest value's number of tokens."""
    found: list[Cut] = []
    column = values[info.name]
    for d, value in enumerate(column):
        if value == ABSENT:
            found.append(Cut(d, 0, value))
            continue
        for after in range(len(value.ids) + 1):
            ids = info.support.cut(value.ids, after)
            if ids is not None:
                found.append(Cut(d, after, target.value_of(info.name, ids)))
    return found, max((len(v.ids) for v in column), default=0)


def log_reward_prefixes(target: Target, values: Values, info: LatentInfo, *, packed: bool) -> np.ndarray:
    """See `Target.log_reward_prefixes`."""
    found, longest = cuts(target, values, info)
    out = np.full((count(values), longest + 1), -math.inf)
    if not found:
        return out
    every: dict[str, list[Value]] = {
        name: [c.value if name == info.name else column[c.draw] for c in found]
        for name, column in values.items()
    }
    first, where = distinct(every, range(len(found)))
    scored = [found[place] for place in first]
    given = _packed_columns(target, values, info, scored) if packed else {}
    log_reward = target.evaluator.terms(take(every, first), len(first), given).sum(axis=1)
    for cut, place in zip(found, where, strict=True):
        out[cut.draw, cut.after] = log_reward[place]
    return out


def _packed_columns(
    target: Target, values: Values, info: LatentInfo, found: list[Cut]
) -> dict[int, list[float]]:
    """Columns of the scores that can be packed, one entry per cut."""
    evaluator, graph = target.evaluator, target.graph
    of_draw: dict[int, list[int]] = {}
    for place, cut in enumerate(found):
        of_draw.setdefault(cut.draw, []).append(place)
    plans = {}
    for i in graph.order():
        if isinstance(graph[i], LmScore) and i not in graph.fixed:
            plan = evaluator.plan(i)
            if _packable(evaluator.spellers[plan.lm], plan, info.name):
                plans[i] = plan
    columns = {i: [0.0] * len(found) for i in plans}
    batches = {lm: Batch(model) for lm, model in target.models.items()}
    for host, riders in hosts_and_riders(plans):
        speller = evaluator.spellers[host.lm]
        for d, places in of_draw.items():
            laid = [_lay_out(speller, plan, info.name, values, d) for plan in (host, *riders)]
            for group in _together(laid):
                _ask(group, [found[p] for p in places], places, columns, batches[host.lm])
    for batch in batches.values():
        batch.run()
    return columns


def _packable(speller: Speller, plan: ScorePlan, latent: str) -> bool:
    """Whether the score reads the latent once, as its own tokens, after at least one other token."""
    opens = plan.context[:1] == (Splice(latent),) and not speller.tokenizer.start_ids
    return plan.latents.count(latent) == 1 and not plan.computed and latent in speller.own and not opens


@frozen
class _Laid:
    """A score of one draw laid out around the latent: trunk, tail, and where scoring starts.

    `trunk` ends with the latent's tokens, which begin at `first`; `tail` follows
    them; its first `unscored` tokens belong to the context. `start` is the first
    scored place of the trunk, or None where the latent stands in the context.
    """

    plan: ScorePlan
    trunk: tuple[int, ...]
    first: int
    start: int | None
    tail: tuple[int, ...]
    unscored: int
    shared: int
    before: int = 0
    """Scored places of the trunk in front of the latent's tokens."""


def _lay_out(speller: Speller, plan: ScorePlan, latent: str, values: Values, d: int) -> _Laid:
    def value(name: str) -> Value:
        return values[name][d]

    def computed(node: int) -> str:
        raise AssertionError(f"%{node} is not packed")

    segments = (*plan.context, *plan.text)
    z = next(k for k, p in enumerate(segments) if isinstance(p, Splice) and p.latent == latent)
    in_text = z >= len(plan.context)
    scored = plan.spell(speller, value, computed)
    behind = segments[z + 1 :] if in_text else plan.context[z + 1 :]
    after_z = speller.spell(behind, value, computed, first=False) + (plan.turn if in_text else ())
    whole = len(value(latent).ids)
    if in_text:
        first = len(scored.ids) - len(after_z) - whole
        start: int | None = len(scored.context)
        tail, unscored = after_z, 0
    else:
        first = len(scored.context) - len(after_z) - whole
        start = None
        tail, unscored = after_z + scored.text, len(after_z)
    before = 0 if start is None else first - start
    return _Laid(plan, scored.ids[: first + whole], first, start, tail, unscored, scored.shared, before)


def _together(laid: Sequence[_Laid]) -> list[list[_Laid]]:
    """The host with the riders whose trunk it shares and whose tail begins its own; the rest apart."""
    host, *riders = laid
    fitting = [
        r
        for r in riders
        if r.trunk == host.trunk and r.first == host.first and host.tail[: len(r.tail)] == r.tail
    ]
    return [[host, *fitting], *([r] for r in riders if r not in fitting)]


def _ask(
    group: Sequence[_Laid],
    cut: Sequence[Cut],
    places: Sequence[int],
    columns: dict[int, list[float]],
    batch: Batch,
) -> None:
    """Ask for one draw's cuts; the group shares its trunk, and the first one's tail holds the others'."""
    host = group[0]
    start = min(one.first if one.start is None else one.start for one in group)
    stops = [c.value.ids[c.after :] for c in cut]
    branches = tuple(Branch(host.first + c.after, s + host.tail) for c, s in zip(cut, stops, strict=True))

    def read(scores: Scores) -> None:
        for place, c, stop, branch in zip(places, cut, stops, scores.branches, strict=True):
            for one in group:
                end = len(stop) + len(one.tail)
                if one.start is None:
                    value = float(np.sum(branch.tokens[len(stop) + one.unscored : end]))
                else:
                    trunk = scores.tokens[one.start - start : one.first + c.after - start]
                    found = np.concatenate([trunk, branch.tokens[:end]])
                    if one.plan.left_out is not None:
                        left_out = one.plan.left_out(c.value.ids)
                        found = counted(found, (False,) * one.before + left_out + (False,) * len(one.tail))
                    value = float(np.sum(found))
                columns[one.plan.node][place] = value + (float(branch.eos[end]) if one.plan.ends else 0.0)

    shared, ends = min(start, *(one.shared for one in group)), any(one.plan.ends for one in group)
    batch.ask(Request(host.trunk, start, shared, branches, ends), read)
