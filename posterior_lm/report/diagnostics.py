"""How far to trust the draws, in numbers and in plots."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from posterior_lm.infer.draws import Chains, Draws
from posterior_lm.infer.weights import Z90
from posterior_lm.report.markup import Html, el, join, number, plural, share
from posterior_lm.report.plots import Axes, band, bars, dots, line, plot, rule, span

if TYPE_CHECKING:
    from posterior_lm.api.posterior import Posterior

MOST_BINS = 40
MOST_DOTS = 400


def diagnostics_view(posterior: Posterior) -> Html:
    """A list of numbers, then the plots that say something for this method."""
    draws = posterior.draws
    pairs = [
        el("div", el("dt", name), el("dd", value, el("p", about, class_="faint") if about else None))
        for name, value, about in figures(posterior)
    ]
    plots: list[Html | None] = (
        [chain_traces(draws.chains, draws)]
        if draws.chains is not None
        else [cumulative(draws), log_weights(draws)]
    )
    if draws.chains is None and draws.particles is None and not draws.exact:
        plots.append(running_evidence(draws))
    if draws.log_prob is not None and draws.chains is None:
        plots.append(against_proposal(draws))
    return join([el("dl", *pairs, class_="figures"), el("div", *(p for p in plots if p), class_="plots")])


def figures(posterior: Posterior) -> list[tuple[str, str, str]]:
    """(name, value, what it means) of everything that was checked."""
    draws = posterior.draws
    n, certificate, particles, chains = len(draws), draws.certificate, draws.particles, draws.chains
    evidence, se = posterior.log_evidence, posterior.log_evidence_se
    found = []
    if certificate is not None:
        left = share(certificate.missing_share), "a safe bound, often far too large"
        found = [("values listed", f"{certificate.listed:,}", ""), ("left out, at most", *left)]
        if certificate.estimate is not None and not certificate.complete:
            likely = share(certificate.likely_missing_share)
            found.append(("left out, likely at most", likely, "an estimate from draws"))
    else:
        distinct = f"{plural(draws.distinct, 'distinct value')} with a positive weight"
        what = "how many equal weights would be as good" if chains is None else "the bulk ESS of the chains"
        found = [("draws", f"{n:,}", distinct), ("ESS", number(draws.ess, 1), what)]
    if evidence is None:
        found.append(("log evidence", "\u2013", "Markov chains say nothing of it"))
    else:
        spread = "" if se is None or draws.exact or math.isinf(se) else f" \u00b1 {number(se)}"
        least = "at least " if draws.exact and se is None else ""
        found.append(("log evidence", f"{least}{number(evidence)}{spread} nats", ""))
    if not draws.exact and chains is None:
        dead = n - int(np.isfinite(draws.log_weights).sum())
        tail = "above 0.5 errors shrink slowly, above 0.7 hardly at all"
        found.append(("Pareto k-hat", number(draws.khat, 2), tail))
        found.append(("dead draws", f"{dead:,}", "weight zero: outside the support or against a condition"))
    if particles is not None:
        origin = f"{particles.ancestors:,} of {n:,}", "particles of the beginning that left a draw"
        found.append(("least ESS over time", number(particles.least_ess, 1), "the end included"))
        found.append(("surviving ancestors", *origin))
        found.append(("resampled", plural(particles.resampled, "time"), ""))
    if chains is not None:
        agree = "of the log reward; above 1.01 the chains do not agree yet"
        found.append(("chains", f"{chains.number:,}", ""))
        found.append(("R-hat", number(chains.rhat, 3), agree))
        found.append(("moves accepted", share(chains.acceptance), ""))
    return found


def cumulative(draws: Draws) -> Html:
    """How much of the posterior the heaviest draws hold: a curve that jumps up is bad news."""
    w = np.sort(draws.normalized_weights)[::-1]
    total = np.concatenate([[0.0], np.cumsum(w)])
    half = int(np.searchsorted(total, 0.5 * total[-1]))
    what = "values" if draws.exact else "draws"
    # What lies behind the last thousandth of the weight is a level line.
    most = min(len(w), max(10, int(1.2 * np.searchsorted(total, 0.999 * total[-1]))))
    xs, total = np.arange(most + 1), total[: most + 1]
    axes = Axes((0.0, float(most)), (0.0, 1.0), f"heaviest {what}", "share of the weight", whole=True)
    alike = None if draws.exact else line(axes, xs, xs / len(w), "line faint-line")
    title = f"Cumulative weight: {plural(half, what[:-1])} of {len(w):,} hold half of it"
    return plot(
        title + ("" if draws.exact else "; the thin line is equal weights"),
        axes,
        alike,
        line(axes, xs, total),
    )


def log_weights(draws: Draws) -> Html | None:
    """A histogram of the log weights that are not minus infinity."""
    finite = draws.log_weights[np.isfinite(draws.log_weights)]
    if len(finite) < 2:
        return None
    low, high = span(finite, 0.0)
    count = max(1, min(MOST_BINS, math.ceil(2 * len(finite) ** (1 / 3))))  # Rice's rule
    heights, edges = np.histogram(finite, bins=count, range=(low, high))
    word = "log reward" if draws.exact else "log weight"
    axes = Axes(
        (low, high), (0.0, float(heights.max()) * 1.05), f"{word}, nats", "values" if draws.exact else "draws"
    )
    titles = [
        f"{number(a)} to {number(b)} nats: {c:,}" for a, b, c in zip(edges, edges[1:], heights, strict=False)
    ]
    dead = len(draws) - len(finite)
    return plot(f"{word.capitalize()}s" + (f" ({dead:,} more are \u2212\u221e)" if dead else ""), axes,
                bars(axes, list(edges), list(heights), titles))  # fmt: skip


def running_evidence(draws: Draws) -> Html | None:
    """The log evidence of the first 2, 3, … draws: it should settle, and jumps are heavy draws that came late."""
    n = len(draws)
    if n < 8:
        return None
    start = max(2, n // 50)
    xs, (middle, se) = np.arange(1, n + 1)[start:], (part[start:] for part in running(draws.log_weights))
    half = Z90 * se
    seen = np.isfinite(middle)
    low, high = span(np.concatenate([middle[seen], (middle - half)[seen], (middle + half)[seen]]))
    # Early error bars are nats wide and would flatten the rest.
    low, high = max(low, float(middle[-1]) - 3.0), min(high, float(middle[-1]) + 3.0)
    shown = np.where((middle >= low) & (middle <= high), middle, np.nan)
    axes = Axes((0.0, float(n)), (low, high), "draws so far", "log evidence, nats", whole=True)
    area = band(axes, xs[seen], (middle - half)[seen], (middle + half)[seen])
    return plot("Log evidence as draws come in, with its 90% interval", axes, area, line(axes, xs, shown))


def running(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) log evidence of the first 1, 2, …, N draws and (N,) its standard errors, nats.

    The errors are by the delta method, as in `infer.weights.log_evidence_se`; -inf and
    NaN until a draw has a positive weight.
    """
    top = float(np.max(log_weights))
    w = np.exp(log_weights - top)
    counts = np.arange(1, len(w) + 1)
    mean = np.cumsum(w) / counts
    squares = np.maximum(0.0, np.cumsum(w**2) - counts * mean**2)  # about the mean
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(mean) + top, np.sqrt(squares / np.maximum(1, counts - 1) / counts) / mean


