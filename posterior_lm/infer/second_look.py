"""A second look: whether flatter proposals, lists and other spellings find mass that draws have missed.

Draws say nothing of what their proposal hardly makes. So a few more are made from the prior with some of its
choices flatter (`FlatGuide`), and from whatever else the program scores the same texts by (`ElsewhereGuide`), and weighed like any draws. Two things
are held against the first draws, whose estimate of the evidence is Ẑ from N of them with the proposal q:

- the evidence of the second draws. Both means are unbiased, so one that is above the other by far more than
  their errors has seen what the other has not (a mean is more than 20 times its expectation in at most 5 % of all cases);
- the mass of those second draws whose weight under q, reward / q, is above `HEAVY` N Ẑ: one draw of them would
  have changed Ẑ by a tenth, and N draws of q make 1 / HEAVY times their share of Ẑ of them, or fewer. This only
  where draws are independent: particles that were resampled find more than q alone.

Where likely values were listed, those that no draw has and that should have come are missed too. Markov chains say nothing of
the evidence: theirs is that of the second draws, and at least what the values have that they hold; so single values of great weight are all
that they can be seen to miss. A mode that none of
these finds shows nowhere.

A text has many spellings, and its log reward is a sum over them. Of the heaviest texts that one is scored which the tokenizer makes
(`respelled`): where no draw has it, it often holds more than all that were drawn.
"""

from __future__ import annotations

import math
from contextlib import suppress

import numpy as np
from attrs import evolve

from posterior_lm.infer.draws import Draws, Respelled, SecondLook, cells
from posterior_lm.infer.guide import Guide, PriorGuide
from posterior_lm.infer.listing import is_whole
from posterior_lm.infer.mixture import MixtureGuide
from posterior_lm.infer.prefix_expansion import MANY, is_model_free, is_wide, support_size
from posterior_lm.infer.verdict import FEW
from posterior_lm.infer.weights import log_evidence, log_evidence_se, logsumexp
from posterior_lm.infer.wider_guides import elsewhere, flatter
from posterior_lm.lang.diagnostics import DataError, InferenceError, ModelError
from posterior_lm.support.finite import FiniteSupport
from posterior_lm.target.target import Target
from posterior_lm.target.values import Datum, Value, Values, distinct

SHARE = 0.125
"""Second draws for each first one, of flatter proposals; of another score as many as of one of them."""
FEWEST, MOST = 16, 256
"""Fewer tell nothing; more tell little that these do not."""
SEVERAL = 5.0
"""Independent draws that a value should have; none of them is then a case of e^-5."""
HEAVY = 0.1
"""The part of the sum of all weights that one draw may add without being called missed."""


def looked(
    target: Target, draws: Draws, guide: Guide | None, rng: np.random.Generator, listed: Draws | None
) -> Draws:
    """The draws with what a second look found, where there are enough of them to be worth one.

    By what was `listed` early where that is all there is; else by flatter proposals, and by what was listed. Not where
    the draws are worth so few that they are not to be trusted anyway, or where all values of a type were to be scored
    and are too many. A second draw may be one that the program has no answer for, which then is no result of the first.
    """
    n = min(MOST, round(SHARE * len(draws)))
    if n < FEWEST or not target.latents or draws.decoded:
        return draws
    if listed is not None and is_whole(listed):
        return evolve(draws, second_look=_beside(draws, listed))
    if (draws.independent or 0.0) < FEW or is_wide(target, MANY):
        return draws
    with suppress(InferenceError, ModelError):
        return evolve(draws, second_look=_look(target, draws, guide or PriorGuide(target), n, rng, listed))
    return draws


def _lacking(draws: Draws, values: Values, log_reward: np.ndarray, known: float) -> float:
    """The share of the evidence, `known` by its log, on values that no draw has, though each should have come `SEVERAL` times."""
    seen = draws.shares
    rare = math.log(SEVERAL / (draws.independent or 1.0))
    lost = [
        float(log_reward[d])
        for d in distinct(values, range(len(log_reward)))[0]
        if tuple(column[d].datum for column in values.values()) not in seen
        and log_reward[d] - np.logaddexp(known, log_reward[d]) > rare
    ]
    return 1.0 / (1.0 + math.exp(min(700.0, known - logsumexp(np.array(lost))))) if lost else 0.0


def _beside(draws: Draws, listed: Draws) -> SecondLook:
    """What a list says of draws: `heavy` is all that they have too little of, which is their total variation from it."""
    assert listed.log_evidence is not None and listed.certificate is not None
    ratio = 0.0 if draws.log_evidence is None else listed.log_evidence - draws.log_evidence
    p, q = listed.shares, draws.shares
    places, sums = cells(p)
    for value, share in q.items():
        if value in places:
            sums[places[value]] -= share
    lacking = min(1.0, sum(max(0.0, difference) for difference in sums))
    return SecondLook(0, ratio, 0.0, lacking, listed=listed.certificate.listed)


