"""A sentence on how far to trust a set of draws, from what can be checked."""

from __future__ import annotations

import math

import numpy as np

from posterior_lm.infer.draws import FAR, Chains, Draws, MixtureReport
from posterior_lm.lang.diagnostics import shown

FEW, MANY = 10.0, 100.0
"""Below the first an average rests on a handful of draws; from the second on its error is 10 % of the spread."""
KHAT_GOOD, KHAT_BAD = 0.5, 0.7
"""Vehtari et al. 2024: below 0.5 the error shrinks as usual, above 0.7 it hardly shrinks at all."""
KHAT_NONE = 1.0
"""Above it the weights have no mean, as far as their tail says."""
NEW = 0.1
"""The share of new values that more draws may bring where all values could be listed."""
NOISE = 0.25
"""A total variation that is too large to read shares off; what it is estimated from makes it too small rather than too large."""
RHAT_GOOD, RHAT_BAD = 1.01, 1.05
"""Vehtari et al. 2021 want it below 1.01; 1.05 was the bound before."""
CHANCE = 2.0
"""The means of m chains that are worth E independent draws together differ by chance: R-hat² is about 1 + m / E. What is
less than so many times above 1 says nothing against them, and intervals that are made for E hold."""
CHAINS_GOOD = 400.0
"""Bulk ESS, by the same."""

LEVELS = {
    "Exact": "exact",
    "Good": "good",
    "Usable": "usable",
    "Use with care": "care",
    "Do not trust": "bad",
    "Not draws": "decoded",
}
"""What a verdict begins with, and what that is for programs that read verdicts."""

UNSEEN = "a mode that no draw visited would not show in these numbers"


def verdict(draws: Draws) -> str:
    """A few plain sentences: what was assumed, what was checked, what to do next."""
    said = _verdict(draws)
    if not draws.respelled:
        return said
    one = max(draws.respelled, key=lambda text: text.left_out * (text.share or 1.0))
    text = ", ".join("nothing" if x is None else shown(x) for x in one.datum)
    share = "" if one.share is None else f" and {one.share:.0%} of the posterior"
    more = len(draws.respelled) - 1
    others = f" (nor {more} other{'s' * (more != 1)})" if more else ""
    spelled = (
        f"No draw spells {text} as the tokenizer does{others}: with that spelling it has a log reward of "
        f"{one.log_reward:.3f}{share}, {one.left_out:.0%} of which the spellings drawn leave out."
    )
    if not draws.exact and draws.unspelled > FAR and not said.startswith("Do not"):
        return f"Do not trust this: what was drawn holds {1 - draws.unspelled:.0%} of what is known. {spelled} Use canonical=true, or another method."
    return f"{said} {spelled}"


def _verdict(draws: Draws) -> str:
    certificate = draws.certificate
    if draws.decoded:
        return _of_a_decoder(draws)
    if certificate is not None:
        if certificate.complete:
            return "Exact: every value of the support is listed."
        share = certificate.missing_share
        if share < 0.05:
            return f"Exact but for at most {share:.2g} of the posterior, which is not listed."
        if certificate.estimate is not None and certificate.estimate_se is not None:
            likely = certificate.likely_missing_share
            return (
                f"{len(draws)} values listed by prior mass; the rest holds about "
                f"{certificate.estimate / (1 + certificate.estimate):.2g} of the posterior, "
                f"likely at most {likely:.2g}, by {'an' if likely < 0.05 else 'a rough'} estimate from draws "
                f"(the safe bound is {share:.0%}); {UNSEEN}."
            )
        return (
            f"The {len(draws)} likeliest values by prior mass are listed; the bound cannot rule out that "
            f"{share:.0%} of the posterior lies elsewhere. Raise `values`, or compare with importance sampling."
        )
    if draws.chains is not None:
        return _of_chains(draws, draws.chains)
    if draws.parts:
        return _of_parts(draws)
    ess, khat, n, distinct = draws.independent or 0.0, draws.khat, len(draws), draws.distinct
    checked = f"ESS {draws.ess or 0.0:.0f} of {n}, {distinct} distinct value{'s' * (distinct != 1)}"
    if draws.mixture is not None:
        checked += f", drawn from {_shares(draws.mixture)}"
    if draws.particles is not None and draws.particles.resampled:
        checked += f", {draws.particles.ancestors} ancestor{'s' * (draws.particles.ancestors != 1)}"
    if np.isfinite(draws.log_weights).sum() == 1 and n > 1:
        return (
            f"Do not trust this: one of {n} draws is left, the others have weight zero. Draw more with -n, "
            "loosen a condition, or make it part of the latent's type."
        )
    checked += "" if khat is None else f", Pareto k-hat {khat:.2f}"
    look = draws.second_look
    if lost := _missed(draws, checked):
        return lost
    if ess < FEW:
        return f"Do not trust this yet: {checked}. Draw more with -n, or propose with a better guide."
    if khat is not None and khat > KHAT_NONE:
        return (
            f"Do not trust this yet: {checked}; the weights have a tail without a mean, so the largest are still "
            "to come. Draw more with -n, or propose with a better guide."
        )
    if distinct == 1:
        return (
            f"Do not trust this yet: all {n} draws are one value, so nothing can be said of the others. "
            "Compare with the method exact, or propose with a better guide."
        )
    if khat is not None and khat > KHAT_BAD:
        return (
            f"Use with care: {checked}; a few draws carry much of the weight. "
            "Draw more with -n, or propose with a better guide."
        )
    if look is not None and look.listable and not look.listed and draws.unseen > NEW:
        return (
            f"Use with care: {checked}; {draws.unseen:.0%} of more draws would be new values, and the support has "
            f"{look.listable:,}. The method exact lists them all."
        )
    if (noise := draws.noise) > NOISE:
        more = math.ceil(n * (noise / NOISE) ** 2 / 100) * 100
        return (
            f"Use with care: {checked}; by chance alone the shares of the values are off by about {noise:.0%} of the mass "
            f"together. Draw more with -n, about {more:,}, or propose with a better guide."
        )
    if khat is None and round(ess) < MANY:
        return (
            f"Use with care: {checked}; the weights are too few or too much alike to fit k-hat, so a rare value of "
            f"great weight may be missing, and {UNSEEN}. Draw more with -n."
        )
    if khat is None:
        return (
            f"Usable: {checked}; the weights are too few or too much alike to fit k-hat, so a rare value of "
            f"great weight may be missing, and {UNSEEN}. Another seed or the method exact would tell."
        )
    if khat > KHAT_GOOD:
        return f"Usable: {checked}; errors shrink slowly with more draws, and {UNSEEN}."
    if ess < MANY:
        error = 1 / math.sqrt(ess)
        return f"Usable: {checked}; averages are off by about {error:.0%} of their spread, and {UNSEEN}."
    return f"Good by what the draws can show: {checked}; {UNSEEN}."