def against_proposal(draws: Draws) -> Html | None:
    """Each draw's log reward against the log-probability of proposing it; the heaviest lie above the rest."""
    assert draws.log_prob is not None
    alive = np.flatnonzero(np.isfinite(draws.log_weights) & np.isfinite(draws.log_prob))
    if len(alive) < 8:
        return None
    first: dict[tuple[float, float], int] = {}
    for d in alive:
        first.setdefault((round(float(draws.log_prob[d]), 3), round(float(draws.log_reward[d]), 3)), int(d))
    w = draws.normalized_weights
    picked = sorted(first.values(), key=lambda d: -w[d])[:MOST_DOTS]
    xs, ys = draws.log_prob[picked], draws.log_reward[picked]
    axes = Axes(span(xs), span(ys), "log-probability of the proposal, nats", "log reward, nats")
    titles = [
        f"weight {share(float(w[d]))}: proposal {number(x)}, reward {number(y)}"
        for d, x, y in zip(picked, xs, ys, strict=True)
    ]
    more = f" (the heaviest {MOST_DOTS})" if len(first) > MOST_DOTS else ""
    title = f"Reward against proposal, one dot for each value drawn{more}; far above the others is heavy"
    return plot(title, axes, dots(axes, list(xs), list(ys), titles))


def chain_traces(chains: Chains, draws: Draws) -> Html:
    """The log reward along every chain, draws in their order."""
    rows = [np.flatnonzero(chains.of_draw == c) for c in range(chains.number)]
    longest = max((len(r) for r in rows), default=1)
    axes = Axes(
        (0.0, float(max(1, longest - 1))),
        span(draws.log_reward),
        "draw of the chain",
        "log reward, nats",
        whole=True,
    )
    lines = [
        line(axes, list(range(len(r))), draws.log_reward[r], f"line chain{c % 4}")
        for c, r in enumerate(rows)
        if len(r)
    ]
    level = (
        rule(axes, float(np.mean(draws.log_reward)), "mean") if np.isfinite(draws.log_reward).all() else None
    )
    return plot(f"Log reward along {plural(chains.number, 'chain')}", axes, level, *lines)
