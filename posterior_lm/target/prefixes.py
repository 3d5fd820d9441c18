"""The log reward of stopping after every token, one packed pass per term and draw.

A score that reads the latent once is a trunk (the tokens up to and with the
latent's) and one branch per place to stop: the stop string's tokens where there
are any, then what follows the latent. `Request.branches` scores them all in one
forward pass under a block attention mask. Whatever else reads the latent is
evaluated on the cut values as usual.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from attrs import frozen

from posterior_lm.graph.nodes import LmScore
from posterior_lm.lm.base import Branch, Request, Scores
from posterior_lm.target.lm_scores import Batch, ScorePlan
from posterior_lm.target.pieces import Splice
from posterior_lm.target.values import Value, Values, count

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
        for after in range(len(value.ids) + 1):
            ids = info.support.cut(value.ids, after)
            if ids is not None:
                found.append(Cut(d, after, target.value_of(info.name, ids)))
    return found, max((len(v.ids) for v in column), default=0)


def log_reward_prefixes(
    target: Target, values: Values, info: LatentInfo, *, packed: bool
) -> np.ndarray:
    """See `Target.log_reward_prefixes`."""
    n = count(values)
    found, longest = cuts(target, values, info)
    out = np.full((n, longest + 1), -math.inf)
    if not found:
        return out
    flat: dict[str, list[Value]] = {
        name: [c.value if name == info.name else column[c.draw] for c in found]
        for name, column in values.items()
    }
    given = _packed_columns(target, values, info, found) if packed else {}
    log_reward = target.evaluator.terms(flat, len(found), given).sum(axis=1)
    for cut, value in zip(found, log_reward, strict=True):
        out[cut.draw, cut.after] = value
    return out


def _packed_columns(
    target: Target, values: Values, info: LatentInfo, found: list[Cut]
) -> dict[int, list[float]]:
    """Columns of the scores that can be packed, one entry per cut."""
    evaluator, graph = target.evaluator, target.graph
    of_draw: dict[int, list[int]] = {}
    for place, cut in enumerate(found):
        of_draw.setdefault(cut.draw, []).append(place)
    columns: dict[int, list[float]] = {}
    batches = {lm: Batch(model) for lm, model in target.models.items()}
    for i in graph.order():
        node = graph[i]
        if not isinstance(node, LmScore) or i in graph.fixed:
            continue
        plan = evaluator.plan(i)
        if not _packable(target, plan, info.name):
            continue
        columns[i] = [0.0] * len(found)
        for d, places in of_draw.items():
            _ask(target, plan, info, values, d, [found[p] for p in places], places, columns[i], batches[plan.lm])
    for batch in batches.values():
        batch.run()
    return columns


def _packable(target: Target, plan: ScorePlan, latent: str) -> bool:
    """Whether the score reads the latent once, as its own tokens, after at least one other token."""
    speller = target.evaluator.spellers[plan.lm]
    opens = plan.context[:1] == (Splice(latent),) and not speller.tokenizer.start_ids
    return plan.latents.count(latent) == 1 and not plan.computed and latent in speller.own and not opens


def _ask(
    target: Target, plan: ScorePlan, info: LatentInfo, values: Values, d: int, cut: list[Cut],
    places: list[int], column: list[float], batch: Batch,
) -> None:  # fmt: skip
    speller = target.evaluator.spellers[plan.lm]
    pieces = (*plan.context, *plan.text)
    z = next(k for k, p in enumerate(pieces) if isinstance(p, Splice) and p.latent == info.name)
    in_text = z >= len(plan.context)

    def latent(name: str) -> Value:
        return values[name][d]

    def computed(node: int) -> str:
        raise AssertionError(f"%{node} is not packed")

    whole = values[info.name][d].ids
    scored = plan.spell(speller, latent, computed)
    behind = pieces[z + 1 :] if in_text else plan.context[z + 1 :]
    after_z = speller.spell(behind, latent, computed, first=False)
    if in_text:
        first = len(scored.ids) - len(after_z) - len(whole)
        start, tail, unscored = len(scored.context), after_z, 0
    else:
        first = start = len(scored.context) - len(after_z) - len(whole)
        tail, unscored = after_z + scored.text, len(after_z)
    branches = []
    stops = []
    for c in cut:
        stop = c.value.ids[c.after :]
        branches.append(Branch(first + c.after, stop + tail))
        stops.append(len(stop))

    def read(scores: Scores) -> None:
        for place, c, stop, branch in zip(places, cut, stops, scores.branches, strict=True):
            if in_text:
                trunk = float(np.sum(scores.tokens[: first + c.after - start]))
                value = trunk + float(np.sum(branch.tokens))
            else:
                value = float(np.sum(branch.tokens[stop + unscored :]))
            column[place] = value + (float(branch.eos[-1]) if plan.ends else 0.0)

    batch.ask(Request(scored.ids[: first + len(whole)], start, min(scored.shared, start), tuple(branches)), read)