def _of_parts(draws: Draws) -> str:
    n, noise = len(draws), draws.noise
    checked = f"{n} independent draws of the posterior, whose {draws.parts} parts are listed"
    if noise > NOISE:
        more = math.ceil(n * (noise / NOISE) ** 2 / 100) * 100
        return (
            f"Usable: {checked}; by chance alone the shares of whole values are off by about {noise:.0%} of the mass "
            f"together. Draw more with -n, about {more:,}, for these."
        )
    return f"Good: {checked}; averages are off by about {1 / math.sqrt(n):.0%} of their spread."


def _missed(draws: Draws, checked: str) -> str | None:
    """What a second look says against the draws."""
    look = draws.second_look
    if look is None or not (missed := look.missed(draws.log_evidence_se)):
        return None
    found = f"a list of all {look.listed:,} values" if look.listed else f"a second look by {look.draws} draws"
    return (
        f"Do not trust this: {checked}; of the posterior that {found} shows, these draws miss about {missed:.0%}. "
        f"Use {'--method exact' if look.listed else '--method auto, or list values with --method exact'}."
    )


def level(draws: Draws) -> str:
    """The verdict in a word of `LEVELS`; a list that is not whole, and may be far from it, is "listed"."""
    sentence = verdict(draws)
    return next((word for begin, word in LEVELS.items() if sentence.startswith(begin)), "listed")


def _shares(mixture: MixtureReport) -> str:
    """The guides with their shares, as "the prior (36 %) and the policy (64 %)"."""
    names = [name if " " in name else f"the {name}" for name in mixture.names]
    shown = [f"{name} ({share:.0%})" for name, share in zip(names, mixture.shares, strict=True)]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _of_a_decoder(draws: Draws) -> str:
    n, alive = len(draws), int(np.isfinite(draws.log_reward).sum())
    dead = "" if alive == n else f", {n - alive} of them with posterior probability zero"
    return (
        f"Not draws from the posterior: what `{draws.method}` decodes, {draws.distinct} distinct "
        f"value{'s' * (draws.distinct != 1)} in {n}{dead}. Only their log rewards compare with other methods'."
    )


def _of_chains(draws: Draws, chains: Chains) -> str:
    rhat, bulk, look = chains.rhat, chains.bulk_ess or 0.0, draws.second_look
    one, among = draws.distinct == 1, f"in {chains.number} chains"
    checked = "all draws are one value" if one else f"{draws.distinct} distinct values {among}"
    if rhat is not None and not one:
        checked = f"R-hat {rhat:.3f}, bulk ESS {bulk:.0f}, {checked}"
    if lost := _missed(draws, checked):
        return lost
    if look is not None and look.listed:
        return (
            f"Usable: {checked}; a list of all {look.listed:,} values differs from them in about {look.heavy:.0%} of the mass. "
            "The method exact gives the list itself, and the evidence."
        )
    if rhat is None or one:
        what = checked if one else "there are too few draws to compare chains"
        return (
            f"Do not trust this yet: {what} after {chains.number} chains, so nothing can be said of the others. "
            "Raise `steps`, or compare with importance sampling."
        )
    # The ESS is at most the number of draws that were kept, which says nothing against the chains.
    lacking = bulk < len(draws)
    by_chance = math.sqrt(1 + CHANCE * chains.number / max(bulk, 1.0))
    if rhat > max(RHAT_BAD, by_chance) or (lacking and bulk < FEW):
        return f"Do not trust this yet: {checked}; the chains have not met. Raise `steps`, or `chains`."
    if rhat > RHAT_GOOD or (lacking and bulk < CHAINS_GOOD):
        return f"Use with care: {checked}; the chains agree roughly. Raise `steps`; {UNSEEN}."
    if bulk < CHAINS_GOOD:
        return f"Use with care: {checked}; no more draws than these were kept. Draw more with -n; {UNSEEN}."
    return f"Good by what the chains can show: {checked}; {UNSEEN}. The evidence is not known."