def _look(
    target: Target, draws: Draws, guide: Guide, n: int, rng: np.random.Generator, listed: Draws | None
) -> SecondLook:  # fmt: skip
    first, *flat = flatter(target)
    others = (*flat, *elsewhere(target))
    n = n * (1 + len(others)) // (1 + len(flat))
    equal = np.full(1 + len(others), 1.0 / (1 + len(others)))
    proposal = MixtureGuide(first, others, equal).sample(rng, n)
    again = PriorGuide(target).retraced(proposal.values)
    log_reward = target.terms(proposal.values, again.scores).sum(axis=1)
    log_weights = log_reward - proposal.log_prob
    known = draws.log_evidence
    if known is None:
        seen = logsumexp(draws.log_reward[distinct(draws.values, range(len(draws)))[0]])
        known = max(seen, log_evidence(log_weights))
    missed = 0.0 if listed is None else _lacking(draws, listed.values, listed.log_reward, known)
    listable = (support_size(target, MANY) if is_model_free(target) else None) or 0
    if np.isneginf(log_weights).all():
        return SecondLook(n, -math.inf, math.inf, missed, listable=listable)
    if draws.chains is not None:
        missed = max(missed, _lacking(draws, proposal.values, log_reward, known))
        return SecondLook(n, 0.0, 0.0, missed, listable=listable)
    if draws.particles is None or not draws.particles.resampled:
        plain = isinstance(guide, PriorGuide) and guide.reads == "prior"
        log_prob = again.log_prob if plain else guide.log_prob(proposal.values)
        with np.errstate(invalid="ignore"):  # −∞ less −∞, of a draw that is dead anyway
            heavy = log_reward - log_prob > math.log(HEAVY * len(draws)) + known
        mass = logsumexp(np.where(heavy, log_weights, -np.inf)) - math.log(n) - known
        missed = max(missed, 1.0 / (1.0 + math.exp(-mass)) if mass > -700 else 0.0)
    ratio = log_evidence(log_weights) - known
    return SecondLook(n, ratio, log_evidence_se(log_weights), missed, listable=listable)


# ------------------------------------------------------------------------------- spellings

HEAVIEST = 10
"""Texts whose own spelling is scored, as many as a table of results shows."""
MATTERS = 0.01
"""A share of the posterior, or of a text where the evidence is not known, below which nothing is said."""


def respelled(target: Target, draws: Draws) -> Draws:
    """The draws with those of their heaviest texts of which none is spelled as the tokenizer spells it."""
    whole_list = draws.certificate is not None and draws.certificate.complete
    if draws.decoded or whole_list or all(isinstance(info.support, FiniteSupport) for info in target.latents):
        return draws
    shares = sorted(draws.shares.items(), key=lambda item: (-item[1], str(item[0])))
    spelled: dict[tuple[Datum, ...], dict[tuple[tuple[int, ...], ...], int]] = {
        d: {} for d, _ in shares[:HEAVIEST]
    }
    for d, row in enumerate(zip(*draws.values.values(), strict=True)):
        if (found := spelled.get(tuple(value.datum for value in row))) is not None:
            found[tuple(value.ids for value in row)] = d
    held = draws.values
    own: dict[tuple[Datum, ...], list[Value]] = {}
    for datum, found in spelled.items():
        with suppress(
            DataError, ModelError
        ):  # what its type, or its tokenizer, does not allow is no spelling
            values = [
                held[name][next(iter(found.values()))] if x is None else target.value(name, x)
                for name, x in zip(draws.values, datum, strict=True)
            ]
            if tuple(value.ids for value in values) not in found:
                own[datum] = values
    if not own:
        return draws
    rewards = target.log_reward({name: [v[k] for v in own.values()] for k, name in enumerate(draws.values)})
    drawn = [logsumexp(draws.log_reward[list(spelled[datum].values())]) for datum in own]
    evidence = draws.log_evidence
    whole = None if evidence is None else logsumexp(np.array([evidence, *rewards]))
    texts = []
    for datum, reward, had in zip(own, rewards.tolist(), drawn, strict=True):
        total = float(np.logaddexp(reward, had))
        if reward == -math.inf:
            continue
        left_out = math.exp(reward - total)
        share = None if whole is None else min(1.0, math.exp(total - whole))
        if left_out * (1.0 if share is None else share) > MATTERS:
            texts.append(Respelled(datum, total, left_out, share))
    return evolve(draws, respelled=tuple(texts))
